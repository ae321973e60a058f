"""Bad input, one test a line of what must be refused.

Everything comes to an issuer as bytes; each is refused with its reason, nothing raises anything
outside the error tree (``Authority.answer`` is total), and nothing is accepted twice.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import msgpack
import pytest

from edgistry import caveats as cv
from edgistry.blocks import ChildEntry, append_block, blocks_of, child_block
from edgistry.capability import BoundRequest, Capability
from edgistry.capability_chain import Chain
from edgistry.codec import encode
from edgistry.envelope import GENERIC_REFUSAL, Envelope, Status, envelope_tag, with_tag
from edgistry.errors import MalformedError, WidenedError
from edgistry.replay_window import MAX_AHEAD_US, WINDOW
from edgistry.rights import Right

from .grants import DAY, ISSUER, ME, MINUTE, NEWEST, NOW, ROOT, YOU, Server, bind

CHAIN = ROOT.derive(allow=Right.GET | Right.PUT, object_name="ns").derive(
    allow=Right.GET, not_after_us=NOW, client=ME
)


def forced(public: bytes, state: bytes = bytes(32), *, target: str = "ns/w") -> bytes:
    """An envelope around any bytes, with a right tag under ``state``: no check of ours is asked."""
    envelope = Envelope(
        version=1, flags=0, op=4, target=target, handler="", sequence_epoch=0, sequence=NOW,
        deadline=NOW, client=ME, capabilities=(public,), payload=NEWEST, tag=bytes(16),
    )  # fmt: skip
    return encode(with_tag(envelope, envelope_tag(state, envelope)))


def assert_refused(*datas: bytes) -> None:
    server = Server()
    for data in datas:
        assert server.answer(data) == GENERIC_REFUSAL
    assert server.executed == []
    assert server.guard._states == {}


def test_truncated() -> None:
    good = bind(CHAIN).encoded
    assert_refused(*(good[:cut] for cut in range(len(good))))
    assert_refused(*(forced(CHAIN.public[:cut]) for cut in range(13, len(CHAIN.public))))
    for cut in range(len(CHAIN.public)):
        with pytest.raises(MalformedError):
            Chain.parse(CHAIN.public[:cut])


def test_padded() -> None:
    for extra in (b"\x00", b"\xff", b"\x81\x00", bytes(100)):
        assert_refused(bind(CHAIN).encoded + extra, extra + bind(CHAIN).encoded)
        assert_refused(forced(CHAIN.public + extra, CHAIN._state))
        with pytest.raises(MalformedError):
            Chain.parse(CHAIN.public + extra)


def test_bit_flipped() -> None:
    for bit in range(8 * len(CHAIN.public)):
        changed = bytearray(CHAIN.public)
        changed[bit // 8] ^= 1 << bit % 8
        assert_refused(forced(bytes(changed), CHAIN._state))


def rebuilt(datas: tuple[bytes, ...]) -> bytes:
    public = CHAIN.public[:11] + bytes([0]) + datas[0]
    return public[:11] + bytes([len(datas)]) + b"".join(datas)


def test_reordered_and_duplicated_blocks() -> None:
    datas = tuple(block.data for block in blocks_of(CHAIN.chain))
    good = rebuilt(datas)
    assert good[12:] == CHAIN.public[12:]
    orders = [order for size in (1, 2, 3, 4) for order in itertools.product(datas, repeat=size)]
    orders.remove(datas)
    for order in orders:
        assert_refused(forced(rebuilt(order), CHAIN._state))


def test_reordered_and_duplicated_caveats() -> None:
    late, mine = cv.not_after(NOW), cv.client(ME)
    encoded = [bytes([c.type, len(c.value)]) + c.value for c in (late, mine)]
    for tail in (encoded[::-1], [encoded[0]] * 2, [encoded[0], encoded[1], encoded[1]]):
        body = b"\x01\x00\x10\x02ns" + b"".join(tail)
        public = ROOT.public[:12] + len(body).to_bytes(2, "big") + body
        with pytest.raises(MalformedError, match="ascending"):
            Chain.parse(public)
        assert_refused(forced(public))


def test_widened_rights() -> None:
    reader = ROOT.derive(allow=Right.GET)
    for rights in (0x11, 0x14, 0x7FF, 0x20):
        block = child_block([ChildEntry(0, rights)])
        with pytest.raises(WidenedError):
            reader.extended(block)
        assert_refused(forced(append_block(reader.public, block)))


@pytest.mark.parametrize("name", ["..", ".", "a//b", "a/..", "../a", "/", "a/", "a/b/c"])
def test_dots_and_double_slashes_in_names(name: str) -> None:
    with pytest.raises(MalformedError):
        bind(ROOT, target=name)
    assert_refused(forced(ROOT.public, ROOT._state, target=name))
    body = bytes([1, 0, 0x10, len(name)]) + name.encode()
    assert_refused(forced(ROOT.public[:12] + len(body).to_bytes(2, "big") + body))


@pytest.mark.parametrize("size", range(33))
def test_wrong_and_short_tags_of_every_length(size: int) -> None:
    fields = msgpack.unpackb(bind(ROOT).encoded)
    good = (fields[11] * 2)[:size]
    for tag in {bytes(size), b"\xff" * size, *([good] if size != 16 else [])}:
        assert_refused(msgpack.packb([*fields[:11], tag]))


def test_the_same_capability_twice() -> None:
    fields = msgpack.unpackb(bind(ROOT).encoded)
    assert_refused(msgpack.packb([*fields[:9], [ROOT.public] * 2, *fields[10:]]))
    with pytest.raises(MalformedError, match="twice"):
        bind(ROOT, beside=[ROOT])


def test_require_cycles() -> None:
    server = Server()
    one, two, three = (ISSUER.mint(serial=n) for n in (1, 2, 3))
    a, b, c = (
        one.derive(require=[two.id]),
        two.derive(require=[three.id]),
        three.derive(require=[one.id]),
    )
    assert server.send(bind(a, beside=[b, c])).status == Status.CAVEAT
    assert server.send(bind(ROOT.derive(require=[one.id]), beside=[a, b, c])).status == (
        Status.CAVEAT
    )
    assert server.executed == []


def test_seventeen_blocks() -> None:
    capability = ROOT
    block = child_block([ChildEntry(0, 0x7FF)])
    while len(capability.chain.ends) < 16:
        capability = capability.extended(block)
    public = capability.public[:11] + b"\x11" + capability.public[12:] + block
    with pytest.raises(MalformedError, match="17 blocks"):
        Chain.parse(public)
    assert_refused(forced(public))


def test_sequences_in_the_past_and_the_future() -> None:
    server = Server()
    for number in range(WINDOW):
        server.send(bind(ROOT, sequence=NOW + number))
    assert server.send(bind(ROOT, sequence=NOW - DAY)).status == Status.STALE
    assert server.send(bind(ROOT, sequence=0, deadline=NOW % DAY)).status == Status.EXPIRED
    ahead = bind(ROOT, sequence=NOW + MAX_AHEAD_US + 1, deadline=NOW + DAY)
    assert server.send(ahead).status == Status.FUTURE
    assert len(server.executed) == WINDOW


def test_sequence_repeated_concurrently_from_many_threads() -> None:
    """One sequence in many different requests, each of them sent several times."""
    server = Server()
    requests = [bind(ROOT, target=f"ns/{n}") for n in range(8)] * 6
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda request: server.send(request).status, requests))
    assert len(server.executed) == 1
    assert statuses.count(Status.OK) == 6
    assert statuses.count(Status.STALE) == 42


def test_deadlines_past_and_beyond_seven_days() -> None:
    server = Server()
    assert server.send(bind(ROOT, deadline=NOW - 1)).status == Status.EXPIRED
    with pytest.raises(MalformedError, match="7 days"):
        bind(ROOT, deadline=NOW + 7 * DAY + 1)
    envelope = bind(ROOT).envelope
    fields = {name: getattr(envelope, name) for name in Envelope.__annotations__}
    far = Envelope(**{**fields, "deadline": NOW + 7 * DAY + 1})
    assert_refused(BoundRequest.sealed(far, ROOT._state).encoded)


def test_one_client_cannot_lock_out_another() -> None:
    """A derived client caveat with 64 sequences near now + 5 minutes."""
    server = Server()
    mine, theirs = ROOT.derive(client=ME), ROOT.derive(client=YOU)
    for number in range(WINDOW):
        request = bind(theirs, client=YOU, sequence=NOW + MAX_AHEAD_US - number, deadline=NOW + DAY)
        assert server.send(request).status == Status.OK
    assert server.send(bind(mine)).status == Status.OK
    assert server.send(bind(ROOT)).status == Status.OK
    assert server.send(bind(theirs, client=YOU)).status == Status.STALE


def test_seventeen_clients_on_one_serial() -> None:
    server = Server()

    def of(number: int, sequence: int = NOW) -> BoundRequest:
        client = number.to_bytes(8, "big")
        return bind(ROOT.derive(client=client), client=client, sequence=sequence)

    assert [server.send(of(n)).status for n in range(1, 18)] == [0] * 16 + [Status.BUSY]
    assert [server.send(of(n, NOW + 1)).status for n in range(1, 17)] == [0] * 16
    assert server.send(bind(ISSUER.mint(serial=2))).status == Status.OK


def test_replay_after_a_crash() -> None:
    server = Server()
    request = bind(ROOT)
    first = server.answer(request.encoded)
    for _ in range(3):
        server = Server(server.store)
        assert server.answer(request.encoded, now_us=NOW + MINUTE) == first
        assert server.executed == []


def test_memo_poisoned_by_a_refused_chain() -> None:
    """A chain that one forged request brought along is no better known afterwards."""
    server = Server()
    stolen = Capability(CHAIN.chain, bytes(32))
    for _ in range(2):
        assert server.answer(bind(stolen).encoded) == GENERIC_REFUSAL
    assert server.send(bind(CHAIN)).status == Status.OK
    assert server.answer(bind(stolen, sequence=NOW + 1).encoded) == GENERIC_REFUSAL
    assert len(server.executed) == 1
