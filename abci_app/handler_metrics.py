"""What a node's metrics say about its handlers.

Rules kept here: all handlers together; which handler it is says ``handlers list``, to the operator
alone. Everything is read when somebody looks, and costs little however much is due.

Not handled here: Prometheus (``metrics.py``).
"""

from __future__ import annotations

from collections.abc import Callable

from edgistry.adapters.faas_runtime import HandlerRuntime

Watch = Callable[[str, str, Callable[[], float]], None]
"""Shows under a name, with words of explanation, what a function gives."""


def watch_handlers(watch: Watch, runtime: HandlerRuntime) -> None:
    """Show how the handlers of ``runtime`` are doing."""
    totals = runtime.totals
    watch("handlers_running", "Tries of handlers that are under way.", lambda: totals().running)
    watch("handlers_done", "Invocations that ended well since the start.", lambda: totals().done)
    watch("handlers_failed", "Tries that failed since the start.", lambda: totals().failed)
    watch("handlers_dead", "Invocations that became dead letters.", lambda: totals().dead)
    watch(
        "handlers_left_behind",
        "Tries that were given up and have not ended.",
        lambda: totals().left_behind,
    )
    watch(
        "handlers_backlog",
        "From the oldest element that a handler is still due on to the newest, in arrivals.",
        runtime.backlog,
    )
    watch(
        "handlers_halted",
        "1 when no handler is started any more: the disk takes no more writes.",
        lambda: runtime.halted is not None,
    )
