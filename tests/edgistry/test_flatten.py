"""Flattening: one block that grants exactly what the chain granted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry import caveats as cv
from edgistry.blocks import ChildEntry, append_block, blocks_of, child_block
from edgistry.capability import Capability
from edgistry.capability_chain import Chain, Entry
from edgistry.caveats import Caveat
from edgistry.envelope import Flag, Operation, Status
from edgistry.errors import CannotFlattenError, CaveatError, Refused, RevokedError
from edgistry.flatten import flatten_chain, flattened_with
from edgistry.judge import NEWEST, Question, judge
from edgistry.replay import Outcome
from edgistry.rights import Right
from edgistry.verifier import Verifier

from .grants import ISSUER, ME, NOW, ROOT, YOU, Server, bind, check
from .strategies import chains, questions


def flattened(capability: Capability) -> Capability:
    return ISSUER.holding(flatten_chain(capability.chain))


def test_flattened_capability_has_one_block_of_the_same_grant() -> None:
    chain = ROOT.derive(allow=Right.GET, object_name="a").derive(object_name="a/b").chain
    flat = flatten_chain(chain)
    assert flat.public[:11] == chain.public[:11]
    assert len(flat.ends) == 1
    assert flat.entries == chain.entries
    assert len(flat.public) < len(chain.public) + 3 * 18


def test_flattening_takes_the_union_of_all_caveats() -> None:
    badge = ISSUER.mint(serial=3)
    chain = (
        ROOT.derive(not_after_us=9, not_before_us=2, max_payload=7, handlers=["a", "b"])
        .derive(not_after_us=8, not_before_us=3, max_payload=9, handlers=["b", "c"], client=ME)
        .derive(require=[badge.id], veil=True, caveats=[Caveat(5, b"note")], seal=True)
        .chain
    )
    (block,) = blocks_of(flatten_chain(chain))
    expected = [cv.not_after(8), cv.not_before(3), cv.max_payload(7), cv.handler("b")]
    expected += [cv.client(ME), cv.require(badge.id), cv.VEIL, cv.SEALED, Caveat(5, b"note")]
    expected += [cv.lineage(public_id) for public_id in chain.ids]
    assert block.caveats == tuple(sorted(expected))


def test_flattening_again_keeps_the_lineage() -> None:
    chain = ROOT.derive(allow=Right.GET).chain
    once = flatten_chain(chain)
    twice = flatten_chain(once)
    assert set(twice.rare.lineages) == {*chain.ids, once.id}


@settings(max_examples=80, deadline=None)
@given(chains(), st.lists(questions(), min_size=1, max_size=8), st.integers(NOW - 3, NOW + 3))
def test_flattening_equals_the_chain(
    capability: Capability, asked: list[Question], now_us: int
) -> None:
    try:
        flat = flatten_chain(capability.chain)
    except CannotFlattenError:
        # Only what no request satisfies, or no block can hold, has no form of one block.
        rare = capability.chain.rare
        assert rare.sealed_early or rare.handlers == frozenset() or len(capability.public) > 1000
        for question in asked:
            if rare.sealed_early or rare.handlers == frozenset():
                assert verdict(question, capability.chain, now_us) != "allowed"
        return
    for question in asked:
        assert verdict(question, flat, now_us) == verdict(question, capability.chain, now_us)


def verdict(question: Question, chain: Chain, now_us: int) -> str:
    try:
        judge(question, [chain], now_us=now_us)
    except Refused as error:
        return error.code
    return "allowed"


def test_flattened_capability_comes_with_a_successful_reply_that_asked_for_it() -> None:
    server = Server()
    chain = ROOT.derive(allow=Right.GET, object_name="ns").derive(object_name="ns/w")
    request = bind(chain, flags=Flag.FLATTEN)
    flat = request.open_flat(server.send(request))
    assert flat == flattened(chain)
    assert flat is not None
    check(bind(flat))
    plain = bind(chain, sequence=NOW + 1)
    assert plain.open_flat(server.send(plain)) is None


def test_new_state_never_travels_in_clear() -> None:
    server = Server()
    request = bind(ROOT, flags=Flag.FLATTEN)
    data = server.answer(request.encoded)
    flat = request.open_flat(request.open_reply(data))
    assert flat is not None
    assert flat._state not in data
    assert flat.danger_bytes()[-32:] not in data


def test_masks_of_two_requests_differ() -> None:
    server = Server()
    first, second = (bind(ROOT, flags=Flag.FLATTEN, sequence=NOW + n) for n in (0, 1))
    assert server.send(first).flat != server.send(second).flat
    assert first.open_flat(server.send(first)) == second.open_flat(server.send(second))


def test_no_flattened_capability_comes_with_a_refusal_or_an_acceptance() -> None:
    server = Server()
    for number, status in enumerate((Status.NOT_FOUND, Status.ACCEPTED)):
        request = bind(ROOT, flags=Flag.FLATTEN, sequence=NOW + number)
        data = server.answer(request.encoded, execute=lambda _, s=status: Outcome(status=s))  # type: ignore[misc]
        assert request.open_reply(data).flat == b""


def test_flat_is_empty_when_the_result_would_be_too_large() -> None:
    namespace = "n" * 32
    large = ISSUER.mint(serial=1, entries=[Entry(0x7FF, namespace)]).derive(
        entries=[ChildEntry(0, 16, f"{n:028}") for n in range(32)]
    )
    with pytest.raises(CannotFlattenError):
        flatten_chain(large.chain)
    reply = Server().send(bind(large, target=f"{namespace}/{7:028}", flags=Flag.FLATTEN))
    assert (reply.status, reply.flat) == (Status.OK, b"")
    block = child_block([ChildEntry(n, 16) for n in range(32)])
    minter = large.derive(entries=[ChildEntry(n, 16) for n in range(32)])
    with pytest.raises(CannotFlattenError):
        flattened_with(minter.chain, block)


def test_sealed_stays_sealed() -> None:
    flat = flattened(ROOT.derive(seal=True))
    with pytest.raises(CaveatError):
        flat.derive(allow=Right.GET)
    extended = flat.extended(child_block([ChildEntry(0, 0x10)]))
    with pytest.raises(CaveatError):
        check(bind(extended))


def test_revoking_any_prefix_revokes_the_flattened_capability() -> None:
    chain = ROOT.derive(allow=Right.GET).derive(client=ME)
    flat = flattened(chain)
    for public_id in chain.chain.ids:
        with pytest.raises(RevokedError):
            check(bind(flat), Verifier(ISSUER, denied=[public_id]))
        with pytest.raises(RevokedError):
            check(bind(flat.derive(max_payload=9)), Verifier(ISSUER, denied=[public_id]))


def test_flattening_revokes_nothing() -> None:
    server = Server()
    request = bind(ROOT, flags=Flag.FLATTEN)
    server.send(request)
    assert server.send(bind(ROOT, sequence=NOW + 1)).status == Status.OK


# --- mint ------------------------------------------------------------------------------------


def mint(
    server: Server, capability: Capability, block: bytes, **more: Any
) -> tuple[int, Capability | None]:
    request = bind(capability, Operation.MINT, "ns", payload=block, **more)
    reply = server.send(request)
    return reply.status, request.open_flat(reply)


def test_mint_flattens_the_chain_with_the_block_for_the_asker() -> None:
    server = Server()
    minter = ROOT.derive(allow=Right.MINT | Right.GET, object_name="ns")
    block = child_block([ChildEntry(0, 0x10, "w")], [cv.client(YOU)])
    status, minted = mint(server, minter, block)
    assert status == Status.OK
    assert minted == ISSUER.holding(flatten_chain(minter.extended(block).chain))
    assert minted is not None
    check(bind(minted, client=YOU))
    assert server.executed == []


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (b"", Status.MALFORMED),
        (b"\x00", Status.MALFORMED),
        (child_block([ChildEntry(0, 0x10)]) + b"x", Status.MALFORMED),
        (child_block([ChildEntry(0, 0x10)]) * 2, Status.MALFORMED),
        (child_block([ChildEntry(0, 0x04)]), Status.MALFORMED),
        (child_block([ChildEntry(1, 0x10)]), Status.MALFORMED),
        (child_block([ChildEntry(0, 0x10, "a/b/c")]), Status.MALFORMED),
        (child_block([ChildEntry(0, 0x90)], [cv.handler("x")]), Status.OK),
    ],
)
def test_mint_takes_exactly_one_narrowing_block(block: bytes, status: Status) -> None:
    minter = ROOT.derive(allow=Right.MINT | Right.GET, object_name="ns")
    assert mint(Server(), minter, block)[0] == status


def test_mint_needs_its_right_and_an_open_chain() -> None:
    block = child_block([ChildEntry(0, 0x10)])
    assert mint(Server(), ROOT.derive(allow=Right.GET), block)[0] == Status.NO_RIGHT
    assert mint(Server(), ROOT.derive(seal=True), block)[0] == Status.CAVEAT


def test_seventeenth_block_cannot_be_minted() -> None:
    capability = ROOT
    while len(capability.chain.ends) < 16:
        capability = capability.derive(max_payload=1000)
    assert mint(Server(), capability, child_block([ChildEntry(0, 0x10)]))[0] == Status.MALFORMED


def test_mint_that_nothing_could_satisfy_or_no_block_can_hold_is_told() -> None:
    minter = ROOT.derive(handlers=["a"])
    block = child_block([ChildEntry(0, 0x80)], [cv.handler("b")])
    assert mint(Server(), minter, block, handler="a")[0] == Status.TOO_LARGE


def test_mint_extends_only_the_authoriser() -> None:
    chain = ROOT.derive(max_payload=9).chain
    with pytest.raises(CaveatError):
        flattened_with(ROOT.derive(seal=True).chain, child_block([ChildEntry(0, 16)]))
    extended = Chain.parse(append_block(chain.public, child_block([ChildEntry(0, 16)])))
    assert flattened_with(chain, child_block([ChildEntry(0, 16)])) == flatten_chain(extended)
    assert bytes(8) == NEWEST
