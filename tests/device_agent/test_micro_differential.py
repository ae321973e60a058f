"""Two implementations, one format: the same requests pass both, or fail for the same reason."""

from __future__ import annotations

import functools
import random
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from device_agent.micro import capability as micro
from edgistry.envelope import decode_envelope, reply_to
from edgistry.errors import CannotFlattenError, CaveatError, Refused, StaleError
from edgistry.flatten import flatten_chain
from edgistry.issuer import Issuer
from edgistry.replay_window import Window
from edgistry.verifier import Checked, Verifier

from .hand_made import (
    CLIENT,
    EPOCH,
    MINUTE,
    NOW,
    SECRET,
    Token,
    block,
    caveat,
    child_entry,
    envelope,
    key_of,
    mint,
    root_entry,
)


def _ahead(us: int) -> bytes:
    return struct.pack(">Q", NOW + us)


ORDINARY = [
    caveat(0x05, b"anything"),
    caveat(0x81, _ahead(0)),
    caveat(0x81, _ahead(MINUTE)),
    caveat(0x82, _ahead(0)),
    caveat(0x83, CLIENT),
    caveat(0x84, b"other"),
    caveat(0x84, b"run"),
    caveat(0x85, struct.pack(">I", 8)),
    caveat(0x88, bytes(16)),
]
UNUSUAL = [
    caveat(0x81, _ahead(-1)),
    caveat(0x82, _ahead(1)),
    caveat(0x83, b"intruder"),
    caveat(0x85, struct.pack(">I", 7)),
    caveat(0x86, b"\xff" * 16),
    caveat(0x87),
    caveat(0x89),
    caveat(0x8A),
    caveat(0x81, bytes(7)),
    caveat(0x84, b""),
]


@dataclass(frozen=True, slots=True)
class Case:
    message: bytes
    denied: tuple[bytes, ...]
    tokens: tuple[Token, ...]
    faults: int
    """How many things were made wrong on purpose; of two, either may be named."""


class Maker:
    """Makes requests that mostly verify, by a seed; some things it makes wrong."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.faults = 0

    def fault(self, one_in: int) -> bool:
        """Whether to make the next thing wrong."""
        wrong = self.random.randrange(one_in) == 0
        self.faults += wrong
        return wrong

    def caveats(self, required: list[bytes]) -> bytes:
        """The caveats of one block: mostly ones that hold, in order."""
        found = self.random.choices(ORDINARY, k=self.random.choice([0, 0, 1, 2, 3]))
        if self.fault(12):
            found.append(self.random.choice(UNUSUAL))
        if required and self.random.randrange(3) == 0:
            found.append(caveat(0x86, self.random.choice(required)))
        ordered = sorted(set(found), key=lambda one: (one[0], one[2:]))
        return b"".join(ordered[::-1] if self.fault(60) else ordered)

    def root(self) -> tuple[int, bytes]:
        rights = self.random.choice([0x7FF, 0x7FF, 0x10, 0x0C, 0x104, self.random.randrange(0x800)])
        if self.fault(60):
            rights |= 0x800
        names = [b"..", b"ns//woof", b"NS"] if self.fault(60) else [b"", b"ns", b"ns/woof", b"x"]
        return rights, self.random.choice(names)

    def child(self, parents: list[tuple[int, bytes]]) -> tuple[bytes, tuple[int, bytes]]:
        """An entry below one of ``parents``: its bytes, and what it grants."""
        parent = self.random.randrange(len(parents))
        held, name = parents[parent]
        rights = held & self.random.choice([0x7FF, 0x7FF, 0x10, 0x0C])
        if self.fault(60):
            rights = 0x7FF
        narrow = self.random.choice([b"", b"", b"woof", b"ns"]) if name.count(b"/") == 0 else b""
        if self.fault(60):
            narrow = self.random.choice([b"..", b"/woof", b"a/b/c"])
        if self.fault(60):
            parent = len(parents)
        full = name + b"/" + narrow if name and narrow else name or narrow
        return child_entry(parent, rights, narrow), (rights, full)

    def token(self, serial: int, required: list[bytes]) -> Token:
        """A chain of one to four blocks, signed in any case."""
        held = [self.root() for _ in range(self.random.choice([1, 1, 2, 3]))]
        first = block([root_entry(*entry) for entry in held], self.caveats(required))
        epoch = EPOCH + 1 if self.fault(40) else self.random.choice([EPOCH, 0xFFFFFFFF])
        token = mint(first, serial=serial, header_epoch=epoch)
        for _ in range(self.random.choice([0, 0, 1, 2, 3])):
            made = [self.child(held) for _ in range(self.random.choice([1, 2]))]
            held = [grant for _, grant in made]
            token = token.derive(block([entry for entry, _ in made], self.caveats(required)))
        return token

    def case(self) -> Case:
        tokens: list[Token] = []
        for serial in range(self.random.choice([1, 1, 2, 3, 4])):
            tokens.insert(0, self.token(serial, [token.id for token in tokens]))
        late = self.fault(40)
        fields: dict[str, Any] = {
            "flags": self.random.randrange(4),
            "op": self.random.choice([4, 4, 4, *range(14)]),
            "target": self.random.choice(["ns/woof", "ns/woof", "ns/woof", "ns", "x/y", ""]),
            "handler": self.random.choice(["", "", "run", "other", "é"]),
            "payload": self.random.choice([bytes(8), bytes(8), b"", b"123456789"]),
            "deadline": NOW + 20_000 * MINUTE if late else NOW,
            "client": self.random.choice([CLIENT, CLIENT, CLIENT, b"intruder"]),
        }
        if self.fault(40):
            fields["tag"] = self.random.randbytes(self.random.choice([0, 15, 16, 17]))
        denied: tuple[bytes, ...] = ()
        if self.random.randrange(8) == 0:
            denied = (self.random.choice([bytes(16), tokens[-1].id, tokens[0].id]),)
        message = envelope(tokens, **fields)
        return Case(message, denied, tuple(tokens), self.faults)


CASES = st.integers(0, 2**32 - 1).map(lambda seed: Maker(seed).case())


ISSUER = Issuer.from_secret(SECRET, epoch=EPOCH)


def ours(case: Case) -> Checked | Refused:
    try:
        return Verifier(ISSUER, denied=case.denied, memo=0).check(case.message, now_us=NOW)
    except Refused as refusal:
        return refusal


def theirs(case: Case) -> micro.Request | micro.Refusal:
    try:
        return micro.Verifier(key_of(), EPOCH, case.denied).check(case.message, NOW)
    except micro.Refusal as refusal:
        return refusal


def compare(case: Case) -> None:
    one = ours(case)
    other = theirs(case)
    if isinstance(one, Checked):
        assert isinstance(other, micro.Request), other
        event("accepted")
        numbers = {"result": 12345, "sequence_epoch": 3, "sequence_floor": 2**63}
        mine = micro.reply(other, 0, payload=b"answer", **numbers)  # type: ignore[arg-type]
        assert mine == one.reply(0, payload=b"answer", **numbers)  # type: ignore[arg-type]
        assert micro.Verifier(key_of(), EPOCH).flatten(other) == flattened(one)
        return
    assert isinstance(other, micro.Refusal), one
    event(one.code)
    assert answer_to(other) == reply_to(one), (one.code, one.detail, other.detail)
    if isinstance(one, CaveatError):
        assert other.reason == "caveat"
    elif case.faults < 2:
        assert other.reason == one.code, (one.detail, other.detail)


def flattened(checked: Checked) -> bytes:
    try:
        return checked.flat(flatten_chain(checked.chain))
    except CannotFlattenError:
        return b""


def answer_to(refusal: micro.Refusal) -> bytes:
    if refusal.request is None:
        return micro.UNAUTHENTICATED_REPLY
    return micro.reply(refusal.request, refusal.status)


@settings(max_examples=750)
@given(CASES)
def test_both_come_to_the_same_verdict_and_the_same_reply(case: Case) -> None:
    compare(case)


@settings(max_examples=200)
@given(CASES, st.data())
def test_both_refuse_the_same_of_a_mangled_request(case: Case, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(case.message) - 1))
    put = data.draw(st.binary(max_size=3))
    cut = data.draw(st.integers(0, 3))
    message = case.message[:at] + put + case.message[at + cut :]
    assume(message != case.message)
    mangled = Case(message, case.denied, case.tokens, 2)
    one = ours(mangled)
    other = theirs(mangled)
    assert isinstance(one, Refused) == isinstance(other, micro.Refusal)
    if isinstance(one, Refused) and isinstance(other, micro.Refusal):
        assert answer_to(other) == reply_to(one)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.booleans())
def test_both_refuse_arbitrary_bytes(data: bytes, as_chain: bool) -> None:
    message = envelope([Token(public=data, state=bytes(32))]) if as_chain else data
    case = Case(message, (), (), 2)
    assert isinstance(ours(case), Refused)
    assert isinstance(theirs(case), micro.Refusal)


ROOT = mint(block([root_entry(0x7FF)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One envelope that reaches the issuer; times are seconds around ``NOW``."""

    sequence: int
    lifetime: int
    at: int
    op: int

    @functools.cache  # noqa: B019 (arrivals are few and small)
    def message(self) -> bytes:
        sequence = NOW + self.sequence * 1_000_000
        deadline = sequence + self.lifetime * 1_000_000
        return envelope([ROOT], op=self.op, sequence=sequence, deadline=deadline)


def our_window(window: Window, message: bytes, now: int) -> str:
    request = decode_envelope(message)
    if window.knows(request):
        return "known"
    try:
        window.check(request, now_us=now)
    except Refused as refusal:
        if isinstance(refusal, StaleError):
            return f"stale above {refusal.sequence_floor}"
        return refusal.code
    window.accept(request)
    return "accepted"


def their_window(window: micro.Window, message: bytes, now: int) -> str:
    request = micro.Verifier(key_of(), EPOCH).check(message, now)
    try:
        if window.admit(request, now) is not None:
            return "known"
    except micro.Refusal as refusal:
        if refusal.status == micro.STALE:
            return f"stale above {refusal.sequence_floor}"
        return refusal.reason
    window.remember(request, b"answer")
    return "accepted"


ARRIVALS = st.builds(
    Arrival,
    sequence=st.integers(-50, 60) | st.just(400),
    lifetime=st.integers(0, 120),
    at=st.integers(-20, 20),
    op=st.sampled_from([4, 4, 6]),
)


@settings(max_examples=80)
@given(st.lists(ARRIVALS, max_size=90), st.booleans())
def test_both_windows_accept_the_same_once(arrivals: list[Arrival], filled: bool) -> None:
    ours, theirs = Window(), micro.Window()
    before = [Arrival(sequence=n, lifetime=120, at=0, op=4) for n in range(-100, -36)]
    for arrival in [*(before if filled else ()), *arrivals]:
        message = arrival.message()
        now = NOW + arrival.at * 1_000_000
        assert their_window(theirs, message, now) == our_window(ours, message, now)
