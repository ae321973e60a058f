"""What a forward is about, and what is to be done for it: the words between rules and shell.

Rules kept here: frozen values; every action names how its end is to be told to ``Forwarding``.

Not handled here: when which is due (``forwarding.py``), and doing it (``adapters/forwarder.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .kv import Change


class State(Enum):
    """What a forward is about."""

    STARTING = "starting"
    """The destination has not told its time yet."""
    READING = "reading"
    """Nothing is under way: the next elements are wanted, or waited for."""
    SENDING = "sending"
    """The first request under way is to be answered."""
    IN_DOUBT = "in doubt"
    """Nobody but the operator can tell whether the first element under way is there."""


@dataclass(frozen=True, slots=True)
class Authorise:
    """Read the capability: ``use`` it, or ``failed``."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send ``request``: ``answered``, or ``failed``."""

    request: bytes


@dataclass(frozen=True, slots=True)
class Collect:
    """Read elements: ``begin_at``, then ``collected``. ``wait`` until there is one."""

    wait: bool


@dataclass(frozen=True, slots=True)
class Store:
    """Make ``changes`` durable: ``stored``. Where that fails they may be stored once more."""

    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Rest:
    """Do nothing until that moment, µs."""

    until_us: int


Action = Authorise | Ask | Collect | Store | Rest
