"""Metrics of one node for Prometheus (this is the only module that imports prometheus_client).

Rules kept here: labels are route templates, methods, status codes, wake buckets and states,
all from short fixed lists.
No position, cell, region, service type, id or name ever becomes a label: metrics are read by more
people than the registry is (privacy.md, *Leak scan*).

Gauges are set from one ``StatusAnswer`` when somebody looks; nothing is polled in between.
Not handled here: serving the text (``http_server``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from edgistry.api import ReadyAnswer, StatusAnswer

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _Series(NamedTuple):
    requests: Counter
    seconds: Histogram


class NodeMetrics:
    """All metrics of one node, in a registry of its own (two nodes may share a process)."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "edgistry_http_requests",
            "HTTP requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "edgistry_http_request_seconds",
            "Time from a complete request to its response.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._height = self._gauge("height", "Height of the last committed block.")
        self._services = self._gauge("services", "Services that are listed.")
        self._regions = self._gauge("regions", "Named regions in the registry.")
        self._outbox = self._gauge("outbox_depth", "Own transactions that wait for a block.")
        self._epoch = self._gauge("epoch", "Number of the current privacy epoch.")
        self._peers = self._gauge("peers", "Nodes connected to this one.")
        self._catching_up = self._gauge("catching_up", "1 while missed blocks are replayed.")
        self._ready = self._gauge("ready", "1 when reads can be served.")
        self._writes = self._gauge("writes", "1 when writes get through.")
        self._series: dict[tuple[str, str, int], _Series] = {}

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show what ``read`` gives, whenever somebody looks, as ``edgistry_<name>``."""
        self._gauge(name, help_text).set_function(read)

    def watch_each(
        self,
        name: str,
        help_text: str,
        labels: Sequence[str],
        read: Mapping[tuple[str, ...], Callable[[], float]],
    ) -> None:
        """As ``watch``, with one value for each combination of labels that is a key of ``read``."""
        gauge = Gauge(f"edgistry_{name}", help_text, labels, registry=self._registry)
        for values, function in read.items():
            gauge.labels(*values).set_function(function)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request; ``route`` is its template, "" when none matched."""
        series = self._series.get((method, route, status))
        if series is None:
            series = self._open_series(method, route, status)
        series.requests.inc()
        series.seconds.observe(seconds)

    def render(self, status: StatusAnswer, ready: ReadyAnswer) -> bytes:
        """The metrics as they are now, in the Prometheus text format."""
        self._height.set(status.height)
        self._services.set(status.services)
        self._regions.set(status.regions)
        self._outbox.set(status.outbox)
        self._epoch.set(status.epoch)
        self._peers.set(status.peers)
        self._catching_up.set(status.catching_up)
        self._ready.set(ready.ready)
        self._writes.set(ready.writes)
        return generate_latest(self._registry)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(f"edgistry_{name}", help_text, registry=self._registry)

    def _open_series(self, method: str, route: str, status: int) -> _Series:
        known = method if method in _METHODS else "other"
        series = _Series(
            self._requests.labels(known, route or "none", str(status)),
            self._seconds.labels(route or "none"),
        )
        # An invented method must not grow the cache: it has its series, but no short cut to it.
        if known == method:
            self._series[method, route, status] = series
        return series
