"""Write tests/vectors/capability.json: test vectors of the capability format.

``--check`` compares instead of writing. Everything is derived from fixed labels, so that the file
is the same on every machine. tests/vectors/README.md says how to use it with another
implementation; docs/protocol.md is the specification.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from edgistry import caveats as cv
from edgistry.blocks import ChildEntry, append_block, child_block, header_bytes, root_block
from edgistry.capability import BoundRequest, Capability
from edgistry.capability_chain import CURRENT_EPOCH, Chain, Entry
from edgistry.caveats import Caveat
from edgistry.codec import encode
from edgistry.envelope import Operation as Op
from edgistry.envelope import decode_envelope, decode_reply
from edgistry.errors import Refused
from edgistry.flatten import flatten_chain
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.operations import (
    Scan,
    SequenceFix,
    encode_get,
    encode_scan,
    encode_sequence_fix,
    encode_woof_shape,
)
from edgistry.replay import Outcome, ReplayGuard
from edgistry.rights import ALL_RIGHTS
from edgistry.rights import Right as R
from edgistry.verifier import Verifier

TARGET = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "capability.json"
NOW = 1_750_000_000_000_000
MINUTE = 60_000_000
DAY = 24 * 60 * MINUTE
EPOCH = 3
ALICE = bytes.fromhex("a11ce00000000001")
BOB = bytes.fromhex("b0b0000000000002")
NEWEST = encode_get()


def derived(label: str, size: int = 32) -> bytes:
    """Bytes that look random and are the same everywhere."""
    return hashlib.sha256(b"edgistry test vector: " + label.encode()).digest()[:size]


SECRET = derived("secret")
OTHER_SECRET = derived("other secret")

EntryOf = tuple[int, str] | tuple[int, int, str]
BlockOf = tuple[list[Any], list[Caveat]]


class Capabilities:
    """The named capabilities, with what they were made from."""

    def __init__(self) -> None:
        self.made: dict[str, Capability] = {}
        self.described: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        *blocks: BlockOf,
        serial: int,
        secret: bytes = SECRET,
        epoch: int = EPOCH,
        current: bool = False,
    ) -> Capability:
        header = header_bytes(epoch=CURRENT_EPOCH if current else epoch, serial=serial)
        (entries, caveats), *children = blocks
        public = header + root_block([Entry(*entry) for entry in entries], caveats)
        for entries, caveats in children:
            block = child_block([ChildEntry(*entry) for entry in entries], caveats)
            public = append_block(public, block)
        chain = Chain.parse(public)
        issuer = Issuer.from_secret(secret, epoch=epoch)
        states = chain.states(issuer.danger_key())
        self.made[name] = Capability(chain, states[-1])
        self.described.append(
            {
                "name": name,
                "secret": secret.hex(),
                "issuer_epoch": epoch,
                "serial": serial,
                "blocks": [describe_block(index, block) for index, block in enumerate(blocks)],
                "public": public.hex(),
                "states": [state.hex() for state in states],
                "ids": [public_id.hex() for public_id in chain.ids],
            }
        )
        return self.made[name]


def describe_block(index: int, block: BlockOf) -> dict[str, Any]:
    names = ("parent", "rights", "narrow") if index else ("rights", "object")
    entries, caveats = block
    return {
        "entries": [
            {
                name: value if isinstance(value, str) else int(value)
                for name, value in zip(names, entry, strict=True)
            }
            for entry in entries
        ],
        "caveats": [{"type": kind, "value": value.hex()} for kind, value in sorted(set(caveats))],
    }


def capabilities() -> Capabilities:
    caps = Capabilities()
    everything: BlockOf = ([(ALL_RIGHTS, "")], [])
    caps.add("everything", everything, serial=0x01020304)
    caps.add(
        "reader",
        ([(R.PUT | R.GET | R.LATEST, "sensors")], [cv.not_after(NOW + 30 * DAY)]),
        ([(0, R.GET | R.LATEST, "temperature")], [cv.client(ALICE)]),
        ([(0, R.GET, "")], [cv.max_payload(64)]),
        serial=0x11111111,
    )
    caps.add(
        "several-entries",
        (
            [(R.PUT | R.GET, "sensors"), (R.DELETE | R.GET, "logs"), (R.MINT, "")],
            [cv.not_before(NOW - DAY), cv.not_after(NOW + DAY)],
        ),
        (
            [
                (1, R.DELETE, "old"),
                (0, R.GET, ""),
                (0, R.PUT | R.GET, "a.b_c-d"),
                (2, R.MINT, "x/y"),
            ],
            [cv.not_after(NOW + 2 * DAY), cv.max_payload(1000)],
        ),
        serial=0x22222222,
    )
    caps.add(
        "veiled",
        (
            [(R.PUT | R.INVOKE | R.GET, "rooms/heating")],
            [cv.not_after(NOW + 2 * DAY), cv.client(ALICE), cv.VEIL],
        ),
        serial=0x33333333,
        current=True,
    )
    caps.add("sealed", everything, ([(0, R.GET, "ns")], [cv.SEALED]), serial=0x44444444)
    caps.add(
        "beyond-the-seal",
        everything,
        ([(0, R.GET, "ns")], [cv.SEALED]),
        ([(0, R.GET, "")], []),
        serial=0x44444444,
    )
    caps.add(
        "handlers",
        ([(R.PUT | R.INVOKE, "jobs")], [cv.handler("alarm"), cv.handler("dim"), cv.handler("log")]),
        (
            [(0, R.PUT | R.INVOKE, "inbox")],
            [cv.handler("dim"), cv.handler("log"), cv.handler("off")],
        ),
        serial=0x55555555,
    )
    badge = caps.add("badge", ([(0, "")], [cv.not_after(NOW + DAY)]), serial=0x66666666)
    caps.add(
        "own-badge",
        ([(0, "")], [cv.not_after(NOW + DAY)]),
        ([(0, 0, "")], [cv.client(ALICE)]),
        serial=0x66666666,
    )
    caps.add("needs-badge", ([(R.GET, "doors")], [cv.require(badge.id)]), serial=0x77777777)
    caps.add(
        "needs-nothing-there",
        ([(R.GET, "doors")], [cv.require(derived("nobody", 16))]),
        serial=0x77777778,
    )
    first = caps.add("ring-first", ([(R.GET, "doors")], []), serial=0x78780001)
    second = caps.add(
        "ring-second", ([(R.GET, "doors")], [cv.require(first.id)]), serial=0x78780002
    )
    caps.add(
        "ring",
        ([(R.GET, "doors")], []),
        ([(0, R.GET, "")], [cv.require(second.id)]),
        serial=0x78780001,
    )
    caps.add(
        "sixteen-blocks",
        everything,
        *[([(0, ALL_RIGHTS, "")], [cv.max_payload(1000 - depth)]) for depth in range(15)],
        serial=0x88888888,
    )
    caps.add(
        "all-entries", ([(R.GET, f"ns-{index}") for index in range(32)], []), serial=0x99999999
    )
    caps.add(
        "optional-caveat",
        ([(R.GET, "ns")], [Caveat(0x05, b"ignore me"), Caveat(0x00, b"")]),
        serial=0xAAAAAAAA,
    )
    caps.add(
        "limits-that-limit-nothing",
        ([(R.GET, "ns")], [cv.not_before(0), cv.not_after(2**64 - 1)]),
        ([(0, R.GET, "w")], [cv.max_payload(2**32 - 1), cv.handler("h"), cv.not_before(0)]),
        serial=0xAAAAAAAB,
    )
    caps.add(
        "poller", ([(R.PUT | R.GET | R.LATEST | R.POLL, "devices/d-17")], []), serial=0xBBBBBBBB
    )
    caps.add("over", ([(R.GET, "ns")], [cv.not_after(NOW - 1)]), serial=0xCC000001)
    caps.add("not-yet", ([(R.GET, "ns")], [cv.not_before(NOW + 1)]), serial=0xCC000002)
    caps.add(
        "two-clients", ([(R.GET, "ns")], [cv.client(ALICE), cv.client(BOB)]), serial=0xCC000003
    )
    caps.add(
        "no-handler-fits",
        ([(R.PUT | R.INVOKE, "ns")], [cv.handler("a")]),
        ([(0, R.PUT | R.INVOKE, "")], [cv.handler("b")]),
        serial=0xCC000004,
    )
    caps.add("fixer-below", ([(R.SEQUENCE_FIX, "ns")], []), serial=0xCC000005)
    caps.add("split-rights", ([(R.PUT, "ns"), (R.INVOKE, "ns")], []), serial=0xCC000006)
    caps.add("denied", everything, ([(0, R.GET, "ns")], []), serial=0xDD000001)
    caps.add(
        "below-denied",
        everything,
        ([(0, R.GET, "ns")], []),
        ([(0, R.GET, "w")], []),
        serial=0xDD000001,
    )
    caps.add(
        "lineage-denied", ([(R.GET, "ns")], [cv.lineage(caps.made["denied"].id)]), serial=0xDD000002
    )
    caps.add("old-epoch", everything, serial=0xEE000001, epoch=EPOCH - 1)
    caps.add("other-issuer", everything, serial=0xEE000002, secret=OTHER_SECRET)
    for index in range(17):
        caps.add(
            f"crowd-{index}",
            ([(R.GET, "ns")], []),
            ([(0, R.GET, "")], [cv.client(derived(f"crowd {index}", 8))]),
            serial=0xFF000001,
        )
    return caps


class Envelopes:
    """The named requests, all of which a verifier accepts in this order."""

    def __init__(self, caps: Capabilities) -> None:
        self.caps = caps
        self.bound: dict[str, BoundRequest] = {}
        self.described: list[dict[str, Any]] = []
        self.sequence = NOW

    def bind(
        self, names: list[str], op: int, target: str, payload: bytes = b"", **more: Any
    ) -> BoundRequest:
        self.sequence += 1
        first, *beside = [self.caps.made[name] for name in names]
        fields = {"client": ALICE, "sequence": self.sequence, "deadline": NOW + MINUTE, **more}
        return first.bind(Op(op), target, payload, beside=beside, **fields)

    def add(
        self, name: str, names: list[str], op: int, target: str, payload: bytes = b"", **more: Any
    ) -> None:
        request = self.bind(names, op, target, payload, **more)
        envelope = request.envelope
        self.bound[name] = request
        self.described.append(
            {
                "name": name,
                "capabilities": names,
                "flags": envelope.flags,
                "op": envelope.op,
                "target": envelope.target,
                "handler": envelope.handler,
                "sequence_epoch": envelope.sequence_epoch,
                "sequence": envelope.sequence,
                "deadline": envelope.deadline,
                "client": envelope.client.hex(),
                "payload": envelope.payload.hex(),
                "tag": envelope.tag.hex(),
                "encoded": request.encoded.hex(),
            }
        )


def envelopes(caps: Capabilities) -> Envelopes:
    made = Envelopes(caps)
    add = made.add
    add("namespace-create", ["everything"], Op.NAMESPACE_CREATE, "sensors")
    add("woof-create", ["everything"], Op.WOOF_CREATE, "sensors/t", encode_woof_shape(history=1000))
    add("put", ["several-entries"], Op.PUT, "sensors/a.b_c-d", b"21.5")
    add("put-with-handler", ["handlers"], Op.PUT, "jobs/inbox", b"", handler="dim")
    add("get-newest", ["reader"], Op.GET, "sensors/temperature", NEWEST, flags=1)
    add("get-by-number", ["several-entries"], Op.GET, "sensors/other", encode_get(77), flags=1)
    add("latest", ["poller"], Op.LATEST, "devices/d-17", flags=2)
    add("delete", ["several-entries"], Op.DELETE, "logs/old", flags=3)
    add("exchange", ["poller"], Op.EXCHANGE, "devices/d-17", bytes(range(256)))
    add(
        "mint",
        ["several-entries"],
        Op.MINT,
        "x/y",
        child_block([ChildEntry(0, int(R.DELETE))], [cv.client(BOB)]),
    )
    add(
        "sequence-fix",
        ["everything"],
        Op.SEQUENCE_FIX,
        "",
        encode_sequence_fix(SequenceFix(0x11111111, ALICE, NOW)),
    )
    add("revoke", ["everything"], Op.REVOKE, "", caps.made["crowd-3"].public)
    add("scan", ["everything"], Op.SCAN, "sensors/temperature", encode_scan(Scan(0, 100)))
    add("veiled-put", ["veiled"], Op.PUT, "rooms/heating", b"on", handler="dim", flags=1)
    add("veiled-get", ["veiled"], Op.GET, "rooms/heating", NEWEST)
    add("sealed", ["sealed"], Op.GET, "ns/w", NEWEST, flags=1)
    add("with-badge", ["needs-badge", "badge"], Op.GET, "doors/1", NEWEST, flags=1)
    add("with-derived-badge", ["needs-badge", "reader", "own-badge"], Op.GET, "doors/1", NEWEST)
    add(
        "four-capabilities",
        ["needs-badge", "own-badge", "reader", "sealed"],
        Op.GET,
        "doors/2",
        NEWEST,
    )
    add("sixteen-blocks", ["sixteen-blocks"], Op.GET, "any/thing", NEWEST, flags=1)
    add("all-entries", ["all-entries"], Op.GET, "ns-31/w", NEWEST, flags=1)
    add("optional-caveat", ["optional-caveat"], Op.GET, "ns/w", NEWEST, flags=1)
    add(
        "limits-that-limit-nothing",
        ["limits-that-limit-nothing"],
        Op.GET,
        "ns/w",
        NEWEST,
        handler="h",
        flags=1,
    )
    add(
        "furthest-deadline",
        ["everything"],
        Op.GET,
        "ns/w",
        NEWEST,
        sequence=NOW,
        deadline=NOW + 7 * DAY,
    )
    add(
        "furthest-sequence",
        ["everything"],
        Op.GET,
        "ns/w",
        NEWEST,
        sequence=NOW + 5 * MINUTE,
        deadline=NOW,
    )
    for index in range(16):
        add(
            f"crowd-{index}",
            [f"crowd-{index}"],
            Op.GET,
            "ns/w",
            NEWEST,
            client=derived(f"crowd {index}", 8),
        )
    return made


REPLIES: list[tuple[str, dict[str, Any]]] = [
    ("get-newest", {"status": 0, "result": 41, "payload": b"21.5", "flat": True}),
    ("get-by-number", {"status": 11, "result": 0}),
    ("put", {"status": 0, "result": 42}),
    ("put-with-handler", {"status": 2, "result": 7}),
    ("put-with-handler", {"status": 0, "result": 7, "payload": b"dimmed"}),
    ("latest", {"status": 0, "payload": (3).to_bytes(8, "big") + (42).to_bytes(8, "big")}),
    ("latest", {"status": 0x8000, "result": 1500, "payload": bytes(16)}),
    ("veiled-put", {"status": 0, "result": 0, "payload": b"ok", "flat": True}),
    ("exchange", {"status": 0, "payload": b"\x90" * 300}),
    ("sealed", {"status": 0, "result": 2**64 - 1, "payload": b"x", "flat": True}),
    ("with-badge", {"status": 0, "result": 1, "payload": b"open", "flat": True}),
    ("sixteen-blocks", {"status": 0, "result": 1, "flat": True}),
    ("optional-caveat", {"status": 0, "result": 1, "flat": True}),
    ("limits-that-limit-nothing", {"status": 0, "result": 1, "flat": True}),
    ("scan", {"status": 3, "sequence_epoch": 1, "sequence_floor": NOW + 1}),
    ("scan", {"status": 4, "sequence_floor": NOW}),
    ("mint", {"status": 0, "flat": True}),
]


def replies(
    made: Envelopes, verifier: Verifier
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    found, flattened = [], []
    for name, fields in REPLIES:
        request = made.bound[name]
        checked = verifier.check(request.encoded, now_us=NOW)
        fields = dict(fields)
        flat = b""
        if fields.pop("flat", False):
            chain = checked.chain
            if name == "mint":
                chain = Chain.parse(append_block(chain.public, request.envelope.payload))
            chain = flatten_chain(chain)
            flat = checked.flat(chain)
            state = verifier.issuer.state_of(chain)
            flattened.append(
                {
                    "from": made.described[list(made.bound).index(name)]["capabilities"][0],
                    "envelope": name,
                    "public": chain.public.hex(),
                    "state": state.hex(),
                    "flat": flat.hex(),
                }
            )
        reply = decode_reply(checked.reply(flat=flat, **fields))
        found.append(
            {
                "envelope": name,
                "status": reply.status,
                "result": reply.result,
                "sequence_epoch": reply.sequence_epoch,
                "sequence_floor": reply.sequence_floor,
                "payload": reply.payload.hex(),
                "flat": reply.flat.hex(),
                "rtag": reply.rtag.hex(),
            }
        )
    return found, flattened


def header(epoch: int = EPOCH, serial: int = 1, count: int = 1) -> bytes:
    return header_bytes(epoch=epoch, serial=serial, nblocks=count)


def raw(body: bytes) -> bytes:
    return len(body).to_bytes(2, "big") + body


def root(name: bytes = b"ns", rights: int = 0x30, tail: bytes = b"") -> bytes:
    return raw(b"\x01" + rights.to_bytes(2, "big") + bytes((len(name),)) + name + tail)


def child(parent: int = 0, rights: int = 0x30, narrow: bytes = b"", tail: bytes = b"") -> bytes:
    return raw(
        bytes((1, parent)) + rights.to_bytes(2, "big") + bytes((len(narrow),)) + narrow + tail
    )


def refused_capabilities() -> Iterator[tuple[str, bytes, str]]:
    """Public bytes that no verifier reads."""
    good = header() + root()
    late = b"\x81\x08" + NOW.to_bytes(8, "big")
    later = b"\x81\x08" + (NOW + 1).to_bytes(8, "big")
    yield "empty", b"", "malformed"
    yield "header only", header(), "malformed"
    yield "wrong magic", b"ED"[::-1] + good[2:], "malformed"
    yield "version 0", good[:2] + b"\x00" + good[3:], "unknown-version"
    yield "version 2", good[:2] + b"\x02" + good[3:], "unknown-version"
    yield "no blocks", header(count=0) + root(), "malformed"
    yield "17 blocks", header(count=17) + root() + child() * 16, "malformed"
    yield "fewer blocks than announced", header(count=2) + root(), "malformed"
    yield "more blocks than announced", header(count=1) + root() + child(), "malformed"
    yield "cut after every field", good[:-1], "malformed"
    yield "cut in the header", good[:11], "malformed"
    yield "padded", good + b"\x00", "malformed"
    yield "no entries", header() + raw(b"\x00"), "malformed"
    yield "33 entries", header() + raw(b"\x21" + b"\x00\x10\x00" * 33), "malformed"
    yield "fewer entries than announced", header() + raw(b"\x02\x00\x10\x00"), "malformed"
    yield "block length too long", header() + b"\x00\x20" + root()[2:], "malformed"
    yield "block length too short", header() + b"\x00\x05" + root()[2:], "malformed"
    yield "undefined right", header() + root(rights=0x0810), "malformed"
    yield "undefined right in a child", header(count=2) + root() + child(rights=0x8000), "malformed"
    for name in (b".", b"..", b"a//b", b"/a", b"a/", b"a/..", b"../a", b"a/b/c", b"A", b"a b"):
        yield f"object {name.decode()}", header() + root(name), "malformed"
    yield "object not ASCII", header() + root("é".encode()), "malformed"
    yield "object with zero byte", header() + root(b"a\x00"), "malformed"
    yield "component of 33", header() + root(b"a" * 33), "malformed"
    for narrow in (b"..", b".", b"/w", b"w/", b"w/x", b"W"):
        yield (
            f"narrow {narrow.decode()}",
            header(count=2) + root() + child(narrow=narrow),
            "malformed",
        )
    yield "below a WooF", header(count=2) + root(b"ns/w") + child(narrow=b"x"), "malformed"
    yield "parent out of range", header(count=2) + root() + child(parent=1), "malformed"
    yield "widened rights", header(count=2) + root(rights=0x10) + child(rights=0x14), "widened"
    yield (
        "widened against the last block, not the root",
        header(count=3) + root() + child(rights=0x10) + child(rights=0x30),
        "widened",
    )
    yield "all rights from none", header(count=2) + root(rights=0) + child(rights=1), "widened"
    yield "blocks in another order", header(count=2) + child() + root(), "malformed"
    yield "caveat twice", header() + root(tail=late + late), "malformed"
    yield "caveats descending", header() + root(tail=later + late), "malformed"
    yield "caveat types descending", header() + root(tail=b"\x87\x00" + late), "malformed"
    yield "not_after of 7 bytes", header() + root(tail=b"\x81\x07" + bytes(7)), "malformed"
    yield "not_before of 9 bytes", header() + root(tail=b"\x82\x09" + bytes(9)), "malformed"
    yield "client of 7 bytes", header() + root(tail=b"\x83\x07" + bytes(7)), "malformed"
    yield "handler of 0 bytes", header() + root(tail=b"\x84\x00"), "malformed"
    yield "handler of 33 bytes", header() + root(tail=b"\x84\x21" + b"h" * 33), "malformed"
    yield "max_payload of 8 bytes", header() + root(tail=b"\x85\x08" + bytes(8)), "malformed"
    yield "require of 15 bytes", header() + root(tail=b"\x86\x0f" + bytes(15)), "malformed"
    yield "sealed with a value", header() + root(tail=b"\x87\x01\x00"), "malformed"
    yield "lineage of 32 bytes", header() + root(tail=b"\x88\x20" + bytes(32)), "malformed"
    yield "veil with a value", header() + root(tail=b"\x89\x01\x00"), "malformed"
    yield "unknown critical caveat", header() + root(tail=b"\x8a\x00"), "unknown-caveat"
    yield "critical caveat 0x80", header() + root(tail=b"\x80\x00"), "unknown-caveat"
    yield (
        "caveat runs into the next block",
        header(count=2) + root(tail=b"\x05\x10abc") + child(),
        "malformed",
    )
    yield "caveat cut after its type", header() + root(tail=b"\x87"), "malformed"
    yield (
        "2049 bytes",
        header()
        + root(
            tail=b"".join(bytes((1, 254, index)) + bytes(253) for index in range(7))
            + b"\x02\xf1"
            + bytes(241)
        ),
        "malformed",
    )


def with_field(request: BoundRequest, index: int, value: Any) -> bytes:
    """The encoded request with one element of its array replaced, under the old tag."""
    return encode(_fields(request, {index: value}))


def _fields(request: BoundRequest, changed: dict[int, Any]) -> list[Any]:
    e = request.envelope
    fields: list[Any] = [
        e.version, e.flags, e.op, e.target, e.handler, e.sequence_epoch, e.sequence, e.deadline,
        e.client, list(e.capabilities), e.payload, e.tag,
    ]  # fmt: skip
    for index, value in changed.items():
        fields[index] = value
    return fields


def malformed_envelopes(made: Envelopes) -> Iterator[tuple[str, bytes, str]]:
    """What is no envelope, whatever its tag says."""
    request = made.bound["put"]
    envelope, data = request.envelope, request.encoded
    public = envelope.capabilities[0]
    yield "empty envelope", b"", "malformed"
    yield "envelope cut by one byte", data[:-1], "malformed"
    yield "envelope padded", data + b"\x00", "malformed"
    yield "envelope of 11 elements", encode(_fields(request, {})[:11]), "malformed"
    yield "envelope of 13 elements", encode([*_fields(request, {}), 0]), "malformed"
    yield "envelope version 2", with_field(request, 0, 2), "malformed"
    yield "flag 4", with_field(request, 1, 4), "malformed"
    yield "operation 256", with_field(request, 2, 256), "malformed"
    yield "integer not minimal", b"\x9c\x01\xcc\x00" + data[3:], "malformed"
    yield "array header not minimal", b"\xdc\x00\x0c" + data[1:], "malformed"
    yield "target as bytes", with_field(request, 3, b"sensors/a.b_c-d"), "malformed"
    for target in ("..", "a/../b", "a//b", "a/", "a/b/c", "A", "a" * 33):
        yield f"target {target}", with_field(request, 3, target), "malformed"
    yield "handler of 33 bytes in the envelope", with_field(request, 4, "h" * 33), "malformed"
    yield "sequence epoch of 33 bits", with_field(request, 5, 1 << 32), "malformed"
    yield "negative sequence", with_field(request, 6, -1), "malformed"
    yield (
        "deadline beyond seven days",
        with_field(request, 7, envelope.sequence + 7 * DAY + 1),
        "malformed",
    )
    yield "client id of 7 bytes", with_field(request, 8, bytes(7)), "malformed"
    yield "no capability", with_field(request, 9, []), "malformed"
    yield "five capabilities", with_field(request, 9, [public] * 5), "malformed"
    yield "the same capability twice", with_field(request, 9, [public, public]), "malformed"
    yield (
        "17 blocks in an envelope",
        with_field(request, 9, [header(count=17) + root() + child() * 16]),
        "malformed",
    )
    yield (
        "widened in an envelope",
        with_field(request, 9, [header(count=2) + root(rights=0x10) + child(rights=0x14)]),
        "widened",
    )
    yield (
        "unknown critical caveat in an envelope",
        with_field(request, 9, [header() + root(tail=b"\x8a\x00")]),
        "unknown-caveat",
    )
    yield (
        "version 2 in an envelope",
        with_field(request, 9, [public[:2] + b"\x02" + public[3:]]),
        "unknown-version",
    )
    for size in (0, 1, 8, 15, 17, 32):
        yield f"tag of {size} bytes", with_field(request, 11, bytes(size)), "malformed"


def unproven_envelopes(made: Envelopes) -> Iterator[tuple[str, bytes, str]]:
    """Well-formed, but not made by a holder for this issuer."""
    request = made.bound["put"]
    reader = made.caps.made["reader"]
    yield "zero tag", with_field(request, 11, bytes(16)), "bad-tag"
    yield (
        "tag of another request",
        with_field(request, 11, made.bound["get-newest"].envelope.tag),
        "bad-tag",
    )
    yield "other payload", with_field(request, 10, b"99.9"), "bad-tag"
    yield "other target", with_field(request, 3, "sensors/other"), "bad-tag"
    yield "other handler", with_field(request, 4, "dim"), "bad-tag"
    yield "other operation", with_field(request, 2, 4), "bad-tag"
    yield "other flags", with_field(request, 1, 1), "bad-tag"
    yield "other client", with_field(request, 8, BOB), "bad-tag"
    yield "other sequence", with_field(request, 6, NOW + 9), "bad-tag"
    yield "other sequence epoch", with_field(request, 5, 1), "bad-tag"
    yield "other deadline", with_field(request, 7, NOW + 2 * MINUTE), "bad-tag"
    yield (
        "tag over a parent chain",
        with_field(made.bound["get-newest"], 9, [cut(reader.chain)]),
        "bad-tag",
    )
    wider = append_block(reader.public, child_block([ChildEntry(0, int(R.GET))]))
    yield (
        "block attached without the state",
        with_field(made.bound["get-newest"], 9, [wider]),
        "bad-tag",
    )
    badge = made.bound["with-badge"]
    yield (
        "capabilities in another order",
        with_field(badge, 9, list(badge.envelope.capabilities)[::-1]),
        "bad-tag",
    )
    yield "a capability left out", with_field(badge, 9, [badge.envelope.capabilities[0]]), "bad-tag"
    yield (
        "another issuer's capability",
        made.bind(["other-issuer"], Op.GET, "ns/w", NEWEST).encoded,
        "bad-tag",
    )
    yield (
        "capabilities of two issuers",
        made.bind(["everything", "other-issuer"], Op.GET, "ns/w", NEWEST).encoded,
        "bad-tag",
    )
    yield (
        "capability of an earlier epoch",
        made.bind(["old-epoch"], Op.GET, "ns/w", NEWEST).encoded,
        "wrong-epoch",
    )


def cut(chain: Chain) -> bytes:
    """The public bytes of a chain without its last block."""
    return chain.public[:11] + bytes((len(chain.ends) - 1,)) + chain.public[12 : chain.ends[-2]]


def forbidden_envelopes(made: Envelopes) -> Iterator[tuple[str, bytes, str]]:
    """Authentic, but not allowed."""

    def case(
        name: str,
        reason: str,
        names: list[str],
        op: int,
        target: str,
        payload: bytes = NEWEST,
        **more: Any,
    ) -> tuple[str, bytes, str]:
        return name, made.bind(names, op, target, payload, **more).encoded, reason

    yield case("right not granted", "no-right", ["sealed"], Op.PUT, "ns/w")
    yield case("beside the object", "no-right", ["sealed"], Op.GET, "nsx/w")
    yield case("above the object", "no-right", ["reader"], Op.GET, "sensors")
    yield case("rights in two entries", "no-right", ["split-rights"], Op.PUT, "ns/w", handler="h")
    yield case(
        "put without INVOKE naming a handler",
        "no-right",
        ["several-entries"],
        Op.PUT,
        "sensors/a.b_c-d",
        handler="h",
    )
    yield case(
        "sequence fix below everything",
        "no-right",
        ["fixer-below"],
        Op.SEQUENCE_FIX,
        "ns",
        encode_sequence_fix(SequenceFix(1, ALICE, 1)),
    )
    yield case(
        "rights of a required capability",
        "no-right",
        ["needs-badge", "badge", "everything"],
        Op.PUT,
        "doors/1",
    )
    yield _unknown(made, 0)
    yield _unknown(made, 12)
    yield case("not_after is over", "caveat", ["over"], Op.GET, "ns/w")
    yield case("not_before is to come", "caveat", ["not-yet"], Op.GET, "ns/w")
    yield case("client of another", "caveat", ["reader"], Op.GET, "sensors/temperature", client=BOB)
    yield case("two different clients", "caveat", ["two-clients"], Op.GET, "ns/w")
    yield case("handler not named", "caveat", ["handlers"], Op.PUT, "jobs/inbox")
    yield case(
        "handler of the other block only",
        "caveat",
        ["handlers"],
        Op.PUT,
        "jobs/inbox",
        handler="alarm",
    )
    yield case(
        "handlers that exclude each other",
        "caveat",
        ["no-handler-fits"],
        Op.PUT,
        "ns/w",
        handler="a",
    )
    yield case(
        "payload above max_payload",
        "caveat",
        ["several-entries"],
        Op.PUT,
        "sensors/a.b_c-d",
        bytes(1001),
    )
    yield case("required capability missing", "caveat", ["needs-badge"], Op.GET, "doors/1")
    yield case(
        "required id in none of the others",
        "caveat",
        ["needs-nothing-there", "badge"],
        Op.GET,
        "doors/1",
    )
    yield case(
        "required capability does not hold",
        "caveat",
        ["needs-badge", "own-badge"],
        Op.GET,
        "doors/1",
        client=BOB,
    )
    yield case("require in a circle", "caveat", ["ring", "ring-second"], Op.GET, "doors/1")
    yield case("derived from a sealed one", "caveat", ["beyond-the-seal"], Op.GET, "ns/w")
    yield case("veil: get by number", "caveat", ["veiled"], Op.GET, "rooms/heating", encode_get(1))
    yield case("veil: put without handler", "caveat", ["veiled"], Op.PUT, "rooms/heating")
    yield case("revoked itself", "revoked", ["denied"], Op.GET, "ns/w")
    yield case("derived from a revoked one", "revoked", ["below-denied"], Op.GET, "ns/w")
    yield case("flattened from a revoked one", "revoked", ["lineage-denied"], Op.GET, "ns/w")
    yield case("revoked one beside a good one", "revoked", ["everything", "denied"], Op.GET, "ns/w")


def _unknown(made: Envelopes, operation: int) -> tuple[str, bytes, str]:
    """An authentic request for an operation that does not exist."""
    from edgistry.envelope import Envelope

    capability = made.caps.made["everything"]
    base = made.bind(["everything"], Op.GET, "ns/w", NEWEST).envelope
    fields = {name: getattr(base, name) for name in Envelope.__annotations__}
    fields["op"] = operation
    request = BoundRequest.sealed(Envelope(**fields), capability._state)
    return f"operation {operation}", request.encoded, "bad-request"


def late_envelopes(made: Envelopes) -> Iterator[tuple[str, bytes, str]]:
    """Allowed, but not fresh after all accepted envelopes."""
    first = made.bound["namespace-create"].envelope.sequence

    def case(name: str, reason: str, names: list[str], **more: Any) -> tuple[str, bytes, str]:
        return name, made.bind(names, Op.GET, "ns/w", NEWEST, **more).encoded, reason

    yield case("sequence used by another request", "stale", ["everything"], sequence=first)
    yield case("sequence epoch to come", "stale", ["everything"], sequence_epoch=1)
    yield case("deadline past", "expired", ["everything"], deadline=NOW - 1)
    yield case("far past", "expired", ["everything"], sequence=1, deadline=2)
    yield case("sequence too far ahead", "future", ["everything"], sequence=NOW + 5 * MINUTE + 1)
    yield case(
        "17th client of a grant", "too-many-clients", ["crowd-16"], client=derived("crowd 16", 8)
    )


def reason_of(check: Callable[[], object]) -> str:
    try:
        check()
    except Refused as error:
        return error.code
    return "accepted"


def refused(made: Envelopes, verifier: Verifier, guard: ReplayGuard) -> list[dict[str, str]]:
    found = []

    def add(kind: str, name: str, data: bytes, reason: str, check: Callable[[], object]) -> None:
        if (actual := reason_of(check)) != reason:
            raise SystemExit(f"{kind} {name!r}: {actual}, expected {reason}")
        found.append({"name": name, "kind": kind, "bytes": data.hex(), "reason": reason})

    for name, data, reason in refused_capabilities():
        add("capability", name, data, reason, lambda data=data: Chain.parse(data))  # type: ignore[misc]
    for source in (malformed_envelopes, unproven_envelopes, forbidden_envelopes, late_envelopes):
        for name, data, reason in source(made):
            add(
                "envelope",
                name,
                data,
                reason,
                lambda data=data: guard.admit(verifier.check(data, now_us=NOW), now_us=NOW),  # type: ignore[misc]
            )
    return found


def build() -> dict[str, Any]:
    """The whole document."""
    caps = capabilities()
    made = envelopes(caps)
    denied = [caps.made["denied"].id]
    verifier = Verifier(Issuer.from_secret(SECRET, epoch=EPOCH), denied=denied)
    guard = ReplayGuard(MemoryKeyValue())
    for name, request in made.bound.items():
        if decode_envelope(request.encoded) != request.envelope:
            raise SystemExit(f"envelope {name!r} is not decoded as it was made")
        checked = verifier.check(request.encoded, now_us=NOW)
        guard.once(checked, lambda _: Outcome(), now_us=NOW)
    reply_list, flattened = replies(made, verifier)
    return {
        "verifier": {
            "secret": SECRET.hex(),
            "issuer_epoch": EPOCH,
            "now": NOW,
            "denied": [public_id.hex() for public_id in denied],
        },
        "capabilities": caps.described,
        "envelopes": made.described,
        "replies": reply_list,
        "flattened": flattened,
        "refused": refused(made, verifier, guard),
    }


def document() -> bytes:
    """The bytes of the vector file."""
    return json.dumps(build(), indent=1).encode() + b"\n"


def write_or_check(arguments: list[str], target: Path, data: bytes, *, script: str) -> int:
    """Write ``data`` to ``target``, or with ``--check`` compare; the exit code."""
    if arguments == ["--check"]:
        if not target.exists() or target.read_bytes() != data:
            print(f"{target} is not what scripts/{script} writes", file=sys.stderr)
            return 1
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(write_or_check(sys.argv[1:], TARGET, document(), script="gen_vectors.py"))
