"""The ABCI 2.0 server: what a consensus engine talks to.

``ABCIServer(MyApplication(), path=…).run()`` is all an application needs. The shape is that of
the `abci` package, so that its users recognise it; the protocol is that of CometBFT 0.38 and later.

Rules kept here (those of one connection are in ``abci_connection``):

* Connections are independent: a slow FinalizeBlock on one does not hold up CheckTx on another.
* An exception from the application halts: every connection is closed, none is accepted any more,
  and ``on_fatal`` is told once. A halted validator is safe, a diverging one is not.
* The engine may vanish and return. When the last connection has closed, and what it had asked for
  has come to its end, the application's ``engine_left`` is called; a returning engine is served
  only after that, so that a call of the old one never runs into those of the new one.
* ``stop`` lets a call that is running come to its end (a Commit that writes), then sends its
  answer and removes the socket.

Not handled here: starting and watching the engine, and what the messages mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from .abci_application import BaseApplication
from .abci_connection import Connection, Method
from .abci_framing import FRAME_LIMIT, proposal_prefix, proposal_size
from .abci_listener import listen_tcp, listen_unix, remove_socket
from .abci_messages import CALLS

__all__ = ["ABCIServer", "BaseApplication", "proposal_prefix", "proposal_size"]

log = logging.getLogger("edgistry.node.abci")

STOP_GRACE_S = 10.0
"""Seconds that ``stop`` gives a running call: twenty times our longest block."""

FLUSH_GRACE_S = 1.0
"""Seconds that ``stop`` gives a peer to read its last answers."""

DEFAULT_PORT = 26658
"""Where the engine looks for an application when nobody tells it."""


class ABCIServer:
    """Serves one application to one engine, on a Unix socket or on loopback TCP."""

    def __init__(
        self,
        app: BaseApplication,
        *,
        path: Path | None = None,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        on_fatal: Callable[[BaseException], None] | None = None,
        frame_limit: int = FRAME_LIMIT,
    ) -> None:
        self.frame_limit = frame_limit
        self.methods: Mapping[str, Method] = {
            name: getattr(app, name) for name in CALLS if name not in ("echo", "flush")
        }
        self._app = app
        self._path = path
        self._address = (host, port)
        self._on_fatal = on_fatal
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._connections: set[Connection] = set()  # open, or with a call that still runs
        self._live: set[Connection] = set()  # the peer may still send
        self._leaving: set[Connection] = set()  # calls of an engine that is gone
        self._empty = asyncio.Event()
        self._empty.set()
        self._stopping = False
        self._halted = asyncio.Event()
        self._failure: BaseException | None = None

    # --- life

    @property
    def failure(self) -> BaseException | None:
        """The exception that halted the server, if one did."""
        return self._failure

    @property
    def port(self) -> int:
        """The TCP port that is listened on (useful after asking for port 0)."""
        return self._address[1]

    async def start(self) -> None:
        """Listen. On return an engine can connect.

        Raises:
            DirectoryError, PortInUseError, ConfigError: as ``abci_listener`` says.
        """
        if self._path is not None:
            listener = listen_unix(self._path)
            self._inode = self._path.lstat().st_ino
        else:
            listener = listen_tcp(*self._address)
            self._address = listener.getsockname()[:2]
        self._server = await self._serve(listener)
        log.info("ABCI server listens on %s", self._path or self._address)

    async def _serve(self, listener: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if self._path is not None:
            return await loop.create_unix_server(lambda: Connection(self), sock=listener)
        return await loop.create_server(lambda: Connection(self), sock=listener)

    async def stop(self) -> None:
        """Close everything. Calls that run are given ``STOP_GRACE_S`` to end. Safe to repeat."""
        self._stopping = True
        self._stop_listening()
        running = [each.awaited for each in self._connections if each.awaited is not None]
        if running:
            _, late = await asyncio.wait(running, timeout=STOP_GRACE_S)
            for future in late:
                log.error("a call of the application did not end within %s s", STOP_GRACE_S)
                future.cancel()
        # Closed before the cancellation arrives: it is ours, and no failure of the application.
        for connection in list(self._connections):
            connection.close()
        try:
            await asyncio.wait_for(self._empty.wait(), FLUSH_GRACE_S)
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
        if self._path is not None:
            remove_socket(self._path, self._inode)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def serve(self) -> None:
        """Start, and serve until cancelled; then stop.

        Raises:
            BaseException: what the application raised, if that is what ended it.
        """
        await self.start()
        try:
            await self._halted.wait()
        finally:
            await self.stop()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        """``serve`` for a program that does nothing else: blocks until SIGINT or SIGTERM."""

        async def until_signalled() -> None:
            task = asyncio.ensure_future(self.serve())
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, task.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await task

        asyncio.run(until_signalled())

    # --- what connections tell (abci_connection.Host)

    def joined(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._empty.clear()
        self._live.add(connection)
        if self._stopping:
            connection.abort()

    def left(self, connection: Connection) -> None:
        if connection not in self._live:
            return
        self._live.discard(connection)
        if not self._live:
            self._leaving = {each for each in self._connections if each.awaited is not None}
            if not self._leaving:
                self._tell_engine_left()

    def lost(self, connection: Connection) -> None:
        self.left(connection)
        if connection.awaited is None:
            self._forget(connection)

    def settled(self, connection: Connection) -> None:
        if connection.is_lost:
            self._forget(connection)
        if connection in self._leaving:
            self._leaving.discard(connection)
            if not self._leaving:
                self._tell_engine_left()
                for each in list(self._connections):
                    each.work()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _tell_engine_left(self) -> None:
        if self._stopping:
            return
        log.info("the engine has left")
        try:
            self._app.engine_left()
        except Exception as error:
            log.critical("stopping: the application failed in engine_left", exc_info=error)
            self.fail(error)

    def may_work(self, connection: Connection) -> bool:
        if self._stopping:
            return False
        return not self._leaving or connection in self._leaving

    def fail(self, error: BaseException) -> None:
        if self._failure is not None:
            return
        self._failure = error
        self._stopping = True
        self._stop_listening()
        for connection in list(self._connections):
            connection.close()
        self._halted.set()
        if self._on_fatal is not None:
            try:
                self._on_fatal(error)
            except Exception:
                log.exception("on_fatal failed")
