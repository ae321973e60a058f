"""What a wake costs: awake time, bytes, and an estimate of the energy they took.

Rules kept here:

* Time and bytes are measured; energy is an estimate from a profile of the board, and says so.
* Numbers of a profile are for the whole board at its supply, as its data sheet or a meter has them.

Pure. Not handled here: where the account rests (``account.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What a board draws."""

    awake_mw: float
    """While awake with its radio on and idle."""
    asleep_uw: float
    """While asleep, in µW."""
    wake_mj: float
    """To wake and join its network, once."""
    sent_uj: float
    """For each byte sent, beyond being awake, in µJ."""
    received_uj: float
    """For each byte received, beyond being awake, in µJ."""


BOARDS: Final[dict[str, Board]] = {
    # ESP32 at 3.3 V: modem 95-100 mA receiving, 180-240 mA sending at 1 Mbit/s; deep sleep 10 µA.
    # (ESP32 series data sheet v4, tables "RF power consumption" and "power modes"); association
    # 0.25 s.
    "esp32": Board(awake_mw=320.0, asleep_uw=33.0, wake_mj=80.0, sent_uj=3.0, received_uj=0.0),
    # A Linux board with Wi-Fi, such as a Raspberry Pi Zero 2 W, halted between wakes by a timer.
    "linux": Board(awake_mw=700.0, asleep_uw=500.0, wake_mj=15_000.0, sent_uj=1.0, received_uj=0.5),
    # IEEE 802.15.4 at 3 V, such as nRF52840: 5-7 mA radio, 250 kbit/s, 1.5 µA asleep.
    "802.15.4": Board(awake_mw=18.0, asleep_uw=4.5, wake_mj=0.5, sent_uj=0.6, received_uj=0.6),
}
"""Rough profiles, to compare settings by; measure a board to know what it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What was spent, in one cycle or in many."""

    wakes: int = 0
    awake_s: float = 0.0
    asleep_s: float = 0.0
    sent: int = 0
    """Bytes above TCP."""
    received: int = 0

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            wakes=self.wakes + other.wakes,
            awake_s=self.awake_s + other.awake_s,
            asleep_s=self.asleep_s + other.asleep_s,
            sent=self.sent + other.sent,
            received=self.received + other.received,
        )


def estimated_mj(spending: Spending, board: Board) -> float:
    """What that took on such a board, in mJ: an estimate."""
    awake_mj = spending.wakes * board.wake_mj + spending.awake_s * board.awake_mw
    bytes_uj = spending.sent * board.sent_uj + spending.received * board.received_uj
    asleep_uj = spending.asleep_s * board.asleep_uw
    return awake_mj + (bytes_uj + asleep_uj) / 1000.0
