"""The secrets of privacy epochs in ``queues.ldb``: private keys, keys made here, epochs' keys.

Three tables: ``e/a/`` epoch | public key to private key, ``e/m/`` epoch | check to a key that was
made here and may become the epoch's, ``e/k/`` epoch to the epoch's key.

Rules kept here: changes are returned for the caller's batch, and memory follows when it is written;
nothing secret is in a repr. Not handled here: what is kept for how long (``epochs``), and what
LevelDB keeps of a deleted value until it next compacts that part of its files.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgistry.errors import CorruptDatabaseError
from edgistry.kv import Change, KeyValue, prefix_end
from edgistry.transactions import epoch_check

from .epochs import Forget, Held
from .schema import EpochStates

_ASKED = b"e/a/"
_MADE = b"e/m/"
_KEYS = b"e/k/"
_KEY_BYTES = 32


class EpochSecrets:
    """What ``store`` holds.

    Raises (when made):
        CorruptDatabaseError: an entry of another size.
    """

    def __init__(self, store: KeyValue) -> None:
        self._secrets = {
            key: value
            for prefix, size in ((_ASKED, 36), (_MADE, 20), (_KEYS, 4))
            for key, value in _entries(store, prefix, size)
        }
        self.useless: set[bytes] = set()
        """As in ``Held``; not kept on disk, where it could only grow old."""

    def __repr__(self) -> str:
        return f"EpochSecrets(epochs={sorted(self.keys)})"

    @property
    def keys(self) -> dict[int, bytes]:
        """The key of each epoch that is known."""
        return {_number(key, _KEYS): value for key, value in self._of(_KEYS)}

    def held(self) -> Held:
        """What is held, without the secrets."""
        return Held(
            asked=frozenset(_pair(key, _ASKED) for key, _ in self._of(_ASKED)),
            made=frozenset(_pair(key, _MADE) for key, _ in self._of(_MADE)),
            keys={epoch: epoch_check(key) for epoch, key in self.keys.items()},
            useless=frozenset(self.useless),
        )

    def forget_useless(self, states: EpochStates) -> None:
        """Of what is useless, know only what stands on a chain in ``states``."""
        if self.useless:
            shown = (*states.kept().values(), states.coming)
            found = (each for each in shown if each is not None)
            shared = {part for each in found for _, part in (*each.keys, *each.sealed)}
            self.useless &= shared

    def private(self, epoch: int, public: bytes) -> bytes:
        """The private key with which the key of ``epoch`` was asked for."""
        return self._secrets[_ASKED + epoch.to_bytes(4, "big") + public]

    def made(self, epoch: int, check: bytes) -> bytes:
        """The key that was made for ``epoch``."""
        return self._secrets[_MADE + epoch.to_bytes(4, "big") + check]

    def written(self, changes: list[Change]) -> None:
        """``changes`` of this table are written."""
        for key, value in changes:
            if value is None:
                self._secrets.pop(key, None)
            else:
                self._secrets[key] = value

    def _of(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return [each for each in self._secrets.items() if each[0].startswith(prefix)]


def keep_private(epoch: int, public: bytes, private: bytes) -> list[Change]:
    """The changes that keep the private key of ``public``."""
    return [(_ASKED + epoch.to_bytes(4, "big") + public, private)]


def keep_made(epoch: int, key: bytes) -> list[Change]:
    """The changes that keep a key made for ``epoch``."""
    return [(_MADE + epoch.to_bytes(4, "big") + epoch_check(key), key)]


def keep_key(epoch: int, key: bytes) -> list[Change]:
    """The changes that keep the key of ``epoch``."""
    return [(_KEYS + epoch.to_bytes(4, "big"), key)]


def forget(what: Forget) -> list[Change]:
    """The changes that destroy ``what``."""
    pairs = [(_ASKED, each) for each in what.asked] + [(_MADE, each) for each in what.made]
    keys = [prefix + epoch.to_bytes(4, "big") + rest for prefix, (epoch, rest) in pairs]
    keys += [_KEYS + epoch.to_bytes(4, "big") for epoch in what.keys]
    return [(key, None) for key in sorted(keys)]


def _entries(store: KeyValue, prefix: bytes, size: int) -> Iterator[tuple[bytes, bytes]]:
    for key, value in store.scan(prefix, prefix_end(prefix)):
        if len(key) != len(prefix) + size or len(value) != _KEY_BYTES:
            raise CorruptDatabaseError("queues.ldb: an epoch key of another size")
        yield key, value


def _number(key: bytes, prefix: bytes) -> int:
    return int.from_bytes(key[len(prefix) : len(prefix) + 4], "big")


def _pair(key: bytes, prefix: bytes) -> tuple[int, bytes]:
    return _number(key, prefix), key[len(prefix) + 4 :]
