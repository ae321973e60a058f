"""An issuer at work: total answers, revocation, epochs, and what survives a restart."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.authority import Authority
from edgistry.capability import Capability
from edgistry.denials import MAX_DENIED, Denials
from edgistry.envelope import GENERIC_REFUSAL, Operation, Status, decode_reply
from edgistry.errors import DenySetFullError, InvalidValueError
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.replay import Outcome, ReplayGuard
from edgistry.rights import Right

from .grants import ISSUER, ME, NOW, ROOT, SECRET, YOU, Server, bind

COUNTER = iter(range(1, 1_000_000))


def revoke(server: Server, revoker: Capability, public: bytes) -> int:
    sequence = NOW + next(COUNTER)
    request = bind(revoker, Operation.REVOKE, "ns", payload=public, sequence=sequence)
    return server.send(request).status


def status_of(server: Server, capability: Capability) -> int:
    return server.send(bind(capability, sequence=NOW + next(COUNTER))).status


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_get_a_reply(data: bytes) -> None:
    server = Server()
    assert server.answer(data) == GENERIC_REFUSAL
    assert server.executed == []


def test_whoever_has_no_valid_capability_costs_no_state() -> None:
    server = Server()
    before = list(server.store.scan(b"", None))
    stranger = Issuer.from_secret(bytes(32), epoch=4).mint(serial=1)
    for number in range(100):
        server.answer(bind(stranger, sequence=NOW + number).encoded)
    assert list(server.store.scan(b"", None)) == before
    assert server.guard._states == {}


def test_bug_in_the_executor_is_not_hidden() -> None:
    def fail(_: object) -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Server().answer(bind(ROOT).encoded, execute=fail)


# --- revocation ------------------------------------------------------------------------------


def test_revocation_kills_the_capability_and_all_derived_from_it() -> None:
    server = Server()
    middle = ROOT.derive(allow=Right.GET | Right.REVOKE)
    leaf, sibling = middle.derive(client=ME), ROOT.derive(client=ME)
    assert revoke(server, ROOT, middle.public) == Status.OK
    assert [status_of(server, c) for c in (middle, leaf, sibling, ROOT)] == [8, 8, 0, 0]


def test_revocation_survives_a_restart() -> None:
    server = Server()
    victim = ROOT.derive(client=ME)
    revoke(server, ROOT, victim.public)
    assert status_of(Server(server.store), victim) == Status.REVOKED


def test_capability_revokes_only_what_was_derived_from_it() -> None:
    server = Server()
    revoker = ROOT.derive(allow=Right.GET | Right.REVOKE, object_name="ns")
    below = revoker.derive(client=ME)
    beside = ROOT.derive(allow=Right.GET, object_name="ns")
    for named in (beside, revoker, ROOT, ISSUER.mint(serial=2)):
        assert revoke(server, revoker, named.public) == Status.NO_RIGHT
    assert revoke(server, revoker, below.public) == Status.OK
    assert status_of(server, below) == Status.REVOKED
    assert status_of(server, beside) == Status.OK


def test_revocation_on_everything_names_any_capability() -> None:
    server = Server()
    victim = ISSUER.mint(serial=2)
    revoker = ISSUER.mint(serial=3).derive(allow=Right.REVOKE)
    assert revoke(server, revoker, victim.public) == Status.OK
    assert status_of(server, victim) == Status.REVOKED


@pytest.mark.parametrize("public", [b"", b"ED", ROOT.public + b"x", bytes(60)])
def test_revocation_needs_public_bytes(public: bytes) -> None:
    assert revoke(Server(), ROOT, public) == Status.MALFORMED


def test_revocation_needs_its_right() -> None:
    revoker = ROOT.derive(allow=Right.GET)
    assert revoke(Server(), revoker, revoker.derive(client=ME).public) == Status.NO_RIGHT


def test_full_deny_set_refuses_and_advises_a_new_epoch() -> None:
    server = Server()
    victims = [ISSUER.mint(serial=100 + number) for number in range(MAX_DENIED + 1)]
    for victim in victims[:-1]:
        server.authority.deny(victim.id)
    assert revoke(server, ROOT, victims[-1].public) == Status.FULL
    assert revoke(server, ROOT, victims[0].public) == Status.OK  # denied already
    with pytest.raises(DenySetFullError) as caught:
        server.authority.deny(victims[-1].id)
    assert "epoch" in caught.value.help


def test_concurrent_revocations_are_all_remembered() -> None:
    server = Server()
    victims = [ISSUER.mint(serial=100 + number) for number in range(40)]
    threads = [
        threading.Thread(target=revoke, args=(server, ROOT, victim.public)) for victim in victims
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {victim.id for victim in victims}
    assert server.authority.verifier.denied == expected
    assert Denials(server.store, label=b"").ids == expected


# --- epochs ----------------------------------------------------------------------------------


def test_new_epoch_kills_everything_signed_before_and_empties_the_deny_set() -> None:
    store = MemoryKeyValue()
    server = Server(store)
    hidden = ISSUER.mint(serial=5, hide_epoch=True)
    revoke(server, ROOT, ROOT.derive(client=ME).public)
    status_of(server, hidden)
    server.authority.begin_epoch(Issuer.from_secret(SECRET, epoch=5))
    for capability in (ROOT, hidden):
        sequence = NOW + next(COUNTER)
        assert server.answer(bind(capability, sequence=sequence).encoded) == GENERIC_REFUSAL
    assert status_of(server, server.authority.issuer.mint(serial=1)) == Status.OK
    assert server.authority.verifier.denied == frozenset()
    assert [key for key, _ in store.scan(b"issuer/", b"issuer0")] == [b"issuer/E\x00"]


def test_epoch_survives_a_restart_and_never_falls() -> None:
    store = MemoryKeyValue()
    authority = Authority.from_secret(store, SECRET)
    assert authority.issuer.epoch == 0
    authority.begin_epoch(Issuer.from_secret(SECRET, epoch=7))
    assert Authority.from_secret(store, SECRET).issuer.epoch == 7
    with pytest.raises(InvalidValueError, match="rise"):
        authority.begin_epoch(Issuer.from_secret(SECRET, epoch=7))
    with pytest.raises(InvalidValueError, match="epoch"):
        Authority(store, Issuer.from_secret(SECRET, epoch=6))


def test_deny_set_needs_an_epoch_and_ids_of_16_bytes() -> None:
    denials = Denials(MemoryKeyValue(), label=b"")
    with pytest.raises(InvalidValueError):
        denials.deny(bytes(16))
    denials.begin(0)
    with pytest.raises(InvalidValueError):
        denials.deny(bytes(15))
    with pytest.raises(InvalidValueError):
        denials.begin(0xFFFFFFFF)


# --- several issuers in one store ------------------------------------------------------------


def test_issuers_of_one_store_do_not_disturb_each_other() -> None:
    """A home node verifies for many devices: labels keep their windows and deny sets apart."""
    store = MemoryKeyValue()
    guard = ReplayGuard(store)
    issuers = [Issuer.from_secret(bytes([n]) * 32, epoch=0) for n in range(3)]
    labels = [b"", b"d", b"d1"]
    authorities = [
        Authority(store, issuer, label=label, guard=guard)
        for issuer, label in zip(issuers, labels, strict=True)
    ]
    roots = [issuer.mint(serial=1) for issuer in issuers]
    for authority, root in zip(authorities, roots, strict=True):
        request = bind(root)
        reply = authority.answer(request.encoded, lambda _: Outcome(), now_us=NOW)
        assert request.open_reply(reply).status == Status.OK
    store.write(authorities[1].deny(roots[1].id), sync=True)
    for index, authority in enumerate(authorities):
        request = bind(roots[index], sequence=NOW + 1)
        reply = authority.answer(request.encoded, lambda _: Outcome(), now_us=NOW)
        assert request.open_reply(reply).status == (Status.REVOKED if index == 1 else Status.OK)
        others = {Denials(store, label=label).ids for label in labels if label != b"d"}
        assert others == {frozenset()}


def test_home_node_answers_for_a_device_with_its_epoch_key() -> None:
    """The device's epoch key is all that the node needs to mint, verify and prove replies."""
    device = Issuer.from_secret(SECRET, epoch=4)
    node = Issuer(4, device.danger_key())
    client = node.mint(serial=77).derive(allow=Right.GET, client=YOU)
    request = bind(client, client=YOU)
    for issuer in (device, node):
        assert Server(issuer=issuer).send(request).status == Status.OK


def test_answers_are_always_replies() -> None:
    server = Server()
    for op in Operation:
        data = server.answer(bind(ROOT, op, sequence=NOW + next(COUNTER), payload=b"?").encoded)
        assert decode_reply(data).rtag != b""
