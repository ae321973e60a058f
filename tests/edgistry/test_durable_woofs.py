"""WooFs that are durable when they say so, and following them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgistry.adapters.durable_woofs import SWEEP_NUMBERS, DurableWoofs
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.errors import (
    DiskFullError,
    ElementEvictedError,
    ElementNotYetError,
    InvalidValueError,
    MissingWoofError,
    TooLargeError,
    UnavailableError,
)
from edgistry.kv import Change, KeyValue
from edgistry.woof_keys import ELEMENTS
from edgistry.woof_staging import Staging
from edgistry.woof_triggers import Trigger

from .woof_tools import FailingKeyValue, change_places_before_a_scan

LIMIT_S = 20


@pytest.fixture(params=["memory", "leveldb"])
async def woofs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DurableWoofs]:
    store: KeyValue = (
        FailingKeyValue() if request.param == "memory" else LevelKeyValue(tmp_path / "woofs.ldb")
    )
    made = DurableWoofs(store)
    await made.create_namespace("a")
    await made.create("a/b", 1000)
    yield made
    await made.close()
    store.close()


@pytest.fixture
async def failing() -> AsyncIterator[tuple[FailingKeyValue, DurableWoofs]]:
    store = FailingKeyValue()
    made = DurableWoofs(store)
    await made.create_namespace("a")
    await made.create("a/b", 1000)
    yield store, made
    await made.close()


async def take(following: AsyncIterator[tuple[int, bytes]], count: int) -> list[tuple[int, bytes]]:
    async with asyncio.timeout(LIMIT_S):
        return [await anext(following) for _ in range(count)]


async def no_more(following: AsyncIterator[tuple[int, bytes]]) -> None:
    """The follower waits: a few turns of the loop bring nothing."""
    waiting = asyncio.ensure_future(anext(following))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])


# --- writing -----------------------------------------------------------------------------------


async def test_concurrent_puts_get_each_number_once_and_all_are_there(woofs: DurableWoofs) -> None:
    async def writer(who: int) -> list[tuple[int, bytes]]:
        mine = []
        for turn in range(10):
            element = b"%d/%d" % (who, turn)
            mine.append((await woofs.put("a/b", element), element))
            assert woofs.woofs.get("a/b", mine[-1][0]) == element
        return mine

    lists = await asyncio.gather(*(writer(who) for who in range(20)))
    assert sorted(pair for pairs in lists for pair in pairs) == list(woofs.woofs.scan("a/b"))
    assert woofs.woofs.latest("a/b") == 200
    assert all(pairs == sorted(pairs) for pairs in lists)


async def test_a_refused_put_takes_no_number(woofs: DurableWoofs) -> None:
    with pytest.raises(MissingWoofError):
        await woofs.put("a/nowhere", b"x")
    with pytest.raises(InvalidValueError):
        await woofs.put("a/b", b"x", idempotency_key=b"")
    assert await woofs.put("a/b", b"x") == 1


async def test_puts_that_wait_together_are_decided_one_by_one(
    failing: tuple[FailingKeyValue, DurableWoofs],
) -> None:
    store, woofs = failing
    before = store.writes
    outcomes = await asyncio.gather(
        woofs.put("a/b", b"1"),
        woofs.put("a/nowhere", b"x"),
        woofs.put("a/b", b"2"),
        woofs.delete("a/b"),
        woofs.put("a/b", b"x"),
        woofs.create("a/b", 2),
        woofs.put("a/b", b"3"),
        woofs.put("a/b", bytes(65_537)),
        woofs.put("a/b", b"4", handler="h"),
        woofs.put("a/b", b"5"),
        return_exceptions=True,
    )
    kinds = [each if isinstance(each, int | None) else type(each) for each in outcomes]
    assert kinds == [
        *(1, MissingWoofError, 2, None, MissingWoofError, True, 1, TooLargeError, 2, 3)
    ]
    assert list(woofs.woofs.scan("a/b")) == [(2, b"4"), (3, b"5")]
    assert [each.number for each in woofs.woofs.triggers("h")] == [2]
    assert store.writes - before <= 2  # the last may be the sweeper's


async def test_put_that_is_cancelled_takes_no_other_with_it(woofs: DurableWoofs) -> None:
    puts = [asyncio.create_task(woofs.put("a/b", b"%d" % number)) for number in range(3)]
    await asyncio.sleep(0)
    puts[0].cancel()
    assert await asyncio.gather(*puts[1:]) == [2, 3]
    assert [element for _, element in woofs.woofs.scan("a/b")][-2:] == [b"1", b"2"]


async def test_retries_that_run_at_the_same_time_append_once(woofs: DurableWoofs) -> None:
    numbers = await asyncio.gather(
        *(woofs.put("a/b", b"x", idempotency_key=b"same") for _ in range(20))
    )
    assert numbers == [1] * 20
    assert woofs.woofs.latest("a/b") == 1


async def test_what_is_committed_together_is_one_write(
    failing: tuple[FailingKeyValue, DurableWoofs],
) -> None:
    store, woofs = failing
    own: list[Change] = [(b"own", b"table")]

    def decide(staging: Staging) -> int:
        staging.create("a/c", 3)
        staging.add(own)
        staging.put("a/c", b"1")
        return staging.put("a/b", b"2", handler="h")

    before = store.writes
    assert await woofs.commit(decide) == 1
    assert store.writes == before + 1
    assert store.get(b"own") == b"table"
    assert woofs.woofs.newest("a/c") == (1, b"1")


async def test_a_decision_that_raises_stages_nothing(woofs: DurableWoofs) -> None:
    def decide(staging: Staging) -> None:
        staging.put("a/b", b"1")
        staging.create("a/c", 3)
        staging.put("a/missing", b"2")

    with pytest.raises(MissingWoofError):
        await woofs.commit(decide)
    assert await woofs.put("a/b", b"1") == 1
    with pytest.raises(MissingWoofError):
        woofs.woofs.info("a/c")


async def test_threads_may_put_as_well(woofs: DurableWoofs) -> None:
    def work() -> list[int]:
        return [woofs.commit_blocking(lambda staging: staging.put("a/b", b"x")) for _ in range(10)]

    threads = asyncio.gather(*(asyncio.to_thread(work) for _ in range(3)))
    numbers = await asyncio.gather(*(woofs.put("a/b", b"y") for _ in range(10)))
    for each in await threads:
        numbers += each
    assert sorted(numbers) == list(range(1, 41))


async def test_a_thread_whose_decision_raises_stages_nothing(woofs: DurableWoofs) -> None:
    def decide(staging: Staging) -> None:
        staging.put("a/b", b"1")
        staging.put("a/missing", b"2")

    with pytest.raises(MissingWoofError):
        await asyncio.to_thread(woofs.commit_blocking, decide)
    assert await woofs.put("a/b", b"1") == 1


async def test_a_failed_write_refuses_every_put_that_waits_and_reuses_no_acknowledged_number(
    failing: tuple[FailingKeyValue, DurableWoofs],
) -> None:
    store, woofs = failing
    acknowledged = [await woofs.put("a/b", b"kept") for _ in range(3)]
    store.failures = 1
    outcomes = await asyncio.gather(
        *(woofs.put("a/b", b"lost", idempotency_key=b"%d" % at, handler="h") for at in range(8)),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} == {DiskFullError}
    assert woofs.woofs.latest("a/b") == 3
    assert woofs.woofs.handlers_waiting() == []
    assert await woofs.put("a/b", b"next", idempotency_key=b"0") == 4
    assert acknowledged == [1, 2, 3]


async def test_a_cancelled_put_is_there_once_after_its_retry(woofs: DurableWoofs) -> None:
    waiting = asyncio.create_task(woofs.put("a/b", b"x", idempotency_key=b"k"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await woofs.put("a/b", b"x", idempotency_key=b"k") == 1
    assert woofs.woofs.latest("a/b") == 1


async def test_after_closing_puts_are_refused(woofs: DurableWoofs) -> None:
    await woofs.close()
    with pytest.raises(UnavailableError):
        await woofs.put("a/b", b"x")
    assert woofs.woofs.latest("a/b") == 0


async def test_deleting_empties_the_disk_in_the_background(woofs: DurableWoofs) -> None:
    await woofs.create("a/big", 2 * SWEEP_NUMBERS + 7)

    def fill(staging: Staging) -> None:
        for _ in range(2 * SWEEP_NUMBERS + 50):
            staging.put("a/big", b"x")

    await woofs.commit(fill)
    await woofs.delete("a/big")
    with pytest.raises(MissingWoofError):
        woofs.woofs.latest("a/big")
    await woofs.sweep()
    assert not woofs.woofs.has_garbage
    left = list(woofs.woofs.store.scan(ELEMENTS, ELEMENTS + b"\xff"))
    assert [value for _, value in left] == [b"a/b"]  # the end mark of the other one


# --- triggers ----------------------------------------------------------------------------------


async def test_triggers_are_announced_in_order_once_they_are_durable(woofs: DurableWoofs) -> None:
    heard: list[Trigger] = []

    def hear(triggers: list[Trigger]) -> None:
        assert all(each in list(woofs.woofs.triggers("h")) for each in triggers)
        heard.extend(triggers)

    woofs.on_triggers = hear
    await asyncio.gather(*(woofs.put("a/b", b"%d" % n, handler="h") for n in range(30)))
    await woofs.put("a/b", b"no handler")
    assert [each.number for each in heard] == list(range(1, 31))


async def test_triggers_of_a_failed_write_are_not_announced(
    failing: tuple[FailingKeyValue, DurableWoofs],
) -> None:
    store, woofs = failing
    heard: list[Trigger] = []
    woofs.on_triggers = heard.extend
    store.failures = 1
    with pytest.raises(DiskFullError):
        await woofs.put("a/b", b"x", handler="h")
    assert heard == []


# --- following ---------------------------------------------------------------------------------


async def test_follower_gets_everything_from_a_number_on_and_then_waits(
    woofs: DurableWoofs,
) -> None:
    for number in range(1, 4):
        await woofs.put("a/b", b"%d" % number)
    following = woofs.follow("a/b", 2)
    assert await take(following, 2) == [(2, b"2"), (3, b"3")]
    await no_more(following)


async def test_follower_without_a_number_gets_what_is_put_after_the_call(
    woofs: DurableWoofs,
) -> None:
    await woofs.put("a/b", b"before")
    following = woofs.follow("a/b")
    await woofs.put("a/b", b"after")
    assert await take(following, 1) == [(2, b"after")]


async def test_followers_miss_nothing_and_see_nothing_twice_while_many_put(
    woofs: DurableWoofs,
) -> None:
    seeded = random.Random(7)

    async def reader(first: int) -> list[int]:
        found = []
        async for number, element in woofs.follow("a/b", first):
            assert element == b"%d" % number or element.startswith(b"w")
            found.append(number)
            if seeded.random() < 0.3:
                await asyncio.sleep(0)
            if number == 400:
                return found
        return found

    async def writer(who: int) -> None:
        for turn in range(40):
            await woofs.put("a/b", b"w%d/%d" % (who, turn))
            if seeded.random() < 0.2:
                await asyncio.sleep(0.001)

    async with asyncio.timeout(LIMIT_S):
        lists = await asyncio.gather(
            *(reader(1) for _ in range(5)), *(writer(who) for who in range(10))
        )
    for found in lists[:5]:
        assert found == list(range(1, 401))


async def test_follower_that_is_too_slow_for_the_history_is_told_that_it_is_gone(
    woofs: DurableWoofs,
) -> None:
    await woofs.create("a/short", 3)
    following = woofs.follow("a/short", 1)
    await woofs.put("a/short", b"1")
    assert await take(following, 1) == [(1, b"1")]
    for _ in range(4):
        await woofs.put("a/short", b"x")
    with pytest.raises(ElementEvictedError, match="begins at 3") as gone:
        await take(following, 1)
    assert gone.value.earliest == 3
    assert gone.value.http_status == 410


async def test_following_from_where_the_history_has_moved_past_is_refused_at_once(
    woofs: DurableWoofs,
) -> None:
    await woofs.create("a/short", 1)
    for _ in range(3):
        await woofs.put("a/short", b"x")
    for first in (1, 2, 0, -1):
        with pytest.raises(ElementEvictedError):
            woofs.follow("a/short", first)
    assert await take(woofs.follow("a/short", 3), 1) == [(3, b"x")]


async def test_following_from_beyond_the_next_number_is_refused(woofs: DurableWoofs) -> None:
    await woofs.put("a/b", b"x")
    with pytest.raises(ElementNotYetError):
        woofs.follow("a/b", 3)
    await no_more(woofs.follow("a/b", 2))


async def test_follower_of_a_deleted_woof_is_told_so_also_when_a_new_one_has_its_name(
    woofs: DurableWoofs,
) -> None:
    await woofs.put("a/b", b"x")
    old_id = woofs.woofs.info("a/b").id
    waiting, resuming = woofs.follow("a/b", 2), woofs.follow("a/b", 1)
    assert await take(resuming, 1) == [(1, b"x")]
    next_element = asyncio.ensure_future(anext(waiting))
    await asyncio.sleep(0)
    await woofs.delete("a/b")
    with pytest.raises(MissingWoofError):
        await asyncio.wait_for(next_element, LIMIT_S)
    await woofs.create("a/b", 5)
    for _ in range(3):
        await woofs.put("a/b", b"new")
    with pytest.raises(MissingWoofError):
        await take(resuming, 1)
    with pytest.raises(MissingWoofError):
        woofs.follow("a/b", 2, woof_id=old_id)


async def test_follower_sees_nothing_of_a_woof_that_is_put_in_its_place_while_it_reads(
    woofs: DurableWoofs, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = woofs.follow("a/b", 1)
    change_places_before_a_scan(woofs, "a/b", monkeypatch)
    with pytest.raises(MissingWoofError):
        await take(following, 1)


async def test_follower_of_a_missing_woof_is_refused_at_once(woofs: DurableWoofs) -> None:
    with pytest.raises(MissingWoofError):
        woofs.follow("a/nowhere")


async def test_followers_that_give_up_leave_nothing_behind(woofs: DurableWoofs) -> None:
    for _ in range(5):
        await no_more(woofs.follow("a/b"))
    assert woofs._followers == {}


async def test_followers_of_two_woofs_are_woken_only_by_their_own(woofs: DurableWoofs) -> None:
    await woofs.create("a/c", 5)
    following = woofs.follow("a/b")
    waiting = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    await woofs.put("a/c", b"other")
    assert not waiting.done()
    await woofs.put("a/b", b"mine")
    assert await asyncio.wait_for(waiting, LIMIT_S) == (1, b"mine")
