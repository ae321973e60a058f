"""How refusals are put into words: one form for every command line.

Rules kept here: pure; nothing that came over a wire reaches a terminal as a control character.
"""

from __future__ import annotations

from .errors import Refused


def refusal_text(error: Refused) -> str:
    """Two lines: what is wrong and its code, then what to do next."""
    return f"error: {visible(error.detail)} [{error.code}]\nhint: {visible(error.advice())}"


def visible(text: str) -> str:
    """``text`` with control characters and unpaired surrogates spelled out (``\\x1b``)."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
