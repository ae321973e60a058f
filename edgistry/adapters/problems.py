"""What a node answers, as values: documents, or the refusal in a problem document.

Rules kept here:

* A refusal of the node comes back as the class it left as (``UnknownRegionError``, say), so that
  programs catch the same errors on both sides of the wire.
* What a node answers is as untrusted as any input: an answer of another form is refused.

Not handled here: sending anything.
"""

from __future__ import annotations

from typing import TypeVar

from ..api import Problem
from ..codec import Answer, decode_json
from ..errors import (
    BudgetError,
    MailboxFullError,
    MalformedError,
    MembersBusyError,
    NodeProblemError,
    NotYetError,
    Refused,
    ServiceFullError,
    UnexpectedAnswerError,
    every_refusal,
)
from .http import Response, StreamedAnswer

T = TypeVar("T", bound=Answer)

MAX_ANSWER_BYTES = 64_000_000


def refusal_of(problem: Problem, *, retry_after: str | None = None) -> Refused:
    """The refusal that a node sent as ``problem``; ``NodeProblemError`` for an unknown code."""
    kind = _KINDS.get(problem.code)
    later = next((each for each in _LATER if each is kind), None)
    if later is not None:
        if retry_after is not None and retry_after.isdecimal():
            return later(problem.detail, retry_after_s=int(retry_after[:6]))
        return later(problem.detail)
    # Classes that carry more than the detail can't be made again from it alone.
    if kind is None or kind.__init__ is not Refused.__init__:
        return NodeProblemError(
            f"{problem.detail} ({problem.code})", problem_code=problem.code, advice=problem.help
        )
    return kind(problem.detail)


_LATER = (NotYetError, MailboxFullError, ServiceFullError, BudgetError, MembersBusyError)
"""What says when to come back."""

_KINDS = {kind.code: kind for kind in every_refusal()}


def refusal_in(response: Response) -> Refused:
    """The refusal in a problem document.

    Raises:
        UnexpectedAnswerError: it is none.
    """
    problem = decode_answer(response, Problem)
    return refusal_of(problem, retry_after=response.headers.get("Retry-After"))


def decode_answer(response: Response, kind: type[T]) -> T:
    """The document in ``response``.

    Raises:
        UnexpectedAnswerError: it is none of this kind.
    """
    try:
        return decode_json(response.body, kind, limit=MAX_ANSWER_BYTES)
    except MalformedError as error:
        raise UnexpectedAnswerError(f"not a {kind.__name__}: {error}") from None


def content_type_of(response: Response | StreamedAnswer) -> str:
    """The media type of ``response`` without its parameters; "" for none."""
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
