"""What an operator can set for clients: grants, what they see and when, budgets, what is noted.

Rules kept here: pure values with their ranges.

Not handled here: the file they stand in (``config``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgistry.adapters.config import setting
from edgistry.cell import FINEST_PUBLISHED, check_published_resolution
from edgistry.errors import InvalidValueError
from edgistry.grants_api import MAX_TTL_S
from edgistry.policy import MAX_CROWD, MAX_NOISE_M, PolicyLimits
from edgistry.query_cost import MAX_COST
from edgistry.slots import DEFAULT_SLOT_US, MAX_SLOT_US

_CLIENT_ID = re.compile(r"[0-9a-f]{16}")


def check_slot(milliseconds: int) -> None:
    """Raises InvalidValueError unless answers may be held back for ``milliseconds``."""
    if not 0 <= milliseconds <= MAX_SLOT_US // 1000:
        raise InvalidValueError(f"{milliseconds} is not from 0 to {MAX_SLOT_US // 1000}")


def check_rate(rate: float) -> None:
    """Raises InvalidValueError unless ``rate`` is a number from 0 on."""
    if not 0 <= rate <= 1e9:
        raise InvalidValueError(f"{rate:g} is not from 0 to 1e9")


def check_burst(burst: float) -> None:
    """Raises InvalidValueError unless ``burst`` pays for the dearest question."""
    if not MAX_COST <= burst <= 1e9:
        raise InvalidValueError(f"{burst:g} is not from {MAX_COST:g} to 1e9")


def check_audit_elements(count: int) -> None:
    """Raises InvalidValueError unless ``count`` questions can be kept."""
    if not 1 <= count <= 1_000_000:
        raise InvalidValueError(f"{count} is not from 1 to 1000000")


def check_audit_days(days: int) -> None:
    """Raises InvalidValueError unless questions can be kept for ``days``."""
    if not 1 <= days <= 3650:
        raise InvalidValueError(f"{days} is not from 1 to 3650")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetsConfig:
    """How much one client may ask of this node. A plain question costs 1, a large one more."""

    rate_per_s: float = setting(
        200.0, help="So much comes back each second; 0: there are no budgets.", check=check_rate
    )
    burst: float = setting(10_000.0, help="So much is there at first.", check=check_burst)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """What was asked of this node, kept for its operator under pseudonyms."""

    queries: bool = setting(
        True, help="Keep it, in the WooF audit/queries; `edgistry-node audit list` shows it."
    )
    history: int = setting(
        10_000, help="The newest so many questions are kept.", check=check_audit_elements
    )
    days: int = setting(7, help="And none for longer than this.", check=check_audit_days)


def check_client_ids(ids: tuple[str, ...]) -> None:
    """Raises InvalidValueError unless every id is a client's."""
    for text in ids:
        if not _CLIENT_ID.fullmatch(text):
            raise InvalidValueError(f"{text[:40]!r} is no client id: 16 of 0-9 and a-f")


def check_grant_ttl(seconds: int) -> None:
    """Raises InvalidValueError unless ``seconds`` is a time that something may be granted for."""
    if not 1 <= seconds <= MAX_TTL_S:
        raise InvalidValueError(f"{seconds} is not from 1 to {MAX_TTL_S}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantsConfig:
    """Who is granted capabilities on the services of this node's devices."""

    anyone: Literal["read", "all", "none"] = setting(
        "read",
        help=(
            'What anyone is granted: "read", the actions that their owner declared so in the\n'
            'manifest; "all" actions; or "none".'
        ),
    )
    clients: tuple[str, ...] = setting(
        (),
        help="Clients that are granted all actions: ids, as `edgistry grant id` prints its own.",
        check=check_client_ids,
    )
    max_ttl_s: int = setting(
        30 * 86_400, help="The longest time to grant for, in seconds.", check=check_grant_ttl
    )


def check_noise(noise_m: int) -> None:
    """Raises InvalidValueError unless ``noise_m`` is a radius that may be asked for."""
    if not 0 <= noise_m <= MAX_NOISE_M:
        raise InvalidValueError(f"{noise_m} is not from 0 to {MAX_NOISE_M}")


def check_crowd(crowd: int) -> None:
    """Raises InvalidValueError unless ``crowd`` is a number of owners that may be asked for."""
    if not 1 <= crowd <= MAX_CROWD:
        raise InvalidValueError(f"{crowd} is not from 1 to {MAX_CROWD}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """What the policies of devices may show, and what the time of answers tells."""

    finest_resolution: int = setting(
        FINEST_PUBLISHED,
        help="The finest cells that devices may be published in: 7 (about 5 km²), 6 or 5.",
        check=check_published_resolution,
    )
    least_noise_m: int = setting(0, help="The least radius of noise, in metres.", check=check_noise)
    least_crowd: int = setting(
        1, help="The least number of owners to be shown among.", check=check_crowd
    )
    slot_ms: int = setting(
        DEFAULT_SLOT_US // 1000,
        help=(
            "Whatever is answered about one service leaves at edges of slots of this length, so\n"
            "that the time it took tells nothing; 0: at once, for one's own devices and clients."
        ),
        check=check_slot,
    )
    jitter_ms: int = setting(
        0, help="And then later by up to this time, drawn for each answer.", check=check_slot
    )

    @property
    def limits(self) -> PolicyLimits:
        """These settings as rules."""
        return PolicyLimits(
            finest_resolution=self.finest_resolution,
            least_noise_m=self.least_noise_m,
            least_crowd=self.least_crowd,
        )
