"""docs/protocol.md says what the code does."""

from __future__ import annotations

import re

from edgistry.envelope import GENERIC_REFUSAL, Operation, Status
from edgistry.rights import Right
from scripts import protocol_example

TEXT = protocol_example.PAGE.read_text()


def test_worked_example_is_what_the_code_computes() -> None:
    assert protocol_example.page(TEXT) == TEXT


def test_every_hexadecimal_of_the_example_is_shown_in_full() -> None:
    example = protocol_example.example()
    shown = "".join(re.findall(r"[0-9a-f]{4,}", example))
    for name in ("envelope", "reply", "flat"):
        assert f"\n{name:<12} " in example
    assert len(shown) > 1000


def test_tables_name_every_right_status_and_operation() -> None:
    for right in Right:
        assert re.search(rf"{right.name}\b.*\| 0x{right.value:04x}", TEXT)
    for status in Status:
        assert f"| {status.value} {status.name} |" in TEXT
    for operation in Operation:
        assert f"\n| {operation.value} | " in TEXT


def test_generic_refusal_is_quoted() -> None:
    assert f"`{GENERIC_REFUSAL.hex(' ')}`" in TEXT
