"""Forwarding without sockets: two runtimes in memory, a link that can fail, hand-wound clocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from edgistry.authority import Authority
from edgistry.capability import Capability
from edgistry.envelope import decode_envelope
from edgistry.errors import CannotReachError, MissingWoofError, StorageError
from edgistry.forward_actions import Action, Ask, Authorise, Collect, Rest, Store
from edgistry.forward_records import ForwardRecord, read_envelopes, read_record
from edgistry.forward_requests import Forward
from edgistry.forwarding import MAX_BEGUN, Forwarding
from edgistry.kv import MemoryKeyValue
from edgistry.sequence import PROBE_SEQUENCE
from edgistry.woof_service import Execution, WoofService

from .grants import ISSUER, NOW, ROOT
from .woof_tools import World

SOURCE, TARGET = "edge/log", "cloud/log"
HISTORY = 10_000
CLIENT = b"forward1"


def is_probe(request: bytes) -> bool:
    """Whether it only asks for the destination's time."""
    return decode_envelope(request).sequence == PROBE_SEQUENCE


class Destination:
    """The runtime that elements go to. ``now_us`` is its clock."""

    def __init__(self, *, element_size: int = 0) -> None:
        self.now_us = NOW
        self.requests: list[bytes] = []
        self.world = World(MemoryKeyValue())
        self.world.create(TARGET, 1_000_000, element_size)
        self.restart()

    def restart(self) -> None:
        """Forget everything that is not stored."""
        self.world.restart()
        authority = Authority(self.world.store, ISSUER)

        def any_handler(name: str) -> str:
            return name

        self.service = WoofService(self.world.woofs, authority, require_handler=any_handler)

    def answer(self, data: bytes) -> bytes:
        self.requests.append(data)
        admitted = self.service.admit(data, now_us=self.now_us)
        if not isinstance(admitted, Execution):
            assert isinstance(admitted, bytes), "nothing runs beside this"
            return admitted
        try:
            with self.world.woofs.lock:
                staging = admitted.stage()
                self.world.store.write(staging.changes, sync=False)
                staging.settle()
        except StorageError as error:
            admitted.abandon()
            return admitted.checked.refusal(error)
        admitted.done()
        return admitted.reply

    def elements(self) -> list[bytes]:
        return [element for _, element in self.world.woofs.scan(TARGET)]


@dataclass
class Edge:
    """The runtime that elements come from, and its forwarder. ``now_us`` is its steady clock."""

    destination: Destination
    history: int = HISTORY
    capability: Capability = ROOT
    handler: str = ""
    cut: bool = False
    """Whether nothing gets through."""
    now_us: int = 5_000_000
    stored: list[int] = field(default_factory=list)
    """How many changes each ``Store`` had."""

    def __post_init__(self) -> None:
        self.world = World(MemoryKeyValue())
        self.world.create(SOURCE, self.history)
        self.restart()

    def restart(self) -> None:
        """Forget everything that is not stored."""
        self.world.restart()
        store = self.world.store
        forward = Forward(woof=SOURCE, target=TARGET, handler=self.handler)
        record = read_record(store, SOURCE) or ForwardRecord(client=CLIENT)
        self.forwarding = Forwarding(forward, record, read_envelopes(store, SOURCE))

    def put(self, *elements: bytes) -> None:
        for element in elements:
            self.world.put(SOURCE, element)

    # --- driving --------------------------------------------------------------------------------

    def step(self) -> Action:
        """Do what is to be done next, if nothing has to be waited for; what it was."""
        action = self.forwarding.next(self.now_us)
        match action:
            case Authorise():
                self.forwarding.use(self.capability)
            case Ask():
                self.ask(action.request)
            case Collect():
                self.collect()
            case Store():
                self.stored.append(len(action.changes))
                self.world.store.write(action.changes, sync=True)
                self.forwarding.stored()
            case Rest():
                pass
        return action

    def ask(self, request: bytes) -> None:
        if self.cut:
            error = CannotReachError("the link is cut")
            self.forwarding.failed(error, now_us=self.now_us, chance=0.5)
            return
        answer = self.destination.answer(request)
        self.forwarding.answered(answer, now_us=self.now_us, chance=0.5)

    def collect(self) -> None:
        try:
            info = self.world.woofs.info(SOURCE)
        except MissingWoofError as error:
            self.forwarding.wait(error.detail, until_us=self.now_us + 1_000_000)
            return
        first = self.forwarding.begin_at(info.id, info.window)
        elements = list(islice(self.world.woofs.scan(SOURCE, first), MAX_BEGUN))
        self.forwarding.collected(elements, now_us=self.now_us, chance=0.5)

    def until_sending(self) -> Ask:
        """Go on until an element is to be sent; how."""
        while True:
            action = self.forwarding.next(self.now_us)
            if isinstance(action, Ask) and not is_probe(action.request):
                return action
            self.step()

    def until_resting_ends(self) -> None:
        """Let the time pass that it rests."""
        action = self.forwarding.next(self.now_us)
        if isinstance(action, Rest):
            self.pass_time((action.until_us - self.now_us) / 1_000_000)

    def is_waiting(self, action: Action) -> bool:
        if isinstance(action, Collect) and action.wait:
            return isinstance(self.forwarding.next(self.now_us), Collect)
        return isinstance(action, Rest)

    def work(self, steps: int = 10_000) -> Action:
        """Go on until there is nothing to do but to wait; for what."""
        for _ in range(steps):
            action = self.step()
            if self.is_waiting(action):
                return action
        raise AssertionError("it does not come to rest")

    def pass_time(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)
        self.destination.now_us += round(seconds * 1_000_000)

    def work_for(self, seconds: float) -> None:
        """Go on, resting as long as it takes, for that time."""
        until_us = self.now_us + round(seconds * 1_000_000)
        while True:
            action = self.work()
            if not isinstance(action, Rest) or action.until_us > until_us:
                break
            self.pass_time((action.until_us - self.now_us) / 1_000_000)
        self.pass_time((until_us - self.now_us) / 1_000_000)
