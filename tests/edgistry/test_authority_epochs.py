"""A new epoch on a disk that fails: what was revoked stays so, and the call can be repeated."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from edgistry.authority import Authority
from edgistry.envelope import Status
from edgistry.issuer import Issuer
from edgistry.kv import Change, MemoryKeyValue
from edgistry.replay import Outcome

from .grants import ISSUER, NOW, ROOT, SECRET, bind

NEXT = Issuer.from_secret(SECRET, epoch=5)


class FullDisk(MemoryKeyValue):
    """A store that writes nothing while it is full."""

    full = False

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        if self.full:
            raise OSError("no space left on device")
        super().write(changes, sync=sync)


def status(authority: Authority, serial: int, *, sequence: int, issuer: Issuer = ISSUER) -> int:
    request = bind(issuer.mint(serial=serial), sequence=sequence)
    data = authority.answer(request.encoded, lambda _: Outcome(), now_us=NOW)
    return request.open_reply(data).status


def test_epoch_that_could_not_be_written_did_not_begin() -> None:
    store = FullDisk()
    authority = Authority(store, ISSUER)
    store.write(authority.deny(ROOT.id), sync=True)
    store.full = True
    with pytest.raises(OSError, match="no space"):
        authority.begin_epoch(NEXT)
    store.full = False
    # A later revocation must neither bring the first one back nor be lost itself.
    store.write(authority.deny(ISSUER.mint(serial=2).id), sync=True)
    for each in (authority, Authority(store, ISSUER)):
        assert status(each, 1, sequence=NOW) == Status.REVOKED
        assert status(each, 2, sequence=NOW) == Status.REVOKED
        assert status(each, 3, sequence=NOW) == Status.OK


def test_epoch_that_could_not_be_written_can_be_begun_again() -> None:
    store = FullDisk()
    authority = Authority(store, ISSUER)
    store.write(authority.deny(ROOT.id), sync=True)
    store.full = True
    with pytest.raises(OSError, match="no space"):
        authority.begin_epoch(NEXT)
    store.full = False
    authority.begin_epoch(NEXT)
    assert authority.issuer == NEXT
    assert status(authority, 1, sequence=NOW, issuer=NEXT) == Status.OK
    assert Authority(store, NEXT).verifier.denied == frozenset()
