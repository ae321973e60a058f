"""Handlers that run for somebody else: which names they use, and how far they reach."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgistry.errors import InvalidValueError, MissingWoofError, NoRightError
from edgistry.faas_scope import Scope
from edgistry.handlers import BlockingContext, Context, HandlerTable, handler
from edgistry.woof import split_name
from edgistry.woof_triggers import Trigger

from . import scoped_handlers as scoped
from .faas_world import Faas, Function, faas, quick

FORBIDDEN = "a/in"


def _real(woof: str) -> str:
    split_name(woof)
    return "a/" + woof.rpartition("/")[2]


def _check_put(name: str) -> None:
    if name == FORBIDDEN:
        raise NoRightError(f"{name!r} can only be read")


def scope_of(trigger: Trigger) -> Scope | None:
    """Everything in namespace ``a`` is somebody else's, who calls it ``theirs``."""
    if not trigger.woof.startswith("a/"):
        return None
    woof = trigger.woof.replace("a/", "theirs/")
    return Scope(woof=woof, real_name=_real, check_put=_check_put)


def for_others(name: str) -> Callable[[Function], Function]:
    return handler(name, for_devices=True, isolation="none", attempts=1)


@pytest.mark.parametrize("name", ["double", "double_async", "double_inside"])
async def test_function_runs_off_the_device_as_on_it_with_the_same_names(name: str) -> None:
    async with faas(getattr(scoped, name), scope_of=scope_of) as world:
        await world.handle(b"1", b"2", handler=name)
        assert world.reasons() == []
        assert world.elements() == [b"theirs/in 1 of 1: 1", b"theirs/in 2 of 2: 2"]


def test_a_handler_for_devices_is_isolated_unless_its_operator_says_otherwise() -> None:
    table = HandlerTable.from_names(vars(scoped))
    found = {each.name: (each.isolation, each.for_devices) for each in table}
    assert found["double"] == ("process", True)
    assert found["double_inside"] == ("none", True)


async def _elsewhere(world: Faas) -> None:
    await world.woofs.create_namespace("b")
    await world.woofs.create("b/secret", 10)
    await world.woofs.put("b/secret", b"secret")


async def test_no_name_leads_out_of_the_scope() -> None:
    @for_others("look")
    async def look(context: Context, woof: str, seq: int, element: bytes) -> None:
        await context.get(element.decode(), 1)

    async with faas(look, scope_of=scope_of) as world:
        await _elsewhere(world)
        names = [b"b/secret", b"../b/secret", b"b/secret/", b"secret", b"", b"a/../b/secret"]
        await world.handle(*names, handler="look")
        reasons = world.reasons()
        assert len(reasons) == len(names)
        codes = {each.partition(":")[0] for each in reasons}
        assert codes == {MissingWoofError.code, InvalidValueError.code}


async def test_what_may_only_be_read_is_not_put_into() -> None:
    @for_others("write")
    def write(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
        context.put(woof, element)

    async with faas(write, scope_of=scope_of) as world:
        await world.handle(b"x", handler="write")
        assert "can only be read" in world.reasons()[0]
        assert world.elements("a/in") == [b"x"]


async def test_a_handler_in_a_scope_fires_only_those_that_may_run_for_others() -> None:
    @quick(attempts=1)
    async def private(context: Context, woof: str, seq: int, element: bytes) -> None:
        await context.put("a/out", b"reached")

    @for_others("second")
    async def second(context: Context, woof: str, seq: int, element: bytes) -> None:
        await context.put("theirs/out", b"second")

    @for_others("first")
    async def first(context: Context, woof: str, seq: int, element: bytes) -> None:
        await context.put("theirs/out", b"first", handler=element.decode())

    async with faas(private, first, second, scope_of=scope_of) as world:
        await world.handle(b"second", b"private", handler="first")
        assert world.elements() == [b"first", b"second"]
        assert "no handler 'private' for devices" in world.reasons()[0]


async def test_a_private_handler_never_runs_in_a_scope_and_the_element_can_be_replayed() -> None:
    ran: list[bytes] = []

    @quick(attempts=3)
    async def private(context: Context, woof: str, seq: int, element: bytes) -> None:
        ran.append(element)

    async with faas(private, scope_of=scope_of) as world:
        await world.handle(b"x", handler="private")
        assert ran == []
        assert "not marked for_devices" in world.reasons()[0]
        (letter,) = world.runtime.letters.newest(9)
        assert (letter.record.element, letter.record.attempts) == (b"x", 0)
        await world.runtime.replay([letter.number])
        await world.idle()
        assert (ran, len(world.reasons())) == ([], 1), "still not for devices, still kept"


async def test_without_a_scope_a_handler_for_devices_is_one_like_any_other() -> None:
    @for_others("look")
    async def look(context: Context, woof: str, seq: int, element: bytes) -> None:
        await context.put("a/out", woof.encode() + (await context.get("b/secret", 1)))

    async with faas(look) as world:
        await _elsewhere(world)
        await world.handle(b"x", handler="look")
        assert world.elements() == [b"a/insecret"]
