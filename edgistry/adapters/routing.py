"""Requests, responses and the way from one to the other, without any HTTP library.

Rules kept here:

* A ``Request`` is complete; a ``Response`` is whole, or has a ``stream`` that goes on for as long
  as it likes.
* A path is matched as sent, segment by segment, and decoded after that, so an encoded slash
  stays inside its segment. A query parameter may be given once.
* A handler that raises ``Refused`` becomes an RFC 9457 problem document.

Not handled here: sockets, limits on bodies and time (``edgistry.adapters.http``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from ..api import JSON_CONTENT_TYPE, PROBLEM_CONTENT_TYPE, Problem, problem_of
from ..codec import encode_json
from ..errors import MalformedError, MethodNotAllowedError, Refused, UnknownRouteError
from ..transactions import NodeId

MAX_QUERY_FIELDS = 32

_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, completely read."""

    method: str
    path: str
    """The path as sent, still percent-encoded, without the query."""
    raw_query: str = ""
    """The query as sent."""
    match: Mapping[str, str] = field(default_factory=dict)
    """Values of the ``{names}`` in the route's template, decoded."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Query parameters, decoded; each at most once."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Header fields; look-up ignores case."""
    body: bytes = b""
    address: str = ""
    """Where a TCP connection comes from, without its port; "" over a Unix socket."""
    peer_uid: int | None = None
    """User id of the process at the other end of a Unix socket; ``None`` over TCP."""
    peer_node: NodeId | None = None
    """The node at the other end of a TLS connection, if it has proved to be one."""

    @property
    def target(self) -> str:
        """Path and query as sent."""
        return f"{self.path}?{self.raw_query}" if self.raw_query else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer. ``headers`` holds what differs from the defaults; ``Content-Type`` too."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: AsyncGenerator[bytes, None] | None = None
    """Sent as it comes, instead of ``body``; closed by whoever sends it."""


Handler = Callable[[Request], Awaitable[Response]]

Observe = Callable[[str, str, int, float], None]
"""Told after every request: method, route template ("" if none matched), status, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """``template`` is a path in which ``{name}`` stands for one segment: ``/v1/woofs/{name}``."""

    method: str
    template: str
    handler: Handler


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """``value`` as a JSON answer."""
    return Response(
        status=status,
        headers={"Content-Type": JSON_CONTENT_TYPE, **(headers or {})},
        body=encode_json(value),
    )


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """``problem`` as an ``application/problem+json`` answer."""
    return Response(
        status=problem.status,
        headers={"Content-Type": PROBLEM_CONTENT_TYPE, **(headers or {})},
        body=encode_json(problem),
    )


def refusal_response(error: Refused) -> Response:
    """The answer that stands for ``error``, with ``Retry-After`` and ``Allow`` where known."""
    headers: dict[str, str] = {}
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    if isinstance(error, MethodNotAllowedError):
        headers["Allow"] = ", ".join(error.allowed)
    return problem_response(problem_of(error), headers)


def parse_query(text: str) -> dict[str, str]:
    """The parameters of a raw query string.

    Raises:
        MalformedError: a repeated parameter, broken percent-encoded UTF-8, or too many of them.
    """
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError as error:
        raise MalformedError(f"query string: {error}") from None
    query = dict(pairs)
    if len(query) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise MalformedError(f"query parameter {name[:50]!r} is repeated; give it once")
            seen.add(name)
    return query


class Router:
    """Finds the route of a method and a raw path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._plain: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[list[str], dict[str, Route]]] = []
        for route in routes:
            methods = self._methods_of(route.template)
            if route.method in methods:
                raise ValueError(f"{route.method} {route.template} is routed twice")
            methods[route.method] = route
        for methods in [*self._plain.values(), *(found for _, found in self._patterns)]:
            if "GET" in methods:
                methods.setdefault("HEAD", methods["GET"])

    def _methods_of(self, template: str) -> dict[str, Route]:
        if "{" not in template:
            return self._plain.setdefault(template, {})
        segments = template.split("/")
        for known, methods in self._patterns:
            if known == segments:
                return methods
        methods = {}
        self._patterns.append((segments, methods))
        return methods

    def find(self, method: str, path: str) -> tuple[Route, Mapping[str, str]]:
        """Raises ``UnknownRouteError`` or ``MethodNotAllowedError``."""
        match = _NOTHING
        methods = self._plain.get(path)
        if methods is None:
            methods, match = self._find_pattern(path)
        route = methods.get(method)
        if route is None:
            allowed = tuple(sorted(methods))
            raise MethodNotAllowedError(f"{path[:200]} takes {', '.join(allowed)}", allowed=allowed)
        return route, match

    def _find_pattern(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        parts = path.split("/")
        for segments, methods in self._patterns:
            if len(segments) != len(parts):
                continue
            match: dict[str, str] = {}
            for segment, part in zip(segments, parts, strict=True):
                if segment.startswith("{"):
                    match[segment[1:-1]] = part
                elif segment != part:
                    break
            else:
                return methods, {name: _decode_segment(part) for name, part in match.items()}
        raise UnknownRouteError(f"no such path: {path[:200]}")


def _decode_segment(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise MalformedError("a path segment is not percent-encoded UTF-8") from None
