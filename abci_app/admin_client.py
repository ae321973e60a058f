"""The command line's side of ``run/admin.sock``.

Rules kept here: a refusal of the node comes back as the class it left as; a node that does not
run is ``CannotReachError`` with the command that starts it.

Not handled here: what is asked (``cli_register``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar
from urllib.parse import quote

from edgistry.adapters.http import HttpClient
from edgistry.adapters.problems import refusal_of
from edgistry.api import PROBLEM_CONTENT_TYPE, Problem, RegionList
from edgistry.codec import Document, decode_json, encode_json
from edgistry.errors import (
    CannotReachError,
    InvalidValueError,
    MalformedError,
    UnexpectedAnswerError,
)

from .admin_api import (
    MAX_LIST,
    MAX_SETTLED_WAIT_S,
    DeviceEntry,
    DevicePage,
    DeviceRow,
    ForgetWithdrawnAnswer,
    ForgetWithdrawnRequest,
    RegionDetail,
    RegionPutAnswer,
    RegionPutRequest,
    RegisterAnswer,
    RegisterRequest,
    SettledAnswer,
    WithdrawAnswer,
    WithdrawRequest,
)
from .audit_api import QueryList
from .devices import Identity, identity_of
from .directory import NodeDirectory
from .forwards_api import ForwardList, SettleRequest
from .handlers_api import (
    MAX_LETTERS_NAMED,
    DeadLetterDetail,
    DeadLetterList,
    HandlerList,
    LettersAnswer,
    LettersRequest,
)
from .issuing_api import MintAnswer, MintRequest, RevokeAnswer, RevokeRequest
from .mailbox_api import (
    MAX_REQUESTS_NAMED,
    DeadRequests,
    MailboxDetail,
    MailboxList,
    RequestsDone,
    RequestsNamed,
)
from .member_files import Proposal
from .members_api import LeaveRequest, MembersAnswer, SubmittedAnswer
from .pairing_api import (
    CodeAnswer,
    CodeRequest,
    DeviceOfAnswer,
    ForgetRequest,
    ImportAnswer,
    ImportRequest,
    MirrorList,
    PairedList,
)

T = TypeVar("T", bound=Document)

TIMEOUT_S = 60.0
"""For an answer: a batch waits at most for the ones before it to reach the disk."""
MAX_UNDER_WAY = 4
"""Batches that the node has not answered yet: it works on one while others travel and are read."""
_MAX_ANSWER_BYTES = 64_000_000


class AdminClient:
    """A blocking client of the node in ``directory``. Use it with ``with``.

    All methods may raise ``CannotReachError``, ``TimedOutError``, ``UnexpectedAnswerError`` and
    what the node refuses.
    """

    def __init__(self, directory: NodeDirectory) -> None:
        self._directory = directory
        self._http = HttpClient(directory.admin_socket, timeout_s=TIMEOUT_S)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._http.close())
        self._runner.close()

    def register(self, rows: Sequence[DeviceRow]) -> RegisterAnswer:
        """Register up to 512 devices."""
        return self._post("/admin/devices", RegisterRequest(rows=tuple(rows)), RegisterAnswer)

    def register_all(self, batches: Iterable[Sequence[DeviceRow]]) -> Iterator[RegisterAnswer]:
        """Register batch after batch, a few of them under way at a time; one answer each, in order.

        The node may take those under way in any order, so a batch that names a device again waits
        for the one that named it before: the last row of a device is the one that counts. When one
        fails, no further one is sent; the answers of those that were under way and succeeded come
        before what it raised.
        """
        under_way: deque[tuple[set[Identity], asyncio.Task[RegisterAnswer]]] = deque()
        failure: Exception | None = None
        loop = self._runner.get_loop()
        try:
            for batch in batches:
                named = {identity_of(row) for row in batch}
                while len(under_way) >= MAX_UNDER_WAY or not all(
                    named.isdisjoint(before) for before, _ in under_way
                ):
                    yield self._runner.run(_finished(under_way.popleft()[1]))
                body = encode_json(RegisterRequest(rows=tuple(batch)))
                asked = self._asked("POST", "/admin/devices", RegisterAnswer, body=body)
                under_way.append((named, loop.create_task(asked)))
                self._runner.run(asyncio.sleep(0))  # so that it leaves now
        except Exception as error:
            failure = error
        try:
            while under_way:
                try:
                    answer = self._runner.run(_finished(under_way.popleft()[1]))
                except Exception as error:
                    failure = failure or error
                else:
                    yield answer
        finally:
            for _, task in under_way:
                task.cancel()
        if failure is not None:
            raise failure

    def withdraw(self, handles: Sequence[str], *, forget: bool = False) -> WithdrawAnswer:
        """Begin to withdraw up to 512 devices, all or none; with ``forget`` nothing stays."""
        body = WithdrawRequest(handles=tuple(handles), forget=forget)
        return self._post("/admin/devices/withdraw", body, WithdrawAnswer)

    def forget_withdrawn(self) -> int:
        """Destroy what is kept of withdrawn devices; of how many it was."""
        path, body = "/admin/devices/forget-withdrawn", ForgetWithdrawnRequest()
        return self._post(path, body, ForgetWithdrawnAnswer).forgotten

    def devices(self) -> Iterator[DeviceEntry]:
        """All devices of the node, page after page."""
        query = {"limit": str(MAX_LIST)}
        while True:
            page = self._get("/admin/devices", DevicePage, query)
            yield from page.devices
            if page.next is None:
                return
            query["after"] = page.next

    def members(self) -> MembersAnswer:
        """Who the members of the chain are."""
        return self._get("/admin/members", MembersAnswer)

    def submit_change(self, proposal: Proposal) -> SubmittedAnswer:
        """Send a signed change of the members."""
        return self._post("/admin/members", proposal, SubmittedAnswer)

    def leave(self) -> SubmittedAnswer:
        """Let the node leave its chain."""
        return self._post("/admin/members/leave", LeaveRequest(), SubmittedAnswer)

    def region_put(self, name: str, geojson: dict[str, Any]) -> RegionPutAnswer:
        """Put a named region."""
        body = RegionPutRequest(name=name, geojson=geojson)
        return self._post("/admin/regions", body, RegionPutAnswer)

    def regions(self) -> RegionList:
        """The named regions of the chain."""
        return self._get("/admin/regions", RegionList)

    def region(self, name: str) -> RegionDetail:
        """One region with its cells."""
        return self._get(f"/admin/regions/{quote(name, safe='')}", RegionDetail)

    def settled(self, *, first: int, last: int, timeout_s: float) -> SettledAnswer:
        """Wait up to ``timeout_s`` (at most 30 s) for the outbox to reach ``last``."""
        query = {
            "first": str(first),
            "last": str(last),
            "timeout_s": f"{max(0.0, min(timeout_s, MAX_SETTLED_WAIT_S)):.3f}",
        }
        return self._get("/admin/settled", SettledAnswer, query)

    def mint(self, asked: MintRequest) -> MintAnswer:
        """Grant a capability; the answer holds its secret."""
        return self._post("/admin/capabilities", asked, MintAnswer)

    def revoke(self, public_id: str) -> RevokeAnswer:
        """Revoke the capability with this id (32 hexadecimal digits)."""
        return self._post("/admin/capabilities/revoke", RevokeRequest(id=public_id), RevokeAnswer)

    def pair_codes(self, count: int, *, ttl_s: float, replace: bool) -> CodeAnswer:
        """Codes with each of which one device can pair."""
        body = CodeRequest(ttl_s=ttl_s, replace=replace, count=count)
        return self._post("/admin/pairing/codes", body, CodeAnswer)

    def import_device(self, offer: bytes, *, replace: bool) -> ImportAnswer:
        """Pair the device that made ``offer``."""
        body = ImportRequest(offer=offer, replace=replace)
        return self._post("/admin/pairing/devices", body, ImportAnswer)

    def paired(self, limit: int) -> PairedList:
        """Up to ``limit`` paired devices."""
        return self._get("/admin/pairing/devices", PairedList, {"limit": str(limit)})

    def mirrors(self, limit: int) -> MirrorList:
        """Up to ``limit`` WooFs of devices that the node mirrors."""
        return self._get("/admin/mirrors", MirrorList, {"limit": str(limit)})

    def revoke_device(self, device: str, *, forget: bool = False) -> ForgetRequest:
        """Part a paired device from the node; with ``forget`` nothing of it stays."""
        body = ForgetRequest(device=device, forget=forget)
        return self._post("/admin/pairing/revoke", body, ForgetRequest)

    def device_of(self, handle: str) -> str:
        """The id of the paired device whose service that is; empty if it is none's."""
        return self._get(
            "/admin/pairing/device-of", DeviceOfAnswer, query={"handle": handle}
        ).device

    def handlers(self) -> HandlerList:
        """The handlers of the node."""
        return self._get("/admin/handlers", HandlerList)

    def dead_letters(self, limit: int) -> DeadLetterList:
        """Up to ``limit`` dead letters."""
        return self._get("/admin/dead-letters", DeadLetterList, {"limit": str(limit)})

    def dead_letter(self, name: str) -> DeadLetterDetail:
        """One dead letter with its content."""
        return self._get(f"/admin/dead-letters/{quote(name, safe='')}", DeadLetterDetail)

    def replay_letters(self, names: Sequence[str], *, every: bool) -> LettersAnswer:
        """Let handlers try these again, all or none."""
        return self._letters("/admin/dead-letters/replay", names, every)

    def purge_letters(self, names: Sequence[str], *, every: bool) -> LettersAnswer:
        """Forget these, all or none."""
        return self._letters("/admin/dead-letters/purge", names, every)

    def forwards(self) -> ForwardList:
        """What the node forwards."""
        return self._get("/admin/forwards", ForwardList)

    def settle_forward(self, woof: str, through: int) -> ForwardList:
        """Elements in doubt of ``woof`` up to ``through`` are there, the others are not."""
        body = SettleRequest(woof=woof, through=through)
        return self._post("/admin/forwards/settle", body, ForwardList)

    def queries(self, limit: int) -> QueryList:
        """Up to ``limit`` questions to the node, the newest first."""
        return self._get("/admin/queries", QueryList, {"limit": str(limit)})

    def mailboxes(self, limit: int) -> MailboxList:
        """Up to ``limit`` mailboxes."""
        return self._get("/admin/mailboxes", MailboxList, {"limit": str(limit)})

    def mailbox(self, device: str, limit: int) -> MailboxDetail:
        """The mailbox of one device, with up to ``limit`` requests."""
        path = f"/admin/mailboxes/{quote(device, safe='')}"
        return self._get(path, MailboxDetail, {"limit": str(limit)})

    def dead_requests(self, limit: int) -> DeadRequests:
        """Up to ``limit`` requests that never arrived."""
        return self._get("/admin/dead-requests", DeadRequests, {"limit": str(limit)})

    def replay_requests(self, ids: Sequence[str], *, every: bool) -> RequestsDone:
        """Queue these again, all or none."""
        return self._requests("/admin/dead-requests/replay", ids, every)

    def purge_requests(self, ids: Sequence[str], *, every: bool) -> RequestsDone:
        """Forget these, all or none."""
        return self._requests("/admin/dead-requests/purge", ids, every)

    def _requests(self, path: str, ids: Sequence[str], every: bool) -> RequestsDone:
        if len(ids) > MAX_REQUESTS_NAMED:
            raise InvalidValueError(f"name at most {MAX_REQUESTS_NAMED} requests at once")
        return self._post(path, RequestsNamed(ids=tuple(ids), every=every), RequestsDone)

    def _letters(self, path: str, names: Sequence[str], every: bool) -> LettersAnswer:
        if len(names) > MAX_LETTERS_NAMED:
            raise InvalidValueError(f"name at most {MAX_LETTERS_NAMED} dead letters at once")
        return self._post(path, LettersRequest(ids=tuple(names), every=every), LettersAnswer)

    def _get(self, path: str, kind: type[T], query: Mapping[str, str] | None = None) -> T:
        return self._ask("GET", path, kind, query=query)

    def _post(self, path: str, body: Document, kind: type[T]) -> T:
        return self._ask("POST", path, kind, body=encode_json(body))

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> T:
        return self._runner.run(self._asked(method, path, kind, query=query, body=body))

    async def _asked(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> T:
        try:
            answer = await self._http.request(method, path, query=query, body=body)
        except CannotReachError:
            root = self._directory.root
            raise CannotReachError(
                f"the node in {root} does not answer; if it does not run, `edgistry-node run "
                f"{root}` starts it"
            ) from None
        problem = answer.headers.get("Content-Type", "").startswith(PROBLEM_CONTENT_TYPE)
        if problem:
            raise refusal_of(_decode(answer.body, Problem))
        if answer.status != 200:
            raise UnexpectedAnswerError(f"status {answer.status} without a problem document")
        return _decode(answer.body, kind)


async def _finished(task: asyncio.Task[T]) -> T:
    return await task


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return decode_json(body, kind, limit=_MAX_ANSWER_BYTES)
    except MalformedError as error:
        raise UnexpectedAnswerError(f"not a {kind.__name__}: {error}") from None
