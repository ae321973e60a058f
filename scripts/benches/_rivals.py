"""What a user might pick instead of a WooF for durable appends: SQLite and Redis, told to be safe.

Rules kept here:

* Both sync before they answer: SQLite in WAL mode with ``synchronous=FULL``, Redis with
  ``appendfsync always``. Both keep 1000 elements or more, so that neither grows without end.
* Redis is the Debian package's, started here on loopback with a directory of its own, and ended by
  its process id. Where it is missing the bench says so.

Not handled here: what is compared (``woof.py``).
"""

from __future__ import annotations

import contextlib
import selectors
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ELEMENT = b"x" * 64
START_LIMIT_S = 10.0


class Sqlite:
    """A table of elements; every insert is a transaction."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "log.sqlite"
        self.connection = self._connect()
        self.connection.execute("create table log (number integer primary key, element blob)")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, timeout=60, check_same_thread=False
        )
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        return connection

    def put(self, count: int) -> None:
        """One writer, ``count`` inserts."""
        for _ in range(count):
            self.connection.execute("insert into log (element) values (?)", (ELEMENT,))

    def put_together(self, writers: int, count: int) -> None:
        """``writers`` threads with a connection each, ``count`` inserts each."""
        threads = [threading.Thread(target=self._write, args=(count,)) for _ in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _write(self, count: int) -> None:
        connection = self._connect()
        for _ in range(count):
            connection.execute("insert into log (element) values (?)", (ELEMENT,))
        connection.close()


class Redis:
    """A stream of elements, over sockets that wait for each answer."""

    def __init__(self, port: int, writers: int) -> None:
        self.sockets = []
        for _ in range(writers):
            opened = socket.create_connection(("127.0.0.1", port))
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets.append(opened)
        words = [b"XADD", b"log", b"MAXLEN", b"1000", b"*", b"e", ELEMENT]
        coded = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self._request = b"*%d\r\n%s" % (len(words), b"".join(coded))

    def put(self, count: int) -> None:
        """One writer, ``count`` appends."""
        first = self.sockets[0]
        for _ in range(count):
            first.sendall(self._request)
            _check(first.recv(100))

    def put_together(self, writers: int, count: int) -> None:
        """``writers`` connections, each with one append under way, ``count`` each."""
        left = dict.fromkeys(self.sockets[:writers], count)
        with selectors.DefaultSelector() as selector:
            for each in left:
                selector.register(each, selectors.EVENT_READ)
                each.sendall(self._request)
            while left:
                for key, _ in selector.select():
                    each = key.fileobj
                    assert isinstance(each, socket.socket)
                    _check(each.recv(100))
                    left[each] -= 1
                    if left[each]:
                        each.sendall(self._request)
                    else:
                        selector.unregister(each)
                        del left[each]


def _check(answer: bytes) -> None:
    if not answer.startswith(b"$"):
        raise SystemExit(f"bench: redis answered {answer!r}")


@contextlib.contextmanager
def redis(directory: Path, writers: int) -> Iterator[Redis | None]:
    """A running Redis; ``None`` where ``redis-server`` is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
    words += [
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--save",
        "",
        "--loglevel",
        "warning",
    ]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        yield _connect(port, writers, server)
    finally:
        server.terminate()
        server.wait(START_LIMIT_S)


def _connect(port: int, writers: int, server: subprocess.Popen[bytes]) -> Redis:
    end = time.monotonic() + START_LIMIT_S
    while True:
        try:
            return Redis(port, writers)
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit("bench: redis-server does not start") from None
            time.sleep(0.05)
