"""WooFs: durable puts, gets, opening and growth, against bare LevelDB, SQLite and Redis.

Everything that is compared is measured in turns in one run, on one disk (--directory; a temporary
one by default). Every figure is a ratio; absolute ones only orient.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import plyvel
from _rivals import ELEMENT, Redis, Sqlite, redis
from measure import ROOT, Rounds, alternate, report

sys.path.insert(0, str(ROOT))

from _faas import trigger_latency
from _woof_http import http_puts

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.http import run
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.woof_staging import Staging

BENCH = "woof"
WRITERS = 64
TURNS = 32
"""Puts of each writer in one round: so many that to start the writers does not count."""
ALONE = 24
"""Puts of a single writer in one round."""
ROUNDS = 25
MILLION = 1_000_000

Subject = Callable[[], Awaitable[int]]
"""Does its work once; how many puts that was."""


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


async def in_turns(subjects: Mapping[str, Subject], rounds: int = ROUNDS) -> Rounds:
    """Seconds a put of every subject in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(-1, rounds):
        for name in list(subjects) if number % 2 else list(subjects)[::-1]:
            began = time.perf_counter()
            puts = await subjects[name]()
            if number >= 0:
                seconds[name].append((time.perf_counter() - began) / puts)
    return Rounds(seconds)


class Bench:
    """One disk, and on it a WooF, a bare LevelDB and their rivals."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = LevelKeyValue(directory / "woofs.ldb")
        self.woofs = DurableWoofs(self.store)
        self.bare = plyvel.DB(str(directory / "bare.ldb"), create_if_missing=True)
        self._number = 0

    async def prepare(self) -> None:
        await self.woofs.create_namespace("bench")
        await self.woofs.create("bench/log", MILLION)

    async def close(self) -> None:
        await self.woofs.close()
        self.store.close()
        self.bare.close()

    # --- subjects -------------------------------------------------------------------------------

    def _key(self) -> bytes:
        self._number += 1
        return b"bench/log" + self._number.to_bytes(8, "big")

    async def bare_puts(self) -> int:
        for _ in range(ALONE):
            self.bare.put(self._key(), ELEMENT, sync=True)
        return ALONE

    async def bare_batches(self) -> int:
        for _ in range(TURNS):
            with self.bare.write_batch(transaction=True, sync=True) as batch:
                for _ in range(WRITERS):
                    batch.put(self._key(), ELEMENT)
        return TURNS * WRITERS

    async def one_bare_batch(self) -> int:
        with self.bare.write_batch(transaction=True, sync=True) as batch:
            for _ in range(TURNS * WRITERS):
                batch.put(self._key(), ELEMENT)
        return TURNS * WRITERS

    async def puts_alone(self) -> int:
        for _ in range(ALONE):
            await self.woofs.put("bench/log", ELEMENT)
        return ALONE

    async def blocking_puts(self) -> int:
        for _ in range(ALONE):
            self.woofs.commit_blocking(lambda staging: staging.put("bench/log", ELEMENT))
        return ALONE

    async def bare_puts_in_threads(self) -> int:
        for _ in range(ALONE):
            await asyncio.to_thread(self.bare.put, self._key(), ELEMENT, sync=True)
        return ALONE

    async def puts_together(self) -> int:
        async def writer() -> None:
            for _ in range(TURNS):
                await self.woofs.put("bench/log", ELEMENT)

        await asyncio.gather(*(writer() for _ in range(WRITERS)))
        return TURNS * WRITERS


# --- durable puts --------------------------------------------------------------------------------


async def puts(bench: Bench) -> None:
    rounds = await in_turns(
        {
            "put": bench.bare_puts,
            "alone": bench.puts_alone,
            "blocking": bench.blocking_puts,
            "together": bench.puts_together,
            "batches": bench.bare_batches,
            "batch": bench.one_bare_batch,
            "in threads": bench.bare_puts_in_threads,
        }
    )
    more = {
        f"{name.replace(' ', '_')}_us": round(rounds.microseconds(name), 1)
        for name in rounds.seconds
    }

    def figure(name: str, ratio: float, **target: float) -> None:
        report(BENCH, name, ratio, **target, **more)  # type: ignore[arg-type]
        more.clear()

    figure(
        "64 writers, puts a second, of a loop of synced LevelDB puts",
        rounds.ratio("put", "together"),
        at_least=10,
    )
    figure(
        "64 writers, puts a second, of synced LevelDB batches of 64 puts",
        rounds.ratio("batches", "together"),
        at_least=0.5,
    )
    figure(
        "the same, of one synced LevelDB batch of all 2048 puts of a round (one sync for all)",
        rounds.ratio("batch", "together"),
    )
    figure(
        "time of a put, single writer in a thread, of a synced LevelDB put",
        rounds.ratio("blocking", "put"),
        at_most=1.3,
    )
    figure(
        "the same in an event loop, which goes on meanwhile",
        rounds.ratio("alone", "put"),
        at_most=1.3,
    )
    figure(
        "that, of a synced LevelDB put by asyncio.to_thread: what an event loop can do without us",
        rounds.ratio("alone", "in threads"),
    )


async def rivals(bench: Bench) -> None:
    (bench.directory / "redis").mkdir()
    with redis(bench.directory / "redis", WRITERS) as server:
        sqlite = Sqlite(bench.directory)
        subjects: dict[str, Subject] = {
            "alone": bench.puts_alone,
            "together": bench.puts_together,
            "SQLite alone": _alone(sqlite),
            "SQLite together": _together(sqlite, 1),
        }
        if server is not None:
            subjects["Redis alone"] = _alone(server)
            subjects["Redis together"] = _together(server, TURNS)
        # Threads that wait for SQLite's one lock take long: fewer rounds.
        rounds = await in_turns(subjects, rounds=9)
    for name in ("SQLite", "Redis"):
        if name == "Redis" and server is None:
            say("redis-server is not installed (Debian package redis-server): not compared")
            continue
        for how, label in (("alone", "single writer"), ("together", "64 writers")):
            theirs = f"{name} {how}"
            report(
                BENCH,
                f"puts a second, {label}, of {name}'s",
                rounds.ratio(theirs, how),
                ours_us=round(rounds.microseconds(how), 1),
                theirs_us=round(rounds.microseconds(theirs), 1),
            )


def _alone(rival: Sqlite | Redis) -> Subject:
    async def subject() -> int:
        rival.put(ALONE)
        return ALONE

    return subject


def _together(rival: Sqlite | Redis, turns: int) -> Subject:
    async def subject() -> int:
        rival.put_together(WRITERS, turns)
        return WRITERS * turns

    return subject


# --- handlers ------------------------------------------------------------------------------------


async def triggers(bench: Bench) -> None:
    await trigger_latency(BENCH, bench.store, bench.woofs, "bench/log")


# --- reading, opening, growing -------------------------------------------------------------------


async def gets(bench: Bench) -> None:
    for _ in range(20):
        await bench.woofs.commit(lambda staging: fill(staging, "bench/log", 50))
    latest = bench.woofs.woofs.latest("bench/log")
    keys = [b"get" + number.to_bytes(8, "big") for number in range(1000)]
    for key in keys:
        bench.bare.put(key, ELEMENT)
    state = {"bare": 0, "woof": 0}

    def bare() -> object:
        state["bare"] = (state["bare"] + 7) % 1000
        return bench.bare.get(keys[state["bare"]])

    def woof() -> object:
        state["woof"] = (state["woof"] + 7) % 1000
        return bench.woofs.woofs.get("bench/log", latest - state["woof"])

    rounds = alternate({"bare": bare, "woof": woof})
    report(
        BENCH,
        "time of a get, of a plyvel get",
        rounds.ratio("woof", "bare"),
        at_most=10,
        get_us=round(rounds.microseconds("woof"), 2),
        plyvel_us=round(rounds.microseconds("bare"), 2),
    )


def fill(staging: Staging, name: str, count: int) -> None:
    for _ in range(count):
        staging.put(name, ELEMENT)


async def append(path: Path, history: int, count: int, watch: Callable[[int], None]) -> None:
    """A WooF ``bench/log`` with ``count`` elements at ``path``, closed."""
    store = LevelKeyValue(path)
    woofs = DurableWoofs(store)
    await woofs.create_namespace("bench")
    await woofs.create("bench/log", history)
    for done in range(0, count, 250):
        await woofs.commit(lambda staging: fill(staging, "bench/log", 250))
        watch(done + 250)
    await woofs.close()
    store.close()


async def opening(bench: Bench) -> None:
    full, empty = bench.directory / "full.ldb", bench.directory / "empty.ldb"
    say("appending a million elements, all kept")
    await append(full, MILLION, MILLION, lambda _: None)
    await append(empty, MILLION, 0, lambda _: None)

    def opened(path: Path, expected: int) -> Callable[[], float]:
        def measure() -> float:
            os.sync()
            began = time.perf_counter()
            store = LevelKeyValue(path)
            woofs = DurableWoofs(store)
            if woofs.woofs.latest("bench/log") != expected:
                raise SystemExit("bench: elements are missing")
            seconds = time.perf_counter() - began
            woofs.committer.close()
            store.close()
            return seconds

        return measure

    subjects = {"full": opened(full, MILLION), "empty": opened(empty, 0)}
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(ROUNDS):
        for name in list(subjects) if number % 2 else list(subjects)[::-1]:
            seconds[name].append(subjects[name]())
    rounds = Rounds(seconds)
    report(
        BENCH,
        "opening a namespace with a million elements, of an empty one",
        rounds.ratio("full", "empty"),
        at_most=2,
        full_ms=round(rounds.microseconds("full") / 1000, 1),
        empty_ms=round(rounds.microseconds("empty") / 1000, 1),
    )
    report(
        BENCH,
        "the same after a kill, with as much unflushed as there can be (bounded, not by elements)",
        _after_a_kill(bench.directory, full) / statistics.median(seconds["empty"]),
    )
    shutil.rmtree(full)


def _after_a_kill(directory: Path, full: Path) -> float:
    store = LevelKeyValue(full)
    for number in range(48):
        store.write([(b"z%06d%04d" % (number, at), ELEMENT) for at in range(800)], sync=False)
    killed = directory / "killed.ldb"
    shutil.copytree(full, killed)
    store.close()
    began = time.perf_counter()
    store = LevelKeyValue(killed)
    seconds = time.perf_counter() - began
    store.close()
    shutil.rmtree(killed)
    return seconds


async def growth(bench: Bench) -> None:
    path = bench.directory / "ring.ldb"
    resident: dict[int, float] = {}
    largest = 0
    say("appending a million elements with a history of 1000")

    def watch(done: int) -> None:
        nonlocal largest
        if done % 10_000 == 0:
            largest = max(largest, sum(each.stat().st_size for each in path.iterdir()))
        if done in (MILLION // 5, MILLION):
            resident[done] = resident_bytes()

    began = time.perf_counter()
    await append(path, 1000, MILLION, watch)
    seconds = time.perf_counter() - began
    report(
        BENCH,
        "memory after a million puts, of that after 200 000 (history 1000)",
        resident[MILLION] / resident[MILLION // 5],
        at_most=1.1,
        resident_mib=round(resident[MILLION] / 2**20, 1),
        puts_a_second=round(MILLION / seconds),
    )
    report(
        BENCH,
        "most disk that the million puts took at any time, of what they put",
        largest / (MILLION * len(ELEMENT)),
        at_most=0.5,
        largest_mib=round(largest / 2**20, 1),
    )
    shutil.rmtree(path)


def resident_bytes() -> float:
    """Memory of this process that is resident, bytes."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


async def http(bench: Bench) -> None:
    """Puts over HTTP; the servers are processes of their own."""
    await asyncio.to_thread(http_puts, bench.directory)


PARTS = {
    "puts": puts,
    "rivals": rivals,
    "triggers": triggers,
    "gets": gets,
    "opening": opening,
    "growth": growth,
    "http": http,
}


async def main(parts: list[str], parent: Path | None) -> None:
    directory = Path(tempfile.mkdtemp(prefix="edgb-woof-", dir=parent))
    bench = Bench(directory)
    try:
        await bench.prepare()
        for name in parts:
            await PARTS[name](bench)
    finally:
        await bench.close()
        shutil.rmtree(directory)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--directory", type=Path, help="where to make the databases")
    words = parser.parse_args()
    if unknown := set(words.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    run(main(words.parts or list(PARTS), words.directory))
