"""What a proven reply says, as the refusal that programs catch.

Rules kept here: the classes are those that a ``WoofStore`` raises, so that code reads alike on both
sides of the wire; a status that this program has no name for is told as it is.

Not handled here: STALE and FUTURE, which the client follows by itself (``sequence.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .envelope import Envelope, Operation, Reply, Status
from .errors import (
    BadRequestError,
    CaveatError,
    DenySetFullError,
    DivergedError,
    ElementEvictedError,
    ElementNotYetError,
    EmptyWoofError,
    ExpiredError,
    InvalidValueError,
    MissingNamespaceError,
    MissingWoofError,
    NamespaceNotEmptyError,
    NodeProblemError,
    NoRightError,
    Refused,
    RevokedError,
    StorageError,
    TooLargeError,
    UnavailableError,
    UnknownHandlerError,
    WoofExistsError,
)

READS: Final = frozenset({Operation.GET, Operation.LATEST, Operation.SCAN})
"""Operations on WooFs that change none."""

_STATUS_BITS: Final = 0x7FFF


def status_of(reply: Reply) -> int:
    """The status of ``reply``, whoever answered."""
    return reply.status & _STATUS_BITS


def check_done(request: Envelope, reply: Reply) -> None:
    """Return if ``reply`` says that ``request`` was done.

    Raises:
        Refused: what it says instead.
    """
    status = status_of(reply)
    if status in (Status.OK, Status.ACCEPTED):
        return
    make = _REFUSALS.get(status)
    if make is None:
        name = Status(status).name if status in _KNOWN else str(status)
        raise NodeProblemError(
            f"the issuer answered {name} to a request on {request.target!r}",
            problem_code=name.lower().replace("_", "-"),
            advice="",
        )
    raise make(request, reply)


def _missing(request: Envelope, _: Reply) -> Refused:
    target = request.target
    namespace, slash, _woof = target.partition("/")
    if request.op == Operation.WOOF_CREATE or not slash:
        return MissingNamespaceError(f"there is no namespace {namespace!r}")
    return MissingWoofError(f"there is no WooF {target!r}")


def _evicted(request: Envelope, reply: Reply) -> Refused:
    error = ElementEvictedError(
        f"an element of WooF {request.target!r} is gone; it begins at {reply.result}"
    )
    error.earliest = reply.result or None
    return error


def _not_yet(request: Envelope, reply: Reply) -> Refused:
    error = ElementNotYetError(f"WooF {request.target!r} ends at {reply.result}")
    error.latest = reply.result
    return error


def _exists(request: Envelope, _: Reply) -> Refused:
    if request.op == Operation.DELETE:
        return NamespaceNotEmptyError(f"namespace {request.target!r} has WooFs")
    return WoofExistsError(f"WooF {request.target!r} exists with other parameters")


def _caveat(request: Envelope, _: Reply) -> Refused:
    return CaveatError(
        f"a caveat of the capability does not hold on {request.target!r}", caveat="unknown"
    )


def _saying(kind: type[Refused], what: str) -> Callable[[Envelope, Reply], Refused]:
    def make(request: Envelope, _: Reply) -> Refused:
        return kind(what.format(target=request.target, handler=request.handler))

    return make


_KNOWN: Final = frozenset(int(status) for status in Status)

_REFUSALS: Final[dict[int, Callable[[Envelope, Reply], Refused]]] = {
    Status.EXPIRED: _saying(
        ExpiredError,
        "the request on {target!r} came after its deadline, or this machine's clock is behind",
    ),
    Status.NO_RIGHT: _saying(NoRightError, "the capability does not allow this on {target!r}"),
    Status.CAVEAT: _caveat,
    Status.REVOKED: _saying(RevokedError, "the capability was revoked"),
    Status.NOT_FOUND: _missing,
    Status.EMPTY: _saying(EmptyWoofError, "WooF {target!r} has no element yet"),
    Status.EVICTED: _evicted,
    Status.NOT_YET: _not_yet,
    Status.EXISTS: _exists,
    Status.TOO_LARGE: _saying(TooLargeError, "too large for {target!r}, or for one reply"),
    Status.NO_HANDLER: _saying(UnknownHandlerError, "there is no handler {handler!r} there"),
    Status.HANDLER_FAILED: _saying(DivergedError, "the handler of {target!r} failed"),
    Status.BUSY: _saying(UnavailableError, "the issuer is too busy for a request on {target!r}"),
    Status.FULL: _saying(DenySetFullError, "the issuer can remember no more revocations"),
    Status.STORAGE: _saying(StorageError, "the issuer's disk did not do as asked, on {target!r}"),
    Status.REJECTED: _saying(InvalidValueError, "a value in the request on {target!r} is refused"),
    Status.MALFORMED: _saying(BadRequestError, "the request on {target!r} makes no sense"),
}
