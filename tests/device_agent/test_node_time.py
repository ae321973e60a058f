"""The time as nodes have proven it."""

from __future__ import annotations

from device_agent.node_time import NodeTime


def test_nobody_knows_the_time_before_a_node_has_proven_it() -> None:
    time = NodeTime()
    assert not time.is_known
    assert time.at(5) is None


def test_time_goes_on_with_the_rising_clock() -> None:
    time = NodeTime()
    time.heard(1_000_000, sent_us=50)
    assert time.at(60) == 1_000_010


def test_withheld_reply_does_not_put_the_clock_back() -> None:
    time = NodeTime()
    time.heard(1_000_000, sent_us=0)
    received_us = 3_600_000_000
    now_us = time.at(received_us)
    assert now_us is not None
    assert now_us >= 1_000_000 + received_us


def test_last_proof_counts() -> None:
    time = NodeTime()
    time.heard(1_000_000, sent_us=0)
    time.heard(500_000, sent_us=10)
    assert time.at(10) == 500_000
