"""What the owner of a device can set: ``agent.toml``.

Rules kept here: pure values with their ranges; everything has a default that suits a device on
batteries which is asked now and then.

Not handled here: what the device offers (``manifest.py``), reading files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgistry.adapters.config import section, setting
from edgistry.adapters.log import Level
from edgistry.errors import InvalidValueError
from edgistry.handlers import check_module
from edgistry.messages import MAX_ITEMS
from edgistry.pairing import MAX_PERIOD_S

from .agent import Batch
from .duty_cycle import Cycle
from .periods import LISTED, check_period
from .reach import BackOff
from .runtime import Habits

BoardName = Literal["esp32", "linux", "802.15.4"]


def between(low: float, high: float) -> Callable[[float], None]:
    """A check that a number is from ``low`` to ``high``."""

    def check(value: float) -> None:
        if not low <= value <= high:
            raise InvalidValueError(f"{value:g} is not from {low:g} to {high:g}")

    return check


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleConfig:
    """When the device is awake."""

    period_s: int = setting(
        600,
        help=f"Seconds from one wake to the next:\n{LISTED}.",
        check=between(0, MAX_PERIOD_S),
    )
    any_period: bool = setting(
        False,
        help="Let period_s be any number, by which this device can be told from others: for one\n"
        "that no stranger calls.",
    )
    linger_s: float = setting(
        2.0,
        help="How long to stay awake for answers that are not ready yet, in seconds;\n"
        "0: they go up with the next wake.",
        check=between(0, 600),
    )
    shortest_sleep_s: float = setting(
        1.0,
        help="However soon the node would like the device to be back, in seconds.",
        check=between(0.001, MAX_PERIOD_S),
    )
    exchanges: int = setting(8, help="In one wake, at most.", check=between(1, 1000))

    def __post_init__(self) -> None:
        if not self.any_period:
            check_period(self.period_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class RadioConfig:
    """What the radio may do."""

    seconds_per_hour: float = setting(
        0.0, help="How long the device may be awake, per hour; 0: no limit.", check=between(0, 3600)
    )
    timeout_s: float = setting(
        15.0, help="When to give an exchange up, in seconds.", check=between(0.1, 300)
    )
    first_wait_s: float = setting(
        5.0,
        help="How long to leave a node alone that did not answer, in seconds; doubles each time.",
        check=between(0.1, MAX_PERIOD_S),
    )
    longest_wait_s: float = setting(
        3600.0, help="The longest such wait, in seconds.", check=between(0.1, MAX_PERIOD_S)
    )

    def __post_init__(self) -> None:
        if self.longest_wait_s < self.first_wait_s:
            raise InvalidValueError("longest_wait_s is less than first_wait_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """How much the device takes at once."""

    requests: int = setting(20, help="In one exchange.", check=between(1, MAX_ITEMS))
    bytes: int = setting(
        256 * 1024, help="Of requests in one exchange.", check=between(1024, 1024 * 1024)
    )
    held: int = setting(
        100,
        help="Requests that are being worked on, or whose answers the node does not have yet;\n"
        "beyond these none are taken.",
        check=between(1, 10_000),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyConfig:
    """How the energy account is estimated."""

    board: BoardName = setting(
        "esp32", help='Profile of the board: "esp32", "linux" or "802.15.4".'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlersConfig:
    """The functions that answer requests."""

    module: str = setting(
        "",
        help=(
            "Python module with the handlers: a file in the directory handlers/ beside this file,\n"
            'without ".py", or an installed module. "" for none.'
        ),
        check=check_module,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The agent's log."""

    level: Level = setting(
        "info", help='Level of logs/agent.log: "debug", "info", "warning" or "error".'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """One device's ``agent.toml``."""

    cycle: CycleConfig = section(CycleConfig, help="The duty cycle.")
    radio: RadioConfig = section(RadioConfig, help="The radio.")
    batch: BatchConfig = section(BatchConfig, help="How much the device takes at once.")
    energy: EnergyConfig = section(EnergyConfig, help="The energy account, an estimate.")
    handlers: HandlersConfig = section(HandlersConfig, help="The functions that answer requests.")
    log: LogConfig = section(LogConfig, help="Logs are in the directory logs/, by size.")

    @property
    def habits(self) -> Habits:
        """How the device behaves."""
        return Habits(
            cycle=Cycle(
                period_s=float(self.cycle.period_s),
                linger_s=self.cycle.linger_s,
                shortest_sleep_s=self.cycle.shortest_sleep_s,
                max_exchanges=self.cycle.exchanges,
            ),
            back_off=BackOff(
                first_wait_s=self.radio.first_wait_s, longest_wait_s=self.radio.longest_wait_s
            ),
            radio_s_per_hour=self.radio.seconds_per_hour,
            exchange_timeout_s=self.radio.timeout_s,
        )

    @property
    def batch_size(self) -> Batch:
        """How much the device takes at once."""
        return Batch(count=self.batch.requests, size=self.batch.bytes, held=self.batch.held)
