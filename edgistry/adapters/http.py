"""HTTP over TCP and Unix sockets: server, client, and the event loop they run on, by one door.

Rules kept here: only the modules ``http_*`` import aiohttp, and only this one uvloop; everybody
else imports this one.

Not handled here: routing and the form of errors (``routing``), what the routes mean
(``edgistry.routes``), whom TLS trusts (``tls``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from .http_client import HttpClient, StreamedAnswer, check_node_url
from .http_server import HttpServer
from .routing import (
    Handler,
    Observe,
    Request,
    Response,
    Route,
    json_response,
    parse_query,
    problem_response,
    refusal_response,
)

__all__ = [
    "Handler",
    "HttpClient",
    "HttpServer",
    "Observe",
    "Request",
    "Response",
    "Route",
    "StreamedAnswer",
    "check_node_url",
    "json_response",
    "parse_query",
    "problem_response",
    "refusal_response",
    "run",
]

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end on a new event loop: uvloop's where installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
