"""Handles that clients name services by, opened with the node's epoch keys.

Rules kept here:

* A request may name its service by an own handle of the client in its envelope, or by an alias.
  What is signed may name one only by an own handle of who signed it.
* Whatever is wrong with a handle, the refusal is the same: another client's, another cluster's, of
  an epoch that ended more than a day ago, cut off, or made up.

Not handled here: what a handle is (``edgistry.handles``), which epochs are good (``epoch_keys``).
"""

from __future__ import annotations

from typing import Protocol

from edgistry.errors import MalformedError, UnknownHandleError
from edgistry.handles import Handle, HandleKey, HandleKind, parse_handle_text
from edgistry.transactions import RecordKey


class OpeningKeys(Protocol):
    """What handles are opened with. ``EpochKeys`` are."""

    def handles_of(self, number: int) -> HandleKey:
        """What opens the handles of that epoch.

        Raises:
            UnknownHandleError: none of it is good.
        """


def service_of_request(keys: OpeningKeys, text: str, client_id: bytes) -> RecordKey:
    """The service that a request of the client with that id (8 bytes) is for.

    Raises:
        UnknownHandleError: not this client's, or no longer.
    """
    handle = _read(text)
    if handle.kind is HandleKind.OWN and handle.tag[: len(client_id)] != client_id:
        raise _unknown()
    return _opened(keys, handle, None)


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
