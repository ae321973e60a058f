"""The module that an operator names for handlers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgistry.adapters.faas_module import load_handlers
from edgistry.errors import ConfigError, InvalidValueError
from edgistry.handlers import check_module

GOOD = """
from edgistry.handlers import handler

@handler
async def alarm(context, woof, seq, element):
    pass
"""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(directory: Path, name: str, source: str) -> None:
    (directory / name).write_text(source)


def test_handlers_of_a_file_in_the_directory_are_found(directory: Path) -> None:
    write(directory, "my_alarms.py", GOOD)
    assert [each.name for each in load_handlers("my_alarms", directory)] == ["alarm"]


def test_handlers_of_a_package_may_come_from_several_files(directory: Path) -> None:
    package = directory / "my_package"
    package.mkdir()
    write(package, "__init__.py", "from .inner import alarm")
    write(package, "inner.py", GOOD)
    assert "alarm" in load_handlers("my_package", directory)


def test_no_module_means_no_handlers(directory: Path) -> None:
    assert len(load_handlers("", directory)) == 0
    assert str(directory) not in sys.path


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit", "SystemExit"),
        ("x = 1", "has no handler"),
        (GOOD + "@handler('alarm')\ndef b(context, woof, seq, element): pass", "two handlers"),
        (GOOD + "@handler(timeout_s=0)\ndef b(context, woof, seq, element): pass", "timeout_s"),
        (GOOD + "@handler\ndef b(): pass", "four arguments"),
    ],
)
def test_module_that_cannot_be_used_says_why(directory: Path, source: str, words: str) -> None:
    write(directory, "my_broken.py", source)
    with pytest.raises(ConfigError, match="handlers module my_broken") as refused:
        load_handlers("my_broken", directory)
    assert words in refused.value.detail


def test_the_line_at_fault_is_named(directory: Path) -> None:
    write(directory, "my_faulty.py", "\n\nopen('/nowhere/at/all')\n")
    with pytest.raises(ConfigError, match=r"my_faulty\.py, line 3"):
        load_handlers("my_faulty", directory)


def test_module_that_is_not_there_is_refused_with_the_place(directory: Path) -> None:
    with pytest.raises(ConfigError, match="not found in") as refused:
        load_handlers("my_missing", directory)
    assert str(directory) in refused.value.detail


def test_file_that_is_hidden_by_another_module_is_refused(directory: Path) -> None:
    write(directory, "json.py", GOOD)
    with pytest.raises(ConfigError, match=r"json\.py is hidden by"):
        load_handlers("json", directory)


@pytest.mark.parametrize(
    "name", ["alarms.py", "/etc/alarms", "../alarms", "a-b", "a..b", ".a", "a.", "1a", "a b", "ä\0"]
)
def test_path_is_no_module(name: str) -> None:
    with pytest.raises(InvalidValueError, match="no module's name"):
        check_module(name)


@given(st.text(max_size=30))
@settings(deadline=None)
def test_any_text_is_a_modules_name_or_refused(text: str) -> None:
    try:
        check_module(text)
    except InvalidValueError:
        return
    assert text == "" or all(part.isidentifier() for part in text.split("."))
