"""When a call of any service is given to another one, and when it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgistry.adapters import any_caller, any_search
from edgistry.adapters.any_caller import AnyCaller
from edgistry.adapters.any_search import MAX_TRIED, Chosen
from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.http import HttpClient
from edgistry.calls import CallResult
from edgistry.codec import replace
from edgistry.envelope import Status
from edgistry.errors import (
    BadReplyError,
    CallEndedError,
    CallPendingError,
    MailboxFullError,
    NoMemberError,
    NotFoundError,
    Refused,
    UnavailableError,
)
from edgistry.requests_api import KnownOutcome, RequestAnswer, to_bytes

QUEUED = RequestAnswer(
    id="call",
    state="QUEUED",
    final=False,
    wake="1m",
    attempts=0,
    submitted_us=0,
    deadline_us=0,
    recalled=False,
    reply=None,
    reason="",
)
LEASED = replace(QUEUED, state="LEASED", attempts=1)
BACK = replace(LEASED, state="QUEUED")
"""A device was handed it, and is to be handed it again."""
CANCELLED = replace(QUEUED, state="CANCELLED", final=True)
PENDING = CallPendingError("it goes on")
FULL = MailboxFullError("no room")
GONE = NotFoundError("it has left")


def ended(state: str) -> CallEndedError:
    return CallEndedError("it was not done", state=state)


def proven(answer: RequestAnswer, status: int) -> RequestAnswer:
    """``answer`` with a reply of that status, whose tag verifies."""
    return replace(answer, reply=cast("str", SimpleNamespace(status=status)))


@dataclass
class Service:
    """One that a node chooses, and what comes of calls of it."""

    comes: Refused | None = None
    """Raised for the call; ``None``: it answers."""
    told: tuple[RequestAnswer, ...] = (QUEUED,)
    """News of the call until then."""
    cancelled: RequestAnswer | Refused = CANCELLED
    """The answer, or what is raised, when it is taken back."""
    finish: Refused | None = None
    """Raised for who waits on; ``None``: it answers then."""
    takes_s: float = 0.0
    name: str = ""
    how: dict[str, Any] = field(default_factory=dict)
    """With what it was called."""

    @property
    def answer(self) -> CallResult:
        return CallResult(payload=self.name.encode(), number=1, by_node=False, age_s=0.0)


class Node:
    """Chooses ``services`` one after the other; what happens stands in ``events``."""

    def __init__(self, *services: Service, is_read: bool = False) -> None:
        self.events: list[str] = []
        self.now_s = 0.0
        self._is_read = is_read
        self._services = services
        for number, each in enumerate(services):
            each.name = f"s{number}"

    def add(self, known: KnownOutcome) -> None:
        """As an ``Acknowledger``: the node need not keep an outcome any more."""
        name = to_bytes(known.fetch_key, "it").decode()
        self.events.append(f"forget {name}")

    def furnish(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Everything between an ``AnyCaller`` and the network is this."""
        node = self

        async def request_any_grant(*_: Any, avoid: Sequence[str], **__: Any) -> Chosen:
            node.events.append("choose")
            for each in node._services:
                if each.name not in avoid:
                    return Chosen(
                        handle=each.name, capability=cast("Any", each), is_read=node._is_read
                    )
            raise NoMemberError("nobody else")

        class Caller:
            def __init__(self, _http: object, capability: Service, **_: object) -> None:
                self.service = capability

            async def call(
                self,
                *_: object,
                keep: Callable[[Any], None],
                news: Callable[[RequestAnswer], None],
                **how: Any,
            ) -> CallResult:
                service = self.service
                node.events.append(f"call {service.name}")
                service.how = how
                fetch_key = service.name.encode()
                keep(SimpleNamespace(service=service, request=None, fetch_key=fetch_key))
                for each in service.told:
                    news(each)
                node.now_s += service.takes_s
                if service.comes is not None:
                    raise service.comes
                return service.answer

        class Tracker:
            def __init__(self, _http: object, ticket: Any) -> None:
                self.service: Service = ticket.service

            def known_as(self, request_id: str) -> None:
                assert request_id == QUEUED.id

            async def cancel(self) -> RequestAnswer:
                node.events.append(f"cancel {self.service.name}")
                if isinstance(self.service.cancelled, Refused):
                    raise self.service.cancelled
                return self.service.cancelled

            async def wait(self, answer: RequestAnswer, wait_s: float, _: object) -> RequestAnswer:
                node.events.append(f"wait {self.service.name}")
                if self.service.finish is PENDING:
                    node.now_s += wait_s
                    raise PENDING
                return answer

            async def result(self, *_: object, **__: object) -> CallResult:
                if self.service.finish is not None:
                    raise self.service.finish
                return self.service.answer

        monkeypatch.setattr(any_caller, "request_any_grant", request_any_grant)
        monkeypatch.setattr(any_caller, "ServiceCaller", Caller)
        monkeypatch.setattr(any_search, "CallTracker", Tracker)
        monkeypatch.setattr(any_search, "reply_of", lambda _, answer: answer.reply)
        clock = SimpleNamespace(monotonic=lambda: self.now_s)
        monkeypatch.setattr(any_caller, "time", clock)
        monkeypatch.setattr(any_search, "time", clock)


Call = Callable[..., Any]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    async def calling(node: Node, **how: Any) -> str:
        node.furnish(monkeypatch)
        http = HttpClient("http://127.0.0.1:1")
        caller = AnyCaller(http, ClientKeys.generate(), acknowledger=cast("Any", node))
        fields: dict[str, Any] = {"wait_s": 30.0, "ttl_s": 60.0, **how}
        return (await caller.call("do", type="valve", area={}, **fields)).payload.decode()

    return calling


async def test_a_call_that_is_certainly_not_carried_out_goes_to_another(call: Call) -> None:
    node = Node(Service(PENDING), Service())
    assert await call(node) == "s1"
    assert node.events == ["choose", "call s0", "choose", "cancel s0", "forget s0", "call s1"]


@pytest.mark.parametrize("told", [(QUEUED, LEASED), (QUEUED, BACK), (replace(LEASED, attempts=0),)])
async def test_a_call_that_a_device_was_handed_is_not_even_taken_back(
    call: Call, told: tuple[RequestAnswer, ...]
) -> None:
    node = Node(Service(PENDING, told=told), Service())
    assert await call(node) == "s0"
    assert node.events == ["choose", "call s0", "wait s0"]


async def test_a_call_that_a_device_was_handed_before_it_was_taken_back_stays(call: Call) -> None:
    handed = replace(CANCELLED, attempts=1)
    node = Node(Service(PENDING, cancelled=handed, finish=ended("CANCELLED")), Service())
    with pytest.raises(CallEndedError):
        await call(node)
    recalled = replace(LEASED, recalled=True)
    again = Node(Service(PENDING, cancelled=recalled), Service())
    assert await call(again) == "s0"
    assert "call s1" not in node.events + again.events


async def test_a_call_that_only_reads_goes_to_another_from_a_device_that_has_it(call: Call) -> None:
    recalled = replace(LEASED, recalled=True)
    node = Node(Service(PENDING, told=(LEASED,), cancelled=recalled), Service(), is_read=True)
    assert await call(node) == "s1"
    node = Node(Service(PENDING, told=(LEASED,), cancelled=recalled), Service())
    assert await call(node) == "s0"


async def test_an_outcome_that_came_before_the_call_was_taken_back_is_the_one_to_have(
    call: Call,
) -> None:
    done = replace(LEASED, state="RESPONDED", final=True)
    node = Node(Service(PENDING, cancelled=done), Service(), is_read=True)
    assert await call(node) == "s0"
    assert node.events[-2:] == ["cancel s0", "wait s0"]


async def test_a_cancellation_that_its_own_reply_belies_is_no_reason_to_go_on(call: Call) -> None:
    node = Node(Service(PENDING, cancelled=proven(CANCELLED, Status.OK)), Service())
    with pytest.raises(BadReplyError):
        await call(node)
    node = Node(Service(PENDING, cancelled=proven(CANCELLED, Status.CANCELLED)), Service())
    assert await call(node) == "s1"


async def test_a_call_that_found_no_room_goes_to_another_and_one_that_found_some_stays(
    call: Call,
) -> None:
    assert await call(Node(Service(FULL, told=()), Service())) == "s1"
    with pytest.raises(MailboxFullError):
        await call(Node(Service(FULL, told=(QUEUED,)), Service()))
    with pytest.raises(MailboxFullError):
        await call(Node(Service(FULL, told=())))


async def test_a_service_that_has_left_may_have_taken_what_changes_something(call: Call) -> None:
    with pytest.raises(NotFoundError, match="left"):
        await call(Node(Service(GONE, told=()), Service()))
    assert await call(Node(Service(GONE, told=()), Service(), is_read=True)) == "s1"


@pytest.mark.parametrize(
    ("state", "is_read", "answers"),
    [
        ("DEAD", True, "s1"),
        ("FAILED", True, "s1"),
        ("EXPIRED", True, None),
        ("DEAD", False, None),
        ("REJECTED", False, None),
    ],
)
async def test_only_what_reads_is_tried_again_after_its_end_and_not_after_its_deadline(
    call: Call, state: str, is_read: bool, answers: str | None
) -> None:
    node = Node(Service(ended(state)), Service(), is_read=is_read)
    if answers is not None:
        assert await call(node) == answers
        return
    with pytest.raises(CallEndedError):
        await call(node)
    assert "call s1" not in node.events


@pytest.mark.parametrize("comes", [PENDING, FULL, ended("DEAD")], ids=lambda each: each.code)
async def test_so_many_services_are_tried_and_no_more(call: Call, comes: Refused) -> None:
    told = () if comes is FULL else (QUEUED,)
    services = [Service(comes, told=told, finish=PENDING) for _ in range(MAX_TRIED + 1)]
    node = Node(*services, is_read=True)
    with pytest.raises(type(comes)):
        await call(node)
    assert [each for each in node.events if each.startswith("call")] == [
        "call s0",
        "call s1",
        "call s2",
    ]


async def test_all_that_is_tried_has_one_deadline_and_one_time_to_wait(call: Call) -> None:
    first, second, last = (Service(PENDING, takes_s=10.0, finish=PENDING) for _ in range(3))
    with pytest.raises(CallPendingError):
        await call(Node(first, second, last), ttl_s=60.0, wait_s=45.0, patience_s=10.0)
    assert [each.how["ttl_s"] for each in (first, second, last)] == [60.0, 50.0, 40.0]
    assert [each.how["wait_s"] for each in (first, second, last)] == [10.0, 10.0, 25.0]


async def test_pauses_between_looks_for_another_service_double(call: Call) -> None:
    node = Node(Service(PENDING, takes_s=1.0, finish=PENDING))
    with pytest.raises(CallPendingError):
        await call(node, wait_s=31.0, patience_s=1.0)
    looks = ["choose", "wait s0"] * 5  # after 1, 2, 4, 8 and 16 s
    assert node.events == ["choose", "call s0", *looks]


async def test_another_service_that_was_found_is_not_looked_for_again(call: Call) -> None:
    away = UnavailableError("the node is away")
    node = Node(Service(PENDING, takes_s=1.0, cancelled=away, finish=PENDING), Service())
    with pytest.raises(CallPendingError):
        await call(node, wait_s=8.0, patience_s=1.0)
    tries = ["cancel s0", "wait s0"] * 3
    assert node.events == ["choose", "call s0", "choose", *tries]


async def test_who_has_no_time_to_wait_has_made_one_call(call: Call) -> None:
    node = Node(Service(PENDING, takes_s=1.0), Service())
    with pytest.raises(CallPendingError):
        await call(node, wait_s=1.0)
    assert node.events == ["choose", "call s0"]
