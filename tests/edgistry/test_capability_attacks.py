"""The two attacks that broke the paper's prototype, on ours and on a weakened copy."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from edgistry.blocks import ChildEntry, append_block, child_block, next_state
from edgistry.capability import BoundRequest, Capability
from edgistry.capability_chain import Chain, Entry
from edgistry.codec import encode
from edgistry.envelope import Envelope, Operation, envelope_message, envelope_tag, with_tag
from edgistry.errors import BadTagError, Refused, WidenedError
from edgistry.mac import mac
from edgistry.rights import ALL_RIGHTS, Right
from edgistry.verifier import Verifier

from . import weakened
from .grants import ISSUER, ME, NOW, bind, check

GET, PUT = int(Right.GET), int(Right.PUT)


def envelope_with(template: BoundRequest, public: bytes, state: bytes, op: int) -> bytes:
    """What an attacker sends: any public bytes, and a tag under any key."""
    old = template.envelope
    envelope = Envelope(
        version=1, flags=0, op=op, target=old.target, handler="", sequence_epoch=0,
        sequence=NOW + 1, deadline=NOW + 2, client=ME, capabilities=(public,),
        payload=old.payload, tag=bytes(16),
    )  # fmt: skip
    return encode(with_tag(envelope, envelope_tag(state, envelope)))


def test_holder_who_attaches_a_wider_child_is_refused() -> None:
    reader = ISSUER.mint(serial=1, entries=[Entry(GET, "ns")])
    wider = child_block([ChildEntry(0, ALL_RIGHTS)])
    data = envelope_with(
        bind(reader), append_block(reader.public, wider), next_state(reader._state, wider), 3
    )
    with pytest.raises(WidenedError):
        check(data)


def test_attaching_a_wider_child_breaks_the_weakened_copy() -> None:
    prototype = weakened.Prototype(bytes(32))
    reader = prototype.mint(Entry(GET, "ns"))
    assert not prototype.executes(weakened.bind(reader, PUT))
    wider = weakened.extend(reader, child_block([ChildEntry(0, ALL_RIGHTS)]))
    assert prototype.executes(weakened.bind(wider, PUT))


def test_listener_cannot_read_a_bound_request_as_an_unbound_chain() -> None:
    """Everything a listener could take for a block, with everything it could take for a state."""
    holder = ISSUER.mint(serial=1, entries=[Entry(GET | PUT, "ns")])
    heard = bind(holder).envelope
    message = envelope_message(heard)
    blocks = [
        child_block([ChildEntry(0, GET | PUT)]),
        len(message).to_bytes(2, "big") + message,
        len(message[1:]).to_bytes(2, "big") + message[1:],
    ]
    states = [heard.tag + heard.tag, heard.tag + bytes(16), bytes(16) + heard.tag]
    states += [hashlib.sha256(heard.tag).digest(), mac(heard.tag * 2, message)]
    publics = [holder.public, *(append_block(holder.public, block) for block in blocks)]
    for public, state, op in itertools.product(publics, states, (3, 4)):
        with pytest.raises(Refused) as caught:
            check(envelope_with(bind(holder), public, state, op))
        assert caught.value.wire_status in (1, 23)


def test_a_step_of_the_chain_is_never_the_tag_of_a_request() -> None:
    """Even for equal bytes under the same key, and before the tag is cut to half its length."""
    state = bytes(range(32))
    message = envelope_message(bind(ISSUER.mint(serial=1)).envelope)
    for use in (b"\x00", b"\x01", b"\x04", b"\x05"):
        assert mac(state, use + message[1:]) != mac(state, message)
    assert next_state(state, message[1:]) != mac(state, message)


def test_reading_a_bound_request_as_a_chain_breaks_the_weakened_copy() -> None:
    prototype = weakened.Prototype(bytes(32))
    holder = prototype.mint(Entry(GET | PUT, "ns"))
    heard = weakened.bind(holder, GET | PUT)
    assert prototype.executes(heard)
    # The listener has no state, but the tag is one: of the chain with the request as a block.
    stolen = weakened.Held(append_block(heard.public, heard.asked), heard.tag)
    assert prototype.executes(weakened.bind(stolen, PUT))
    further = weakened.extend(stolen, child_block([ChildEntry(0, ALL_RIGHTS)]))
    assert prototype.executes(weakened.bind(further, int(Right.DELETE)))


def test_a_fragment_of_a_chain_is_no_chain() -> None:
    """A later state of a chain cannot serve as the key of a shorter one, or of another order."""
    derived = ISSUER.mint(serial=1).derive(allow=GET, object_name="ns").derive(max_payload=99)
    chain = derived.chain
    verifier = Verifier(ISSUER)
    for end in chain.ends[:-1]:
        count = chain.ends.index(end) + 1
        shorter = chain.public[:11] + bytes([count]) + chain.public[12:end]
        forged = Capability(Chain.parse(shorter), derived._state)
        with pytest.raises(BadTagError):
            check(bind(forged), verifier)


def test_tag_of_one_operation_is_no_tag_of_another() -> None:
    holder = ISSUER.mint(serial=1)
    heard = bind(holder).envelope
    for op in Operation:
        if op != heard.op:
            fields = {name: getattr(heard, name) for name in Envelope.__annotations__}
            with pytest.raises(Refused):
                check(encode(Envelope(**{**fields, "op": int(op)})))
