"""When a node says that writes do not get through, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from abci_app.health import (
    HALTED_AFTER_S,
    KEY_LATE_S,
    STEADY_BLOCKS,
    BlockWatch,
    KeyWatch,
    Vitals,
    connections_needed,
    key_warnings,
    reasons_writes_wait,
)

WELL = Vitals(
    engine="cometbft",
    height=100,
    members=4,
    is_member=True,
    left="",
    peers=3,
    catching_up=False,
    silence_s=8.0,
    steady_blocks=50,
    block_age_s=12.0,
    outbox_gap=0,
)


def test_nothing_is_wrong_with_a_node_that_is_well() -> None:
    assert reasons_writes_wait(WELL) == []
    assert reasons_writes_wait(replace(WELL, peers=2)) == []


@pytest.mark.parametrize(
    ("vitals", "reason"),
    [
        (replace(WELL, height=0), "not begun"),
        (replace(WELL, is_member=False), "not a member"),
        (replace(WELL, is_member=False, left="noon"), "removed from it, at noon"),
        (replace(WELL, catching_up=True), "catching up"),
        (replace(WELL, peers=1), "cut off: connected to 1 of 3"),
        (replace(WELL, silence_s=HALTED_AFTER_S + 1), "halted"),
        (replace(WELL, block_age_s=61.0), "61 s ahead of block time"),
        (replace(WELL, block_age_s=-61.0), "61 s behind block time"),
        (replace(WELL, outbox_gap=3), "3 earlier transaction(s)"),
    ],
)
def test_each_trouble_has_its_reason(vitals: Vitals, reason: str) -> None:
    [found] = reasons_writes_wait(vitals)
    assert reason in found


def test_old_block_without_new_ones_says_nothing_about_the_clock() -> None:
    halted = replace(WELL, silence_s=500.0, block_age_s=500.0)
    assert all("clock" not in reason for reason in reasons_writes_wait(halted))


def test_first_blocks_after_an_outage_say_nothing_about_the_clock() -> None:
    healed = replace(WELL, block_age_s=500.0, steady_blocks=STEADY_BLOCKS - 1)
    assert reasons_writes_wait(healed) == []


def test_replayed_blocks_say_nothing_about_the_clock_or_the_outbox() -> None:
    replaying = replace(WELL, block_age_s=5000.0, outbox_gap=9, catching_up=True)
    assert len(reasons_writes_wait(replaying)) == 1


def test_solo_node_needs_nobody() -> None:
    assert reasons_writes_wait(replace(WELL, engine="solo", members=1, peers=0)) == []


def test_connections_make_more_than_two_thirds_and_no_more() -> None:
    for members in range(1, 30):
        needed = connections_needed(members)
        assert 3 * (needed + 1) > 2 * members
        assert 3 * needed <= 2 * members


def test_block_watch_counts_steady_blocks_and_starts_over_after_a_halt() -> None:
    watch = BlockWatch(100.0)
    for now_s in (101.0, 111.0, 121.0):
        watch.committed(now_s)
    assert (watch.steady_blocks, watch.silence_s(125.0)) == (3, 4.0)
    watch.committed(121.0 + HALTED_AFTER_S + 1)
    assert watch.steady_blocks == 0


def test_key_is_missing_from_the_first_look_that_misses_it_until_it_is_here() -> None:
    watch = KeyWatch()
    looks = [(True, 1.0), (False, 2.0), (False, 9.0), (True, 10.0), (False, 11.0)]
    assert [watch.looked(is_here=here, now_s=now) for here, now in looks] == [0, 0, 7, 0, 0]


@pytest.mark.parametrize(
    ("epoch", "own", "said"),
    [
        (0, 0, ["no privacy epoch has begun", "there are no handles"]),
        (7, 6, ["privacy epoch 7 has not come", "still those of epoch 6"]),
        (7, 0, ["privacy epoch 7 has not come", "there are no handles"]),
    ],
)
def test_key_that_is_late_is_warned_of_with_what_is_so_meanwhile(
    epoch: int, own: int, said: list[str]
) -> None:
    assert key_warnings(epoch, own_epoch=own, missing_s=KEY_LATE_S - 1) == []
    [warning] = key_warnings(epoch, own_epoch=own, missing_s=KEY_LATE_S)
    assert all(each in warning for each in said)
