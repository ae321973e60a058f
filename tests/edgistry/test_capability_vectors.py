"""The vectors that other implementations check themselves against, read by code of their own."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import msgpack
import pytest

from edgistry.blocks import ChildEntry, append_block, child_block, header_bytes, root_block
from edgistry.capability import Capability
from edgistry.capability_chain import Chain, Entry
from edgistry.caveats import Caveat
from edgistry.envelope import GENERIC_REFUSAL, Operation, decode_envelope, reply_to
from edgistry.errors import AuthorityError, MalformedError, Refused, every_refusal
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.mac import chain_state, mac
from edgistry.replay import Outcome, ReplayGuard
from edgistry.verifier import Verifier
from scripts import gen_vectors

FOLDER = Path(__file__).parent.parent / "vectors"
VECTORS: dict[str, Any] = json.loads((FOLDER / "capability.json").read_bytes())
WYCHEPROOF: dict[str, Any] = json.loads((FOLDER / "hmac_sha256_test.json").read_bytes())
CAPABILITIES = {vector["name"]: vector for vector in VECTORS["capabilities"]}
ENVELOPES = {vector["name"]: vector for vector in VECTORS["envelopes"]}
CONTEXT = VECTORS["verifier"]


def issuer_of(vector: dict[str, Any]) -> Issuer:
    return Issuer.from_secret(bytes.fromhex(vector["secret"]), epoch=vector["issuer_epoch"])


def capability_of(vector: dict[str, Any]) -> Capability:
    return Capability.from_bytes(bytes.fromhex(vector["public"] + vector["states"][-1]))


def verifier() -> Verifier:
    return Verifier(issuer_of(CONTEXT), denied=map(bytes.fromhex, CONTEXT["denied"]))


def by_name(vectors: list[dict[str, Any]]) -> pytest.MarkDecorator:
    names = [vector.get("name") or vector.get("envelope") for vector in vectors]
    return pytest.mark.parametrize("vector", vectors, ids=[str(name) for name in names])


def test_regenerating_the_vectors_gives_the_same_bytes() -> None:
    assert gen_vectors.document() == (FOLDER / "capability.json").read_bytes()


@by_name(VECTORS["capabilities"])
def test_capability_vector_is_made_from_its_blocks(vector: dict[str, Any]) -> None:
    epoch = int.from_bytes(bytes.fromhex(vector["public"])[3:7], "big")
    public = header_bytes(epoch=epoch, serial=vector["serial"])
    for index, block in enumerate(vector["blocks"]):
        caveats = [Caveat(c["type"], bytes.fromhex(c["value"])) for c in block["caveats"]]
        if index:
            children = [ChildEntry(**entry) for entry in block["entries"]]
            public = append_block(public, child_block(children, caveats))
        else:
            public += root_block([Entry(**entry) for entry in block["entries"]], caveats)
    assert public.hex() == vector["public"]


@by_name(VECTORS["capabilities"])
def test_capability_vector_has_these_states_and_ids(vector: dict[str, Any]) -> None:
    chain = Chain.parse(bytes.fromhex(vector["public"]))
    key = issuer_of(vector).danger_key()
    assert [state.hex() for state in chain.states(key)] == vector["states"]
    assert chain.last_state(key).hex() == vector["states"][-1]
    assert [public_id.hex() for public_id in chain.ids] == vector["ids"]


@by_name(VECTORS["capabilities"])
def test_states_follow_from_the_words_of_the_specification(vector: dict[str, Any]) -> None:
    """The chain once more, written from the page with nothing but hmac and hashlib."""
    public = bytes.fromhex(vector["public"])
    label = b"\x10edgistry capability root" + struct.pack(">I", vector["issuer_epoch"])
    state = hmac.new(bytes.fromhex(vector["secret"]), label, hashlib.sha256).digest()
    at, use, prefix = 12, b"\x00" + public[:11], b"\x02" + public[:11]
    for expected, public_id in zip(vector["states"], vector["ids"], strict=True):
        end = at + 2 + int.from_bytes(public[at : at + 2], "big")
        state = hmac.new(state, use + public[at:end], hashlib.sha256).digest()
        prefix += public[at:end]
        at, use = end, b"\x01"
        assert state.hex() == expected
        assert hashlib.sha256(prefix).hexdigest()[:32] == public_id
    assert at == len(public)


@by_name(VECTORS["envelopes"])
def test_binding_gives_the_envelope_vector(vector: dict[str, Any]) -> None:
    first, *beside = [capability_of(CAPABILITIES[name]) for name in vector["capabilities"]]
    request = first.bind(
        Operation(vector["op"]),
        vector["target"],
        bytes.fromhex(vector["payload"]),
        client=bytes.fromhex(vector["client"]),
        sequence=vector["sequence"],
        deadline=vector["deadline"],
        sequence_epoch=vector["sequence_epoch"],
        handler=vector["handler"],
        flags=vector["flags"],
        beside=beside,
    )
    assert request.encoded.hex() == vector["encoded"]
    assert request.envelope.tag.hex() == vector["tag"]
    assert decode_envelope(request.encoded) == request.envelope


@by_name(VECTORS["envelopes"])
def test_tag_follows_from_the_words_of_the_specification(vector: dict[str, Any]) -> None:
    publics = [bytes.fromhex(CAPABILITIES[name]["public"]) for name in vector["capabilities"]]
    states = [bytes.fromhex(CAPABILITIES[name]["states"][-1]) for name in vector["capabilities"]]
    target, handler = vector["target"].encode(), vector["handler"].encode()
    message = struct.pack(">BBBH", 3, vector["flags"], vector["op"], len(target)) + target
    message += struct.pack(">B", len(handler)) + handler
    message += struct.pack(">IQQ", vector["sequence_epoch"], vector["sequence"], vector["deadline"])
    message += bytes.fromhex(vector["client"]) + bytes([len(publics)])
    for public in publics:
        message += struct.pack(">H", len(public)) + public
    payload = bytes.fromhex(vector["payload"])
    message += hashlib.sha256(payload).digest()
    key = states[0]
    if len(states) > 1:
        key = hashlib.sha256(b"\x07" + b"".join(states)).digest()
    tag = hmac.new(key, message, hashlib.sha256).digest()[:16]
    assert tag.hex() == vector["tag"]
    independent = msgpack.unpackb(bytes.fromhex(vector["encoded"]))
    assert independent == [
        1, vector["flags"], vector["op"], vector["target"], vector["handler"],
        vector["sequence_epoch"], vector["sequence"], vector["deadline"],
        bytes.fromhex(vector["client"]), publics, payload, tag,
    ]  # fmt: skip
    assert msgpack.packb(independent).hex() == vector["encoded"]


def accept_all() -> tuple[Verifier, ReplayGuard]:
    """A verifier that has accepted every envelope of the file, in order."""
    checker, guard = verifier(), ReplayGuard(MemoryKeyValue())
    for vector in VECTORS["envelopes"]:
        checked = checker.check(bytes.fromhex(vector["encoded"]), now_us=CONTEXT["now"])
        guard.once(checked, lambda _: Outcome(), now_us=CONTEXT["now"])
    return checker, guard


def admit(checker: Verifier, guard: ReplayGuard, data: bytes) -> None:
    guard.admit(checker.check(data, now_us=CONTEXT["now"]), now_us=CONTEXT["now"])


def test_all_envelope_vectors_are_accepted_in_order() -> None:
    accept_all()


@by_name(VECTORS["replies"])
def test_reply_vector_is_what_the_issuer_sends_and_the_client_believes(
    vector: dict[str, Any],
) -> None:
    request = ENVELOPES[vector["envelope"]]
    checked = verifier().check(bytes.fromhex(request["encoded"]), now_us=CONTEXT["now"])
    data = checked.reply(
        vector["status"],
        result=vector["result"],
        sequence_epoch=vector["sequence_epoch"],
        sequence_floor=vector["sequence_floor"],
        payload=bytes.fromhex(vector["payload"]),
        flat=bytes.fromhex(vector["flat"]),
    )
    assert msgpack.unpackb(data)[-1].hex() == vector["rtag"]
    key = checked._key()
    numbers = struct.pack(
        ">HQIQ",
        vector["status"],
        vector["result"],
        vector["sequence_epoch"],
        vector["sequence_floor"],
    )
    digests = [hashlib.sha256(bytes.fromhex(vector[name])).digest() for name in ("payload", "flat")]
    message = b"\x04" + bytes.fromhex(request["tag"]) + numbers + b"".join(digests)
    assert hmac.new(key, message, hashlib.sha256).digest()[:16].hex() == vector["rtag"]


@by_name(VECTORS["flattened"])
def test_flattened_vector_is_signed_by_the_issuer_and_masked(vector: dict[str, Any]) -> None:
    chain = Chain.parse(bytes.fromhex(vector["public"]))
    source = CAPABILITIES[vector["from"]]
    assert chain.public[:11].hex() == source["public"][:22]
    state = chain.last_state(issuer_of(source).danger_key())
    assert state.hex() == vector["state"]
    request = ENVELOPES[vector["envelope"]]
    key = verifier().check(bytes.fromhex(request["encoded"]), now_us=CONTEXT["now"])._key()
    mask = hmac.new(key, b"\x05" + bytes.fromhex(request["tag"]), hashlib.sha256).digest()
    masked = bytes(left ^ right for left, right in zip(state, mask, strict=True))
    assert vector["flat"] == vector["public"] + masked.hex()


def test_at_least_forty_vectors_are_refused_and_every_reason_occurs() -> None:
    refused = VECTORS["refused"]
    assert len(refused) >= 40
    assert len({vector["name"] for vector in refused}) == len(refused)
    # What only carrying out an operation, or reading a reply, refuses is no request's fault.
    elsewhere = {"authority", "resynchronise", "cannot-flatten", "deny-set-full", "bad-reply"}
    elsewhere |= {"unproven-refusal", "outcome-unknown"}
    verdicts = [kind for kind in every_refusal() if issubclass(kind, AuthorityError)]
    formats = [kind for kind in every_refusal() if issubclass(kind, MalformedError)]
    expected = {kind.code for kind in (*verdicts, *formats) if kind.__module__ == "edgistry.errors"}
    assert {vector["reason"] for vector in refused} == expected - elsewhere


@by_name([vector for vector in VECTORS["refused"] if vector["kind"] == "capability"])
def test_capability_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedError) as caught:
        Chain.parse(bytes.fromhex(vector["bytes"]))
    assert caught.value.code == vector["reason"]


def test_envelopes_are_refused_for_their_reasons_and_answered_accordingly() -> None:
    checker, guard = accept_all()
    before_the_tag = {"malformed", "unknown-version", "unknown-caveat", "widened"}
    before_the_tag |= {"wrong-epoch", "bad-tag"}
    for vector in VECTORS["refused"]:
        if vector["kind"] != "envelope":
            continue
        with pytest.raises(Refused) as caught:
            admit(checker, guard, bytes.fromhex(vector["bytes"]))
        assert caught.value.code == vector["reason"], vector["name"]
        is_generic = reply_to(caught.value) == GENERIC_REFUSAL
        assert is_generic == (vector["reason"] in before_the_tag), vector["name"]


def wycheproof_cases() -> list[Any]:
    return [
        pytest.param(group["tagSize"] // 8, test, id=str(test["tcId"]))
        for group in WYCHEPROOF["testGroups"]
        for test in group["tests"]
    ]


def test_there_are_174_wycheproof_cases() -> None:
    assert len(wycheproof_cases()) == WYCHEPROOF["numberOfTests"] == 174


@pytest.mark.parametrize(("size", "case"), wycheproof_cases())
def test_mac_agrees_with_wycheproof(size: int, case: dict[str, Any]) -> None:
    tag = mac(bytes.fromhex(case["key"]), bytes.fromhex(case["msg"]))[:size]
    assert (tag.hex() == case["tag"]) == (case["result"] == "valid")


@pytest.mark.parametrize("ends", [[20], [13, 40], [17, 18, 63, 64, 100]])
def test_chain_state_is_mac_step_by_step(ends: list[int]) -> None:
    public, key = bytes(range(100)), hashlib.sha256(b"k").digest()
    state = mac(key, b"\x00" + public[:11] + public[12 : ends[0]])
    for start, end in itertools.pairwise(ends):
        state = mac(state, b"\x01" + public[start:end])
    assert chain_state(key, public, ends) == state
