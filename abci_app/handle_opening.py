"""Handles that clients name services by, opened with the node's epoch keys.

Rules kept here:

* A request may name its service by an own handle of the client in its envelope, or by an alias.
  What is signed may name one only by an own handle of who signed it.
* Whatever is wrong with a handle, the refusal is the same: another client's, another cluster's, of
  an epoch that ended more than a day ago, cut off, or made up.
* Of an epoch that has just begun, a handle can be here before the key: another node that has the
  key made it. Then the key is waited for, a moment, and the refusal says that it is missing.

Not handled here: what a handle is (``edgistry.handles``), which epochs are good (``epoch_keys``).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Protocol

from edgistry.errors import MalformedError, NoEpochKeyError, UnknownHandleError
from edgistry.handles import Handle, HandleKey, HandleKind, parse_handle_text
from edgistry.transactions import RecordKey

KEY_WAIT_S: Final = 3.0
"""How long a handle waits for its key: as long as a request for its home node (``entry_desk``). The
key comes with the block that begins its epoch, which nodes see within a second of each other."""
MAX_WAITING: Final = 64
"""Handles that wait for their key at a time."""


class OpeningKeys(Protocol):
    """What handles are opened with. ``EpochKeys`` are."""

    @property
    def newest(self) -> int:
        """The newest epoch whose key is here; 0: none is."""

    async def next_change(self) -> None:
        """Return after the next change."""

    def handles_of(self, number: int) -> HandleKey:
        """What opens the handles of that epoch.

        Raises:
            UnknownHandleError: none of it is good.
        """


class KeyWait:
    """Waits for ``keys`` that have not come as soon as the handles which they open.

    At most ``most`` handles wait at a time, each ``wait_s`` seconds (``KEY_WAIT_S``) at most.
    """

    def __init__(
        self, keys: OpeningKeys, *, wait_s: float | None = None, most: int = MAX_WAITING
    ) -> None:
        self._keys = keys
        self._wait_s = KEY_WAIT_S if wait_s is None else wait_s
        self._most = most
        self._waiting = 0

    async def until_here(self, text: str) -> None:
        """Return when the key of the handle ``text`` is here, or is not to be expected.

        Raises:
            NoEpochKeyError: it may still come.
        """
        try:
            epoch = parse_handle_text(text).epoch
        except MalformedError:
            return
        if not self._is_expected(epoch):
            return
        if self._waiting < self._most:
            self._waiting += 1
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._wait_s):
                        while self._is_expected(epoch):
                            await self._keys.next_change()
                        return
            finally:
                self._waiting -= 1
        raise NoEpochKeyError("this node has not got the key of the epoch of this handle yet")

    def _is_expected(self, epoch: int) -> bool:
        # One without any key cannot know which epoch it is.
        newest = self._keys.newest
        return epoch == newest + 1 or (not newest and epoch > 0)


def service_of_request(keys: OpeningKeys, text: str, client_id: bytes) -> RecordKey:
    """The service that a request of the client with that id (8 bytes) is for.

    Raises:
        UnknownHandleError: not this client's, or no longer.
    """
    handle = _read(text)
    if handle.kind is HandleKind.OWN and handle.tag[: len(client_id)] != client_id:
        raise _unknown()
    return _opened(keys, handle, None)


def alias_in(text: str) -> bytes:
    """What nobody but who was given the alias ``text`` knows of it; empty for what is no alias."""
    handle = _read(text)
    return handle.tag if handle.kind is HandleKind.ALIAS else b""


def service_of_signer(keys: OpeningKeys, text: str, tag: bytes) -> RecordKey:
    """The service that the client with that tag (16 bytes) means in what it has signed.

    Raises:
        UnknownHandleError: not this client's, or no longer.
    """
    return _opened(keys, _read(text), tag)


def _read(text: str) -> Handle:
    try:
        return parse_handle_text(text)
    except MalformedError:
        raise _unknown() from None


def _opened(keys: OpeningKeys, handle: Handle, tag: bytes | None) -> RecordKey:
    try:
        return keys.handles_of(handle.epoch).open(handle, tag=tag).record
    except UnknownHandleError:
        raise _unknown() from None


def _unknown() -> UnknownHandleError:
    return UnknownHandleError("no service has this handle for this client, or no longer")
