"""``edgistry-node`` as somebody runs it who wants to deceive: a whole node, with a lie in it.

    python -c PROGRAM lying-node run DIR

It lies where a request has left HTTP and not entered the link, and where an answer has come back.
Which lie it tells stands in the file that ``EDGISTRY_TEST_LIE`` names, and may change at any time;
an empty file is an honest node.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from abci_app import peer_parts
from abci_app.asked import Asked, FetchHash
from abci_app.cli import main as node_main
from abci_app.entry_desk import EntryDesk
from edgistry import verifier
from edgistry.codec import encode, replace
from edgistry.envelope import Envelope, Reply, Status, decode_envelope, decode_reply
from edgistry.requests_api import RequestAnswer, to_bytes, to_text
from edgistry.verifier import Checked

VARIABLE: Final = "EDGISTRY_TEST_LIE"
ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = (
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = sys.argv[1:];"
    " from tests.integration.lying_node import main; main()",
    "lying-node",
)

HOUR_US: Final = 3_600_000_000
UNCHECKED: Final = "unchecked"
"""The lie of a home node: whatever comes has been checked."""
OTHER_SERVICE: Final = "service "
"""With the record key of another one, in hexadecimal digits."""
ENDED: Final = "ended"
"""The lie of an entry node that a request was cancelled."""

REQUEST_LIES: Final[Mapping[str, Callable[[Envelope], Envelope]]] = {
    "payload": lambda was: replace(was, payload=b"lie"),
    "action": lambda was: replace(was, target="thermometer/unlock", handler="unlock"),
    "later": lambda was: replace(was, deadline=was.deadline + HOUR_US),
    "sooner": lambda was: replace(was, deadline=was.deadline - 1),
    "client": lambda was: replace(was, client=b"somebody"),
}
REPLY_LIES: Final[Mapping[str, Callable[[Reply], Reply]]] = {
    "reply payload": lambda was: replace(was, payload=b"lie"),
    "reply status": lambda was: replace(was, status=int(Status.NOT_FOUND), payload=b""),
    "reply result": lambda was: replace(was, result=was.result + 1),
}


def told() -> str:
    """The lie to tell now."""
    return Path(os.environ[VARIABLE]).read_text()


class LyingEntryDesk(EntryDesk):
    """Changes what it passes on, and what it brings back."""

    async def submit(self, asked: Asked) -> tuple[RequestAnswer, bool]:
        lie = told()
        if lie in REQUEST_LIES:
            changed = REQUEST_LIES[lie](decode_envelope(asked.envelope))
            asked = dataclasses.replace(asked, envelope=encode(changed))
        if lie.startswith(OTHER_SERVICE):
            other = bytes.fromhex(lie.removeprefix(OTHER_SERVICE))
            asked = dataclasses.replace(asked, service=other)
        answer, is_new = await super().submit(asked)
        return _changed(answer), is_new

    async def fetch(
        self,
        request: bytes,
        fetch_key: bytes | FetchHash,
        *,
        wait_s: float = 0,
        known: str | None = None,
    ) -> RequestAnswer:
        if told() == ENDED:
            wait_s = 0.0  # it need not wait for an end
        return _changed(await super().fetch(request, fetch_key, wait_s=wait_s, known=known))


def _changed(answer: RequestAnswer) -> RequestAnswer:
    lie = told()
    if lie == ENDED:
        return replace(answer, state="CANCELLED", final=True, reply=None, reason="not carried out")
    if lie in REPLY_LIES and answer.reply is not None:
        reply = REPLY_LIES[lie](decode_reply(to_bytes(answer.reply, "the reply")))
        return replace(answer, reply=to_text(encode(reply)))
    return answer


def main() -> None:
    """Run the command with the lies in it."""
    vars(peer_parts)["EntryDesk"] = LyingEntryDesk
    is_authentic, judge = Checked._is_authentic, vars(verifier)["judge"]

    def judged(*request: object, **when: object) -> None:
        if told() != UNCHECKED:
            judge(*request, **when)

    Checked._is_authentic = (  # type: ignore[method-assign]
        lambda self: told() == UNCHECKED or is_authentic(self)
    )
    vars(verifier)["judge"] = judged
    node_main()
