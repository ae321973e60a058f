"""Handlers: how long after its put has returned one starts, for each way of running it.

Rules kept here:

* What is measured is the first line of the handler, against the moment at which the put that fired
  it has returned to its caller: what the handler costs beyond the put.
* Nothing else is due meanwhile, and the child process of the isolated handler is there already.

Not handled here: the puts themselves (``woof.py``).
"""

from __future__ import annotations

import asyncio
import statistics
import struct
import time
from typing import Final

from measure import report

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.faas_runtime import HandlerRuntime
from edgistry.adapters.log import setup_logging
from edgistry.faas_outcome import Answer, Outcome
from edgistry.handlers import BlockingContext, Context, HandlerTable, handler
from edgistry.kv import KeyValue
from edgistry.woof_staging import Staging
from edgistry.woof_triggers import Trigger

ELEMENTS: Final = 200
WARM_UP: Final = 10

_MOMENT = struct.Struct("d")
"""Of a clock that all processes share."""


@handler()
async def in_a_loop(context: Context, woof: str, seq: int, element: bytes) -> bytes:
    return _MOMENT.pack(time.perf_counter())


@handler()
def in_a_thread(context: BlockingContext, woof: str, seq: int, element: bytes) -> bytes:
    return _MOMENT.pack(time.perf_counter())


@handler(isolation="process")
def in_a_process(context: BlockingContext, woof: str, seq: int, element: bytes) -> bytes:
    return _MOMENT.pack(time.perf_counter())


LABELS: Final = {
    "in_a_loop": "handler starts after its put has returned, p50, of 1 ms",
    "in_a_thread": "the same, plain function (a thread for each try)",
    "in_a_process": "the same, isolated (in a child process that waits for it)",
}


async def trigger_latency(bench: str, store: KeyValue, woofs: DurableWoofs, woof: str) -> None:
    """Report how soon handlers of each kind start on what is put into ``woof``."""
    setup_logging(level="error", path=None)
    started: list[float] = []

    def on_end(staging: Staging, trigger: Trigger, outcome: Outcome) -> None:
        if not isinstance(outcome, Answer) or outcome.answer is None:
            raise SystemExit(f"bench: {trigger.handler}: {outcome}")
        started.append(_MOMENT.unpack(outcome.answer)[0])

    table = HandlerTable.from_names(globals())
    runtime = HandlerRuntime(store, woofs, table, on_end=on_end)
    running = asyncio.create_task(runtime.run())
    for name, label in LABELS.items():
        beyond, taken = [], []
        for turn in range(-WARM_UP, ELEMENTS):
            started.clear()
            began = time.perf_counter()
            await woofs.put(woof, b"x" * 64, handler=name)
            done = time.perf_counter()
            await runtime.idle()
            if turn >= 0:
                beyond.append(started[0] - done)
                taken.append(done - began)
        report(
            bench,
            label,
            statistics.median(beyond) / 1e-3,
            at_most=1,
            p90_of_1_ms=round(statistics.quantiles(beyond, n=10)[-1] / 1e-3, 3),
            put_ms=round(statistics.median(taken) * 1e3, 3),
        )
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
