"""What commands on calls share: authority for a call, and how its end is shown.

Rules kept here:

* Authority is the capability of ``--capability``, else the one in the keyring that is for this
  handle (or for any place) and otherwise the least.
* The answer of a service goes to standard output and nothing else does.

Not handled here: the commands (``cmd_call.py``, ``cmd_request.py``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgistry.calls import CallResult, call_target
from edgistry.capability import Capability
from edgistry.codec import Document
from edgistry.envelope import Operation
from edgistry.errors import NoCapabilityError, Refused
from edgistry.requests_api import RequestAnswer, StateName

from .capability_source import with_required
from .element_view import print_element, text_of
from .handle_book import short
from .keyring import Choice, Keyring, Wanted, check
from .output import print_json, remark

WAKES = {
    "1m": "the device wakes within a minute",
    "15m": "the device wakes within a quarter of an hour",
    "1h": "the device wakes within the hour",
    "later": "the device wakes when it does, perhaps in hours",
}


class CallDocument(Document):
    """A call that was answered."""

    id: str
    answered_by: Literal["device", "node"]
    age_s: float
    """How old the answer was; 0 from the device."""
    number: int
    text: str | None
    """``None`` unless the answer is UTF-8."""
    hex: str


class PendingDocument(Document):
    """A call that has no answer, yet or at all."""

    id: str
    state: StateName
    wake: str
    attempts: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """What a call is made under."""

    capability: Capability
    beside: tuple[Capability, ...] = ()


def authority_for(
    handle: str, action: str, payload: bytes, *, capability: str | None, beside: Sequence[str]
) -> Authority:
    """The capability named by ``capability``, else the one to take from the keyring.

    Raises:
        NoCapabilityError: the keyring has none for this.
        Refused: what is named is no capability.
    """
    if capability is not None:
        chosen, required = with_required(capability, beside)
        return Authority(capability=chosen, beside=required)
    keyring = Keyring.of_user()
    now_us = time.time_ns() // 1000
    reasons: list[str] = []
    entries, _ = keyring.entries()
    # What was granted for this very service goes before what fits everywhere.
    for entry in sorted(entries, key=lambda each: (each.place != handle, each.name)):
        if entry.place not in {"", handle}:
            continue
        try:
            target = call_target(entry.capability, action)
            wanted = Wanted(
                operation=Operation.PUT,
                target=target.woof,
                handler=target.handler,
                payload=payload,
                place=handle,
            )
            own = Choice(entry=entry, beside=keyring.beside(entry.capability))
            check(own, wanted, now_us=now_us)
        except Refused as error:
            reasons.append(f"{entry.name}: {error.detail}")
        else:
            choice = keyring.choose(wanted, now_us=now_us)
            return Authority(capability=choice.entry.capability, beside=choice.beside)
    why = "; ".join(reasons) or "none is for this handle"
    raise NoCapabilityError(
        f"no capability in the keyring allows to call {action!r} there ({why});"
        f" `edgistry grant request {short(handle)}` asks for one"
    )


def tell_how_it_is(answer: RequestAnswer) -> None:
    """For people: where the call is, and when to expect more."""
    if answer.state == "QUEUED":
        remark(f"queued as {answer.id}; {WAKES.get(answer.wake, '')}")
    elif answer.state == "LEASED":
        remark("the device is awake and gets it")
    elif answer.state == "ACKED":
        remark("the device has it")


def show_result(result: CallResult, request_id: str, *, as_json: bool, as_hex: bool) -> None:
    """The answer of a service."""
    if as_json:
        print_json(
            CallDocument(
                id=request_id,
                answered_by="node" if result.by_node else "device",
                age_s=result.age_s,
                number=result.number,
                text=text_of(result.payload),
                hex=result.payload.hex(),
            )
        )
        return
    if result.by_node:
        remark(f"answered by the device's node, from up to {result.age_s:.0f} s ago")
    print_element(result.payload, as_hex=as_hex)


def show_pending(answer: RequestAnswer, *, as_json: bool) -> None:
    """How a call without an answer is doing."""
    if as_json:
        print_json(
            PendingDocument(
                id=answer.id,
                state=answer.state,
                wake=answer.wake,
                attempts=answer.attempts,
                reason=answer.reason,
            )
        )
        return
    print_element(f"{answer.id} {answer.state}\n".encode(), as_hex=False)
