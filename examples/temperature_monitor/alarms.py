"""The function at the node: it runs because of a Put, and what lasts of it are its own Puts.

An operator puts this file into the directory ``handlers/`` of a node and names it in node.toml:

    [handlers]
    module = "alarms"
"""

from __future__ import annotations

import math

from edgistry.errors import ElementEvictedError
from edgistry.handlers import Context, GiveUpError, handler

LIMIT_C = 30.0


@handler(timeout_s=5, concurrency=1)
async def watch(context: Context, woof: str, seq: int, element: bytes) -> None:
    """Put an alarm beside the readings when it becomes too warm, and one when it is over.

    It decides by the reading and the one before, and by nothing else: so it decides alike however
    often it is run, and its Puts are made once.
    """
    is_warm = celsius(element) > LIMIT_C
    if is_warm == await _was_warm(context, woof, seq - 1):
        return
    namespace = woof.partition("/")[0]
    alarm = f"{'too warm' if is_warm else 'over'}: reading {seq} is {element.decode()} °C"
    await context.put(f"{namespace}/alarms", alarm.encode())
    context.logger.warning("alarm", reading=seq, warm=is_warm)


async def _was_warm(context: Context, woof: str, seq: int) -> bool:
    if seq == 0:
        return False
    try:
        return celsius(await context.get(woof, seq)) > LIMIT_C
    except (ElementEvictedError, GiveUpError):
        return False  # unknown: better an alarm too many


def celsius(element: bytes) -> float:
    """The reading in degrees; what is none becomes a dead letter, for the operator to see."""
    try:
        value = float(element)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise GiveUpError(f"{element[:20]!r} is no temperature")
    return value
