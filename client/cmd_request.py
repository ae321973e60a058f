"""``edgistry request``: the calls made here that have not been answered yet.

Rules kept here: a ticket is forgotten when its outcome has been shown, or cannot come any more.

Not handled here: making calls (``cmd_call.py``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from edgistry.adapters.http import HttpClient, run
from edgistry.adapters.service_caller import CallTracker
from edgistry.codec import Document
from edgistry.errors import CallEndedError, Refused

from .call_options import show_pending
from .cmd_call import hex_answer_option
from .following import Following, begin_again, follow_kept, now_us
from .handle_book import short
from .output import print_json, print_table, remark
from .params import DURATION, HandleCommand, json_option, option
from .tickets import Kept, Tickets

_TIMEOUT_S = 30.0

node_option = option(
    "--node",
    metavar="URL",
    envvar="EDGISTRY_REQUEST_NODE",
    default="",
    help="Ask this node; without it the one that the call was given to.",
)


class ListedRequest(Document):
    """A call that was made here."""

    id: str
    handle: str
    action: str
    node: str
    state: str
    """As the node says; "UNSENT": no node has confirmed it; "UNKNOWN": the node does not say."""
    deadline: str


class RequestList(Document):
    """Calls that were made here."""

    requests: tuple[ListedRequest, ...]


@click.group("request")
def request() -> None:
    """Calls made here: how they are doing, their answers, and taking them back.

    A call goes on without anybody waiting for it. Its ticket is kept in the folder `requests`
    beside the keyring until its outcome has been shown.
    """


@request.command("status", cls=HandleCommand, short_help="Show how a call is doing, or its answer.")
@click.argument("name", metavar="ID")
@option(
    "--wait",
    "wait_s",
    type=DURATION,
    metavar="DURATION",
    envvar="EDGISTRY_REQUEST_WAIT",
    default="0s",
    show_default=True,
    help="How long to wait for the answer.",
)
@hex_answer_option
@node_option
@json_option
def status(name: str, node: str, wait_s: float, as_json: bool, as_hex: bool) -> None:
    """Show how the call ID is doing; its answer, if there is one.

    \b
    Example:
      edgistry request status 9mJd6xMCdK5yBv1sKxLrYQ --wait 10m
    """
    tickets = Tickets.of_user()
    following = Following(tickets)
    with following.waiting(wait_s=wait_s, as_json=as_json):
        run(
            follow_kept(
                tickets.get(name),
                following,
                node=node,
                wait_s=wait_s,
                timeout_s=_TIMEOUT_S,
                as_json=as_json,
                as_hex=as_hex,
            )
        )


@request.command("cancel", cls=HandleCommand, short_help="Take a call back.")
@click.argument("name", metavar="ID")
@node_option
@json_option
def cancel(name: str, node: str, as_json: bool) -> None:
    """Take the call ID back. If the device has it already, it is asked not to carry it out.

    \b
    Example:
      edgistry request cancel 9mJd6xMCdK5yBv1sKxLrYQ
    """
    tickets = Tickets.of_user()
    kept = tickets.get(name)
    following = Following(tickets)

    async def ask() -> None:
        async with HttpClient(node or kept.ticket.node, timeout_s=_TIMEOUT_S) as http:
            tracker = CallTracker(http, kept.ticket)
            if not kept.is_sent:
                await begin_again(kept, tracker, following)
            else:
                tracker.known_as(kept.name)
            answer = await tracker.cancel()
            following.news(answer)
            if answer.state == "CANCELLED":
                try:
                    await tracker.result(answer)
                except CallEndedError:
                    following.ended()
            elif not answer.final:
                remark("the device may have it already; it is asked not to carry it out")
            show_pending(answer, as_json=as_json)

    run(ask())


@request.command("list", short_help="List the calls made here.")
@json_option
def list_requests(as_json: bool) -> None:
    """List the calls made here whose outcome has not been shown.

    \b
    Example:
      edgistry request list
    """
    tickets = Tickets.of_user()
    tickets.remove_old(now_us())
    found = run(_states(list(tickets.all())))
    if as_json:
        print_json(RequestList(requests=tuple(found)))
        return
    rows = [(each.id, each.state, each.action, short(each.handle), each.deadline) for each in found]
    print_table("calls", ("id", "state", "action", "handle", "until"), rows)


async def _states(every: list[Kept]) -> list[ListedRequest]:
    found = []
    clients: dict[str, HttpClient] = {}
    try:
        for kept in every:
            node = kept.ticket.node
            if node not in clients:
                clients[node] = HttpClient(node, timeout_s=_TIMEOUT_S)
            found.append(await _listed(kept, clients[node]))
    finally:
        for client in clients.values():
            await client.close()
    return found


async def _listed(kept: Kept, http: HttpClient) -> ListedRequest:
    state: Any = "UNSENT"
    if kept.is_sent:
        tracker = CallTracker(http, kept.ticket)
        tracker.known_as(kept.name)
        try:
            state = (await tracker.look()).state
        except Refused:
            state = "UNKNOWN"
    deadline_us = kept.ticket.request.envelope.deadline
    deadline = datetime.fromtimestamp(deadline_us // 1_000_000, UTC)
    return ListedRequest(
        id=kept.name,
        handle=kept.ticket.handle,
        action=kept.ticket.action,
        node=kept.ticket.node,
        state=state,
        deadline=deadline.isoformat().replace("+00:00", "Z"),
    )
