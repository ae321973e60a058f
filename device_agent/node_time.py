"""The time as a node has proven it: the only clock by which a device judges deadlines.

Rules kept here:

* It is the time in a reply whose tag verified, plus what has passed since on a clock that only
  rises. The wall clock of a device may be ten years off, and is not asked.
* The node read its clock after the request was sent and before its reply arrived. Of all times that
  this allows the latest is taken: so it is never behind the node's, however long somebody
  withholds a reply, and a request that was withheld past its deadline is past it.
* An exchange that the node may hold proves the time less well: the latest would be late. After it
  what was proven before is kept for a while, unless the new reply contradicts it.
* Before the first such reply there is no time, and nothing that has a deadline is executed.

Pure: readings of the rising clock are arguments, in µs. Not handled here: proving replies.
"""

from __future__ import annotations

from typing import Final

KEPT_US: Final = 600_000_000
"""A clock that is wrong by a ten-thousandth is off by 60 ms after this."""


class NodeTime:
    """What a device knows of the time, µs since 1970."""

    __slots__ = ("_offset_us", "_proven_us")

    def __init__(self) -> None:
        self._offset_us: int | None = None
        self._proven_us = 0
        """Reading of the rising clock when the offset was proven."""

    @property
    def is_known(self) -> bool:
        """Whether any node has proven a time."""
        return self._offset_us is not None

    @property
    def ahead_us(self) -> int | None:
        """How far it is ahead of the rising clock; ``None`` when nobody knows."""
        return self._offset_us

    def is_fresh(self, reading_us: int) -> bool:
        """Whether the time need not be asked for just now."""
        return self.is_known and reading_us - self._proven_us < KEPT_US // 2

    def heard(
        self, node_us: int, *, sent_us: int, received_us: int, was_held: bool = False
    ) -> None:
        """A node has proven ``node_us``, in reply to a request between these two readings."""
        latest_us = node_us - sent_us
        earliest_us = node_us - received_us
        known_us = self._offset_us
        fits = known_us is not None and earliest_us <= known_us <= latest_us
        if was_held and fits and received_us - self._proven_us < KEPT_US:
            return
        self._offset_us = latest_us
        self._proven_us = received_us

    def at(self, reading_us: int) -> int | None:
        """The time when the rising clock shows ``reading_us``; ``None`` when nobody knows."""
        return None if self._offset_us is None else max(reading_us + self._offset_us, 0)
