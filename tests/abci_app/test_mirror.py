"""Mirrors: what follows from a device's answers, and a node that keeps copies of its WooFs."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.mirror import (
    MirrorRecord,
    begin_mirror,
    mirror_name,
    mirror_namespace,
    paired_again,
    progress_of,
    question_of,
    read_mirror,
    record_key,
    write_mirror,
)
from abci_app.mirror_keeper import MirrorKeeper
from abci_app.mirror_reader import MirrorReader
from abci_app.offload import Content
from abci_app.pairing import PairingTable, StoredPairing
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.caveats import VEIL
from edgistry.codec import replace
from edgistry.envelope import Flag, Operation, Reply, Status, decode_envelope
from edgistry.errors import (
    CorruptDatabaseError,
    ElementEvictedError,
    ElementNotYetError,
    MissingWoofError,
)
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.operations import (
    Extent,
    Scan,
    decode_extent,
    decode_scan,
    encode_elements,
    encode_extent,
    encode_get,
    encode_scan,
)
from edgistry.pairing import WoofOffer
from edgistry.replay import Outcome
from edgistry.transactions import NodeId
from edgistry.verifier import Checked, Verifier

from .pairing_world import Draw, FakeDevice, FakeQueue

WOOF = "sensors/air"
START_US = 1_800_000_000_000_000


def reply(status: int = Status.OK, payload: bytes = b"") -> Reply:
    return Reply(
        version=1,
        status=status,
        result=0,
        sequence_epoch=0,
        sequence_floor=0,
        payload=payload,
        flat=b"",
        rtag=bytes(16),
    )


def scanning(next: int = 1, **changes: object) -> MirrorRecord:
    begun = begin_mirror(serial=1, grant=2)
    return replace(begun, asks="scan", next=next, request=b"r" * 16, **changes)


# --- decisions ----------------------------------------------------------------------------------


def test_a_mirror_begins_with_what_the_device_still_has() -> None:
    record = replace(begin_mirror(serial=1, grant=2), request=b"r" * 16)
    assert question_of(record)[0] == Operation.LATEST
    progress = progress_of(record, reply(payload=encode_extent(Extent(earliest=5, latest=9))))
    record = progress.record
    assert (record.next, record.lost, record.gaps) == (5, 4, ((1, 4),))
    operation, payload = question_of(record)
    assert (operation, decode_scan(payload).start) == (Operation.SCAN, 5)


def test_elements_are_appended_from_where_the_mirror_is() -> None:
    found = [(3, b"c"), (4, b"d")]
    progress = progress_of(scanning(3), reply(payload=encode_elements(found)))
    assert (list(progress.elements), progress.record.next) == ([b"c", b"d"], 5)
    assert (progress.record.request, progress.trouble) == (b"", "")


def test_nothing_new_is_no_trouble() -> None:
    progress = progress_of(scanning(3), reply(payload=encode_elements([])))
    assert (progress.elements, progress.record.next, progress.trouble) == ([], 3, "")


@pytest.mark.parametrize("found", [[(2, b"x")], [(4, b"x")], [(3, b"x"), (5, b"y")]])
def test_elements_that_were_not_asked_for_are_not_taken(found: list[tuple[int, bytes]]) -> None:
    progress = progress_of(scanning(3), reply(payload=encode_elements(found)))
    assert (progress.elements, progress.record.next) == ((), 3)
    assert "not those that were asked for" in progress.trouble


@pytest.mark.parametrize("status", [Status.EVICTED, Status.NOT_YET])
def test_what_the_device_has_not_makes_the_node_look_what_it_has(status: Status) -> None:
    progress = progress_of(scanning(3), reply(status))
    assert (progress.record.asks, progress.trouble) == ("extent", "")


def test_evicted_elements_are_a_gap_that_is_kept() -> None:
    record = replace(scanning(3), asks="extent")
    progress = progress_of(record, reply(payload=encode_extent(Extent(earliest=10, latest=20))))
    assert (progress.record.next, progress.record.lost) == (10, 7)
    assert progress.record.gaps == ((3, 9),)


def test_a_woof_that_has_begun_anew_is_read_from_its_beginning() -> None:
    record = replace(scanning(30), asks="extent")
    progress = progress_of(record, reply(payload=encode_extent(Extent(earliest=1, latest=4))))
    assert (progress.record.next, progress.record.begun, progress.record.gaps) == (1, 1, ())


def test_an_empty_woof_that_the_mirror_is_level_with_has_not_begun_anew() -> None:
    record = replace(scanning(1), asks="extent")
    progress = progress_of(record, reply(payload=encode_extent(Extent(earliest=1, latest=0))))
    assert (progress.record.next, progress.record.begun) == (1, 0)


def test_only_the_newest_gaps_are_kept_and_all_are_counted() -> None:
    record = replace(scanning(1), asks="extent")
    for number in range(1, 101):
        extent = Extent(earliest=2 * number, latest=10_000)
        record = progress_of(record, reply(payload=encode_extent(extent))).record
        record = replace(record, next=record.next + 1, asks="extent", request=b"r" * 16)
    assert (len(record.gaps), record.gaps[-1], record.lost) == (64, (199, 199), 100)
    assert read_mirror(write_mirror(record)) == record


@pytest.mark.parametrize("answer", [None, reply(Status.NOT_FOUND), reply(payload=b"?")])
def test_any_other_answer_is_trouble_and_changes_nothing_but_the_request(
    answer: Reply | None,
) -> None:
    progress = progress_of(scanning(3), answer)
    assert progress.record == replace(scanning(3), request=b"")
    assert progress.trouble


def test_a_later_pairing_goes_on_where_the_earlier_one_ended() -> None:
    record = paired_again(scanning(30), serial=7, grant=8)
    assert (record.next, record.request, record.serial, record.asks) == (30, b"", 7, "extent")


@given(name=st.from_regex(r"[a-z0-9]{1,32}/[a-z0-9._-]{1,30}[a-z0-9]", fullmatch=True))
def test_every_mirror_has_a_name_that_a_woof_may_have(name: str) -> None:
    namespace, _, woof = mirror_name(FakeDevice().id, name).partition("/")
    assert FakeDevice().id not in namespace
    assert max(len(namespace), len(woof)) <= 32


def test_long_names_of_mirrors_stay_apart() -> None:
    one, two = (mirror_name(FakeDevice().id, f"{'n' * 32}/{'w' * 31}{end}") for end in "ab")
    assert one != two


@given(data=st.binary(max_size=80))
def test_any_bytes_are_a_mirror_or_damage(data: bytes) -> None:
    with contextlib.suppress(CorruptDatabaseError):
        assert write_mirror(read_mirror(data)) == data


# --- keeping ------------------------------------------------------------------------------------


class SensorDevice(FakeDevice):
    """A device with one WooF, whose history is short."""

    def __init__(self, number: int = 1) -> None:
        super().__init__(number)
        self.elements: list[bytes] = []
        self.history = 1000
        self.is_there = True

    def _carry_out(self, checked: Checked) -> Outcome:
        if not self.is_there:
            raise MissingWoofError("no such WooF")
        latest = len(self.elements)
        earliest = max(1, latest - self.history + 1)
        if checked.envelope.op == Operation.LATEST:
            return Outcome(payload=encode_extent(Extent(earliest=earliest, latest=latest)))
        asked = decode_scan(checked.envelope.payload)
        if asked.start < earliest:
            raise ElementEvictedError("evicted")
        if asked.start > latest + 1:
            raise ElementNotYetError("not yet")
        # As many as "fit": three.
        found = list(enumerate(self.elements, 1))[asked.start - 1 : asked.start + 2]
        return Outcome(payload=encode_elements(found))

    def execute(self, envelope: bytes, now_us: int) -> bytes:
        return self.authority.answer(envelope, self._carry_out, now_us=now_us)


@dataclass
class MirrorWorld:
    store: MemoryKeyValue
    woofs: DurableWoofs
    queue: FakeQueue = field(default_factory=FakeQueue)
    device: SensorDevice = field(default_factory=SensorDevice)
    now_us: int = START_US

    def __post_init__(self) -> None:
        self.pair(serial=1)
        self.restart()

    def pair(self, *, serial: int, period_s: int = 600) -> None:
        woof = WoofOffer(name=WOOF, history=100, mirror=True)
        offer = self.device.offer(woofs=(woof,), period_s=period_s)
        stored = StoredPairing(offer=offer, serial=serial, paired_us=0, stage="ready")
        self.store.write(PairingTable(self.store).put(stored), sync=True)

    def restart(self) -> None:
        self.keeper = MirrorKeeper(
            self.store,
            self.woofs,
            queue=self.queue,
            node_id=NodeId(bytes(20)),
            clock_us=lambda: self.now_us,
            draw=Draw(),
        )

    async def wake(self, times: int = 1) -> None:
        """The device wakes so many times, and the node looks after each."""
        for _ in range(times):
            self.now_us += 6_000_000
            await self.keeper.step(self.device.id)
            self.queue.serve(self.device, self.now_us)
        await self.keeper.step(self.device.id)

    @property
    def copy(self) -> list[bytes]:
        name = mirror_name(self.device.id, WOOF)
        return [element for _, element in self.woofs.woofs.scan(name, 1)]

    @property
    def record(self) -> MirrorRecord:
        data = self.store.get(record_key(self.device.id, WOOF))
        assert data is not None
        return read_mirror(data)


@pytest.fixture
async def world() -> AsyncIterator[MirrorWorld]:
    store = MemoryKeyValue()
    woofs = DurableWoofs(store)
    yield MirrorWorld(store, woofs)
    await woofs.close()


async def test_elements_reach_the_mirror_once_and_in_order(world: MirrorWorld) -> None:
    world.device.elements = [b"1", b"2", b"3", b"4"]
    await world.wake(4)
    world.device.elements += [b"5"]
    await world.wake(2)
    assert world.copy == [b"1", b"2", b"3", b"4", b"5"]


async def test_mirrors_of_a_forgotten_device_are_gone_with_all_records(world: MirrorWorld) -> None:
    world.device.elements = [b"a reading nobody may keep"]
    await world.wake(3)
    assert world.copy == world.device.elements
    paired = PairingTable(world.store).by_device(world.device.id)
    assert paired is not None
    world.store.write(PairingTable(world.store).delete(paired), sync=True)
    for _ in range(2):
        await world.keeper.forget(world.device.id)
    namespace = mirror_namespace(world.device.id).encode()
    left = [part for pair in world.store.scan(b"", None) for part in pair]
    assert not any(b"a reading" in part or namespace in part for part in left)
    assert world.store.get(record_key(world.device.id, WOOF)) is None


async def test_one_request_waits_for_a_device_that_sleeps(world: MirrorWorld) -> None:
    for _ in range(5):
        await world.keeper.step(world.device.id)
    assert len(world.queue.waiting) == 1


@pytest.mark.parametrize(
    ("period_s", "hours"), [(0, 1), (600, 1), (3600, 4), (7 * 24 * 3600, 7 * 24)]
)
async def test_a_request_is_known_for_hours_and_not_for_a_week(
    world: MirrorWorld, period_s: int, hours: int
) -> None:
    """An awake device answers one every five seconds, and the node knows each until it is over."""
    world.pair(serial=1, period_s=period_s)
    await world.keeper.step(world.device.id)
    ((_, envelope),) = world.queue.waiting.values()
    bound = decode_envelope(envelope)
    assert bound.deadline - bound.sequence == hours * 3600 * 1_000_000


async def test_a_device_that_has_nothing_new_is_left_alone_for_a_while(world: MirrorWorld) -> None:
    await world.wake(3)
    assert world.queue.waiting == {}
    world.now_us += 5_000_000
    await world.keeper.step(world.device.id)
    assert len(world.queue.waiting) == 1


async def test_outcomes_are_let_go_once_the_elements_are_here(world: MirrorWorld) -> None:
    world.device.elements = [b"1"]
    await world.wake(5)
    assert world.queue.replies == {}


@pytest.mark.parametrize("seed", range(5))
async def test_a_node_that_restarts_at_any_moment_copies_each_element_once(
    world: MirrorWorld, seed: int
) -> None:
    chance = random.Random(seed)
    for number in range(40):
        world.device.elements.append(str(number).encode())
        if chance.random() < 0.4:
            world.restart()
            world.keeper.watch(world.device.id)
        if chance.random() < 0.6:
            await world.wake()
    await world.wake(20)
    assert world.copy == world.device.elements


async def test_what_the_device_evicted_is_a_gap(world: MirrorWorld) -> None:
    world.device.history = 2
    world.device.elements = [b"1"]
    await world.wake(3)
    world.device.elements += [b"2", b"3", b"4"]
    await world.wake(4)
    assert world.copy == [b"1", b"3", b"4"]
    assert (world.record.gaps, world.record.lost) == (((2, 2),), 1)


async def test_what_comes_into_a_new_copy_is_no_part_of_the_gap(world: MirrorWorld) -> None:
    world.device.elements = [b"1", b"2"]
    await world.wake(3)
    world.device.elements += [b"3"]
    world.now_us += 6_000_000
    await world.keeper.step(world.device.id)
    # Deleted while the answer with the third one is on its way.
    await world.woofs.delete(mirror_name(world.device.id, WOOF))
    world.queue.serve(world.device, world.now_us)
    await world.keeper.step(world.device.id)
    assert world.copy == [b"3"]
    assert (world.record.gaps, world.record.lost) == (((1, 2),), 2)


async def test_a_device_that_lost_its_woof_is_asked_again_after_a_rest(world: MirrorWorld) -> None:
    world.device.is_there = False
    await world.wake(2)
    assert world.queue.waiting == {}
    world.device.is_there = True
    world.device.elements = [b"1"]
    world.now_us += 61_000_000
    await world.wake(4)
    assert world.copy == [b"1"]


async def test_a_mirror_goes_on_under_a_later_pairing_without_copying_twice(
    world: MirrorWorld,
) -> None:
    world.device.elements = [b"1", b"2"]
    await world.wake(3)
    world.queue.waiting.clear()
    world.pair(serial=2)
    world.device.elements += [b"3"]
    await world.wake(4)
    assert world.copy == [b"1", b"2", b"3"]


async def test_a_device_that_is_gone_is_not_asked_any_more(world: MirrorWorld) -> None:
    table = PairingTable(world.store)
    paired = table.by_device(world.device.id)
    assert paired is not None
    world.store.write(table.delete(paired), sync=True)
    await world.keeper.step(world.device.id)
    assert world.queue.waiting == {}


# --- reading ------------------------------------------------------------------------------------


def ask(world: MirrorWorld, op: Operation, payload: bytes, **more: Any) -> Content | None:
    """What the mirror says to a client."""
    issuer = Issuer.from_secret(world.device.secret, epoch=world.device.epoch)
    capability = issuer.mint(serial=9, caveats=more.pop("caveats", ()))
    request = capability.bind(
        op,
        more.pop("target", WOOF),
        payload=payload,
        client=bytes(8),
        sequence=world.now_us,
        deadline=world.now_us + 1_000_000,
        **more,
    )
    checked = Verifier(issuer).check(request.encoded, now_us=world.now_us)
    paired = PairingTable(world.store).by_device(world.device.id)
    assert paired is not None
    return MirrorReader(world.store, world.woofs.woofs).read(paired, checked)


async def test_mirror_says_what_the_device_would(world: MirrorWorld) -> None:
    world.device.elements = [b"1", b"2", b"3", b"4"]
    await world.wake(4)
    asked_us = world.queue.given[max(world.queue.given, key=world.queue.given.__getitem__)]
    for number in range(1, 5):
        expected = Content(str(number).encode(), asked_us)
        assert ask(world, Operation.GET, encode_get(number)) == expected
    assert ask(world, Operation.GET, encode_get()) == Content(b"4", asked_us)
    extent = ask(world, Operation.LATEST, b"")
    assert extent is not None
    assert decode_extent(extent.payload) == Extent(earliest=1, latest=4)


async def test_mirror_says_nothing_that_it_does_not_know(world: MirrorWorld) -> None:
    assert ask(world, Operation.GET, encode_get()) is None, "nothing is here yet"
    await world.wake(3)
    assert ask(world, Operation.GET, encode_get()) is None, "the WooF is empty"
    world.device.elements = [b"1", b"2"]
    await world.wake(3)
    assert ask(world, Operation.GET, encode_get(3)) is None
    assert ask(world, Operation.SCAN, encode_scan(Scan(start=0, limit=9))) is None
    assert ask(world, Operation.GET, encode_get(), target="sensors/other") is None
    assert ask(world, Operation.GET, encode_get(), flags=int(Flag.DEVICE_ONLY)) is None
    assert ask(world, Operation.GET, encode_get(), caveats=(VEIL,)) is None
    world.pair(serial=2)
    assert ask(world, Operation.GET, encode_get()) is None, "of an earlier pairing"


def test_mirror_knows_as_of_when_nothing_was_missing() -> None:
    few = encode_elements([(3, b"x")])
    assert progress_of(scanning(3), reply(payload=few), given_us=7).record.as_of_us == 7
    full = encode_elements([(3, bytes(40_000))])
    record = scanning(3, as_of_us=5)
    assert progress_of(record, reply(payload=full), given_us=7).record.as_of_us == 5
    asking = replace(record, asks="extent")
    wiped = reply(payload=encode_extent(Extent(earliest=1, latest=0)))
    assert progress_of(asking, wiped, given_us=7).record.as_of_us == 0


async def test_numbers_before_a_gap_are_left_to_the_device(world: MirrorWorld) -> None:
    world.device.elements = [b"1"]
    await world.wake(3)
    world.device.elements += [str(number).encode() for number in range(2, 12)]
    world.device.history = 4
    await world.wake(6)
    found = {number: ask(world, Operation.GET, encode_get(number)) for number in range(1, 12)}
    payloads = {number: each.payload for number, each in found.items() if each is not None}
    assert payloads == {number: str(number).encode() for number in range(8, 12)}


async def test_numbers_of_a_woof_that_has_begun_anew_are_left_to_the_device(
    world: MirrorWorld,
) -> None:
    world.device.elements = [b"1", b"2", b"3"]
    await world.wake(4)
    world.device.elements = [b"new"]
    await world.wake(6)
    newest = ask(world, Operation.GET, encode_get())
    assert newest is not None
    assert newest.payload == b"new"
    world.device.elements += [b"newer"]
    await world.wake(2)
    assert ask(world, Operation.GET, encode_get(1)) is None
