"""How far a handler reaches that runs for somebody else than the operator of its program.

Rules kept here:

* Within a scope all names of WooFs are those that the other one gave them: a function that runs on
  a device runs off it as well, unchanged.
* Every name leads into the scope, or nowhere: what the handler reads, and where it puts, lies
  there. Where it may only read, a put is refused.
* A handler in a scope fires only handlers that may run for others.

Not handled here: which invocations have a scope, and whose it is (the program says).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .woof_triggers import Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The WooFs that one invocation can reach."""

    woof: str
    """What the handler gets as the name of the WooF that fired it."""
    real_name: Callable[[str], str]
    """The name, in the program, of what the handler calls so. Raises InvalidValueError for what
    cannot be the name of a WooF."""
    check_put: Callable[[str], None]
    """Raises NoRightError for a real name of what can only be read."""


ScopeOf = Callable[[Trigger], Scope | None]
"""The scope of an invocation; ``None`` when it runs for the operator, and may do everything."""


def everywhere(_: Trigger) -> None:
    """No invocation has a scope."""
