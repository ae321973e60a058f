"""Handlers that run in processes of their own, most of them badly."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from edgistry.errors import MissingWoofError
from edgistry.handlers import BlockingContext, Context, GiveUpError, handler

used = 0


@handler(isolation="process")
def double(context: BlockingContext, woof: str, seq: int, element: bytes) -> bytes:
    """Reads and puts as any handler does."""
    latest = context.latest(woof)
    tail = context.tail(woof, 2)
    context.put("a/out", element * 2 + b"%d %d" % (latest[0], len(tail)))
    try:
        context.get("a/missing", 1)
    except MissingWoofError:
        context.logger.info("missing, as expected", handler="forged", secret=element)
    return context.get(woof, seq)


@handler(isolation="process")
async def double_async(context: Context, woof: str, seq: int, element: bytes) -> bytes:
    latest = await context.latest(woof)
    tail = await context.tail(woof, 2)
    await context.put("a/out", element * 2 + b"%d %d" % (latest[0], len(tail)))
    try:
        await context.get("a/missing", 1)
    except MissingWoofError:
        context.logger.info("missing, as expected")
    return await context.get(woof, seq)


@handler(isolation="process", attempts=2, first_wait_s=0.001)
async def many_puts(context: Context, woof: str, seq: int, element: bytes) -> None:
    await asyncio.gather(*(context.put("a/out", b"%d" % number) for number in range(100)))
    context.put("a/out", b"not waited for")
    if context.attempt == 1:
        raise ValueError("once more")


@handler(isolation="process", attempts=1)
async def lost_put(context: Context, woof: str, seq: int, element: bytes) -> None:
    context.put("a/missing", b"x")


@handler(isolation="process", attempts=1)
def fails(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    print("password: hunter2", flush=True)
    print("token: abc", file=sys.stderr)
    raise GiveUpError("no use")


@handler(isolation="process", attempts=1)
def prints_a_lot(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    for _ in range(3000):
        print("x" * 1000)
    print("the end", flush=True)
    raise ValueError("full")


@handler(isolation="process", attempts=1, timeout_s=0.3)
def hangs(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    context.put("a/out", b"%d" % os.getpid())
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    while True:
        time.sleep(60)


@handler(isolation="process", attempts=1, timeout_s=3600)
def waits(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    context.put("a/out", b"%d" % os.getpid())
    time.sleep(3600)


@handler(isolation="process", attempts=1, timeout_s=0.3)
async def hangs_async(context: Context, woof: str, seq: int, element: bytes) -> None:
    await context.put("a/out", b"%d" % os.getpid())
    time.sleep(60)  # noqa: ASYNC251 - it is meant to block


@handler(isolation="process", attempts=1, cpu_s=1)
def computes(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    while True:
        sum(range(100_000))


@handler(isolation="process", attempts=1, memory_mb=100)
def memory_bomb(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(1 << 20))


@handler(isolation="process", attempts=1, memory_mb=100)
def uses_some_memory(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    context.put("a/out", b"%d" % len(bytearray(50 << 20)))


@handler(isolation="process", attempts=1)
def forks(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    refused = []
    for attempt in (
        os.fork,
        lambda: os.posix_spawn("/bin/sleep", ["sleep", "60"], {}),
        lambda: os.execv("/bin/sleep", ["sleep", "60"]),
        os.setsid,
        lambda: os.kill(os.getppid(), 0),
    ):
        try:
            attempt()
        except PermissionError:
            refused.append("refused")
        else:
            refused.append("done")
    context.put("a/out", " ".join(refused).encode())


@handler(isolation="process", attempts=1)
def bomb(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    while True:
        with contextlib.suppress(OSError):
            os.fork()
            context.put("a/out", b"forked")
            return
        raise ChildProcessError("no child")


@handler(isolation="process", attempts=1)
def starts_a_thread(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(seq))
    thread.start()
    thread.join()
    context.put("a/out", b"%d" % found[0])


@handler(isolation="process", attempts=1)
def exits(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    os._exit(7)


@handler(isolation="process", attempts=1)
def asks_to_exit(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    sys.exit("bye")


@handler(isolation="process", attempts=1)
def crashes(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    ctypes.string_at(0)


@handler(isolation="process", attempts=1)
def talks_itself(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            connection = socket.socket(fileno=os.dup(int(entry.name)))
            connection.sendall(element)
    time.sleep(60)


@handler(isolation="process", attempts=1)
def writes_a_file(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    Path(element.decode()).write_bytes(b"not allowed")


@handler(isolation="process", attempts=1)
def closes_everything(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    os.closerange(0, 100)
    time.sleep(60)


@handler(isolation="process", attempts=1)
def tells(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    """Puts what it can see of its surroundings."""
    global used
    used += 1
    names = " ".join(sorted(os.environ))
    context.put("a/out", f"{os.getpid()} {used} {names}".encode())


@handler(isolation="process", attempts=1)
def oversized(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    context.put("a/out", b"x" * 65_537)
