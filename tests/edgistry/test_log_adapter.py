"""Logs are plain lines that a person reads, and that nobody can forge."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgistry.adapters.log import close_logging, get_logger, setup_logging


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    setup_logging(level="info", path=tmp_path / "node.log")
    yield tmp_path / "node.log"
    close_logging()


def test_a_line_has_time_level_logger_event_and_facts(log_file: Path) -> None:
    get_logger("edgistry.node.test").info("it began", port=27000, name="a b", key=b"\x01\xff")
    (line,) = log_file.read_text().splitlines()
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert rest == "info    edgistry.node.test it began port=27000 name='a b' key=01ff"


def test_a_value_cannot_forge_a_line(log_file: Path) -> None:
    get_logger("edgistry.node.test").warning("said\nhello", text="x\n2026 error forged")
    assert len(log_file.read_text().splitlines()) == 1


def test_standard_loggers_write_the_same_lines(log_file: Path) -> None:
    logging.getLogger("edgistry.node.abci").warning("lost %s", "it")
    assert log_file.read_text().endswith("warning edgistry.node.abci lost it\n")


def test_a_traceback_follows_its_line(log_file: Path) -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        get_logger("edgistry.node.test").exception("failed")
    text = log_file.read_text()
    assert "error   edgistry.node.test failed\nTraceback" in text
    assert text.rstrip().endswith("ValueError: boom")


def test_what_is_below_the_level_is_not_written(log_file: Path) -> None:
    get_logger("edgistry.node.test").debug("too much")
    assert log_file.read_text() == ""


def test_setting_up_again_replaces_the_file(log_file: Path, tmp_path: Path) -> None:
    setup_logging(level="error", path=tmp_path / "other.log")
    get_logger("edgistry.node.test").error("here")
    assert log_file.read_text() == ""
    assert "here" in (tmp_path / "other.log").read_text()
