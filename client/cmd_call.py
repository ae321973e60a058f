"""``edgistry call``: have a sleeping device do something, and wait for its answer.

Rules kept here: what is sent can be found again: its ticket is kept first (``tickets.py``).

Not handled here: what a call is (``edgistry.calls``), waiting (``following.py``).
"""

from __future__ import annotations

from typing import Any

import click

from edgistry.adapters.http import run
from edgistry.adapters.node_client import NodeClient
from edgistry.adapters.service_caller import keys_of_attempts
from edgistry.api import DiscoverBody
from edgistry.discover_query import check_discover_body
from edgistry.envelope import MAX_DEADLINE_AHEAD_US
from edgistry.errors import InvalidValueError, KeyReusedError
from edgistry.messages import MAX_IDEMPOTENCY_KEY_BYTES, MAX_PRIORITY

from .area_options import area_fields, area_options, usage_errors
from .call_options import authority_for, show_result
from .element_view import element_from
from .following import Following, follow_kept, now_us
from .handle_book import HandleBook
from .identity import read_identity
from .params import DURATION, HandleCommand, json_option, node_options, option
from .tickets import Tickets

_AREA = ("region", "cell", "near", "radius_km", "polygon", "type_name")

wait_option = option(
    "--wait",
    "wait_s",
    type=DURATION,
    metavar="DURATION",
    envvar="EDGISTRY_CALL_WAIT",
    default="60s",
    show_default=True,
    help="How long to wait for the answer; 0s: not at all. The call goes on in any case.",
)
hex_answer_option = option(
    "--hex",
    "as_hex",
    is_flag=True,
    envvar="EDGISTRY_HEX",
    help="Print the answer as hexadecimal digits.",
)


@click.command("call", cls=HandleCommand, short_help="Call a service of a device.")
@click.argument("handle", required=False)
@click.argument("action", required=False)
@option(
    "--any",
    "is_any",
    is_flag=True,
    help="Call any one service of --type in the area given; without HANDLE.",
)
@area_options("call")
@option("--data", metavar="TEXT", help="What to send with the call.")
@option("--file", metavar="FILE", help="Send the content of FILE; - is standard input.")
@option(
    "--ttl",
    "ttl_s",
    type=DURATION,
    metavar="DURATION",
    default="1h",
    show_default=True,
    help="Carried out within this time, or never; at most 7d.",
)
@option(
    "--max-age",
    "max_age_s",
    type=DURATION,
    metavar="DURATION",
    default="0s",
    show_default=True,
    help="An answer of this age, which the device's node may have, is good enough.",
)
@option(
    "--priority",
    type=click.IntRange(0, MAX_PRIORITY),
    metavar="N",
    default=0,
    show_default=True,
    help=f"0 to {MAX_PRIORITY}, among your own calls; a higher one goes first.",
)
@option(
    "--idempotency-key",
    metavar="KEY",
    help="Text that stands for this call: given again, the call is not made again.",
)
@option(
    "--device-only",
    is_flag=True,
    help="Only the device itself may answer, not its node for it.",
)
@option(
    "--capability",
    metavar="FILE",
    envvar="EDGISTRY_CAPABILITY",
    help="A file with the capability, or its name in the keyring; - reads standard input."
    " Without it the keyring is searched.",
)
@option(
    "--beside",
    multiple=True,
    metavar="FILE",
    envvar="EDGISTRY_BESIDE",
    help="A capability that the one of --capability requires; may be given again."
    " Those that are not given are looked for in the keyring.",
)
@wait_option
@hex_answer_option
@node_options
@json_option
def call(handle: str | None, action: str | None, **told: Any) -> None:
    """Call ACTION of the service HANDLE, and print what it answers.

    With --any a node chooses a service of --type in --region (or another area) instead. Another
    one is tried while it is certain that the first does not carry the call out, or when the action
    only reads. What the call needs is granted to you on the way.

    The device sleeps; its node keeps the call until it wakes. Ctrl-C ends the waiting and not the
    call: `edgistry request` shows it, waits on, or takes it back. `edgistry discover` shows
    handles and actions, `edgistry grant request` gets the capability that a call needs. A beginning
    of a handle that was shown here will do, of 8 characters or more. To use a capability that
    somebody else has passed on, give all of the handle that it was granted on.

    \b
    Examples:
      edgistry call 4jwq3YcJ1y0hTnDv read
      edgistry call 4jwq3YcJ1y0hTnDv read --max-age 10m --json
      edgistry call 4jwq3YcJ1y0hTnDv set --data '{"every": "5m"}' --ttl 1d --wait 0s
      edgistry call --any --type thermometer --region bayarea read
    """
    area = {name: told.pop(name) for name in _AREA}
    is_any = told.pop("is_any")
    if is_any:
        if action is not None:
            raise click.UsageError("--any chooses the service: give an ACTION and no HANDLE")
        action, handle = handle, None
        if action is None:
            raise click.UsageError("Missing argument 'ACTION'.")
        for name in ("capability", "beside", "idempotency_key"):
            if told[name]:
                raise click.UsageError(f"--{name.replace('_', '-')} does not go with --any")
        if area["type_name"] is None:
            raise click.UsageError("--any needs --type")
    elif handle is None or action is None:
        missing = "HANDLE" if handle is None else "ACTION"
        raise click.UsageError(f"Missing argument '{missing}'.")
    elif any(area[name] is not None for name in _AREA if name != "type_name"):
        raise click.UsageError("an area goes with --any")
    if handle is not None:
        handle = HandleBook.of_user().whole(handle)
    if told["beside"] and told["capability"] is None:
        raise click.UsageError("--beside goes with --capability; the keyring finds its own")
    if not 0 < told["ttl_s"] * 1_000_000 <= MAX_DEADLINE_AHEAD_US:
        raise InvalidValueError("--ttl: longer than 0s and at most 7d")
    payload = b""
    if told["data"] is not None or told["file"] is not None:
        payload = element_from(told["data"], told["file"], as_hex=False)
    key = _key(told["idempotency_key"])
    tickets = Tickets.of_user()
    tickets.remove_old(now_us())
    following = Following(tickets, keeps=key is not None)
    if handle is None:
        fields = _area_of(area)
        with following.waiting(wait_s=told["wait_s"], as_json=told["as_json"]):
            run(_call_any(following, action, payload, fields, told))
        return
    with following.waiting(wait_s=told["wait_s"], as_json=told["as_json"]):
        known = None
        if key is not None:
            known = tickets.find(handle=handle, action=action, keys=keys_of_attempts(key))
        if known is None:
            run(_call(following, handle, action, payload, key, told))
            return
        if known.ticket.request.envelope.payload != payload:
            raise KeyReusedError("this idempotency key stands for a call with other data")
        following.keeps = True
        shown = {name: told[name] for name in ("wait_s", "timeout_s", "as_json", "as_hex")}
        run(follow_kept(known, following, node=told["node"], **shown))


async def _call(
    following: Following,
    handle: str,
    action: str,
    payload: bytes,
    key: bytes | None,
    told: dict[str, Any],
) -> None:
    authority = authority_for(
        handle, action, payload, capability=told["capability"], beside=told["beside"]
    )
    async with NodeClient(
        told["node"],
        authority.capability,
        beside=authority.beside,
        timeout_s=told["timeout_s"],
    ) as node:
        result = await node.call(
            handle,
            action,
            payload,
            wait_s=told["wait_s"],
            keep=following.keep,
            news=following.news,
            acknowledge=key is None,
            ttl_s=told["ttl_s"],
            max_age_s=round(told["max_age_s"]),
            priority=told["priority"],
            idempotency_key=key,
            device_only=told["device_only"],
        )
    name = following.answer.id if following.answer is not None else ""
    show_result(result, name, as_json=told["as_json"], as_hex=told["as_hex"])
    following.ended()


def _area_of(area: dict[str, Any]) -> dict[str, Any]:
    """Type and area, checked as for discover."""
    fields = {name: value for name, value in area_fields(**area).items() if value is not None}
    with usage_errors():
        check_discover_body(DiscoverBody(**fields))
    return fields


async def _call_any(
    following: Following,
    action: str,
    payload: bytes,
    fields: dict[str, Any],
    told: dict[str, Any],
) -> None:
    async with NodeClient(told["node"], timeout_s=told["timeout_s"]) as node:
        result = await node.call_any(
            action,
            payload,
            keys=read_identity(),
            wait_s=told["wait_s"],
            keep=following.keep,
            news=following.news,
            ttl_s=told["ttl_s"],
            max_age_s=round(told["max_age_s"]),
            priority=told["priority"],
            device_only=told["device_only"],
            **fields,
        )
    name = following.answer.id if following.answer is not None else ""
    show_result(result, name, as_json=told["as_json"], as_hex=told["as_hex"])
    following.ended()


def _key(text: str | None) -> bytes | None:
    if text is None:
        return None
    key = text.encode()
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_BYTES:
        raise InvalidValueError(f"--idempotency-key: use 1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes")
    return key
