"""How refusals are put into words: one form for every command line.

Rules kept here: pure; nothing that came over a wire reaches a terminal as a control character.
"""

from __future__ import annotations

from .errors import Refused


def refusal_text(error: Refused) -> str:
    """Two lines: what is wrong and its code, then what to do next."""
    return f"error: {visible(error.detail)} [{error.code}]\nhint: {visible(error.advice())}"


def visible(text: str) -> str:
    """``text`` with what could steer a terminal spelled out (``\\x1b``); line breaks stay."""
    return "\n".join(in_one_line(line) for line in text.split("\n"))


def in_one_line(text: str) -> str:
    """As ``visible``, with line breaks spelled out too: for a cell of a table."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
