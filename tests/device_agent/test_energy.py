"""The energy account."""

from __future__ import annotations

import pytest

from device_agent.energy import BOARDS, Board, Spending, estimated_mj

BOARD = Board(awake_mw=100.0, asleep_uw=10.0, wake_mj=2.0, sent_uj=3.0, received_uj=1.0)


def test_energy_is_power_by_time_and_what_bytes_and_wakes_cost() -> None:
    spending = Spending(wakes=2, awake_s=1.5, sent=1000, received=2000)
    assert estimated_mj(spending, BOARD) == pytest.approx(2 * 2.0 + 150.0 + 3.0 + 2.0)


def test_sleep_costs_little_but_something() -> None:
    assert estimated_mj(Spending(asleep_s=3600.0), BOARD) == pytest.approx(36.0)


def test_spendings_add_up() -> None:
    one = Spending(wakes=1, awake_s=0.5, asleep_s=2.0, sent=10, received=20)
    twice = Spending(wakes=2, awake_s=1.0, asleep_s=4.0, sent=20, received=40)
    assert one + one == twice


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_every_board_draws_less_asleep_than_awake(board: Board) -> None:
    assert board.asleep_uw / 1000.0 < board.awake_mw
