"""The registry's state while a block is applied: committed records with changes on top.

Rules kept here:

* Nothing committed changes. A block that is staged twice, or dropped, leaves no trace.
* Reads see the block's own changes. Committed values are read once a block.
* The changes come out in key order, without those that change nothing, so that equal
  blocks give equal lists whatever was written on the way.

Pure. Not handled here: which change is allowed (``registry``), and making it durable (``ledger``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from edgistry.codec import Wire
from edgistry.kv import Change, prefix_end
from edgistry.transactions import NodeId, Verify

from .schema import FORMER, HOMES, ChainParameters, home_key, pack, unpack

W = TypeVar("W", bound=Wire)

_STEP = 256
"""Records packed between two yields of ``BlockState.settle``: about a millisecond."""


class Committed(Protocol):
    """The committed registry, of which only reading is needed."""

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or ``None``."""

    def scan(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Entries with ``start`` <= key < ``stop``, in key order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What the rules know about the block they apply."""

    parameters: ChainParameters
    members: frozenset[NodeId]
    """Who may write."""
    now_us: int
    """Block time, microseconds."""
    lease_now_us: int
    """Block time minus the shift, microseconds."""
    verify: Verify = lambda _key, _message, _signature: False
    """Verifies what members have signed besides the transaction; by default nothing is good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChanges:
    """What a block changes. Keys ascend in each part."""

    records: tuple[Change, ...]
    """Records of the app hash: database key to new value, ``None`` to delete."""
    before: Mapping[bytes, bytes | None]
    """The value that each key of ``records`` had until now."""
    values: Mapping[bytes, Wire | None]
    """Typed values by database key, of ``records`` among others."""
    bookkeeping: tuple[Change, ...]
    """Changes outside the app hash."""

    def beside(self, more: tuple[Change, ...]) -> BlockChanges:
        """These changes with ``more`` outside the app hash."""
        return replace(self, bookkeeping=(*self.bookkeeping, *more))


class BlockState:
    """Reads ``committed`` and gathers the changes of one block."""

    def __init__(self, committed: Committed) -> None:
        self._committed = committed
        self._values: dict[bytes, Wire | None] = {}
        self._changed: set[bytes] = set()
        self._before: dict[bytes, bytes | None] = {}
        self._bookkeeping: dict[bytes, bytes | None] = {}
        self._settled: BlockChanges | None = None

    def get(self, key: bytes, kind: type[W]) -> W | None:
        """The value of the record at database key ``key``, as this block has it so far."""
        value = self._values.get(key)
        if value is None and key not in self._values:
            data = self._read(key)
            value = None if data is None else unpack(data, kind)
            self._values[key] = value
        return value  # type: ignore[return-value]  # a key holds one kind only (schema)

    def put(self, key: bytes, value: Wire) -> None:
        """Give the record at database key ``key`` a value."""
        self._values[key] = value
        self._changed.add(key)

    def delete(self, key: bytes) -> None:
        """Remove the record at database key ``key``."""
        self._values[key] = None
        self._changed.add(key)

    def add_home(self, node_id: bytes, key: bytes) -> None:
        """Note that service record ``key`` lives with ``node_id``."""
        self._bookkeeping[home_key(node_id, key)] = b""

    def drop_home(self, node_id: bytes, key: bytes) -> None:
        """Note that service record ``key`` no longer lives with ``node_id``."""
        self._bookkeeping[home_key(node_id, key)] = None

    def committed_keys_of(self, node_id: bytes) -> Iterator[bytes]:
        """Keys (16 bytes) of the services of ``node_id`` as committed before this block."""
        prefix = HOMES + node_id
        for key, _ in self._committed.scan(prefix, prefix_end(prefix)):
            yield key[len(prefix) :]

    def committed_former(self) -> Iterator[bytes]:
        """Ids of those who were members no more before this block, ascending."""
        for key, _ in self._committed.scan(FORMER, prefix_end(FORMER)):
            yield key[len(FORMER) :]

    def settle(self) -> Iterator[None]:
        """Work out ``changes``; yields now and then, so that the caller can let others run.

        The state takes no more changes afterwards.
        """
        records: list[Change] = []
        before: dict[bytes, bytes | None] = {}
        for done, key in enumerate(sorted(self._changed), start=1):
            value = self._values[key]
            data = None if value is None else pack(value)
            old = self._read(key)
            if data != old:
                records.append((key, data))
                before[key] = old
            if not done % _STEP:
                yield
        self._settled = BlockChanges(
            records=tuple(records),
            before=before,
            values=self._values,
            bookkeeping=tuple(sorted(self._bookkeeping.items())),
        )

    @property
    def changes(self) -> BlockChanges:
        """The changes; ``settle`` must have run to its end."""
        if self._settled is None:
            raise RuntimeError("changes of a block that is not settled")
        return self._settled

    def _read(self, key: bytes) -> bytes | None:
        data = self._before.get(key)
        if data is None and key not in self._before:
            data = self._before[key] = self._committed.get(key)
        return data
