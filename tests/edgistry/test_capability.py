"""Capabilities in the hands of their holders: derive, bind, read replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgistry import caveats as cv
from edgistry.blocks import ChildEntry, blocks_of
from edgistry.capability import Capability
from edgistry.capability_chain import Chain, Entry
from edgistry.envelope import GENERIC_REFUSAL, Flag, Operation, Status
from edgistry.errors import (
    BadReplyError,
    BadRequestError,
    CaveatError,
    InvalidValueError,
    MalformedError,
    NoRightError,
    TooLargeError,
    UnprovenRefusalError,
    WidenedError,
    WrongEpochError,
)
from edgistry.issuer import Issuer
from edgistry.rights import ALL_RIGHTS, Right

from .grants import DAY, ISSUER, ME, NEWEST, NOW, ROOT, YOU, Server, bind, check


def test_derived_capability_is_accepted_by_the_issuer_without_anybody_being_asked() -> None:
    reader = ROOT.derive(allow=Right.GET, object_name="ns/w").derive(client=ME, seal=True)
    assert check(bind(reader)).chain == reader.chain


def test_derive_keeps_only_what_is_allowed_on_the_object() -> None:
    capability = ISSUER.mint(
        serial=2, entries=[Entry(0x34, "a"), Entry(0x10, ""), Entry(0x04, "b/c")]
    )
    derived = capability.derive(allow=Right.GET, object_name="a/x")
    assert derived.entries == (Entry(0x10, "a/x"), Entry(0x10, "a/x"))
    assert capability.derive(object_name="a").entries == (Entry(0x34, "a"), Entry(0x10, "a"))
    assert capability.derive(allow=Right.PUT).entries == (Entry(0x04, "a"), Entry(0x04, "b/c"))


def test_derive_takes_entries_one_by_one() -> None:
    capability = ISSUER.mint(serial=2, entries=[Entry(0x34, "a"), Entry(0x10, "")])
    derived = capability.derive(
        entries=[ChildEntry(1, 0x10, "z/z"), ChildEntry(0, 0x20), ChildEntry(0, 0, "q")]
    )
    assert derived.entries == (Entry(0x10, "z/z"), Entry(0x20, "a"), Entry(0, "a/q"))


@pytest.mark.parametrize(
    "derive",
    [
        lambda c: c.derive(allow=Right.PUT),
        lambda c: c.derive(allow=Right.GET, object_name="other"),
        lambda c: c.derive(allow=Right.GET, object_name=""),
        lambda c: c.derive(allow=0x8000),
        lambda c: c.derive(allow=0),
        lambda c: c.derive(object_name="nsx"),
        lambda c: c.derive(entries=[ChildEntry(0, 0x14)]),
        lambda c: c.derive(entries=[ChildEntry(0, ALL_RIGHTS)]),
    ],
)
def test_derived_capability_cannot_widen_rights(
    derive: Callable[[Capability], Capability],
) -> None:
    reader = ROOT.derive(allow=Right.GET, object_name="ns")
    with pytest.raises(WidenedError):
        derive(reader)


@pytest.mark.parametrize(
    "derive",
    [
        lambda c: c.derive(object_name="ns/.."),
        lambda c: c.derive(object_name="ns//w"),
        lambda c: c.derive(object_name="ns/w/x"),
        lambda c: c.derive(entries=[ChildEntry(3, 0x10)]),
        lambda c: c.derive(entries=[ChildEntry(0, 0x10, "x" * 66)]),
        lambda c: c.derive(caveats=[cv.Caveat(0x81, b"short")]),
    ],
)
def test_derive_refuses_what_no_verifier_would_read(
    derive: Callable[[Capability], Capability],
) -> None:
    with pytest.raises(MalformedError):
        derive(ROOT)


@pytest.mark.parametrize(
    "derive",
    [
        lambda c: c.derive(entries=[]),
        lambda c: c.derive(entries=[ChildEntry(0, 0)] * 33),
        lambda c: c.derive(entries=[ChildEntry(-1, 0)]),
        lambda c: c.derive(entries=[ChildEntry(0, 0)], allow=1),
        lambda c: c.derive(entries=[ChildEntry(0, 0x10000)]),
        lambda c: c.derive(not_after_us=-1),
        lambda c: c.derive(not_before_us=1 << 64),
        lambda c: c.derive(client=b"short"),
        lambda c: c.derive(handlers=["h" * 33]),
        lambda c: c.derive(handlers=[""]),
        lambda c: c.derive(max_payload=1 << 32),
        lambda c: c.derive(require=[b"short"]),
        lambda c: c.derive(caveats=[cv.require(bytes([n]) * 16) for n in range(200)]),
    ],
)
def test_derive_refuses_values_outside_their_fields(
    derive: Callable[[Capability], Capability],
) -> None:
    with pytest.raises(InvalidValueError):
        derive(ROOT)


def test_nothing_derives_from_a_sealed_capability() -> None:
    with pytest.raises(CaveatError, match="sealed"):
        ROOT.derive(seal=True).derive(allow=Right.GET)


def test_a_capability_has_at_most_sixteen_blocks() -> None:
    capability = ROOT
    for _ in range(15):
        capability = capability.derive(max_payload=100)
    assert check(bind(capability)).chain == capability.chain
    with pytest.raises(InvalidValueError, match="16 blocks"):
        capability.derive(max_payload=100)


def test_caveats_of_a_block_are_put_in_order_without_repeats() -> None:
    derived = ROOT.derive(
        caveats=[cv.VEIL, cv.not_after(5), cv.client(YOU)], not_after_us=5, client=ME
    )
    caveats = blocks_of(derived.chain)[-1].caveats
    assert caveats == (cv.not_after(5), cv.client(ME), cv.client(YOU), cv.VEIL)


def test_several_entries_and_caveats_share_one_signature_step() -> None:
    derived = ISSUER.mint(serial=9).derive(
        entries=[ChildEntry(0, 0x10, f"ns-{n}") for n in range(32)],
        not_after_us=NOW + DAY,
        client=ME,
        max_payload=64,
    )
    assert len(derived.chain.ends) == 2
    for n in range(32):
        check(bind(derived, target=f"ns-{n}/w"))


def test_delegable_form_is_read_back() -> None:
    derived = ROOT.derive(allow=Right.GET)
    assert Capability.from_bytes(derived.danger_bytes()) == derived


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 44])
def test_too_few_bytes_are_no_capability(size: int) -> None:
    with pytest.raises(MalformedError):
        Capability.from_bytes(ROOT.danger_bytes()[:size])


def test_epoch_and_serial_are_those_of_the_grant() -> None:
    derived = ISSUER.mint(serial=77).derive(max_payload=1)
    assert (derived.serial, derived.epoch) == (77, 4)
    assert ISSUER.mint(serial=1, hide_epoch=True).epoch is None


def test_two_grants_share_no_bytes_after_the_version() -> None:
    first, second = (ISSUER.mint(serial=n, hide_epoch=True) for n in (0x1234, 0xABCD))
    assert first.danger_bytes()[-32:] != second.danger_bytes()[-32:]
    assert first.id != second.id


def test_current_epoch_header_works_in_every_epoch_but_its_capabilities_do_not_outlive_it() -> None:
    for epoch in (4, 5):
        issuer = Issuer.from_secret(bytes(32), epoch=epoch)
        capability = issuer.mint(serial=1, hide_epoch=True)
        assert capability.public[3:7] == b"\xff" * 4
        assert Server(issuer=issuer).send(bind(capability)).status == Status.OK
        other = Server(issuer=Issuer.from_secret(bytes(32), epoch=epoch + 1))
        assert other.answer(bind(capability).encoded) == GENERIC_REFUSAL


def test_issuer_holds_every_chain_of_its_epoch_and_no_other() -> None:
    derived = ROOT.derive(allow=Right.GET)
    assert ISSUER.holding(derived.chain) == derived
    with pytest.raises(WrongEpochError):
        Issuer.from_secret(bytes(32), epoch=5).holding(derived.chain)


@pytest.mark.parametrize("epoch", [-1, 0xFFFFFFFF, 1 << 40])
def test_issuer_epoch_is_a_number_below_the_current_mark(epoch: int) -> None:
    with pytest.raises(InvalidValueError):
        Issuer.from_secret(bytes(32), epoch=epoch)
    with pytest.raises(InvalidValueError):
        Issuer(epoch, bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_secrets_and_epoch_keys_have_32_bytes(size: int) -> None:
    with pytest.raises(InvalidValueError):
        Issuer.from_secret(bytes(size), epoch=1)
    with pytest.raises(InvalidValueError):
        Issuer(1, bytes(size))


@pytest.mark.parametrize(
    "fields",
    [
        {"sequence": -1},
        {"sequence": 1 << 64},
        {"deadline": 1 << 64},
        {"sequence_epoch": 1 << 32},
        {"client": b"short"},
        {"flags": 4},
        {"flags": -1},
        {"beside": [ROOT.derive(max_payload=n) for n in range(4)]},
    ],
)
def test_bind_refuses_values_outside_their_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        bind(ROOT, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"target": "a//b"},
        {"handler": "h" * 33},
        {"handler": "ä" * 17},
        {"deadline": NOW + 7 * DAY + 1},
        {"beside": [ROOT]},
    ],
)
def test_bind_refuses_what_no_issuer_would_read(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        bind(ROOT, **fields)


def test_only_the_exchange_has_a_payload_above_64_kib() -> None:
    large = bytes(1 << 20)
    request = bind(ROOT, Operation.EXCHANGE, "devices/d", payload=large)
    assert check(request).envelope.payload == large
    with pytest.raises(TooLargeError):
        bind(ROOT, Operation.EXCHANGE, "devices/d", payload=large + b"x")
    with pytest.raises(TooLargeError, match="65537 bytes"):
        bind(ROOT, payload=bytes(65_537))


def test_holder_can_ask_what_the_issuer_would_say() -> None:
    reader = ROOT.derive(allow=Right.GET, object_name="ns", client=ME, not_after_us=NOW)
    reader.check(Operation.GET, "ns/w", NEWEST, client=ME, now_us=NOW)
    with pytest.raises(CaveatError, match="time is over"):
        reader.check(Operation.GET, "ns/w", NEWEST, client=ME, now_us=NOW + 1)
    with pytest.raises(CaveatError, match="client"):
        reader.check(Operation.GET, "ns/w", NEWEST, client=YOU, now_us=NOW)
    with pytest.raises(NoRightError, match="put"):
        reader.check(Operation.PUT, "ns/w", client=ME, now_us=NOW)
    with pytest.raises(BadRequestError):
        reader.check(99, "ns/w", client=ME, now_us=NOW)


def test_holder_can_ask_with_the_capabilities_beside_it() -> None:
    badge = ISSUER.mint(serial=5, entries=[Entry(0, "")])
    reader = ROOT.derive(require=[badge.id])
    reader.check(Operation.GET, "a/b", NEWEST, client=ME, now_us=NOW, beside=[badge])
    with pytest.raises(CaveatError, match=badge.id.hex()):
        reader.check(Operation.GET, "a/b", NEWEST, client=ME, now_us=NOW)


def test_reply_is_proven() -> None:
    reply = Server().send(bind(ROOT))
    assert (reply.status, reply.result, reply.payload) == (Status.OK, 1, b"answer")


def test_generic_refusal_is_told_apart_and_never_final() -> None:
    with pytest.raises(UnprovenRefusalError):
        bind(ROOT).open_reply(GENERIC_REFUSAL)


def test_any_changed_bit_of_a_reply_is_noticed() -> None:
    request = bind(ROOT, flags=Flag.FLATTEN)
    data = Server().answer(request.encoded)
    request.open_reply(data)
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadReplyError):
            request.open_reply(bytes(changed))


def test_reply_to_another_request_is_not_believed() -> None:
    server = Server()
    first, second = bind(ROOT), bind(ROOT, sequence=NOW + 1)
    answer = server.answer(first.encoded)
    with pytest.raises(BadReplyError):
        second.open_reply(answer)


def test_reply_of_another_issuer_is_not_believed() -> None:
    impostor = Issuer.from_secret(bytes(32), epoch=4)
    reply = Server(issuer=impostor).answer(bind(impostor.mint(serial=1)).encoded)
    with pytest.raises(BadReplyError):
        bind(ROOT).open_reply(reply)


def test_flattened_capability_of_another_grant_is_not_taken() -> None:
    server = Server()
    request = bind(ROOT, flags=Flag.FLATTEN)
    reply = server.send(request)
    other = bind(ISSUER.mint(serial=2))
    with pytest.raises(BadReplyError, match="this grant"):
        other.open_flat(reply)
    flat = request.open_flat(reply)
    assert flat is not None
    assert flat.entries == ROOT.entries


def test_chain_equality_is_that_of_its_bytes() -> None:
    again = Chain.parse(bytes(ROOT.public))
    assert again == ROOT.chain
    assert len({again, ROOT.chain, ROOT.derive(max_payload=1).chain}) == 2
