"""The agent at work: wakes, exchanges, results, time, failures."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from device_agent.agent import Batch
from device_agent.device import single_wake
from device_agent.duty_cycle import Cycle
from device_agent.reach import BackOff
from device_agent.runtime import Habits
from device_agent.talk import LATEST_US
from edgistry.envelope import Operation, Status
from edgistry.errors import TwoAgentsError
from edgistry.handlers import handler
from edgistry.kv import MemoryKeyValue
from edgistry.messages import ResultKind
from edgistry.operations import encode_get
from edgistry.replay import Outcome
from edgistry.verifier import Checked
from tests.edgistry.faas_world import Gate

from .agent_world import HandClock, MadeUpNode, Running, device
from .device_world import MINUTE_US, NOW_US, Requests

YEAR_US = 365 * 24 * 3600 * 1_000_000
HABITS = Habits(
    cycle=Cycle(period_s=600.0, linger_s=2.0),
    back_off=BackOff(first_wait_s=4.0, longest_wait_s=1000.0),
)
calls: list[bytes] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@handler
async def echo(_context: Any, _woof: str, _seq: int, element: bytes) -> bytes:
    calls.append(element)
    return b"heard " + element


# --- what a wake is -----------------------------------------------------------------------------


async def test_idle_wake_is_one_exchange() -> None:
    node = MadeUpNode()
    async with device(node, habits=HABITS) as running:
        wake = await running.wake_up()
        assert (wake.exchanges, wake.requests, wake.failures) == (1, 0, 0)
        assert wake.next_wake_s == 600.0
        assert node.closed == 1


async def test_request_is_answered_in_the_wake_in_which_it_comes_down() -> None:
    node = MadeUpNode(queue={1: Requests().bind(payload=b"17", handler="echo")})
    async with device(node, habits=HABITS, handlers=(echo,)) as running:
        wake = await running.wake_up()
        assert node.payload(1) == b"heard 17"
        assert (wake.exchanges, wake.requests) == (2, 1)


async def test_requests_without_handlers_are_answered_without_lingering() -> None:
    requests = Requests()
    node = MadeUpNode(queue={1: requests.bind(payload=b"17")})
    async with device(node, habits=HABITS) as running:
        wake = await running.wake_up()
        assert wake.spending.awake_s == 0.0
        node.queue[2] = requests.bind(Operation.GET, payload=encode_get())
        await running.wake_up()
        assert node.payload(2) == b"17"


async def test_answer_of_a_slow_handler_goes_up_with_the_next_wake() -> None:
    gate = Gate()

    @handler
    async def slow(_context: Any, _woof: str, _seq: int, _element: bytes) -> bytes:
        await gate.wait_async()
        return b"at last"

    node = MadeUpNode(queue={1: Requests().bind(handler="slow")})
    async with device(node, habits=HABITS, handlers=(slow,)) as running:
        running.clock.patience_s = 0.05
        wake = await running.wake_up()
        assert wake.spending.awake_s == pytest.approx(2.0)
        assert node.results == {}
        gate.open()
        await running.inner.settled()
        await running.wake_up()
        assert node.acknowledged == set()
        assert node.payload(1) == b"at last"


async def test_further_requests_are_fetched_in_the_same_wake() -> None:
    requests = Requests()
    node = MadeUpNode(queue={number: requests.bind(payload=b"x") for number in range(50)})
    async with device(node, habits=HABITS, batch=Batch(count=20)) as running:
        wake = await running.wake_up()
        assert wake.requests == 50
        assert len(node.results) == 50


async def test_device_takes_no_more_than_it_can_hold() -> None:
    requests = Requests()
    node = MadeUpNode(
        queue={number: requests.bind(payload=b"x") for number in range(50)}, confirms=False
    )
    async with device(node, habits=HABITS, batch=Batch(count=20, held=30)) as running:
        wake = await running.wake_up()
        assert wake.requests == 30
        node.confirms = True
        await running.wake_up()
        await running.wake_up()
        assert len(node.results) == 50


async def test_node_that_hands_down_more_than_is_wanted_is_not_obeyed() -> None:
    requests = Requests()
    bound = {number: requests.bind(payload=b"x") for number in range(30)}
    node = MadeUpNode(queue=bound, confirms=False, pushes=30)
    async with device(node, habits=HABITS, batch=Batch(count=5, held=10)) as running:
        for _ in range(3):
            await running.wake_up()
        assert running.inner.executor.held() == 10
        assert len(running.inner.elements()) == 10


async def test_what_a_wake_cost_is_told_with_the_next_one() -> None:
    node = MadeUpNode()
    async with device(node, habits=HABITS) as running:
        wake = await running.wake_up()
        await running.wake_up()
        account = node.ups[1].account
        assert (account.sent, account.received) == (wake.spending.sent, wake.spending.received)
        assert account.sent > 0


async def test_device_says_when_it_will_be_back() -> None:
    node = MadeUpNode()
    async with device(node, habits=HABITS) as running:
        await running.wake_up()
        assert node.ups[0].back_in_s == 600


async def test_hint_of_the_node_brings_the_device_back_sooner() -> None:
    node = MadeUpNode(hint_s=30)
    async with device(node, habits=HABITS) as running:
        wake = await running.wake_up()
        assert wake.next_wake_s == 30.0


DAY_US = 24 * 3600 * 1_000_000


async def wakes_in_node_time(running: Running, node: MadeUpNode, count: int) -> list[int]:
    """When the device wakes that often, in ms of its node's time."""
    found = []
    for _ in range(count):
        await running.wake_up()
        found.append((node.now_us + round(running.wakes[-1].next_wake_s * 1e6)) // 1000)
    return found


async def test_rhythm_is_another_one_in_each_epoch_also_after_a_restart() -> None:
    node = MadeUpNode(epoch_ends_us=NOW_US + DAY_US, ahead_us=7 * MINUTE_US)
    async with device(node, habits=HABITS) as running:
        phases = [each % 600_000 for each in await wakes_in_node_time(running, node, 3)]
        assert max(phases) - min(phases) <= 1
    async with device(
        node, habits=HABITS, clock=HandClock(wall_us=0), instance=b"anew, so"
    ) as again:
        again.clock.s += 12_345.6
        node.ahead_us += 77_700_000
        (same,) = await wakes_in_node_time(again, node, 1)
        assert abs(same % 600_000 - phases[0]) <= 1
        node.epoch_ends_us += DAY_US
        _, other = await wakes_in_node_time(again, node, 2)
        assert abs(other % 600_000 - phases[0]) > 1


async def test_single_wake_for_devices_that_something_else_wakes() -> None:
    node = MadeUpNode(queue={1: Requests().bind(payload=b"17", handler="echo")})
    async with device(node, habits=HABITS, handlers=(echo,)) as running:
        assert await running.agent.run_once()
        assert node.payload(1) == b"heard 17"
        assert len(running.wakes) == 1


async def test_device_that_something_else_wakes_is_due_a_period_later_in_every_epoch() -> None:
    node = MadeUpNode(epoch_ends_us=NOW_US + DAY_US)
    async with device(node, habits=HABITS) as running:
        assert await running.agent.run_once()
        assert running.wakes[0].next_wake_s == 600.0


async def test_single_wake_of_a_device_that_is_always_awake_ends() -> None:
    habits = single_wake(replace(HABITS, cycle=Cycle(period_s=0.0, linger_s=2.0)))
    node = MadeUpNode(queue={1: Requests().bind(payload=b"17", handler="echo")})
    async with device(node, habits=habits, handlers=(echo,)) as running:
        assert await running.agent.run_once()
        assert node.payload(1) == b"heard 17"


async def test_slow_handler_may_end_after_a_single_wake_with_the_radio_off() -> None:
    gate = Gate()

    @handler
    async def slow(_context: Any, _woof: str, _seq: int, _element: bytes) -> bytes:
        await gate.wait_async()
        return b"at last"

    class LeftAlone(MadeUpNode):
        async def close(self) -> None:
            await super().close()
            self.clock.patience_s = 20.0
            gate.open()

    node = LeftAlone(queue={1: Requests().bind(handler="slow")})
    async with device(node, habits=HABITS, handlers=(slow,)) as running:
        running.clock.patience_s = 0.05
        assert await running.agent.run_once()
        assert (node.results, node.closed, len(running.wakes)) == ({}, 1, 1)
        assert running.wakes[0].spending.awake_s == pytest.approx(2.0)
        assert not running.inner.executor.is_at_work


async def test_single_wake_without_answer_says_so() -> None:
    node = MadeUpNode(is_down=True)
    async with device(node, habits=HABITS) as running:
        assert not await running.agent.run_once()


# --- failures -----------------------------------------------------------------------------------


async def test_device_backs_off_from_a_silent_node_and_comes_back() -> None:
    node = MadeUpNode(is_down=True)
    async with device(node, habits=HABITS) as running:
        waits = [(await running.wake_up()).next_wake_s for _ in range(4)]
        assert waits == pytest.approx([4.0, 8.0, 16.0, 32.0])
        node.is_down = False
        wake = await running.wake_up()
        assert wake.exchanges == 1


async def test_request_whose_answer_was_lost_runs_once_and_is_answered_later() -> None:
    node = MadeUpNode(queue={1: Requests().bind(payload=b"17", handler="echo")}, is_deaf=True)
    async with device(node, habits=HABITS, handlers=(echo,)) as running:
        await running.wake_up()
        node.is_deaf = False
        await running.wake_up()
        assert node.payload(1) == b"heard 17"
        assert calls == [b"17"]


async def test_result_that_was_lost_on_the_way_is_sent_again() -> None:
    node = MadeUpNode(queue={1: Requests().bind(payload=b"17")}, confirms=False)
    async with device(node, habits=HABITS) as running:
        await running.wake_up()
        node.results.clear()
        node.confirms = True
        await running.wake_up()
        assert node.status(1) == Status.OK
        assert running.inner.executor.held() == 0


async def test_cost_of_an_exchange_that_failed_is_not_lost_from_the_account() -> None:
    node = MadeUpNode()
    async with device(node, habits=HABITS) as running:
        wake = await running.wake_up()
        node.is_down = True
        await running.wake_up()
        node.is_down = False
        await running.wake_up()
        assert node.ups[-1].account.sent == wake.spending.sent


async def test_fallback_node_serves_while_the_primary_is_away() -> None:
    requests = Requests()
    primary = MadeUpNode("primary", is_down=True)
    fallback = MadeUpNode("fallback", queue={1: requests.bind(payload=b"17", handler="echo")})
    async with device(primary, fallback, habits=HABITS, handlers=(echo,)) as running:
        await running.wake_up()
        assert fallback.payload(1) == b"heard 17"


@pytest.mark.parametrize(("period_s", "later"), [(60.0, []), (0.0, [False])])
async def test_fallback_node_is_told_that_the_primary_is_away_and_for_a_while_that_it_is_back(
    period_s: float, later: list[bool]
) -> None:
    habits = replace(HABITS, cycle=Cycle(period_s=period_s, linger_s=2.0, shortest_sleep_s=1.0))
    primary, fallback = MadeUpNode("primary"), MadeUpNode("fallback")
    async with device(primary, fallback, habits=habits) as running:

        async def some_wakes() -> list[bool]:
            fallback.ups.clear()
            for _ in range(20):
                await running.agent._step()
            running.clock.s += 3600.0
            return [up.is_home_away for up in fallback.ups]

        assert await some_wakes() == []
        primary.is_down = True
        assert set(await some_wakes()) == {True}
        primary.is_down = False
        said = await some_wakes()
        assert True not in said[said.index(False) :]
        assert await some_wakes() == later, "what came meanwhile is fetched"
        assert await some_wakes() == []
        assert not any(up.is_home_away for up in primary.ups)


async def test_device_that_is_awake_waits_at_the_primary_and_only_looks_in_at_the_fallback() -> (
    None
):
    habits = replace(HABITS, cycle=Cycle(period_s=0.0, linger_s=2.0))
    primary, fallback = MadeUpNode("primary", is_down=True), MadeUpNode("fallback")
    async with device(primary, fallback, habits=habits) as running:
        for _ in range(6):
            await running.agent._step()
        assert any(fallback.waits), "it is the one that has work"
        primary.is_down = False
        running.clock.s += 3600.0
        await running.agent._step()
        fallback.waits.clear()
        for _ in range(4):
            await running.agent._step()
        assert any(primary.waits)
        assert set(fallback.waits) == {0}
        assert not fallback.ups[-1].is_home_away


async def test_result_waits_for_the_node_that_asked() -> None:
    requests = Requests()
    primary = MadeUpNode("primary", queue={1: requests.bind(payload=b"17")}, confirms=False)
    fallback = MadeUpNode("fallback")
    async with device(primary, fallback, habits=HABITS) as running:
        await running.wake_up()
        primary.is_down, primary.confirms = True, True
        primary.results.clear()
        await running.wake_up()
        assert fallback.results == {}
        primary.is_down = False
        await running.wake_up()
        assert primary.status(1) == Status.OK


async def test_results_for_a_node_that_is_away_cost_the_other_one_nothing() -> None:
    requests = Requests()
    primary = MadeUpNode("primary", queue={1: requests.bind(payload=b"17")}, confirms=False)
    fallback = MadeUpNode("fallback")
    async with device(primary, fallback, habits=HABITS) as running:
        await running.wake_up()
        primary.is_down = True
        wake = await running.wake_up()
        assert (wake.exchanges, wake.failures) == (1, 1)


async def test_device_that_is_always_awake_does_not_hurry_for_a_node_that_is_away() -> None:
    requests = Requests()
    habits = replace(HABITS, cycle=Cycle(period_s=0.0, linger_s=2.0))
    primary = MadeUpNode("primary", queue={1: requests.bind(payload=b"17")}, confirms=False)
    fallback = MadeUpNode("fallback")
    async with device(primary, fallback, habits=habits) as running:
        await running.agent._step()
        primary.is_down = True
        for _ in range(4):
            await running.agent._step()
        assert len(fallback.ups) <= 4


async def test_answer_that_proves_nothing_is_a_failure() -> None:
    node = MadeUpNode()
    stranger = MadeUpNode("stranger")
    async with device(node, habits=HABITS) as running:
        node.authority = stranger.authority
        wake = await running.wake_up()
        assert (wake.exchanges, wake.failures) == (0, 1)
        assert not running.agent.time.is_known


async def test_agent_that_was_replaced_by_another_ends_and_says_so() -> None:
    class Refusing(MadeUpNode):
        def exchange(self, checked: Checked) -> Outcome:
            raise TwoAgentsError(f"two agents use the identity of {checked.envelope.target}")

    node = Refusing()
    async with device(node, habits=HABITS) as running:
        with pytest.raises(TwoAgentsError, match="replaced"):
            await running.agent.run()


# --- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("off_us", [-10 * YEAR_US, -MINUTE_US * 2, 0, MINUTE_US, 10 * YEAR_US])
async def test_device_finds_the_time_however_wrong_its_wall_clock_is(off_us: int) -> None:
    node = MadeUpNode(queue={1: Requests().bind(payload=b"17", handler="echo")})
    clock = HandClock(wall_us=NOW_US + off_us)
    async with device(node, habits=HABITS, handlers=(echo,), clock=clock) as running:
        wake = await running.wake_up()
        assert wake.failures == 0
        assert node.payload(1) == b"heard 17"
        assert running.agent.time.at(round(clock.s * 1e6)) == node.now_us


async def test_request_past_its_deadline_by_the_node_s_time_is_not_executed() -> None:
    request = Requests().bind(payload=b"17", handler="echo", deadline=NOW_US + MINUTE_US)
    node = MadeUpNode(queue={1: request}, ahead_us=2 * MINUTE_US)
    clock = HandClock(wall_us=NOW_US)
    async with device(node, habits=HABITS, handlers=(echo,), clock=clock) as running:
        await running.wake_up()
        assert node.results[1].kind == ResultKind.REJECTED
        assert node.status(1) == Status.EXPIRED
        assert calls == []


async def test_probe_for_the_time_is_never_executed() -> None:
    node = MadeUpNode()
    clock = HandClock(wall_us=NOW_US - 10 * YEAR_US)
    async with device(node, habits=HABITS, clock=clock) as running:
        await running.wake_up()
        assert len(node.ups) == 1
        assert node.ups[0].want_count > 0


async def test_clock_of_the_node_that_is_put_back_does_not_stop_the_device() -> None:
    node = MadeUpNode()
    async with device(node, habits=HABITS) as running:
        await running.wake_up()
        node.ahead_us = -60 * MINUTE_US
        wake = await running.wake_up()
        assert (wake.exchanges, wake.failures) == (1, 0)


async def test_restarted_agent_is_another_instance_and_goes_on() -> None:
    store = MemoryKeyValue()
    node = MadeUpNode(queue={1: Requests().bind(payload=b"17")}, confirms=False)
    clock = HandClock()
    async with device(node, habits=HABITS, store=store, clock=clock) as running:
        await running.wake_up()
    node.results.clear()
    node.confirms = True
    async with device(
        node, habits=HABITS, store=store, clock=clock, instance=b"a second"
    ) as running:
        await running.wake_up()
        assert node.status(1) == Status.OK
        assert {up.instance for up in node.ups} == {b"instance", b"a second"}


# --- awake --------------------------------------------------------------------------------------


async def test_device_that_is_always_awake_answers_in_the_next_exchange() -> None:
    habits = replace(HABITS, cycle=Cycle(period_s=0.0, linger_s=2.0))
    node = MadeUpNode(queue={1: Requests().bind(payload=b"17")})
    async with device(node, habits=habits) as running:
        for _ in range(2):
            await running.agent._step()
        assert node.status(1) == Status.OK
        assert running.wakes == []


async def test_request_that_ends_soon_is_executed_although_its_exchange_was_held() -> None:
    habits = replace(HABITS, cycle=Cycle(period_s=0.0, linger_s=2.0))
    node = MadeUpNode(holds_s=12.0)
    async with device(node, habits=habits) as running:
        await running.agent._step()
        node.queue[1] = Requests().bind(payload=b"17", deadline=NOW_US + 15_000_000)
        for _ in range(3):
            await running.agent._step()
        assert node.status(1) == Status.OK


async def test_device_that_is_always_awake_asks_in_peace_where_a_node_has_no_time_to_hold() -> None:
    habits = replace(HABITS, cycle=Cycle(period_s=0.0), exchange_timeout_s=2.5)
    node = MadeUpNode()
    async with device(node, habits=habits) as running:
        began_s = running.clock.now_s()
        for _ in range(11):
            await running.agent._step()
        assert running.clock.now_s() - began_s == pytest.approx(10.0)


async def test_exchange_that_was_interrupted_while_it_executed_is_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = MadeUpNode(queue={1: Requests().bind(payload=b"17")})
    begun = asyncio.Event()

    async def never(*_args: Any, **_more: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with device(node, habits=HABITS) as running:
        with monkeypatch.context() as patch:
            patch.setattr(running.inner.executor, "execute", never)
            step = asyncio.create_task(running.agent._step())
            await begun.wait()
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
        await running.wake_up()
        assert node.ups[1].settled == 1
        assert node.status(1) == Status.OK


@pytest.mark.parametrize("says_us", [(1 << 64) - 1, 1 << 62, LATEST_US + 1])
async def test_time_that_no_calendar_has_is_not_believed(says_us: int) -> None:
    node = MadeUpNode(says_us=says_us)
    async with device(node, habits=HABITS) as running:
        wake = await running.wake_up()
        assert (wake.exchanges, wake.failures) == (0, 1)
        node.says_us = None
        assert (await running.wake_up()).exchanges == 1


async def test_wake_that_is_interrupted_is_accounted_for_once() -> None:
    habits = replace(HABITS, cycle=Cycle(period_s=0.0, linger_s=2.0))
    node = MadeUpNode()
    async with device(node, habits=habits) as running:
        await running.agent._step()
        running.agent.finish()
        running.agent.finish()
        assert [wake.exchanges for wake in running.wakes] == [1]
