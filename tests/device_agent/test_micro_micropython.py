"""The same module on real MicroPython: the same outcomes as here, in a device's memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from device_agent.micro import capability as micro

from . import micropython
from .hand_made import (
    EPOCH,
    GET,
    MINUTE,
    NOW,
    SECRET,
    Token,
    block,
    caveat,
    child_entry,
    deep_token,
    envelope,
    key_of,
    mint,
    not_after,
    root_entry,
)
from .micropython import outcomes

HEAP_BUDGET = 16 * 1024


def every_single_change(message: bytes) -> list[bytes]:
    """``message`` with each byte inverted, each byte missing, and each byte doubled."""
    found = []
    for at in range(len(message)):
        found.append(message[:at] + bytes([message[at] ^ 0xFF]) + message[at + 1 :])
        found.append(message[:at] + message[at + 1 :])
        found.append(message[:at] + message[at : at + 1] + message[at:])
    return found


def request_case(message: bytes, *, now: int = NOW, **more: Any) -> dict[str, Any]:
    return {
        "what": "request",
        "secret": SECRET.hex(),
        "issuer_epoch": EPOCH,
        "encoded": message.hex(),
        "now": now,
        **more,
    }


def chain_case(public: bytes) -> dict[str, Any]:
    return {
        "what": "chain",
        "public": public.hex(),
        "secret": SECRET.hex(),
        "issuer_epoch": EPOCH,
    }


def hand_made_cases() -> list[dict[str, Any]]:
    second = mint(block([root_entry(0)], not_after(NOW)), serial=2)
    bound = mint(block([root_entry(GET)], caveat(0x86, second.id)))
    narrow = deep_token(3)
    veiled = mint(block([root_entry(0x7FF)], caveat(0x84, b"run"), caveat(0x89)))
    reply: dict[str, Any] = {"status": 0, "result": 2**64 - 1, "sequence_epoch": 2**32 - 1}
    reply |= {"sequence_floor": 2**63, "payload": "00ff", "flat": ""}
    accepted = [
        envelope([deep_token(5)]),
        envelope([narrow], flags=3),
        envelope([bound, second]),
        envelope([veiled], op=3, handler="run", payload=bytes(300)),
        envelope([mint(block([root_entry(0x7FF)]))], op=7, payload=bytes(70_000)),
    ]
    cases = [request_case(message, replies=[reply]) for message in accepted]
    cases += [
        request_case(envelope([bound, second]), now=NOW + 1),
        request_case(envelope([bound])),
        request_case(envelope([narrow], op=6)),
        request_case(envelope([narrow], op=200)),
        request_case(envelope([narrow]), denied=[narrow.id.hex()]),
        request_case(envelope([narrow], tag=bytes(16))),
        request_case(envelope([veiled], op=5, payload=b"")),
        request_case(envelope([narrow.derive(block([child_entry(0, GET)], caveat(0x87)))])),
    ]
    cases += [request_case(message) for message in every_single_change(envelope([narrow]))]
    cases += [chain_case(public) for public in every_single_change(narrow.public)]
    return cases


def test_both_interpreters_come_to_the_same_outcomes(tmp_path: Path) -> None:
    micropython.require_micropython()
    cases = hand_made_cases()
    here = [outcomes.of_case(micro, case) for case in cases]
    assert sum("reason" not in outcome for outcome in here) >= 5
    assert micropython.outcomes_of(cases, tmp_path) == json.loads(json.dumps(here))


def heap_case(name: str, tokens: list[Token]) -> dict[str, Any]:
    message = envelope(tokens, deadline=NOW + MINUTE)
    key = key_of().hex()
    return {"name": name, "key": key, "epoch": EPOCH, "encoded": message.hex(), "now": NOW}


def test_verifying_five_levels_of_two_entries_fits_in_sixteen_kibibytes(tmp_path: Path) -> None:
    micropython.require_micropython()
    figures = micropython.heap_of([heap_case("five levels", [deep_token(5, entries=2)])], tmp_path)
    assert [figure["name"] for figure in figures] == ["five levels"]
    assert 0 < figures[0]["chain"] < figures[0]["request"] <= HEAP_BUDGET


class TestWithoutNode:
    @pytest.fixture(autouse=True)
    def _no_programs(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))

    def test_it_is_skipped_with_the_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match=r"not tested here: Node\.js"):
            micropython.require_micropython()

    def test_ci_fails_instead(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="must run in CI"):
            micropython.require_micropython()
