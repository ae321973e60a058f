"""Handlers that a device's manifest places at its home node: real mirrors, WooFs and runtime."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import pytest

from abci_app import mirror_keeper
from abci_app.mirror import MirrorRecord, mirror_name, read_mirror, record_key
from abci_app.mirror_keeper import MirrorKeeper
from abci_app.mirror_reach import MirrorReach
from abci_app.pairing import PairingTable, StoredPairing
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.faas_runtime import HandlerRuntime
from edgistry.authority import Authority
from edgistry.envelope import Operation, Status, decode_reply
from edgistry.errors import NoRightError, Refused, StorageError
from edgistry.handlers import HandlerTable
from edgistry.issuer import Issuer
from edgistry.kv import Change, MemoryKeyValue
from edgistry.operations import encode_woof_shape
from edgistry.pairing import ResultOffer, WoofOffer
from edgistry.transactions import NodeId
from edgistry.woof_service import Execution, WoofService
from edgistry.woof_triggers import Trigger

from . import placed_handlers
from .pairing_world import Draw, FakeQueue
from .test_mirror import START_US, WOOF, SensorDevice

HANDLERS = HandlerTable.from_names(vars(placed_handlers))
RESULT = placed_handlers.RESULT
NODE_ISSUER = Issuer.from_secret(b"n" * 32, epoch=1)


class MortalStore(MemoryKeyValue):
    """A store that takes no more writes from its ``left``-th on, as if its process were killed."""

    left = -1
    """Negative: it lives."""
    is_written = False
    """Whether the last write is there."""

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        if self.left >= 0:
            self.left -= self.left > 0
            if self.left == 0:
                if self.is_written:
                    super().write(changes, sync=sync)
                    self.is_written = False
                raise StorageError("killed")
        super().write(changes, sync=sync)


@dataclass
class Home:
    """One life of the node."""

    woofs: DurableWoofs
    keeper: MirrorKeeper
    runtime: HandlerRuntime
    reach: MirrorReach
    running: asyncio.Task[None]

    async def idle(self) -> None:
        """All handlers have ended; raises what ended the runtime."""
        idle = asyncio.ensure_future(self.runtime.idle())
        async with asyncio.timeout(30):
            await asyncio.wait({idle, self.running}, return_when=asyncio.FIRST_COMPLETED)
        if self.running.done():
            idle.cancel()
            await self.running
        await idle


@dataclass
class World:
    """What outlives the node's process: its disk, the mailbox, and the device."""

    store: MortalStore = field(default_factory=MortalStore)
    queue: FakeQueue = field(default_factory=FakeQueue)
    device: SensorDevice = field(default_factory=SensorDevice)
    now_us: int = START_US

    def pair(
        self,
        handler: str = "running_sum",
        *,
        serial: int = 1,
        results: tuple[str, ...] = (RESULT,),
        mirror: bool = True,
    ) -> None:
        woof = WoofOffer(name=WOOF, history=100, mirror=mirror, handler=handler)
        offer = self.device.offer(
            woofs=(woof,),
            results=tuple(ResultOffer(name=name, history=100) for name in results),
        )
        stored = StoredPairing(offer=offer, serial=serial, paired_us=0, stage="ready")
        self.store.write(PairingTable(self.store).put(stored), sync=True)

    def leave(self) -> None:
        table = PairingTable(self.store)
        paired = table.by_device(self.device.id)
        assert paired is not None
        self.store.write(table.delete(paired), sync=True)
        self.queue.waiting.clear()

    @contextlib.asynccontextmanager
    async def home(self, handlers: HandlerTable = HANDLERS) -> AsyncIterator[Home]:
        woofs = DurableWoofs(self.store)
        reach = MirrorReach(self.store)
        runtime = HandlerRuntime(self.store, woofs, handlers, scope_of=reach.scope_of)
        keeper = MirrorKeeper(
            self.store,
            woofs,
            queue=self.queue,
            node_id=NodeId(bytes(20)),
            clock_us=lambda: self.now_us,
            draw=Draw(),
        )
        running = asyncio.create_task(runtime.run())
        try:
            yield Home(woofs, keeper, runtime, reach, running)
        finally:
            running.cancel()
            await asyncio.wait([running])
            with contextlib.suppress(Refused):
                await woofs.close()

    async def wake(self, home: Home, times: int = 3) -> None:
        """The device wakes so often; then all handlers have ended."""
        for _ in range(times):
            # Longer than the node rests after trouble.
            self.now_us += 61_000_000
            await home.keeper.step(self.device.id)
            self.queue.serve(self.device, self.now_us)
        await home.keeper.step(self.device.id)
        await home.idle()

    def measure(self, *values: int) -> None:
        self.device.elements += [str(value).encode() for value in values]

    def elements(self, home: Home, woof: str = RESULT) -> list[bytes]:
        """Of what the node keeps for the device."""
        name = mirror_name(self.device.id, woof)
        return [element for _, element in home.woofs.woofs.scan(name)]

    @property
    def record(self) -> MirrorRecord:
        data = self.store.get(record_key(self.device.id, WOOF))
        assert data is not None
        return read_mirror(data)


def sums(*values: int) -> list[bytes]:
    """What ``running_sum`` puts when ``values`` came one after the other."""
    return [
        b"%d %d" % (value, sum(values[max(0, number - 2) : number + 1]))
        for number, value in enumerate(values)
    ]


async def test_handler_at_the_node_runs_on_each_element_and_sees_those_before() -> None:
    world = World()
    world.pair()
    world.measure(1, 2, 3, 4)
    async with world.home() as home:
        await world.wake(home, 4)
        world.measure(5)
        await world.wake(home)
        assert world.elements(home) == sums(1, 2, 3, 4, 5)
        assert home.runtime.letters.count() == 0


async def write_count() -> int:
    """Writes of the life that the next test kills."""
    world = World()
    world.pair()
    count = 0
    write = world.store.write

    def counted(changes: Iterable[Change], *, sync: bool) -> None:
        nonlocal count
        count += 1
        write(changes, sync=sync)

    world.store.write = counted  # type: ignore[method-assign]
    async with world.home() as home:
        await one_life(world, home)
    return count


async def one_life(world: World, home: Home) -> None:
    world.measure(1, 2)
    await world.wake(home)
    world.measure(3)
    await world.wake(home)


MOST_WRITES = 40


async def test_every_write_of_a_life_is_among_those_at_which_it_is_killed() -> None:
    assert 10 < await write_count() <= MOST_WRITES


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("left", range(1, MOST_WRITES + 1))
async def test_node_that_is_killed_at_any_write_runs_the_handler_once_for_each_element(
    left: int, is_written: bool
) -> None:
    world = World()
    world.pair()
    world.store.left, world.store.is_written = left, is_written
    async with world.home() as home:
        with contextlib.suppress(StorageError):
            await one_life(world, home)
    world.store.left = -1
    world.device.elements = [b"1", b"2", b"3", b"4"]
    async with world.home() as home:
        await world.wake(home, 6)
        assert world.elements(home, WOOF) == [b"1", b"2", b"3", b"4"]
        assert world.elements(home) == sums(1, 2, 3, 4)
        assert home.woofs.woofs.handlers_waiting() == []
        assert home.runtime.letters.count() == 0


async def test_device_that_leaves_and_pairs_again_has_nothing_run_twice() -> None:
    world = World()
    world.pair()
    world.measure(1, 2)
    async with world.home() as home:
        await world.wake(home)
        world.leave()
        world.measure(3)
        await world.wake(home)
        assert world.elements(home) == sums(1, 2)
        world.pair(serial=2)
        home.keeper.watch(world.device.id)
        await world.wake(home, 4)
        assert world.elements(home) == sums(1, 2, 3)


async def test_what_came_before_a_device_was_revoked_is_still_handled_and_nothing_after() -> None:
    world = World()
    world.pair("gone")
    world.measure(1)
    async with world.home() as home:
        await world.wake(home)
    world.leave()
    world.measure(2)
    late = dataclasses.replace(HANDLERS.require("changed"), name="gone")
    async with world.home(HandlerTable([late])) as home:
        await world.wake(home)
        assert world.elements(home) == [b"changed 1"]


async def test_changed_manifest_counts_from_the_next_element_on() -> None:
    world = World()
    world.pair("", results=())
    world.measure(1)
    async with world.home() as home:
        await world.wake(home)
        world.pair("running_sum")
        world.measure(2)
        await world.wake(home)
        world.pair("changed", results=(RESULT, "sensors/more"))
        world.measure(3)
        await world.wake(home)
        assert world.elements(home) == [b"2 3", b"changed 3"]
        assert world.elements(home, "sensors/more") == []


async def test_manifest_that_makes_a_mirror_of_a_result_takes_it_from_handlers() -> None:
    world = World()
    world.pair(results=(RESULT, "sensors/more"))
    world.measure(1)
    async with world.home() as home:
        await world.wake(home)
        check_put = MirrorReach(world.store)._check_put
        check_put(mirror_name(world.device.id, RESULT))
        woofs = tuple(
            WoofOffer(name=name, history=100, mirror=True, handler=handler)
            for name, handler in ((WOOF, "running_sum"), (RESULT, ""))
        )
        offer = world.device.offer(woofs=woofs)
        stored = StoredPairing(offer=offer, serial=1, paired_us=0, stage="ready")
        world.store.write(PairingTable(world.store).put(stored), sync=True)
        world.measure(2)
        await world.wake(home)
        with pytest.raises(NoRightError):
            check_put(mirror_name(world.device.id, RESULT))
        assert [each.record.handler for each in home.runtime.letters.newest(9)] == ["running_sum"]


async def test_handler_that_puts_into_what_the_manifest_does_not_name_fails_and_says_so() -> None:
    world = World()
    world.pair("changed", results=("sensors/other",))
    world.measure(1)
    async with world.home() as home:
        await world.wake(home)
        assert world.elements(home, "sensors/other") == []
        (letter,) = home.runtime.letters.newest(9)
        assert "is no [[result]] of the device's manifest" in letter.record.reason


async def test_elements_wait_for_a_handler_that_the_operator_has_taken_away() -> None:
    world = World()
    world.pair("running_sum")
    world.measure(1)
    async with world.home(HandlerTable()) as home:
        await world.wake(home)
        world.measure(2)
        await world.wake(home)
        assert world.elements(home, WOOF) == [b"1", b"2"]
        (status,) = home.runtime.status()
        assert (status.name, status.handler, status.waiting) == ("running_sum", None, 2)
    async with world.home() as home:
        await home.idle()
        # Both were there when it came back: the sum for the first one does not count the second.
        assert world.elements(home) == sums(1, 2)


async def test_device_is_not_asked_for_more_while_very_much_waits_for_its_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirror_keeper, "MAX_DUE", 2)
    world = World()
    world.pair()
    world.measure(1, 2, 3, 4, 5, 6, 7)
    async with world.home(HandlerTable()) as home:
        await world.wake(home, 8)
        assert world.elements(home, WOOF) == [b"1", b"2", b"3"]
        assert world.queue.waiting == {}
    async with world.home() as home:
        await home.idle()
        for _ in range(4):
            await world.wake(home, 1)
        assert world.elements(home) == sums(1, 2, 3, 4, 5, 6, 7)


async def test_operator_s_own_handler_does_not_run_for_a_device_and_the_element_is_kept() -> None:
    world = World()
    world.pair("private")
    world.measure(1)
    async with world.home() as home:
        await world.wake(home)
        (letter,) = home.runtime.letters.newest(9)
        assert (letter.record.handler, letter.record.element) == ("private", b"1")
        assert "for_devices" in letter.record.reason


async def test_element_on_which_the_handler_fails_is_a_dead_letter_and_the_mirror_goes_on() -> None:
    world = World()
    world.pair("picky")
    world.measure(1, 2, 3, 4)
    async with world.home() as home:
        await world.wake(home, 4)
        assert world.elements(home, WOOF) == [b"1", b"2", b"3", b"4"]
        assert world.elements(home) == [b"2", b"4"]
        letters = home.runtime.letters.newest(9)
        assert {each.record.element for each in letters} == {b"1", b"3"}
        assert {each.record.reason for each in letters} == {"GiveUpError: odd"}


async def test_handler_at_the_node_is_isolated_and_limited_unless_its_operator_says_otherwise(
) -> None:  # fmt: skip
    world = World()
    world.pair("isolated")
    world.measure(1, 2, 3)
    async with world.home() as home:
        await home.woofs.create_namespace("secret")
        await home.woofs.create("secret/notes", 10)
        await home.woofs.put("secret/notes", b"the operator's")
        await world.wake(home, 4)
        (letter,) = home.runtime.letters.newest(9)
        assert letter.record.element == b"1"
        assert "Memory" in letter.record.reason
        assert sorted(world.elements(home)) == [b"3", b"nothing"]


async def test_devices_with_the_same_names_do_not_meet() -> None:
    one, two = World(), World()
    two.store, two.queue, two.device = one.store, one.queue, SensorDevice(2)
    one.pair()
    two.pair(serial=2)
    one.measure(1, 2)
    two.measure(30)
    async with one.home() as home:
        await one.wake(home)
        await two.wake(home)
        assert one.elements(home) == sums(1, 2)
        assert two.elements(home) == sums(30)


def test_mirrors_of_different_woofs_have_different_names() -> None:
    device = SensorDevice().id
    names = ["a.b/c", "a/b.c", "a.b.c/d", "a.b/c.d", "a/b.c.d"]
    assert len({mirror_name(device, name) for name in names}) == len(names)


# --- who may change mirrors ---------------------------------------------------------------------


def reply_status(home: Home, store: MemoryKeyValue, op: Operation, target: str, now: int) -> int:
    """What a client with every right on everything is told."""
    authority = Authority(store, NODE_ISSUER)
    service = WoofService(
        home.woofs.woofs,
        authority,
        require_handler=HANDLERS.require,
        check_change=home.reach.check_change,
    )
    payload = {Operation.PUT: b"5", Operation.WOOF_CREATE: encode_woof_shape(history=9)}
    request = NODE_ISSUER.mint(serial=9).bind(
        op, target, payload.get(op, b""), client=bytes(8), sequence=now, deadline=now + 1000
    )
    execution = service.admit(request.encoded, now_us=now)
    assert isinstance(execution, Execution)
    with home.woofs.woofs.lock:
        execution.stage().take_back()
    execution.abandon()
    return decode_reply(execution.reply).status


@pytest.mark.parametrize("woof", [WOOF, RESULT])
async def test_no_client_changes_what_the_node_keeps_for_a_device(woof: str) -> None:
    world = World()
    world.pair()
    world.measure(1)
    async with world.home() as home:
        await world.wake(home)
        name = mirror_name(world.device.id, woof)
        for operation in (Operation.PUT, Operation.WOOF_CREATE, Operation.DELETE):
            status = reply_status(home, world.store, operation, name, world.now_us)
            assert status == NoRightError.wire_status, operation
        namespace = name.partition("/")[0]
        status = reply_status(
            home, world.store, Operation.NAMESPACE_CREATE, namespace, world.now_us
        )
        assert status == NoRightError.wire_status
        assert world.elements(home, WOOF) == [b"1"]


async def test_what_a_device_has_left_behind_can_be_deleted_for_the_room() -> None:
    world = World()
    world.pair()
    world.measure(1)
    async with world.home() as home:
        await world.wake(home)
        name = mirror_name(world.device.id, WOOF)
        world.leave()
        status = reply_status(home, world.store, Operation.DELETE, name, world.now_us)
        assert status == Status.OK
        world.pair(serial=2, mirror=False, handler="")
        status = reply_status(home, world.store, Operation.DELETE, name, world.now_us)
        assert status == Status.OK, "it is mirrored no longer"


async def test_deleted_copy_is_made_again_with_a_gap_and_nothing_is_handled_twice() -> None:
    world = World()
    world.pair()
    world.measure(1, 2)
    async with world.home() as home:
        await world.wake(home)
        world.leave()
        await home.woofs.delete(mirror_name(world.device.id, WOOF))
        world.pair(serial=2)
        world.measure(3)
        home.keeper.watch(world.device.id)
        await world.wake(home, 4)
        assert world.elements(home, WOOF) == [b"3"]
        assert world.elements(home) == [*sums(1, 2), b"3 3"]
        assert (world.record.gaps, world.record.lost, world.record.copied) == (((1, 2),), 2, 1)


def test_nothing_but_mirrors_has_a_scope() -> None:
    reach = MirrorReach(MemoryKeyValue())
    for name in ("a/b", "m-1/b", f"m-{'0' * 15}g/b", f"m-{'0' * 17}/b"):
        assert reach.scope_of(trigger(name)) is None
        reach.check_change(Operation.PUT, name)
    scope = reach.scope_of(trigger(f"m-{'0' * 16}/b"))
    assert scope is not None
    assert scope.real_name("x/y") == f"m-{'0' * 16}/x.y"


def trigger(woof: str) -> Trigger:
    return Trigger(handler="h", arrival=1, woof=woof, woof_id=1, number=1, element=b"")  # type: ignore[arg-type]
