"""What holds for all capabilities and all bytes."""

from __future__ import annotations

import itertools

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.blocks import ChildEntry, append_block, blocks_of, child_block, root_block
from edgistry.capability import BoundRequest, Capability
from edgistry.capability_chain import Chain
from edgistry.captext import danger_text, parse_text, tree, view
from edgistry.codec import encode
from edgistry.envelope import Flag, Operation, decode_envelope, decode_reply, with_tag
from edgistry.errors import MalformedError, Refused
from edgistry.issuer import Issuer
from edgistry.judge import Question, judge
from edgistry.rights import Right, covers
from edgistry.verifier import Verifier

from .grants import ISSUER, ME, NOW, ROOT, bind, check
from .strategies import chains, children, questions

VERIFIER = Verifier(ISSUER)


def allowed(question: Question, capability: Capability, now_us: int) -> bool:
    try:
        judge(question, [capability.chain], now_us=now_us)
    except Refused:
        return False
    return True


@settings(max_examples=50, deadline=None)
@given(st.data(), chains(), st.lists(questions(), min_size=1, max_size=8), st.integers(-3, 3))
def test_derivation_only_shrinks(
    data: st.DataObject, capability: Capability, asked: list[Question], drift: int
) -> None:
    derived = data.draw(children(capability))
    for entry in derived.entries:
        assert any(
            not entry.rights & ~above.rights and covers(above.object, entry.object)
            for above in capability.entries
        )
    for question in asked:
        if allowed(question, derived, NOW + drift):
            assert allowed(question, capability, NOW + drift)


@settings(max_examples=40, deadline=None)
@given(chains(), questions())
def test_what_a_holder_expects_is_what_the_issuer_says(
    capability: Capability, question: Question
) -> None:
    request = capability.bind(
        Operation(question.op), question.target, question.payload, client=question.client,
        handler=question.handler, sequence=NOW, deadline=NOW,
    )  # fmt: skip
    try:
        VERIFIER.check(request.encoded, now_us=NOW)
        accepted = True
    except Refused:
        accepted = False
    assert accepted == allowed(question, capability, NOW)


@settings(max_examples=40, deadline=None)
@given(chains())
def test_capability_goes_through_its_bytes_blocks_and_text(capability: Capability) -> None:
    assert Capability.from_bytes(capability.danger_bytes()) == capability
    assert parse_text(danger_text(capability)) == capability
    assert ISSUER.holding(Chain.parse(capability.public)) == capability
    blocks = blocks_of(capability.chain)
    again = capability.public[:11] + b"\x01" + blocks[0].data
    for block in blocks[1:]:
        again = append_block(again, block.data)
    assert again == capability.public
    assert blocks[-1].entries == capability.entries
    first = blocks[0]
    assert root_block(first.entries, first.caveats) == first.data


@settings(max_examples=40, deadline=None)
@given(chains())
def test_capability_is_shown_without_its_secret(capability: Capability) -> None:
    shown = "\n".join(tree(capability.chain)) + repr(view(capability.chain)) + repr(capability)
    assert capability._state.hex() not in shown
    assert capability.id.hex() in shown


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_chain_or_malformed(data: bytes) -> None:
    for candidate in (data, b"ED\x01" + data, ROOT.public[:11] + b"\x02" + ROOT.public[12:] + data):
        try:
            chain = Chain.parse(candidate)
        except MalformedError:
            continue
        assert chain.public == candidate
        blocks_of(chain)
        tree(chain)


@settings(max_examples=80, deadline=None)
@given(st.data(), chains())
def test_mutated_public_bytes_are_a_chain_or_malformed(
    data: st.DataObject, capability: Capability
) -> None:
    changed = bytearray(capability.public)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        if not changed:
            break
    try:
        chain = Chain.parse(bytes(changed))
    except MalformedError:
        return
    # Whatever it reads as, its blocks only narrow.
    blocks = blocks_of(chain)
    for above, block in itertools.pairwise(blocks):
        for entry, parent in zip(block.entries, block.parents, strict=True):
            assert not entry.rights & ~above.entries[parent].rights
            assert covers(above.entries[parent].object, entry.object)


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.binary(max_size=400), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.binary(max_size=40),
              st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=13), max_leaves=40).map(msgpack.packb)))  # fmt: skip
def test_any_bytes_are_an_envelope_or_malformed(data: bytes) -> None:
    for decode in (decode_envelope, decode_reply):
        try:
            value = decode(data)
        except MalformedError:
            continue
        assert encode(value) == data


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=100))
def test_any_text_is_a_capability_or_malformed(text: str) -> None:
    for candidate in (text, "edgcap1:" + text):
        try:
            capability = parse_text(candidate)
        except MalformedError:
            continue
        assert danger_text(capability) == candidate.strip()


def requests() -> dict[str, BoundRequest]:
    """Three different envelopes that are accepted."""
    badge = ISSUER.mint(serial=8).derive(client=ME)
    narrow = ROOT.derive(allow=Right.GET, object_name="ns", not_after_us=NOW + 9)
    narrow = narrow.derive(object_name="ns/w", client=ME, max_payload=8)
    job = ISSUER.mint(serial=9, hide_epoch=True, caveats=[]).derive(handlers=["dim"], veil=True)
    return {
        "three levels": bind(narrow, flags=Flag.FLATTEN),
        "two capabilities": bind(ROOT.derive(require=[badge.id]), beside=[badge]),
        "handler": bind(job, Operation.PUT, payload=b"on", handler="dim"),
    }


@pytest.mark.parametrize("name", list(requests()))
def test_any_one_bit_change_of_an_accepted_envelope_is_refused(name: str) -> None:
    """Exhaustive: every bit of the envelope, with and without a memo of the good one."""
    data = requests()[name].encoded
    verifier = Verifier(ISSUER)
    check(data, verifier)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        for each in (verifier, Verifier(ISSUER, memo=0)):
            with pytest.raises(Refused):
                each.check(bytes(changed), now_us=NOW)


@settings(max_examples=50, deadline=None)
@given(chains(max_blocks=3), st.data())
def test_any_changed_byte_of_an_accepted_envelope_is_refused(
    capability: Capability, data: st.DataObject
) -> None:
    request = bind(capability)
    good = request.encoded
    at = data.draw(st.integers(0, len(good) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != good[at]))
    with pytest.raises(Refused):
        VERIFIER.check(good[:at] + bytes([value]) + good[at + 1 :], now_us=NOW)


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_no_other_secret_and_no_guess_verifies(secret: bytes, guess: bytes) -> None:
    request = bind(ROOT)
    with pytest.raises(Refused):
        check(encode(with_tag(request.envelope, guess)))
    other = Verifier(Issuer.from_secret(secret, epoch=4))
    with pytest.raises(Refused):
        check(request, other)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 31), st.integers(0, 0x7FF), st.sampled_from(["", "x", "x/y"]))
def test_blocks_are_read_as_they_were_written(parent: int, rights: int, narrow: str) -> None:
    block = child_block([ChildEntry(parent, rights, narrow)])
    assert block[3] == parent
    assert int.from_bytes(block[4:6], "big") == rights
    assert block[7:].decode() == narrow
