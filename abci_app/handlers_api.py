"""What the command line and the node say to each other about handlers and dead letters.

Rules kept here: pure; JSON documents, strict both ways (both sides are one installation).

A dead letter shows elements and what handlers printed: these travel only over the operator's own
socket. Not handled here: the routes (``admin_handlers``) and what the answers are made from.
"""

from __future__ import annotations

from typing import Annotated, Literal

from edgistry.codec import Document, Meta

MAX_LETTERS_NAMED = 1000

HandlerState = Literal["ok", "stuck", "missing", "halted"]
"""``stuck``: tries that were given up do not end. ``missing``: it is not in the module, but
elements wait for it. ``halted``: the node's disk takes no more writes."""


class HandlerEntry(Document):
    """One handler of the node."""

    name: str
    kind: Literal["async", "plain", "unknown"]
    isolation: Literal["none", "process"]
    for_devices: bool
    """Devices may have it run on their mirrors."""
    state: HandlerState
    waiting: int
    """Elements that wait for it, or for another try; counted up to 1000."""
    running: int
    done: int
    """Since the node started, like those below."""
    failed: int
    """Tries that failed."""
    dead: int
    """Elements that became dead letters."""
    left_behind: int
    """Tries that were given up and have not ended."""
    concurrency: int
    timeout_s: float
    attempts: int


class HandlerList(Document):
    """The handlers of the node, by name."""

    module: str
    """As node.toml names it; empty when there is none."""
    handlers: tuple[HandlerEntry, ...]


class DeadLetterEntry(Document):
    """One dead letter."""

    id: str
    """``h`` and a number: of a handler. ``t`` and a number: a transaction."""
    what: str
    """The handler, or the kind of transaction."""
    about: str
    """WooF and element, or the transaction's sequence."""
    attempts: int
    died: str
    """RFC 3339; empty for transactions."""
    bytes: int
    reason: str


class DeadLetterList(Document):
    """Dead letters of handlers, then transactions that the chain refused, each newest first."""

    dead_letters: tuple[DeadLetterEntry, ...]
    more: bool
    """Whether there are more than were asked for."""


class DeadLetterDetail(Document):
    """One dead letter with its content."""

    letter: DeadLetterEntry
    content: bytes
    """The element, or the signed transaction."""
    printed: str
    """The end of what an isolated handler printed. May hold secrets."""


class LettersRequest(Document):
    """These dead letters; or ``every`` one that can be meant."""

    ids: Annotated[tuple[str, ...], Meta(max_length=MAX_LETTERS_NAMED)]
    every: bool


class LettersAnswer(Document):
    count: int
    """Dead letters that were replayed, or purged."""
