"""Handlers that a node runs for devices; in a module of their own, since children load them."""

from __future__ import annotations

import os

from edgistry.errors import MissingWoofError
from edgistry.handlers import BlockingContext, Context, GiveUpError, handler

RESULT = "sensors/sums"


@handler(for_devices=True, isolation="none", concurrency=1, first_wait_s=0.01, attempts=3)
async def running_sum(context: Context, woof: str, seq: int, element: bytes) -> None:
    """The element, and the sum of it and the two before it."""
    newest = await context.tail(woof, 1000)
    last = [int(each) for number, each in newest if number <= seq][:3]
    await context.put(RESULT, b"%d %d" % (int(element), sum(last)))


@handler("changed", for_devices=True, isolation="none", concurrency=1, attempts=1)
async def other(context: Context, woof: str, seq: int, element: bytes) -> None:
    await context.put(RESULT, b"changed " + element)


@handler(for_devices=True, isolation="none", attempts=2, first_wait_s=0.001)
async def picky(context: Context, woof: str, seq: int, element: bytes) -> None:
    if int(element) % 2:
        raise GiveUpError("odd")
    await context.put(RESULT, element)


@handler(for_devices=True, attempts=1, memory_mb=64, timeout_s=20)
def isolated(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    """In a process, by default; what it does depends on the element."""
    if element == b"1":
        bytearray(1 << 30)
    elif element == b"2":
        try:
            context.get("secret/notes", 1)
        except MissingWoofError:
            context.put(RESULT, b"nothing")
    else:
        context.put(RESULT, b"in the node" if os.getppid() == 1 else element)


@handler
async def private(context: Context, woof: str, seq: int, element: bytes) -> None:
    """The operator's own."""
    raise AssertionError("a device has made it run")
