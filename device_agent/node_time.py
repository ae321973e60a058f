"""The time as a node has proven it: the only clock by which a device judges deadlines.

Rules kept here:

* It is the time in the last reply whose tag verified, plus what has passed since on a clock that
  only rises. The wall clock of a device may be ten years off, and is not asked.
* It is counted from the moment at which the request was *sent*. So it is never behind the node's,
  however long somebody withholds a reply: a request that was withheld past its deadline is past it.
* Before the first such reply there is no time, and nothing that has a deadline is executed.

Pure: readings of the rising clock are arguments, in µs. Not handled here: proving replies.
"""

from __future__ import annotations


class NodeTime:
    """What a device knows of the time, µs since 1970."""

    __slots__ = ("_offset_us",)

    def __init__(self) -> None:
        self._offset_us: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether any node has proven a time."""
        return self._offset_us is not None

    def heard(self, node_us: int, *, sent_us: int) -> None:
        """A node has proven that it was ``node_us`` after the request was sent at ``sent_us``."""
        self._offset_us = node_us - sent_us

    def at(self, reading_us: int) -> int | None:
        """The time when the rising clock shows ``reading_us``; ``None`` when nobody knows."""
        return None if self._offset_us is None else max(reading_us + self._offset_us, 0)
