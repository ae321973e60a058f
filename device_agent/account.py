"""The account of a device: what each wake cost, in a file that may be read at any time.

Rules kept here:

* The file is replaced as a whole after each wake, so a reader sees one state of it. It is not
  synced: after a power cut the last wakes may be missing, which is no reason to wear out a card.
* A file that cannot be read is begun anew: an account is not worth a device that does not start.

Not handled here: estimates (``energy.py``), and showing it (``cli_account.py``).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from edgistry.adapters.log import get_logger
from edgistry.codec import Document, decode_json, encode_json
from edgistry.errors import FileError, MalformedError, NotFoundError, Refused, TooLargeError

from .energy import BOARDS, Spending, estimated_mj
from .tally import Wake

logger = get_logger("edgistry.agent.account")

LAST_WAKES: Final = 48
MAX_BYTES: Final = 256 * 1024

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class WakeEntry(Document):
    """One wake."""

    ended: str
    """UTC, ISO 8601; by the node's time where it is known."""
    awake_ms: int
    asleep_s: float
    """Before this wake."""
    sent: int
    """Bytes above TCP."""
    received: int
    exchanges: int
    """That brought an answer."""
    failures: int
    """Exchanges that brought none."""
    requests: int
    """That came down."""
    energy_mj: float
    """Estimated."""
    next_wake_s: float
    """Planned, from the end of this one."""


class Totals(Document):
    """Of all wakes since ``since`` of the account."""

    wakes: int = 0
    awake_s: float = 0.0
    asleep_s: float = 0.0
    sent: int = 0
    received: int = 0
    exchanges: int = 0
    failures: int = 0
    requests: int = 0
    energy_mj: float = 0.0


class Account(Document):
    """The whole account."""

    since: str
    board: str
    """The profile by which the last energy was estimated."""
    totals: Totals
    wakes: tuple[WakeEntry, ...]
    """The last ones, oldest first."""


def time_text(us: int) -> str:
    """``us`` µs after 1970 began, as ISO 8601 in UTC."""
    moment = _EPOCH + timedelta(microseconds=us)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def read_account(path: Path) -> Account:
    """The account in the file at ``path``.

    Raises:
        NotFoundError: there is none yet.
        FileError: it cannot be read, or is no account.
    """
    try:
        return decode_json(path.read_bytes(), Account, limit=MAX_BYTES)
    except FileNotFoundError:
        raise NotFoundError(f"there is no account yet: {path}") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from None
    except (MalformedError, TooLargeError) as error:
        raise FileError(
            f"{path} is no account ({error.detail}); the agent begins it anew when it runs"
        ) from None


class AccountBook:
    """Keeps the account in ``path``, for a board of this profile."""

    def __init__(self, path: Path, *, board: str, now_us: int) -> None:
        self._path = path
        self._board = board
        self._has_noted = False
        try:
            self._account = read_account(path)
        except Refused as error:
            if not isinstance(error, NotFoundError):
                logger.warning("the account begins anew", why=error.detail)
            self._account = Account(since=time_text(now_us), board=board, totals=Totals(), wakes=())

    def note(self, wake: Wake, *, now_us: int) -> None:
        """Add a wake that has ended at ``now_us``."""
        if not self._has_noted and self._account.wakes:
            # The first wake of this run: before it the device was off, or its agent was.
            wake = _after(wake, self._account.wakes[-1], now_us)
        self._has_noted = True
        energy_mj = estimated_mj(wake.spending, BOARDS[self._board])
        entry = _entry(wake, ended=time_text(now_us), energy_mj=energy_mj)
        self._account = Account(
            since=self._account.since,
            board=self._board,
            totals=_added(self._account.totals, wake, energy_mj),
            wakes=(*self._account.wakes[-LAST_WAKES + 1 :], entry),
        )
        try:
            temporary = self._path.with_suffix(".new")
            temporary.write_bytes(encode_json(self._account))
            temporary.replace(self._path)
        except OSError as error:
            logger.warning("the account cannot be written", why=error.strerror)


def _after(wake: Wake, last: WakeEntry, now_us: int) -> Wake:
    """``wake``, asleep since the ``last`` one of an earlier run ended."""
    try:
        ended = datetime.fromisoformat(last.ended)
        since_s = (_EPOCH + timedelta(microseconds=now_us) - ended).total_seconds()
    except (ValueError, TypeError):
        return wake  # somebody has changed the file
    asleep_s = max(since_s - wake.spending.awake_s, 0.0)
    return replace(wake, spending=replace(wake.spending, asleep_s=asleep_s))


def _entry(wake: Wake, *, ended: str, energy_mj: float) -> WakeEntry:
    spending = wake.spending
    return WakeEntry(
        ended=ended,
        awake_ms=round(spending.awake_s * 1000),
        asleep_s=round(spending.asleep_s, 3),
        sent=spending.sent,
        received=spending.received,
        exchanges=wake.exchanges,
        failures=wake.failures,
        requests=wake.requests,
        energy_mj=round(energy_mj, 3),
        next_wake_s=round(wake.next_wake_s, 3),
    )


def _added(totals: Totals, wake: Wake, energy_mj: float) -> Totals:
    spent = wake.spending + Spending(
        wakes=totals.wakes,
        awake_s=totals.awake_s,
        asleep_s=totals.asleep_s,
        sent=totals.sent,
        received=totals.received,
    )
    return Totals(
        wakes=spent.wakes,
        awake_s=round(spent.awake_s, 3),
        asleep_s=round(spent.asleep_s, 3),
        sent=spent.sent,
        received=spent.received,
        exchanges=totals.exchanges + wake.exchanges,
        failures=totals.failures + wake.failures,
        requests=totals.requests + wake.requests,
        energy_mj=round(totals.energy_mj + energy_mj, 3),
    )
