"""What an operator can set around the public API: budgets, slots, the log of questions.

Rules kept here: pure values with their ranges.

Not handled here: the file they stand in (``config``).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgistry.adapters.config import setting
from edgistry.errors import InvalidValueError
from edgistry.query_cost import MAX_COST
from edgistry.slots import MAX_SLOT_US


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
