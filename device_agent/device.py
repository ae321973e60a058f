"""One running device: its parts, in the order in which they start and stop.

Rules kept here:

* Start: handlers' module, database, the agent. A device that cannot have one of them says why.
* Stop on SIGTERM or Ctrl-C, in the reverse order: handlers that run may end, what is durable stays.
* Handlers run on between wakes, also while the radio is off.

Not handled here: what the parts do; the lock on the directory, which the caller keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.faas_module import load_handlers
from edgistry.adapters.faas_runtime import HandlerRuntime
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.log import get_logger
from edgistry.authority import Authority
from edgistry.errors import CannotReachError, ConfigError, Refused
from edgistry.handlers import HandlerTable
from edgistry.issuer import Issuer
from edgistry.replay import ReplayGuard

from .account import AccountBook
from .agent import Agent, Connected
from .clock import Clock, SystemClock
from .config import AgentConfig
from .directory import (
    AgentDirectory,
    read_device_id,
    read_device_secret,
    read_epoch,
    read_manifest,
)
from .executor import DeviceService, Executor
from .homes import Home
from .link import HttpLink
from .queues import DeviceQueues
from .rhythm import wake_key
from .runtime import Habits
from .tally import Wake

logger = get_logger("edgistry.agent")

Tell = Callable[[str], None]

USUAL_PERIOD_S = 600.0
UPKEEP_EVERY_S = 3600.0
WINDOWS_AT_ONCE = 64
"""Windows dropped in one wake: some 10 ms."""


async def run_device(
    directory: AgentDirectory, config: AgentConfig, homes: Sequence[Home], *, once: bool, tell: Tell
) -> None:
    """Run the device of ``directory`` until SIGTERM or Ctrl-C, or for one wake.

    Raises:
        CannotReachError: ``once``, and no node has answered.
        Refused: the device cannot run as it is, or not any more; the detail says what to do.
        Exception: a bug; the device has stopped.
    """
    stop = _stop_signal()
    habits = single_wake(config.habits) if once else config.habits
    async with _device(directory, config, homes, habits) as running:
        agent = running.agent
        if not once:
            tell(f"device {running.id} runs, with {homes[0].url}; Ctrl-C stops it")
        work = asyncio.create_task(agent.run_once() if once else _for_ever(agent))
        stopped = asyncio.create_task(stop.wait())
        tasks: set[asyncio.Task[object]] = {work, stopped, running.handlers}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                answered = task.result()  # or what it has raised
                if task is work and answered is False:
                    raise CannotReachError(
                        "no node has answered as it should; requests wait there, and"
                        f" {directory.log_file} says why"
                    )
        finally:
            stopped.cancel()
            work.cancel()
            await asyncio.gather(stopped, work, return_exceptions=True)
            agent.finish()
    logger.info("the device has stopped")


async def _for_ever(agent: Agent) -> bool:
    await agent.run()
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    id: str
    agent: Agent
    handlers: asyncio.Task[None]


@contextlib.asynccontextmanager
async def _device(
    directory: AgentDirectory, config: AgentConfig, homes: Sequence[Home], habits: Habits
) -> AsyncIterator[_Running]:
    device_id = read_device_id(directory)
    secret = read_device_secret(directory)
    issuer = Issuer.from_secret(secret, epoch=read_epoch(directory))
    table = load_handlers(config.handlers.module, directory.handlers_dir)
    check_handlers(directory, table)
    async with AsyncExitStack() as parts:
        store = LevelKeyValue(directory.database)
        parts.callback(store.close)
        woofs = DurableWoofs(store)
        parts.push_async_callback(woofs.close)
        authority = Authority(store, issuer)
        service = DeviceService(
            woofs.woofs,
            authority,
            require_handler=table.require,
            functions=read_manifest(directory).functions,
        )
        executor = Executor(woofs, service, DeviceQueues(store))
        executor.set_aside(table)
        runtime = HandlerRuntime(store, woofs, table, on_end=executor.handler_ended)
        executor.withdraw = runtime.withdraw
        await executor.drop_strangers({home.id for home in homes})
        parts.push_async_callback(executor.clear)
        handlers = asyncio.create_task(runtime.run())
        parts.push_async_callback(_ended, handlers)
        links = [Connected(home=home, link=HttpLink(home.url)) for home in homes]
        for each in links:
            parts.push_async_callback(each.link.close)
        clock = SystemClock()
        book = AccountBook(
            directory.account_file, board=config.energy.board, now_us=clock.wall_us()
        )
        upkeep = Upkeep(authority.guard)

        def woke(wake: Wake) -> None:
            book.note(wake, now_us=_time_us(agent, clock))
            now_s = clock.now_s()
            upkeep.look(now_s, now_us=agent.time.at(round(now_s * 1_000_000)))

        agent = Agent(
            device_id,
            links,
            executor,
            habits=habits,
            batch=config.batch_size,
            clock=clock,
            instance=secrets.token_bytes(8),
            wake_key=wake_key(secret),
            spread=random.SystemRandom().random,
            on_wake=woke,
        )
        logger.info("the device runs", device=device_id, nodes=[home.url for home in homes])
        yield _Running(id=device_id, agent=agent, handlers=handlers)


class Upkeep:
    """Drops the replay windows of ``guard`` that are over: every grant to a client leaves one."""

    def __init__(self, guard: ReplayGuard) -> None:
        self._guard = guard
        self._due_s = 0.0

    def look(self, now_s: float, *, now_us: int | None) -> None:
        """Do it if it was not done lately; not without a time that a node has proven."""
        if now_us is None or now_s < self._due_s:
            return
        self._due_s = now_s + UPKEEP_EVERY_S
        try:
            self._guard.sweep(now_us=now_us, limit=WINDOWS_AT_ONCE)
        except Refused as error:
            # A full disk, say, tells of itself where something has to be kept.
            logger.warning("replay windows are kept", reason=error.detail)


def single_wake(habits: Habits) -> Habits:
    """``habits`` for one wake: it ends, also that of a device that is otherwise always awake."""
    if habits.cycle.period_s:
        return habits
    return replace(habits, cycle=replace(habits.cycle, period_s=USUAL_PERIOD_S))


def check_handlers(directory: AgentDirectory, table: HandlerTable) -> None:
    """Return if every handler that the manifest names is there.

    Raises:
        ConfigError: one is not, or the manifest is wrong.
    """
    missing = sorted(
        name for name in set(read_manifest(directory).functions.values()) if name not in table
    )
    if missing:
        raise ConfigError(
            f"{directory.manifest_file}: there is no handler {missing[0]!r} in the handlers module"
            f" that {directory.config_file.name} names"
        )


def _time_us(agent: Agent, clock: Clock) -> int:
    known = agent.time.at(round(clock.now_s() * 1_000_000))
    return clock.wall_us() if known is None else known


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
