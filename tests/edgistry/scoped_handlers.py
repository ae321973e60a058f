"""Handlers that run for others, in a module of their own: children load them from here."""

from __future__ import annotations

from edgistry.handlers import BlockingContext, Context, handler


def _said(woof: str, seq: int, count: int, element: bytes) -> bytes:
    return b"%s %d of %d: %s" % (woof.encode(), seq, count, element)


@handler(for_devices=True, concurrency=1)
def double(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    context.put("theirs/out", _said(woof, seq, len(context.tail(woof, seq)), element))


@handler(for_devices=True, concurrency=1)
async def double_async(context: Context, woof: str, seq: int, element: bytes) -> None:
    count = len(await context.tail(woof, seq))
    await context.put("theirs/out", _said(woof, seq, count, element))


@handler(for_devices=True, concurrency=1, isolation="none")
def double_inside(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    context.put("theirs/out", _said(woof, seq, len(context.tail(woof, seq)), element))
