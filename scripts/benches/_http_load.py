"""HTTP load from one thread: keep-alive connections, one request under way on each.

Written on plain sockets and ``select`` so that the load costs a small part of what it measures:
about 20 µs a request, against 80 µs and more for the server's part.
"""

from __future__ import annotations

import selectors
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from edgistry.adapters.grant_client import ClientKeys

CONNECTIONS = 16


@dataclass
class Outcome:
    seconds: float
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def p50(self) -> float:
        return statistics.median(self.latencies)


class _Connection:
    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.began = 0.0

    def send(self, request: bytes) -> None:
        self.buffer = b""
        self.began = time.perf_counter()
        self.socket.sendall(request)

    def complete(self) -> bool:
        """Read what there is; whether a whole answer with status 200 has arrived."""
        self.buffer += self.socket.recv(1 << 18)
        head, mark, body = self.buffer.partition(b"\r\n\r\n")
        if not mark:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"bench: {self.buffer[:300]!r}")
        at = head.lower().index(b"content-length:") + 15
        return len(body) >= int(head[at:].split(b"\r\n", 1)[0])


def _request(path: str, host: str, keys: ClientKeys | None) -> bytes:
    headers = {"Host": host, **({} if keys is None else keys.signed_headers("GET", path))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode()


def drive(
    base: str,
    paths: Sequence[str],
    seconds: float,
    *,
    connections: int = CONNECTIONS,
    keys: ClientKeys | None = None,
) -> Outcome:
    """Ask for ``paths`` in turn for that long, over that many connections; signed with ``keys``.

    Signatures are made before it begins: what is measured is the server.
    """
    where = urlsplit(base)
    host, port = where.hostname or "", where.port or 80
    requests = [_request(path, host, keys) for path in paths]
    selector = selectors.DefaultSelector()
    opened = [_Connection(host, port) for _ in range(connections)]
    sent = 0
    for connection in opened:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    began = time.perf_counter()
    outcome = Outcome(0.0)
    for connection in opened:
        connection.send(requests[sent % len(requests)])
        sent += 1
    while (now := time.perf_counter()) - began < seconds:
        for key, _ in selector.select(0.1):
            connection = key.data
            if connection.complete():
                outcome.latencies.append(time.perf_counter() - connection.began)
                connection.send(requests[sent % len(requests)])
                sent += 1
    outcome.seconds = now - began
    for connection in opened:
        connection.socket.close()
    return outcome
