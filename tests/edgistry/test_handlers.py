"""Which functions are handlers, and under which names."""

from __future__ import annotations

from typing import Any

import pytest

from edgistry.errors import InvalidValueError, UnknownHandlerError
from edgistry.handlers import BlockingContext, Context, HandlerTable, handler


@handler
async def alarm(context: Context, woof: str, seq: int, element: bytes) -> None:
    """An async one under its own name."""


@handler("copy-on", timeout_s=0.5, concurrency=1, attempts=2, isolation="process", memory_mb=64)
def copy_on(context: BlockingContext, woof: str, seq: int, element: bytes) -> bytes:
    return element


def test_decorated_function_stays_a_plain_function() -> None:
    no_context: Any = None
    assert copy_on(no_context, "a/b", 1, b"x") == b"x"


def test_name_is_the_functions_own_unless_another_is_given() -> None:
    table = HandlerTable.from_names({"alarm": alarm, "copy_on": copy_on})
    assert [each.name for each in table] == ["alarm", "copy-on"]
    assert "copy_on" not in table


def test_parameters_of_the_decorator_are_kept() -> None:
    made = HandlerTable.from_names({"f": copy_on}).require("copy-on")
    assert (made.timeout_s, made.concurrency, made.retry.attempts) == (0.5, 1, 2)
    assert (made.isolation, made.limits.memory_mb, made.is_async) == ("process", 64, False)


def test_async_functions_are_told_from_plain_ones() -> None:
    class Callable:
        async def __call__(self, context: object, woof: str, seq: int, element: bytes) -> None:
            """An object that is called."""

    instance = Callable()
    made = handler("object")(instance)
    assert made is instance
    table = HandlerTable.from_names({"alarm": alarm, "instance": instance, "copy_on": copy_on})
    assert {each.name for each in table if each.is_async} == {"alarm", "object"}


@pytest.mark.parametrize("name", ["../alarm", "os.system:x", "/bin/sh", "alarm ", "", "ALARM"])
def test_name_that_is_not_in_the_table_names_nothing(name: str) -> None:
    table = HandlerTable.from_names({"alarm": alarm})
    with pytest.raises(UnknownHandlerError):
        table.require(name)


def test_one_function_may_have_two_names() -> None:
    @handler("one")
    @handler("two", timeout_s=1)
    def function(context: object, woof: str, seq: int, element: bytes) -> None:
        """Twice."""

    table = HandlerTable.from_names({"function": function, "alias": function})
    assert [each.name for each in table] == ["one", "two"]
    assert table.require("two").timeout_s == 1


def test_two_functions_of_one_name_are_refused() -> None:
    @handler("alarm")
    def other(context: object, woof: str, seq: int, element: bytes) -> None:
        """Takes the name of another."""

    with pytest.raises(InvalidValueError, match="two handlers are called 'alarm'"):
        HandlerTable.from_names({"alarm": alarm, "other": other})


def test_values_that_are_no_functions_are_not_asked() -> None:
    class Anything:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("asked")

    table = HandlerTable.from_names({"anything": Anything(), "alarm": alarm, "number": 7})
    assert [each.name for each in table] == ["alarm"]


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout_s": 0.0},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
        {"concurrency": 0},
        {"concurrency": 257},
        {"attempts": 0},
        {"attempts": 1001},
        {"first_wait_s": -1.0},
        {"first_wait_s": 10.0, "longest_wait_s": 5.0},
        {"memory_mb": 0},
        {"cpu_s": 0},
        {"isolation": "jail"},
    ],
)
def test_parameter_out_of_its_range_is_refused(settings: Any) -> None:
    with pytest.raises(InvalidValueError):

        @handler(**settings)
        def function(context: object, woof: str, seq: int, element: bytes) -> None:
            """Never made."""


@pytest.mark.parametrize("name", ["", "a" * 33, "a/b", "a b", "ü", ".hidden", "-x", "a\n"])
def test_name_of_other_characters_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match="a name has 1-32"):

        @handler(name)
        def function(context: object, woof: str, seq: int, element: bytes) -> None:
            """Never made."""


def test_function_of_other_arguments_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="context, woof, seq, element"):

        @handler
        def function(element: bytes) -> None:
            """Never made."""
