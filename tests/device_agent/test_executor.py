"""Requests that a node hands down: executed once each, with exactly one result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from device_agent.queues import MAX_ASKERS, Asker, DeviceQueues, TakenOn
from edgistry.caveats import VEIL
from edgistry.envelope import GENERIC_REFUSAL, Flag, Operation, Status
from edgistry.errors import CorruptDatabaseError, StorageError
from edgistry.handlers import GiveUpError, handler
from edgistry.issuer import Issuer
from edgistry.kv import Change, MemoryKeyValue
from edgistry.messages import ResultKind
from edgistry.operations import NEWEST, encode_get
from edgistry.replay import Outcome
from edgistry.rights import Right
from edgistry.verifier import Checked
from edgistry.woof_staging import Staging
from tests.edgistry.faas_world import Gate, until

from .device_world import (
    HOME,
    ME,
    NOW_US,
    OTHER_HOME,
    ROOT,
    SECRET,
    Requests,
    down,
    inside,
    request_id,
)

calls: list[bytes] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@handler
async def echo(_context: Any, _woof: str, _seq: int, element: bytes) -> bytes:
    calls.append(element)
    return b"heard " + element


@handler
async def quiet(_context: Any, _woof: str, _seq: int, element: bytes) -> None:
    calls.append(element)


@handler
async def broken(_context: Any, _woof: str, _seq: int, _element: bytes) -> None:
    raise GiveUpError("the sensor is gone")


def held_up() -> tuple[Gate, Callable[..., object]]:
    """A handler that answers when the gate is opened."""
    gate = Gate()

    @handler("slow")
    async def slow(_context: Any, _woof: str, _seq: int, element: bytes) -> bytes:
        await gate.wait_async()
        calls.append(element)
        return b"at last"

    return gate, slow


# --- operations without handlers ----------------------------------------------------------------


async def test_put_without_handler_has_its_result_at_once() -> None:
    request = Requests().bind(payload=b"17")
    async with inside() as device:
        await device.execute(down(request, 1))
        assert device.report()[1].kind == ResultKind.RESPONDED
        reply = device.reply(request, 1)
        assert (reply.status, reply.result) == (Status.OK, 1)
        assert device.elements() == [b"17"]


async def test_get_is_answered_with_the_element() -> None:
    requests = Requests()
    put, get = requests.bind(payload=b"17"), requests.bind(Operation.GET, payload=encode_get())
    async with inside() as device:
        await device.execute(down(put, 1))
        await device.execute(down(get, 2))
        assert device.reply(get, 2).payload == b"17"


async def test_node_creates_namespaces_and_woofs_by_requests() -> None:
    requests = Requests()
    namespace = requests.bind(Operation.NAMESPACE_CREATE, "valve")
    async with inside() as device:
        await device.execute(down(namespace, 1))
        assert device.reply(namespace, 1).status == Status.OK
        assert "valve" in device.woofs.woofs.namespaces()


async def test_request_that_is_not_allowed_is_rejected_with_the_proven_reason() -> None:
    reader = ROOT.derive(allow=Right.GET)
    request = reader.bind(
        Operation.PUT, "meter/read", b"1", client=ME, sequence=NOW_US, deadline=NOW_US + 1
    )
    async with inside() as device:
        await device.execute(down(request, 1))
        assert device.report()[1].kind == ResultKind.REJECTED
        assert device.reply(request, 1).status == Status.NO_RIGHT
        assert device.elements() == []


async def test_forged_request_is_rejected_and_changes_nothing() -> None:
    forged = Issuer.from_secret(bytes(32), epoch=1).mint(serial=1)
    request = forged.bind(
        Operation.PUT, "meter/read", b"1", client=ME, sequence=NOW_US, deadline=NOW_US + 1
    )
    async with inside() as device:
        await device.execute(down(request, 1))
        assert device.report()[1].kind == ResultKind.REJECTED
        assert device.report()[1].reply == GENERIC_REFUSAL
        assert device.elements() == []


async def test_request_withheld_past_its_deadline_is_never_executed() -> None:
    request = Requests().bind(payload=b"open", handler="echo")
    async with inside(echo) as device:
        await device.execute(down(request, 1), now_us=request.envelope.deadline + 1)
        assert device.report()[1].kind == ResultKind.REJECTED
        assert device.reply(request, 1).status == Status.EXPIRED
        assert device.elements() == []
        assert calls == []


async def test_unknown_handler_is_told_and_nothing_is_put() -> None:
    request = Requests().bind(payload=b"1", handler="nobody")
    async with inside() as device:
        await device.execute(down(request, 1))
        assert device.reply(request, 1).status == Status.NO_HANDLER
        assert device.elements() == []


# --- handlers -----------------------------------------------------------------------------------


async def test_answer_of_a_handler_is_the_one_final_reply() -> None:
    request = Requests().bind(payload=b"17", handler="echo")
    async with inside(echo) as device:
        await device.execute(down(request, 1))
        await device.settled()
        assert device.report()[1].kind == ResultKind.RESPONDED
        reply = device.reply(request, 1)
        assert (reply.status, reply.result, reply.payload) == (Status.OK, 1, b"heard 17")


async def test_a_request_names_the_action_and_the_device_knows_the_function() -> None:
    functions = {("meter/read", "read"): "echo"}
    requests = Requests()
    async with inside(echo, functions=functions) as device:
        await device.woofs.create("meter/other", 10)
        here = requests.bind(payload=b"one", handler="read")
        elsewhere = requests.bind(target="meter/other", payload=b"two", handler="read")
        await device.execute(down(here, 1), down(elsewhere, 2))
        await device.settled()
        assert device.reply(here, 1).payload == b"heard one"
        assert device.reply(elsewhere, 2).status == Status.NO_HANDLER
    assert calls == [b"one"]


async def test_under_a_veil_no_reply_tells_how_many_elements_there_are() -> None:
    veiled = ROOT.derive(caveats=[VEIL])
    requests = Requests()
    async with inside(echo) as device:
        for number in range(1, 4):
            request = requests.bind(handler="echo", capability=veiled)
            await device.execute(down(request, number))
            await device.settled()
            reply = device.reply(request, number)
            assert (reply.status, reply.result) == (Status.OK, 0)
        newest = requests.bind(Operation.GET, payload=encode_get(NEWEST), capability=veiled)
        third = requests.bind(Operation.GET, payload=encode_get(3), capability=veiled)
        latest = requests.bind(Operation.LATEST, capability=veiled)
        bare = requests.bind(capability=veiled)
        await device.execute(*(down(each, at) for at, each in enumerate((newest, third), 4)))
        await device.execute(down(latest, 6), down(bare, 7))
        assert device.reply(newest, 4).result == 0
        for at, each in ((5, third), (6, latest), (7, bare)):
            assert (device.reply(each, at).status, device.reply(each, at).result) == (
                Status.CAVEAT,
                0,
            )
        assert len(device.elements()) == 3


async def test_handler_without_answer_answers_with_nothing() -> None:
    request = Requests().bind(payload=b"17", handler="quiet")
    async with inside(quiet) as device:
        await device.execute(down(request, 1))
        await device.settled()
        reply = device.reply(request, 1)
        assert (reply.status, reply.payload) == (Status.OK, b"")


async def test_handler_that_fails_for_good_is_told() -> None:
    request = Requests().bind(payload=b"17", handler="broken")
    async with inside(broken) as device:
        await device.execute(down(request, 1))
        await device.settled()
        assert device.report()[1].kind == ResultKind.RESPONDED
        assert device.reply(request, 1).status == Status.HANDLER_FAILED


async def test_request_is_acknowledged_while_its_handler_runs() -> None:
    gate, slow = held_up()
    request = Requests().bind(payload=b"17", handler="slow")
    async with inside(slow) as device:
        await device.execute(down(request, 1))
        at_work = [device.executor.is_at_work]
        assert device.report()[1].kind == ResultKind.ACKNOWLEDGED
        gate.open()
        await device.settled()
        at_work.append(device.executor.is_at_work)
        assert at_work == [True, False]
        assert device.reply(request, 1).payload == b"at last"


async def test_one_stuck_handler_holds_up_no_other() -> None:
    gate, slow = held_up()
    requests = Requests()
    stuck, other = requests.bind(handler="slow"), requests.bind(payload=b"x", handler="echo")
    async with inside(slow, echo) as device:
        await device.execute(down(stuck, 1), down(other, 2))
        await until(lambda: device.report()[2].kind == ResultKind.RESPONDED)
        assert device.report()[1].kind == ResultKind.ACKNOWLEDGED
        gate.open()
        await device.settled()


async def test_final_reply_brings_a_flattened_capability_when_asked() -> None:
    request = Requests().bind(payload=b"17", handler="echo", flags=Flag.FLATTEN)
    async with inside(echo) as device:
        await device.execute(down(request, 1))
        await device.settled()
        flattened = request.open_flat(device.reply(request, 1))
        assert flattened is not None
        assert flattened.serial == ROOT.serial


# --- duplicates ---------------------------------------------------------------------------------


async def test_request_handed_down_twice_runs_once() -> None:
    request = Requests().bind(payload=b"17", handler="echo")
    async with inside(echo) as device:
        await device.execute(down(request, 1))
        await device.execute(down(request, 1))
        await device.settled()
        await device.execute(down(request, 1))
        assert calls == [b"17"]
        assert list(device.report()) == [1]


async def test_same_envelope_under_two_ids_runs_once_and_answers_both() -> None:
    gate, slow = held_up()
    request = Requests().bind(payload=b"17", handler="slow")
    async with inside(slow) as device:
        await device.execute(down(request, 1), down(request, 2))
        await device.execute(down(request, 3), home=OTHER_HOME)
        gate.open()
        await device.settled()
        assert calls == [b"17"]
        replies = [device.report()[1].reply, device.report()[2].reply]
        assert replies == [device.report(OTHER_HOME)[3].reply] * 2


async def test_envelope_under_ever_more_ids_fills_no_memory() -> None:
    gate, slow = held_up()
    request = Requests().bind(payload=b"17", handler="slow")
    async with inside(slow) as device:
        for number in range(MAX_ASKERS + 10):
            await device.execute(down(request, number))
        assert len(device.report()) == MAX_ASKERS
        gate.open()
        await device.settled()
        assert calls == [b"17"]


async def test_result_that_a_node_has_lost_again_is_told_again() -> None:
    request = Requests().bind(payload=b"17")
    async with inside() as device:
        await device.execute(down(request, 1))
        first = device.report()
        device.executor.answered(HOME, list(first.values()), {request_id(1)})
        news = [device.executor.outgoing.has_news(HOME)]
        await device.execute(down(request, 1))
        news.append(device.executor.outgoing.has_news(HOME))
        assert news == [False, True]
        assert device.report() == first
        assert device.elements() == [b"17"]


async def test_envelope_that_comes_again_after_its_end_gets_the_same_final_reply() -> None:
    request = Requests().bind(payload=b"17", handler="echo")
    async with inside(echo) as device:
        await device.execute(down(request, 1))
        await device.settled()
        first = device.report()[1]
        device.executor.answered(HOME, [first], {first.request_id})
        await device.executor.clear()
        assert device.report() == {}
        await device.execute(down(request, 2))
        assert device.report()[2].reply == first.reply
        assert calls == [b"17"]


async def test_hundred_requests_in_any_order_of_priority_all_pass_the_window() -> None:
    requests = Requests()
    bound = [requests.bind(payload=b"%d" % number, handler="echo") for number in range(100)]
    # What a node may do: 32 later ones overtake an unfinished one.
    order = [bound[start + step] for start in range(0, 100, 25) for step in reversed(range(25))]
    async with inside(echo) as device:
        await device.execute(*(down(each, number) for number, each in enumerate(order)))
        await device.settled()
        assert sorted(calls) == sorted(b"%d" % number for number in range(100))
        statuses = {device.reply(each, number).status for number, each in enumerate(order)}
        assert statuses == {Status.OK}


# --- results and confirmations ------------------------------------------------------------------


async def test_result_stays_until_its_node_has_it() -> None:
    request = Requests().bind(payload=b"17")
    async with inside() as device:
        await device.execute(down(request, 1))
        told = list(device.report().values())
        assert device.executor.outgoing.has_results(HOME)
        device.executor.answered(HOME, told, {request_id(1)})
        assert not device.executor.outgoing.has_results(HOME)
        assert device.executor.held() == 0


async def test_confirmed_acknowledgement_is_not_repeated_and_the_result_still_comes() -> None:
    gate, slow = held_up()
    request = Requests().bind(handler="slow")
    async with inside(slow) as device:
        await device.execute(down(request, 1))
        told = list(device.report().values())
        device.executor.answered(HOME, told, {request_id(1)})
        assert device.report() == {}
        gate.open()
        await device.settled()
        assert device.report()[1].kind == ResultKind.RESPONDED


async def test_acknowledgement_confirmed_late_does_not_take_the_result_with_it() -> None:
    gate, slow = held_up()
    request = Requests().bind(handler="slow")
    async with inside(slow) as device:
        await device.execute(down(request, 1))
        acknowledged = list(device.report().values())
        gate.open()
        await device.settled()
        device.executor.answered(HOME, acknowledged, {request_id(1)})
        assert device.report()[1].kind == ResultKind.RESPONDED


async def test_results_go_to_the_node_that_asked() -> None:
    requests = Requests()
    one, two = requests.bind(payload=b"1"), requests.bind(payload=b"2")
    async with inside() as device:
        await device.execute(down(one, 1))
        await device.execute(down(two, 2), home=OTHER_HOME)
        assert list(device.report()) == [1]
        assert list(device.report(OTHER_HOME)) == [2]


async def test_results_for_a_node_that_is_no_home_any_more_are_dropped() -> None:
    requests = Requests()
    async with inside() as device:
        await device.execute(down(requests.bind(), 1))
        await device.execute(down(requests.bind(), 2), home=OTHER_HOME)
        await device.executor.drop_strangers({OTHER_HOME})
        assert device.report() == {}
        assert list(device.report(OTHER_HOME)) == [2]


async def test_result_is_news_until_it_was_told_and_again_when_nobody_heard_it() -> None:
    async with inside() as device:
        outgoing = device.executor.outgoing
        await device.execute(down(Requests().bind(), 1))
        assert outgoing.has_news(HOME)
        told = device.executor.report(HOME, limit=1 << 20)
        assert not outgoing.has_news(HOME)
        outgoing.unanswered(HOME, told)
        assert outgoing.has_news(HOME)
        assert not outgoing.has_news(OTHER_HOME)


async def test_report_is_bounded_and_the_rest_comes_later() -> None:
    requests = Requests()
    gets = [requests.bind(Operation.GET, payload=encode_get()) for _ in range(8)]
    async with inside() as device:
        await device.execute(down(requests.bind(payload=bytes(10_000)), 100))
        await device.execute(*(down(each, number) for number, each in enumerate(gets)))
        told = device.executor.report(HOME, limit=40_000)
        assert 1 < len(told) < 9
        assert sum(len(each.reply) for each in told) <= 40_000


# --- restarts and failures ----------------------------------------------------------------------


async def test_what_was_taken_on_is_finished_after_a_restart() -> None:
    store = MemoryKeyValue()
    _, slow = held_up()
    request = Requests().bind(payload=b"17", handler="slow")
    async with inside(slow, store=store) as device:
        await device.execute(down(request, 1))
    gate, slow = held_up()
    gate.open()
    async with inside(slow, store=store) as device:
        assert device.executor.is_at_work
        await device.settled()
        assert device.reply(request, 1).payload == b"at last"
        assert device.elements() == [b"17"]


async def test_nobody_lingers_for_a_handler_that_is_not_there_and_it_may_come_back() -> None:
    store, request = MemoryKeyValue(), Requests().bind(payload=b"17", handler="slow")
    gate, slow = held_up()
    async with inside(slow, store=store) as device:
        await device.execute(down(request, 1))
        assert device.executor.is_at_work
    async with inside(echo, store=store) as device:
        assert not device.executor.is_at_work
        await device.settled()
        assert device.executor.held() == 1
    gate.open()
    async with inside(slow, store=store) as device:
        await device.settled()
        assert device.reply(request, 1).status == Status.OK


async def test_results_survive_a_restart_and_confirmed_ones_do_not() -> None:
    store = MemoryKeyValue()
    requests = Requests()
    one, two = requests.bind(payload=b"1"), requests.bind(payload=b"2")
    async with inside(store=store) as device:
        await device.execute(down(one, 1), down(two, 2))
        device.executor.answered(HOME, list(device.report().values()), {request_id(1)})
    async with inside(store=store) as device:
        assert list(device.report()) == [2]


async def test_new_epoch_leaves_requests_of_the_old_one_unanswered() -> None:
    store = MemoryKeyValue()
    _, slow = held_up()
    request = Requests().bind(handler="slow")
    async with inside(slow, store=store) as device:
        await device.execute(down(request, 1))
    gate, slow = held_up()
    gate.open()
    async with inside(slow, store=store, issuer=Issuer.from_secret(SECRET, epoch=2)) as device:
        await device.settled()
        assert device.report() == {}
        assert device.executor.held() == 0


class FullDisk(MemoryKeyValue):
    """Takes no more writes from some moment on."""

    is_full = False

    def write(self, changes: Iterable[Change], *, sync: bool) -> None:
        if self.is_full:
            raise StorageError("no space is left")
        super().write(changes, sync=sync)


async def test_request_that_cannot_be_made_durable_is_not_acknowledged() -> None:
    store = FullDisk()
    request = Requests().bind(handler="echo")
    async with inside(echo, store=store) as device:
        store.is_full = True
        with pytest.raises(StorageError):
            await device.execute(down(request, 1))
        store.is_full = False
    async with inside(echo, store=store) as device:
        assert device.report() == {}
        await device.execute(down(request, 1))
        await device.settled()
        assert device.report()[1].kind == ResultKind.RESPONDED


async def test_request_that_meets_damage_is_answered_and_the_next_one_is_executed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damaged(_checked: Checked, _staging: Staging) -> Outcome:
        raise CorruptDatabaseError("a block does not fit its checksum")

    requests = Requests()
    async with inside(echo) as device:
        with monkeypatch.context() as patched:
            patched.setattr(device.executor._service, "change", damaged)
            unlucky = requests.bind()
            await device.execute(down(unlucky, 1))
        await device.execute(down(requests.bind(), 2))
        assert device.reply(unlucky, 1).status == Status.STORAGE
        assert len(device.elements()) == 1


def test_damaged_queue_is_told_as_such() -> None:
    store = MemoryKeyValue()
    queues = DeviceQueues(store)
    store.write([(queues.take_on(b"place", TakenOn(envelope=b"x", askers=()))[0], b"?")], sync=True)
    with pytest.raises(CorruptDatabaseError):
        queues.taken_on()
    store.write([(queues.forget(Asker(HOME, request_id(1)))[0], b"?")], sync=True)
    with pytest.raises(CorruptDatabaseError):
        queues.result(Asker(HOME, request_id(1)))
