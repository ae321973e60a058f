"""The ABCI server: order, flow, halting, and engines that break the rules or vanish."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import abci_app.abci_server as server_module
from abci_app import abci_connection
from abci_app import abci_pb2 as pb
from abci_app.abci_application import BaseApplication
from abci_app.abci_connection import READ_AHEAD, FaultyAnswerError
from abci_app.abci_framing import encode_frame, encode_uvarint
from abci_app.abci_messages import CALLS
from abci_app.abci_server import ABCIServer
from edgistry.adapters.http import run
from edgistry.errors import BadSignatureError, ChainMismatchError, NotFoundError

from .abci_client import PATIENCE_S, Client, names, request_frame, serving, until

FLUSH = request_frame("flush")
ENGINE_IN_FLIGHT = 256
"""Requests that CometBFT keeps under way on one connection."""


class Recorder(BaseApplication):
    """Notes the order of calls; holds calls until the test lets them go."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gate = asyncio.Event()

    def check_tx(self, request: Any) -> Any:
        self.calls.append(f"check {request.tx.decode()}")
        return pb.ResponseCheckTx(data=request.tx)

    async def query(self, request: Any) -> Any:
        self.calls.append(f"query {request.path}")
        await self.gate.wait()
        return pb.ResponseQuery(info=request.path)

    async def finalize_block(self, request: Any) -> Any:
        self.calls.append(f"finalize {request.height}")
        await self.gate.wait()
        self.calls.append(f"finalized {request.height}")
        return pb.ResponseFinalizeBlock(tx_results=[pb.ExecTxResult() for _ in request.txs])

    def engine_left(self) -> None:
        self.calls.append("engine left")


# --- answers


@pytest.mark.parametrize("name", sorted(CALLS))
async def test_every_call_is_answered_by_its_own_name_even_when_empty(name: str) -> None:
    async with serving(BaseApplication()) as served:
        client = await served.connect()
        await client.call(name)


async def test_defaults_keep_a_chain_alive() -> None:
    async with serving(BaseApplication()) as served:
        client = await served.connect()
        processed = await client.call("process_proposal", txs=[b"junk"])
        assert processed.status == pb.ResponseProcessProposal.ACCEPT
        finalized = await client.call("finalize_block", txs=[b"a", b"b"], height=1)
        assert [result.code for result in finalized.tx_results] == [0, 0]
        # Three bytes each with tag and length, so only two fit into eight.
        prepared = await client.call("prepare_proposal", txs=[b"a", b"b", b"c"], max_tx_bytes=8)
        assert list(prepared.txs) == [b"a", b"b"]
        verified = await client.call("verify_vote_extension")
        assert verified.status == pb.ResponseVerifyVoteExtension.ACCEPT
        offered = await client.call("offer_snapshot")
        assert offered.result == pb.ResponseOfferSnapshot.REJECT


async def test_refused_transaction_and_query_get_codes_and_the_connection_goes_on() -> None:
    class Strict(BaseApplication):
        def check_tx(self, request: Any) -> Any:
            raise BadSignatureError("it does not verify")

        async def query(self, request: Any) -> Any:
            raise NotFoundError("no such key")

    async with serving(Strict()) as served:
        client = await served.connect()
        checked = await client.call("check_tx", tx=b"x")
        assert (checked.code, checked.log) == (BadSignatureError.number, "it does not verify")
        answer = await client.call("query")
        assert (answer.code, answer.log) == (NotFoundError.number, "no such key")
        assert (await client.call("echo", message="still here")).message == "still here"
        assert served.fatal == []


# --- order and flow


async def test_answers_keep_the_order_of_requests_when_an_early_one_takes_long() -> None:
    app = Recorder()
    async with serving(app) as served:
        client = await served.connect()
        await client.send(
            request_frame("check_tx", tx=b"1"),
            request_frame("query", path="slow"),
            request_frame("check_tx", tx=b"2"),
            request_frame("echo", message="3"),
            FLUSH,
        )
        assert names([await client.receive()]) == ["check_tx"]
        await until(lambda: "query slow" in app.calls)
        # Something later on another connection does not wait, so the order is not by chance.
        other = await served.connect()
        await other.call("check_tx", tx=b"other")
        assert "check 2" not in app.calls
        app.gate.set()
        rest = [await client.receive() for _ in range(4)]
        assert names(rest) == ["query", "check_tx", "echo", "flush"]
        assert app.calls == ["check 1", "query slow", "check other", "check 2"]


async def test_flush_answers_at_once_and_after_all_before_it() -> None:
    app = Recorder()
    async with serving(app) as served:
        client = await served.connect()
        await client.send(
            request_frame("echo", message="1"), FLUSH, request_frame("query", path="slow"), FLUSH
        )
        first = [await client.receive() for _ in range(2)]
        assert names(first) == ["echo", "flush"]
        app.gate.set()
        assert names([await client.receive() for _ in range(2)]) == ["query", "flush"]


async def test_flush_sends_what_is_answered_before_the_next_request_is_begun() -> None:
    class Watcher(BaseApplication):
        def check_tx(self, request: Any) -> Any:
            seen.append(peer.recv(1000))
            return pb.ResponseCheckTx()

    seen: list[bytes] = []
    async with serving(Watcher()) as served:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(served.path))
            peer.setblocking(False)
            peer.sendall(request_frame("echo", message="1") + FLUSH + request_frame("check_tx"))
            await until(lambda: seen or served.fatal)
    assert served.fatal == []
    assert seen == [b"\x05\x12\x03\x0a\x011" + b"\x02\x1a\x00"]


async def test_check_tx_is_not_held_up_by_a_slow_block_on_another_connection() -> None:
    app = Recorder()
    async with serving(app) as served:
        consensus, mempool = await served.connect(), await served.connect()
        await consensus.send(request_frame("finalize_block", height=7, txs=[b"x"]))
        await until(lambda: "finalize 7" in app.calls)
        for number in range(3):
            await mempool.call("check_tx", tx=str(number).encode())
        assert "finalized 7" not in app.calls
        app.gate.set()
        assert names([await consensus.receive()]) == ["finalize_block"]


async def test_as_many_requests_under_way_as_the_engine_sends() -> None:
    app = Recorder()
    async with serving(app) as served:
        client = await served.connect()
        await client.send(request_frame("query", path="slow"))
        sent = [str(number).encode() for number in range(ENGINE_IN_FLIGHT)]
        await client.send(*(request_frame("check_tx", tx=each) for each in sent), FLUSH)
        app.gate.set()
        assert names([await client.receive()]) == ["query"]
        answers = [await client.receive() for _ in range(ENGINE_IN_FLIGHT)]
        assert [answer.check_tx.data for answer in answers] == sent
        assert names([await client.receive()]) == ["flush"]


async def test_more_than_fits_waits_in_the_peer_and_arrives_whole() -> None:
    """Reading stops while an answer is awaited, and nothing is lost when it starts again."""
    app = Recorder()
    async with serving(app) as served:
        client = await served.connect()
        large = b"x" * 100_000
        count = 4 * READ_AHEAD // len(large)
        await client.send(request_frame("query", path="slow"))
        sending = asyncio.create_task(
            client.send(*[request_frame("check_tx", tx=large)] * count, FLUSH)
        )
        await until(lambda: app.calls)
        (connection,) = served.server._connections
        await until(lambda: connection._paused)
        assert connection._frames.pending < 2 * READ_AHEAD
        app.gate.set()
        answers = [await client.receive() for _ in range(count + 2)]
        await sending
        assert names(answers) == ["query", *["check_tx"] * count, "flush"]
        assert {len(answer.check_tx.data) for answer in answers[1:-1]} == {len(large)}


async def test_peer_that_does_not_read_is_not_buffered_for_without_end() -> None:
    class Generous(BaseApplication):
        answered = 0

        def query(self, request: Any) -> Any:
            self.answered += 1
            return pb.ResponseQuery(value=bytes(READ_AHEAD // 2))

    app = Generous()
    with pytest.MonkeyPatch.context() as patched:
        # As on a machine so fast that it handles all requests within one slice of work.
        patched.setattr(abci_connection, "SLICE_S", PATIENCE_S)
        await _pile_up(app)


async def _pile_up(app: Any) -> None:
    async with serving(app) as served:
        client = await served.connect()
        count = 40
        client.writer.write(request_frame("query") * count)
        # The stream reader takes a little before it stops too; far less than all must be enough.
        await until(lambda: app.answered >= 2)
        (connection,) = served.server._connections
        await until(lambda: connection._congested)
        before = app.answered
        assert before < count
        client.writer.write(request_frame("query"))
        await until(lambda: connection._frames.pending > len(request_frame("query")) * 2)
        await (await served.connect()).call("echo")
        assert app.answered == before
        count += 1
        assert names([await client.receive() for _ in range(count)]) == ["query"] * count


async def test_others_get_their_turn_during_a_long_run_of_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(abci_connection, "SLICE_S", -1.0)  # every request is a slice of its own
    app = Recorder()
    async with serving(app) as served:
        client = await served.connect()
        turns = itertools.count()
        done = asyncio.Event()

        async def bystander() -> None:
            while not done.is_set():
                next(turns)
                await asyncio.sleep(0)

        task = asyncio.create_task(bystander())
        await client.send(*[request_frame("check_tx", tx=b"1")] * 50, FLUSH)
        assert names([await client.receive() for _ in range(51)])[-1] == "flush"
        done.set()
        await task
        assert next(turns) > 50


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_split_and_merge_of_reads_gives_the_same_answers(data: st.DataObject) -> None:
    order = data.draw(
        st.lists(st.sampled_from(["echo", "flush", "check_tx", "query", "commit"]), max_size=12)
    )
    stream = b"".join(map(request_frame, order))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    marks = [0, *sorted(cuts), len(stream)]

    async def talk() -> list[Any]:
        app = Recorder()
        app.gate.set()
        async with serving(app) as served:
            client = await served.connect()
            for start, stop in itertools.pairwise(marks):
                await client.send(stream[start:stop])
                await asyncio.sleep(0)
            client.writer.write_eof()
            answers = []
            while (answer := await client.receive()) is not None:
                answers.append(answer)
            return answers

    assert names(asyncio.run(talk())) == order


async def test_peer_that_closed_its_writing_side_still_gets_its_answers() -> None:
    app = Recorder()
    async with serving(app) as served:
        client = await served.connect()
        await client.send(request_frame("query", path="slow"), request_frame("echo", message="1"))
        client.writer.write_eof()
        await until(lambda: app.calls)
        app.gate.set()
        assert names([await client.receive() for _ in range(2)]) == ["query", "echo"]
        assert await client.receive() is None


async def test_peer_that_closed_its_writing_side_gets_answers_that_take_many_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(abci_connection, "SLICE_S", -1.0)
    async with serving(BaseApplication()) as served:
        client = await served.connect()
        await client.send(request_frame("echo") * 20)
        client.writer.write_eof()
        assert names([await client.receive() for _ in range(20)]) == ["echo"] * 20
        assert await client.receive() is None


# --- peers that break the protocol


BROKEN = {
    "retired call": encode_frame(b"\x22\x00"),
    "no call": b"\x00",
    "no protobuf": encode_frame(b"\xff\xff\xff"),
    "broken text": encode_frame(b"\x0a\x03\x0a\x01\xff"),
    "too long": encode_uvarint(1 << 40),
    "no length": b"\xff" * 11,
}


@pytest.mark.parametrize("stream", BROKEN.values(), ids=BROKEN)
async def test_broken_protocol_gets_an_exception_then_a_close_and_hurts_nobody_else(
    stream: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "edgistry.node.abci")
    async with serving(BaseApplication()) as served:
        bystander, client = await served.connect(), await served.connect()
        await client.send(request_frame("echo", message="before"), stream)
        first, second = await client.receive(), await client.receive()
        assert first.echo.message == "before"
        assert second.exception.error
        assert await client.receive() is None
        assert (await bystander.call("echo", message="on")).message == "on"
        assert served.fatal == []
    assert "ABCI connection closed" in caplog.text


async def test_peer_that_goes_on_sending_can_read_why_it_was_refused() -> None:
    async with serving(BaseApplication()) as served:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE_S)
            await asyncio.to_thread(peer.connect, str(served.path))
            await asyncio.to_thread(peer.sendall, b"\x00")
            # The answer is there, unread, when the next request is sent.
            await asyncio.to_thread(peer.recv, 1, socket.MSG_PEEK)
            await asyncio.to_thread(peer.sendall, request_frame("flush"))
            assert b"malformed" in await asyncio.to_thread(peer.recv, 1000)
            assert await asyncio.to_thread(peer.recv, 1000) == b""


async def test_message_over_the_cap_is_refused_before_it_is_sent() -> None:
    async with serving(BaseApplication(), frame_limit=1000) as served:
        client = await served.connect()
        await client.send(encode_uvarint(1001))
        answer = await client.receive()
        assert "too-large" in answer.exception.error
        assert await client.receive() is None


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_get_answers_or_an_exception_and_the_server_lives(
    garbage: bytes, framed: bool
) -> None:
    async def talk() -> None:
        async with serving(BaseApplication()) as served:
            client = await served.connect()
            await client.send(encode_frame(garbage) if framed else garbage)
            client.writer.write_eof()
            while (answer := await client.receive()) is not None:
                assert answer.WhichOneof("value") is not None
            other = await served.connect()
            assert (await other.call("echo", message="alive")).message == "alive"
            assert served.fatal == []

    asyncio.run(talk())


# --- halting


class Broken(BaseApplication):
    """Fails in the way that each test asks for."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def commit(self, request: Any) -> Any:
        return self._answer()

    finalize_block = process_proposal = commit


async def fail_with(error: BaseException) -> Any:
    raise error


def raise_now(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda: raise_now(KeyError("bug")), KeyError),
        (lambda: fail_with(KeyError("bug")), KeyError),
        (lambda: raise_now(ChainMismatchError("other chain")), ChainMismatchError),
        (lambda: fail_with(ChainMismatchError("other chain")), ChainMismatchError),
        (lambda: fail_with(asyncio.CancelledError()), asyncio.CancelledError),
        (lambda: None, FaultyAnswerError),
        (pb.ResponseQuery, FaultyAnswerError),
        (lambda: asyncio.sleep(0, "text"), FaultyAnswerError),
    ],
    ids=[
        "exception", "later exception", "refusal", "later refusal", "cancelled", "nothing",
        "other message", "later text",
    ],
)  # fmt: skip
async def test_application_that_fails_halts_the_server(answer: Any, kind: type) -> None:
    async with serving(Broken(answer)) as served:
        client, bystander = await served.connect(), await served.connect()
        await bystander.call("echo")
        await client.send(request_frame("commit"), request_frame("echo", message="never"))
        answer = await client.receive()
        assert "commit failed" in answer.exception.error
        assert await client.receive() is None
        assert await bystander.receive() is None
        assert [type(error) for error in served.fatal] == [kind]
        assert served.server.failure is served.fatal[0]
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            await served.connect()


async def test_answer_that_would_stop_the_engine_halts_with_our_own_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Broken(pb.ResponseFinalizeBlock)) as served:
        client = await served.connect()
        await client.send(request_frame("finalize_block", txs=[b"one"]))
        assert names([await client.receive()]) == ["exception"]
        assert "0 results for 1 transactions" in str(served.fatal[0])
    assert "the application failed in finalize_block" in caplog.text


async def test_exception_text_stays_in_our_log() -> None:
    async with serving(Broken(lambda: raise_now(ValueError("a secret")))) as served:
        client = await served.connect()
        await client.send(request_frame("commit"))
        assert "a secret" not in str(await client.receive())


async def test_failure_of_a_call_whose_engine_is_gone_still_halts() -> None:
    gate = asyncio.Event()

    async def fail_late() -> Any:
        await gate.wait()
        raise KeyError("bug")

    async with serving(Broken(fail_late)) as served:
        client = await served.connect()
        await client.send(request_frame("commit"))
        await until(lambda: any(each.awaited for each in served.server._connections))
        client.writer.transport.abort()
        gate.set()
        await until(lambda: served.fatal)
        assert isinstance(served.fatal[0], KeyError)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping does not wait for peers that take nothing."""
    monkeypatch.setattr(server_module, "FLUSH_GRACE_S", 0.05)


async def test_only_the_first_failure_is_reported(hurried: None) -> None:
    gate = asyncio.Event()

    async def fail_late() -> Any:
        await gate.wait()
        raise KeyError("bug")

    async with serving(Broken(fail_late)) as served:
        clients = [await served.connect() for _ in range(3)]
        for each in clients:
            await each.send(request_frame("commit"))
        await until(lambda: sum(bool(c.awaited) for c in served.server._connections) == 3)
        gate.set()
        await until(lambda: not served.server._connections)
        assert len(served.fatal) == 1


async def test_serve_raises_what_halted_it(hurried: None) -> None:
    async with serving(Broken(lambda: raise_now(KeyError("bug")))) as served:
        path = served.path.with_name("second.sock")
        server = ABCIServer(Broken(lambda: raise_now(KeyError("bug"))), path=path)
        task = asyncio.create_task(server.serve())
        await until(path.exists)
        client = Client(*await asyncio.open_unix_connection(path))
        await client.send(request_frame("commit"))
        with pytest.raises(KeyError, match="bug"):
            await task
        await client.close()
        assert not path.exists()


# --- engines that vanish, servers that stop


async def test_engine_may_vanish_and_return() -> None:
    app = Recorder()
    async with serving(app) as served:
        for _ in range(2):
            connections = [await served.connect() for _ in range(4)]
            for each in connections:
                await each.call("echo", message="hello")
            for each in connections:
                each.writer.transport.abort()
            await until(lambda: not served.server._connections)
        assert app.calls == ["engine left", "engine left"]
        assert (await (await served.connect()).call("info")) == pb.ResponseInfo()


async def test_engine_has_not_left_while_one_connection_is_open() -> None:
    app = Recorder()
    async with serving(app) as served:
        first, second = await served.connect(), await served.connect()
        await first.call("echo")
        await second.call("echo")
        await first.close()
        await until(lambda: len(served.server._connections) == 1)
        await second.call("echo")
        assert app.calls == []


async def test_returning_engine_waits_until_the_call_of_the_old_one_has_ended() -> None:
    app = Recorder()
    async with serving(app) as served:
        old = await served.connect()
        await old.send(request_frame("finalize_block", height=7))
        await until(lambda: app.calls == ["finalize 7"])
        old.writer.transport.abort()
        await until(lambda: not served.server._live)
        new = await served.connect()
        await new.send(request_frame("check_tx", tx=b"new"))
        other = await served.connect()
        await other.send(request_frame("echo", message="other"))
        await until(lambda: len(served.server._live) == 2)
        app.gate.set()
        assert names([await new.receive(), await other.receive()]) == ["check_tx", "echo"]
        assert app.calls == ["finalize 7", "finalized 7", "engine left", "check new"]


async def test_stop_lets_a_running_call_end_and_sends_its_answer() -> None:
    app = Recorder()
    async with serving(app) as served:
        client = await served.connect()
        await client.send(request_frame("finalize_block", height=7), request_frame("echo"))
        await until(lambda: app.calls)
        stopping = asyncio.create_task(served.server.stop())
        await asyncio.sleep(0)
        app.gate.set()
        assert names([await client.receive()]) == ["finalize_block"]
        assert await client.receive() is None
        await stopping
        assert not served.path.exists()
        assert served.fatal == []


async def test_stop_cancels_a_call_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abci_app.abci_server.STOP_GRACE_S", 0.01)
    app = Recorder()
    async with serving(app) as served:
        client = await served.connect()
        await client.send(request_frame("finalize_block", height=7))
        await until(lambda: app.calls)
        (call,) = [each.awaited for each in served.server._connections]
        await served.server.stop()
        assert call is not None
        await until(call.done)
        assert call.cancelled()
        assert app.calls == ["finalize 7"]
        assert served.fatal == []


def is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_serves_until_signalled_and_removes_its_socket(number: signal.Signals) -> None:
    program = (
        "import sys, pathlib; from abci_app.abci_server import ABCIServer, BaseApplication;"
        "ABCIServer(BaseApplication(), path=pathlib.Path(sys.argv[1])).run()"
    )
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as folder:
        path = Path(folder, "abci.sock")
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(path))
        try:
            await until(lambda: is_served(path) or process.returncode is not None)
            client = Client(*await asyncio.open_unix_connection(path))
            assert (await client.call("echo", message="up")).message == "up"
            process.send_signal(number)
            async with asyncio.timeout(PATIENCE_S):
                assert await process.wait() == 0
            assert await client.receive() is None
            await client.close()
            await until(lambda: not path.exists())
        finally:
            if process.returncode is None:
                process.kill()


@pytest.mark.parametrize(
    "scenario",
    [
        test_answers_keep_the_order_of_requests_when_an_early_one_takes_long,
        test_more_than_fits_waits_in_the_peer_and_arrives_whole,
        test_peer_that_does_not_read_is_not_buffered_for_without_end,
        test_peer_that_closed_its_writing_side_still_gets_its_answers,
        test_engine_may_vanish_and_return,
        test_returning_engine_waits_until_the_call_of_the_old_one_has_ended,
        test_stop_lets_a_running_call_end_and_sends_its_answer,
    ],
    ids=lambda scenario: scenario.__name__.removeprefix("test_"),
)
def test_the_loop_that_nodes_run_on_behaves_the_same(
    scenario: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Nodes run on uvloop, whose transports are not asyncio's."""
    run(scenario())
