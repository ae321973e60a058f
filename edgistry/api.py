"""The node's HTTP API as data: what travels over it. Server, client and OpenAPI are made from it.

Rules kept here: pure; every refusal has one JSON form, an RFC 9457 problem document.

Not handled here: sockets, routing, and what the answers are computed from.
"""

from __future__ import annotations

from .codec import Document
from .errors import Refused

PROBLEM_CONTENT_TYPE = "application/problem+json"


class Problem(Document):
    """An error answer (RFC 9457), with Edgistry's ``code`` and ``help`` beside the standard five.

    ``type`` is ``urn:edgistry:error:CODE``; programs match on ``code``, people read ``detail``
    (what was wrong with this request) and ``help`` (what to do next).
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    help: str


def problem_of(error: Refused) -> Problem:
    """The problem document that stands for ``error``."""
    kind = type(error)
    title = (kind.__doc__ or kind.code).strip().splitlines()[0].rstrip(".")
    return Problem(
        type=f"urn:edgistry:error:{kind.code}",
        title=title,
        status=kind.http_status,
        detail=error.detail,
        code=kind.code,
        help=kind.help,
    )


def internal_problem() -> Problem:
    """The answer when the node itself failed. It tells nothing: details are in the node's log."""
    return Problem(
        type="urn:edgistry:error:internal",
        title="The node failed to handle the request",
        status=500,
        detail="an internal error; the node's log has the details",
        code="internal",
        help="Try another node, and tell the operator of this one.",
    )
