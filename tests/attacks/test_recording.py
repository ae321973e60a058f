"""The recording attack: whoever has heard every byte of some calls gains nothing by sending more.

The attacker has what went between client, entry node, home node and device, and may talk to both
nodes as anybody may, to the home node as a member of the cluster, and to the device in its node's
place. One call was answered, one was made with a derived capability, one was taken back before the
device woke, and one still waits. Nothing may run that its client did not ask for and keep asking
for, no node may take anything new, no reply may be told but those that were there, and the call
that waits has to be answered as if nobody had tried.

Not handled here: what somebody on the way can withhold, or end with a fetch key that was heard
(privacy.md, *What is not promised*).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from abci_app import handle_opening, http_requests, request_desk
from abci_app.handle_opening import OpeningKeys
from abci_app.mailbox_boxes import Boxes
from abci_app.peer_api import PASS_PATH, PassedRequest
from edgistry.blocks import append_block
from edgistry.capability import BoundRequest, Capability
from edgistry.capability_chain import Chain, Entry
from edgistry.codec import encode, encode_json, replace
from edgistry.envelope import (
    GENERIC_REFUSAL,
    Envelope,
    Operation,
    Status,
    decode_envelope,
    decode_reply,
    encode_reply,
    envelope_message,
)
from edgistry.errors import Refused
from edgistry.handles import Target, parse_handle_text
from edgistry.messages import (
    RequestResult,
    decode_down,
    decode_up,
    encode_down,
    encode_up,
    request_id,
)
from edgistry.replay_window import Window
from edgistry.requests_api import to_bytes, to_text
from edgistry.rights import Right
from edgistry.transactions import RecordKey
from edgistry.verifier import Checked
from tests.abci_app.desk_world import CLIENT, GRANT, SECOND, SERVICE_KEY
from tests.abci_app.peer_world import HOME, KEYS
from tests.edgistry import weakened
from tests.handle_world import handle_for

from .clear_channel import HANDLE, Channel, Heard, Said, clear_channel, http, replayed, send

OWN_KEY = b"the attacker's"
OWN_HASH = hashlib.sha256(OWN_KEY).digest()
OTHER = b"attacker"
ANSWERED = [("read", b"first"), ("read", b"derived")]

Attack = Callable[[Channel], Awaitable[list[Said]]]


async def gains(attack: Attack, *, is_exact: bool = False) -> set[str]:
    """What the attacker has of ``attack``; where it is only to repeat, old answers are none."""
    async with clear_channel() as channel:
        await channel.agent.wake_up()
        first = await channel.call(b"first")
        derived = await channel.call(b"derived", GRANT.derive(max_payload=99))
        recalled = await channel.call(b"recalled")
        await channel.cancel(recalled)
        await channel.device_wakes()
        for call in (first, derived, recalled):
            await channel.fetch(call)
        assert channel.executed == ANSWERED
        await channel.call(b"waiting")
        remembered = {call.reply for call in channel.calls}
        remembered |= {each.answer_body for each in channel.near_device.heard}
        kept = channel.kept
        told = await attack(channel)
        gained = set()
        if channel.kept > kept:
            gained.add("a node took it")
        await channel.device_wakes()
        told += [await _look(channel, each) for each in _numbers(told)]
        if Counter(channel.executed) - Counter([*ANSWERED, ("read", b"waiting")]):
            gained.add("something ran")
        replies = {_reply_in(each) for each in told} - {b"", GENERIC_REFUSAL}
        if replies - remembered:
            gained.add("a new answer")
        if not is_exact and any(_is_taken(each) for each in told):
            gained.add("an answer")
        if not await _is_as_before(channel):
            gained.add("calls of others changed")
        return gained


async def _look(channel: Channel, number: str) -> Said:
    """What becomes of a request that a node told the number of."""
    return await send(channel.home_port, http("GET", f"/v1/requests/{number}", fetch_key=OWN_KEY))


def _numbers(told: list[Said]) -> set[str]:
    documents = [json.loads(each.body) for each in told if each.is_json]
    return {each["id"] for each in documents if isinstance(each.get("id"), str)}


def _reply_in(said: Said) -> bytes:
    return said.reply if said.is_json else said.body


def _is_taken(said: Said) -> bool:
    return said.status < 300 and said.body != GENERIC_REFUSAL


async def _is_as_before(channel: Channel) -> bool:
    """Whether each call has the outcome that it had, and the one that waited the device's."""
    for call in channel.calls:
        before = call.reply
        try:
            await channel.fetch(call)
            reply = call.request.open_reply(call.reply)
        except Refused:
            return False
        if before and call.reply != before:
            return False
        if not before and reply.payload != b"21.5 for waiting":
            return False
    return True


# --- what was heard -----------------------------------------------------------------------------


def submissions(channel: Channel) -> list[dict[str, Any]]:
    """The documents with which the client submitted."""
    heard = [each for each in channel.near_client.heard if each.request.startswith(b"POST /v1/req")]
    assert len(heard) == 4
    return [json.loads(each.body) for each in heard]


def envelopes(channel: Channel) -> list[Envelope]:
    """The client's envelopes."""
    return [decode_envelope(to_bytes(each["envelope"], "it")) for each in submissions(channel)]


def exchanges(channel: Channel) -> list[Heard]:
    """Exchanges of the device, with the node's answers."""
    heard = channel.near_device.heard
    assert any(decode_down(decode_reply(each.answer_body).payload).requests for each in heard)
    return heard


async def submit(channel: Channel, envelope: bytes, /, **more: Any) -> list[Said]:
    """Submit ``envelope`` to both nodes under a key of the attacker's own."""
    key = hashlib.sha256(repr((envelope, more)).encode()).digest()
    body = {
        "handle": HANDLE,
        "envelope": to_text(envelope),
        "idempotency_key": to_text(key),
        "fetch_hash": to_text(OWN_HASH),
        **more,
    }
    message = http("POST", "/v1/requests", encode_json(body))
    return [await send(port, message) for port in (channel.entry_port, channel.home_port)]


async def exchange(channel: Channel, envelope: bytes) -> Said:
    """Talk to the home node as if one were the device."""
    return await send(channel.home_port, http("POST", "/v1/exchange", envelope))


# --- the attacks --------------------------------------------------------------------------------


async def repeat_to_nodes(channel: Channel) -> list[Said]:
    """Every message again, to both nodes."""
    told = []
    for heard in [*channel.near_client.heard, *channel.near_device.heard]:
        for port in (channel.entry_port, channel.home_port):
            told.append(await send(port, heard.request))
    for path, heard in list(channel.between_nodes):
        way = channel.nodes.way
        answer = await way.request("POST", path, body=heard.body, timeout_s=5)
        told.append(Said(answer.status, answer.body))
    return told


async def repeat_to_device(channel: Channel) -> list[Said]:
    """Every answer of the node again, to the device."""
    await answer_device(channel, [each.answer_body for each in exchanges(channel)])
    return []


async def splice_to_device(channel: Channel) -> list[Said]:
    """What the node handed down, under other numbers, with other envelopes that were heard."""
    forged = []
    for heard in exchanges(channel):
        reply = decode_reply(heard.answer_body)
        down = decode_down(reply.payload)
        for item in down.requests:
            for envelope in envelopes(channel):
                number = hashlib.sha256(envelope.tag).digest()[:16]
                other = replace(item, request_id=number, envelope=encode(envelope))
                forged.append(replace(reply, payload=encode_down(replace(down, requests=(other,)))))
    assert len(forged) >= 4
    await answer_device(channel, [encode(each) for each in forged])
    return []


async def answer_device(channel: Channel, replies: list[bytes]) -> None:
    """Give each of ``replies`` to the device in the node's place."""
    before = len(channel.near_device.heard)
    for reply in replies:
        channel.device_link.replay = replayed(reply)
        await channel.agent.wake_up()
    channel.device_link.replay = None
    # What the node answered to these exchanges never came.
    del channel.near_device.heard[before:]


async def submit_under_other_keys(channel: Channel) -> list[Said]:
    """The client's envelopes as requests of the attacker's, also as a dishonest entry node."""
    told = []
    for envelope in map(encode, envelopes(channel)):
        told += await submit(channel, envelope)
        told += await submit(channel, envelope, max_age_s=600)
        passed = PassedRequest(
            service=SERVICE_KEY,
            envelope=envelope,
            idempotency_key=b"passed",
            fetch_hash=OWN_HASH,
            priority=9,
            not_before_us=0,
            max_age_s=600,
            recalled=False,
        )
        way = channel.nodes.way
        answer = await way.request("POST", PASS_PATH, body=encode(passed), timeout_s=5)
        told.append(Said(answer.status, answer.body))
    for body in submissions(channel):
        message = http(
            "POST", "/v1/requests", encode_json({**body, "fetch_hash": to_text(OWN_HASH)})
        )
        told += [await send(port, message) for port in (channel.entry_port, channel.home_port)]
    return told


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of another epoch comes, however long its handles wait for it."""
    monkeypatch.setattr(handle_opening, "KEY_WAIT_S", 0.001)


async def submit_under_other_handles(channel: Channel) -> list[Said]:
    """The client's envelopes under handles that the attacker has, or makes of what it has."""
    own = KEYS.handles().own(OTHER.ljust(16, b"."), Target(HOME, RecordKey(SERVICE_KEY))).text
    alias = KEYS.handles().alias(bytes(16), Target(HOME, RecordKey(SERVICE_KEY))).text
    mine, theirs = (parse_handle_text(each).data for each in (own, HANDLE))
    handles = [
        own,
        alias,
        handle_for(b"another record..", client_id=CLIENT),
        handle_for(SERVICE_KEY, client_id=CLIENT, epoch=2),
        *(to_text(mine[:at] + theirs[at:]) for at in (16, 52, 53, 57, 65)),
        *(to_text(theirs[:at] + mine[at:]) for at in (16, 52, 53, 57, 65)),
        HANDLE[:16],
    ]
    told = []
    for envelope in map(encode, envelopes(channel)):
        for handle in handles:
            told += await submit(channel, envelope, handle=handle)
    return told


FIELDS = ("handler", "target", "op", "sequence", "deadline", "client", "capabilities", "payload")


async def cut_and_splice(channel: Channel) -> list[Said]:
    """Parts of envelopes, and each field of one in another."""
    told = []
    heard = envelopes(channel)
    devices = [decode_envelope(each.body) for each in exchanges(channel)[-2:]]
    for one in heard:
        whole = encode(one)
        for at in range(0, len(whole), 7):
            told += await submit(channel, whole[:at])
        for other in [*heard, *devices]:
            half = len(whole) // 2
            told += await submit(channel, whole[:half] + encode(other)[half:])
            for name in (*FIELDS, "tag"):
                spliced = replace(one, **{name: getattr(other, name)})
                if spliced != one and spliced != other:
                    told += await submit(channel, encode(spliced))
                    told.append(await exchange(channel, encode(spliced)))
    return told


async def change_envelopes(channel: Channel) -> list[Said]:
    """Another deadline, payload, action, time, client, right; the tag that was heard."""
    told = []
    for each in envelopes(channel):
        for changes in (
            {"deadline": each.deadline + SECOND},
            {"payload": b"another"},
            {"handler": "zero"},
            {"handler": ""},
            {"target": "thermometer"},
            {"op": int(Operation.LATEST), "payload": b"", "handler": ""},
            {"sequence": each.sequence + 1},
            {"client": OTHER},
            {"sequence_epoch": 1},
            {"capabilities": each.capabilities * 2},
            {"tag": bytes(16)},
        ):
            told += await submit(channel, encode(replace(each, **changes)))
    return told


async def change_exchanges(channel: Channel) -> list[Said]:
    """The device's exchanges, with an answer of the attacker's to the call that waits."""
    waiting = to_bytes(channel.calls[-1].number, "id")
    reply = encode_reply(bytes(32), bytes(16), status=Status.OK, payload=b"99.9")
    told = []
    for heard in exchanges(channel):
        envelope = decode_envelope(heard.body)
        up = decode_up(envelope.payload)
        result = RequestResult(request_id=waiting, kind=1, reply=reply)
        for other in (
            replace(up, results=(result,)),
            replace(up, instance=b"attacker", want_count=16, want_bytes=1 << 20),
            replace(up, counter=up.counter + 1, settled=0),
        ):
            changed = replace(envelope, payload=encode_up(other))
            told.append(await exchange(channel, encode(changed)))
    return told


async def use_fragments(channel: Channel) -> list[Said]:
    """What was heard as the secret of a chain: of the whole, of its parts, and of more."""
    told = []
    for capability in fragments(channel):
        request = channel.nodes.home.bind(capability, payload=b"stolen")
        told += await submit(channel, request.encoded)
    return told


def fragments(channel: Channel) -> Iterator[Capability]:
    """Every chain with everything that could be taken for its state."""
    for call, envelope in zip(channel.calls, envelopes(channel), strict=True):
        [public] = envelope.capabilities
        message = envelope_message(envelope)
        chain = Chain.parse(public)
        publics = [public, append_block(public, len(message).to_bytes(2, "big") + message)]
        publics += [
            public[:11] + bytes([count]) + public[12:end]
            for count, end in enumerate(chain.ends[:-1], 1)
        ]
        tags = [envelope.tag, *([decode_reply(call.reply).rtag] if call.reply else [])]
        for tag in tags:
            states = [tag + tag, tag + bytes(16), bytes(16) + tag, hashlib.sha256(tag).digest()]
            for each in publics:
                yield from (_held(each, state) for state in states if _is_chain(each))


def _held(public: bytes, state: bytes) -> Capability:
    return Capability(Chain.parse(public), state)


def _is_chain(public: bytes) -> bool:
    try:
        Chain.parse(public)
    except Refused:
        return False
    return True


async def use_other_fetch_keys(channel: Channel) -> list[Said]:
    """See, take back and let go of requests with what is no key of theirs."""
    told = []
    heard = submissions(channel)
    for call, body in zip(channel.calls, heard, strict=True):
        keys = [
            OWN_KEY,
            to_bytes(body["fetch_hash"], "it"),
            to_bytes(body["idempotency_key"], "it"),
            to_bytes(call.number, "id"),
            call.request.envelope.tag,
            *(each.fetch_key for each in channel.calls[:3] if each is not call),
        ]
        for key in keys:
            for port in (channel.entry_port, channel.home_port):
                path = f"/v1/requests/{call.number}"
                told.append(await send(port, http("GET", path, fetch_key=key)))
                told.append(await send(port, http("DELETE", path, fetch_key=key)))
                told.append(await send(port, http("POST", f"{path}/ack", fetch_key=key)))
    return told


# --- what is shipped ----------------------------------------------------------------------------

REPEATING: list[Attack] = [repeat_to_nodes, repeat_to_device]
FORGING: list[Attack] = [
    splice_to_device,
    submit_under_other_keys,
    submit_under_other_handles,
    cut_and_splice,
    change_envelopes,
    change_exchanges,
    use_fragments,
    use_other_fetch_keys,
]


@pytest.mark.parametrize("attack", REPEATING, ids=lambda each: each.__name__)
async def test_repeating_what_was_heard_tells_only_what_was_told(attack: Attack) -> None:
    assert await gains(attack, is_exact=True) == set()


@pytest.mark.parametrize("attack", FORGING, ids=lambda each: each.__name__)
async def test_making_something_of_what_was_heard_gains_nothing(attack: Attack) -> None:
    assert await gains(attack) == set()


# --- naive variants -----------------------------------------------------------------------------

Weaken = Callable[[pytest.MonkeyPatch], None]


def takes_twice(patch: pytest.MonkeyPatch) -> None:
    """Naive: a mailbox that does not ask whether this very envelope was sent before."""
    patch.setattr(Boxes, "sent_as", lambda _boxes, _digest: None)


def numbers_by_count(patch: pytest.MonkeyPatch) -> None:
    """Naive: the same, and what is submitted again is another request."""
    takes_twice(patch)
    counts: Counter[bytes] = Counter()

    def numbered(**what: bytes) -> bytes:
        number = request_id(**what)
        counts[number] += 1
        again = counts[number] > 1
        return hashlib.sha256(b"%d" % counts[number] + number).digest()[:16] if again else number

    patch.setattr(request_desk, "request_id", numbered)


def believes_tags(patch: pytest.MonkeyPatch) -> None:
    """Naive: whoever shows the public bytes of a capability has it."""
    patch.setattr(Checked, "_is_authentic", lambda _checked: True)


def opens_for_all(patch: pytest.MonkeyPatch) -> None:
    """Naive: a handle is good for whoever has it, and an envelope for a second time."""
    takes_twice(patch)

    def opened(keys: OpeningKeys, text: str, _client: bytes) -> RecordKey:
        handle = parse_handle_text(text)
        return keys.handles_of(handle.epoch).open(handle, tag=None).record

    patch.setattr(http_requests, "service_of_request", opened)


def shows_to_all(patch: pytest.MonkeyPatch) -> None:
    """Naive: who knows a request's number may see it."""
    patch.setattr(request_desk, "_is_seen", lambda _record, _key: True)


def believes_nodes(patch: pytest.MonkeyPatch) -> None:
    """Naive: a device that proves nothing that its node says, and forgets what it executed."""
    patch.setattr(BoundRequest, "open_reply", lambda _request, data: decode_reply(data))
    patch.setattr(Window, "knows", lambda _window, _envelope: False)
    patch.setattr(Window, "check", lambda _window, _envelope, now_us: None)


RAN, ANSWER, CHANGED = "something ran", "an answer", "calls of others changed"
NAIVE: list[tuple[Weaken, Attack, str]] = [
    (numbers_by_count, repeat_to_nodes, RAN),
    # It takes an old answer for the new one, and says that it has had what was handed down.
    (believes_nodes, repeat_to_device, CHANGED),
    (believes_nodes, splice_to_device, RAN),
    (takes_twice, submit_under_other_keys, RAN),
    (opens_for_all, submit_under_other_handles, RAN),
    (believes_tags, cut_and_splice, RAN),
    (believes_tags, change_envelopes, RAN),
    (believes_tags, change_exchanges, ANSWER),
    (believes_tags, use_fragments, RAN),
    (shows_to_all, use_other_fetch_keys, ANSWER),
]


@pytest.mark.parametrize(
    ("weaken", "attack", "gain"),
    NAIVE,
    ids=[f"{weaken.__name__}-{attack.__name__}" for weaken, attack, _ in NAIVE],
)
async def test_naive_variants_lose_to_the_same_attacks(
    weaken: Weaken, attack: Attack, gain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weaken(monkeypatch)
    assert gain in await gains(attack, is_exact=attack in REPEATING)


def test_a_tag_that_was_heard_is_a_capability_in_the_prototype() -> None:
    """The paper's chain, where a tag is as long as a state and made like one."""
    prototype = weakened.Prototype(bytes(32))
    heard = weakened.bind(prototype.mint(Entry(int(Right.PUT), "thermometer/read")), int(Right.PUT))
    stolen = weakened.Held(append_block(heard.public, heard.asked), heard.tag)
    assert prototype.executes(weakened.bind(stolen, int(Right.PUT)))
