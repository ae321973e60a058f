"""A module that can be imported by the program, and not by the children of its handlers."""

from __future__ import annotations

import os

from edgistry.handlers import BlockingContext, handler

if "EDGISTRY_TESTS" not in os.environ:
    raise RuntimeError("secrets are not passed on")


@handler(isolation="process", attempts=1)
def unloadable(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    """Never runs."""
