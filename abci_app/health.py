"""Whether a node's writes get through, and if not, why; and whether it can make handles.

Rules kept here:

* Reads are served from the last committed block, however old: a cut-off node is ready.
* Writes do not get through while no block is made, too few nodes are connected, the engine catches
  up, or the clock is off: a node whose clock is more than 60 s behind drops out of consensus, and
  one that is ahead proposes blocks that the others do not accept.
* Block time is compared with the clock only while blocks come: an old block alone says nothing
  about the clock, nor does the first block after an outage, which carries an old time.
* A key of a privacy epoch comes with the block that begins the epoch, or a few blocks later. One
  that is late is told, since clients then get yesterday's handles here, or none.

Pure: times are arguments. Not handled here: asking the engine (``consensus``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EngineKind = Literal["cometbft", "solo"]

HALTED_AFTER_S = 45.0
"""The chain beats every 10 s; a proposer that is away costs a round of about 5 s."""
CLOCK_TOLERANCE_S = 60.0
STEADY_BLOCKS = 3
KEY_LATE_S = 120.0
"""A member that asked late is given the key by the others in turns of 20 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What is known about a node at one moment."""

    engine: EngineKind
    height: int
    members: int
    is_member: bool
    left: str
    """When this node has ceased to be a member, as text; empty: never."""
    peers: int
    catching_up: bool
    silence_s: float
    """Since the last block arrived, or since the node started."""
    steady_blocks: int
    """Blocks that arrived one after another without a halt in between."""
    block_age_s: float
    """The node's clock less the last block's time."""
    outbox_gap: int
    """Sequences missing between the chain and the first waiting transaction."""


class BlockWatch:
    """When blocks arrive, by a clock that never jumps (seconds)."""

    def __init__(self, now_s: float) -> None:
        self._last_s = now_s
        self.steady_blocks = 0

    def committed(self, now_s: float) -> None:
        """A block arrived."""
        halted = now_s - self._last_s > HALTED_AFTER_S
        self.steady_blocks = 0 if halted else self.steady_blocks + 1
        self._last_s = now_s

    def silence_s(self, now_s: float) -> float:
        """Seconds since the last block, or since the watch began."""
        return now_s - self._last_s


class KeyWatch:
    """For how long the key of the current privacy epoch has not been here."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def looked(self, *, is_here: bool, now_s: float) -> float:
        """Seconds that it has been missing, by a clock that never jumps."""
        if is_here:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        return 0.0 if self._since_s is None else now_s - self._since_s


def key_warnings(epoch: int, *, own_epoch: int, missing_s: float) -> list[str]:
    """What to tell of a key of ``epoch`` that has been missing for so many seconds.

    ``own_epoch`` is the epoch of the handles that the node makes meanwhile; 0: it makes none.
    """
    if missing_s < KEY_LATE_S:
        return []
    if not epoch:
        what = "no privacy epoch has begun, since no member has made its key"
    else:
        what = (
            f"that of privacy epoch {epoch} has not come; any member that has it gives it to this "
            "node once both are connected"
        )
    behind = f"handles and places are still those of epoch {own_epoch}"
    meanwhile = behind if own_epoch else "there are no handles"
    return [f"no epoch key for {missing_s:.0f} s: {what}; {meanwhile}"]


def connections_needed(members: int) -> int:
    """How many other nodes of ``members`` a node needs for more than two thirds with itself."""
    return members * 2 // 3


def reasons_writes_wait(vitals: Vitals) -> list[str]:
    """Why writes do not get through now; empty when they do."""
    if vitals.height == 0:
        return ["the chain has not begun: no block yet"]
    reasons = []
    if not vitals.is_member and vitals.left:
        reasons.append(
            f"a member no more: this node left the chain, or was removed from it, at {vitals.left};"
            " nothing that it sends is taken, and its devices are listed no more"
        )
    elif not vitals.is_member:
        reasons.append(
            "not a member: the chain has not taken this node in, as far as it knows the blocks"
        )
    if vitals.catching_up:
        reasons.append("catching up: blocks that were missed are replayed")
    elif vitals.outbox_gap:
        reasons.append(
            f"chain behind: {vitals.outbox_gap} earlier transaction(s) of this node are not on "
            "the chain; registry.ldb or the chain is older than queues.ldb"
        )
    needed = connections_needed(vitals.members)
    if vitals.engine != "solo" and vitals.peers < needed:
        reasons.append(
            f"cut off: connected to {vitals.peers} of {vitals.members - 1} other nodes, "
            f"a block needs {needed}"
        )
    if vitals.silence_s > HALTED_AFTER_S:
        reasons.append(f"halted: no block for {vitals.silence_s:.0f} s")
    elif (
        abs(vitals.block_age_s) > CLOCK_TOLERANCE_S
        and vitals.steady_blocks >= STEADY_BLOCKS
        and not vitals.catching_up
    ):
        side = "ahead of" if vitals.block_age_s > 0 else "behind"
        reasons.append(
            f"clock off: this machine's clock is {abs(vitals.block_age_s):.0f} s {side} block time"
        )
    return reasons
