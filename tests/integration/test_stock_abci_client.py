"""The engine makers' own client speaks to our ABCI server."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from abci_app import abci_pb2 as pb
from abci_app.abci_application import BaseApplication
from edgistry.errors import MalformedError, NotFoundError
from tests.abci_app.abci_client import serving

from .stock_client import stock

pytestmark = pytest.mark.engine


class Notebook(BaseApplication):
    """Keeps ``key=value`` transactions; awaits in some methods and not in others."""

    def __init__(self) -> None:
        self.staged: dict[str, bytes] = {}
        self.kept: dict[str, bytes] = {}
        self.height = 0

    def info(self, request: Any) -> Any:
        return pb.ResponseInfo(data=f"{len(self.kept)} notes", last_block_height=self.height)

    def check_tx(self, request: Any) -> Any:
        if b"=" not in request.tx:
            raise MalformedError("not key=value")
        return pb.ResponseCheckTx(data=request.tx, info="fine")

    async def query(self, request: Any) -> Any:
        await asyncio.sleep(0)
        key = request.data.decode()
        if key not in self.kept:
            raise NotFoundError(f"no {key}")
        return pb.ResponseQuery(key=request.data, value=self.kept[key], height=self.height)

    async def finalize_block(self, request: Any) -> Any:
        self.staged = dict(self.kept)
        results = []
        for transaction in request.txs:
            await asyncio.sleep(0)
            key, equals, value = transaction.partition(b"=")
            if equals:
                self.staged[key.decode()] = value
            results.append(pb.ExecTxResult(code=0 if equals else MalformedError.number))
        return pb.ResponseFinalizeBlock(tx_results=results, app_hash=self.hash())

    def hash(self) -> bytes:
        return hashlib.sha256(repr(sorted(self.staged.items())).encode()).digest()

    async def commit(self, request: Any) -> Any:
        await asyncio.to_thread(self.kept.update, self.staged)
        self.height += 1
        return pb.ResponseCommit()


async def test_echo_comes_back() -> None:
    async with serving(Notebook()) as served:
        said = await stock(served.path, "echo", "hello")
        assert (said.exit_code, said.values("code"), said.values("data")) == (0, ["OK"], ["hello"])


async def test_info_is_the_applications() -> None:
    async with serving(Notebook()) as served:
        assert (await stock(served.path, "info")).values("data") == ["0 notes"]


async def test_good_and_bad_transactions_get_their_codes() -> None:
    async with serving(Notebook()) as served:
        good = await stock(served.path, "check_tx", '"a=1"')
        assert (good.values("code"), good.values("data")) == (["OK"], ["a=1"])
        bad = await stock(served.path, "check_tx", "0xff00")
        assert bad.exit_code == 0
        assert bad.values("code") == [str(MalformedError.number)]
        assert bad.values("log") == ["not key=value"]


async def test_proposals_pass() -> None:
    async with serving(Notebook()) as served:
        processed = await stock(served.path, "process_proposal", '"junk"')
        assert processed.values("status") == ["ACCEPT"]
        prepared = await stock(served.path, "prepare_proposal", '"a=1"', '"b=2"')
        assert prepared.values("log") == ["Succeeded. Tx: a=1", "Succeeded. Tx: b=2"]


async def test_block_is_finalized_committed_and_queried_over_one_connection() -> None:
    app = Notebook()
    async with serving(app) as served:
        said = await stock(
            served.path,
            batch=[
                'finalize_block "a=1" "junk" "b=2"', "commit", "info", 'query "b"', 'query "c"'
            ],
        )  # fmt: skip
        refused = str(MalformedError.number)
        assert said.values("code") == [
            "OK", refused, "OK", "OK",  # three results and the app hash
            "OK", "OK", "OK", str(NotFoundError.number),
        ]  # fmt: skip
        assert said.values("data.hex")[0] == f"0x{app.hash().hex().upper()}"
        assert "2 notes" in said.text
        assert said.values("value") == ["2"]
        assert (app.height, app.kept) == (1, {"a": b"1", "b": b"2"})


async def test_application_that_fails_stops_the_client_too() -> None:
    class Broken(Notebook):
        def check_tx(self, request: Any) -> Any:
            raise ZeroDivisionError

    async with serving(Broken()) as served:
        said = await stock(served.path, "check_tx", '"a=1"')
        assert said.exit_code != 0
        assert "check_tx failed" in said.text
        assert [type(error) for error in served.fatal] == [ZeroDivisionError]


async def test_many_clients_at_once_each_get_their_own_answers() -> None:
    async with serving(Notebook()) as served:
        words = [f"word{number}" for number in range(8)]
        answers = await asyncio.gather(
            *(stock(served.path, batch=[f"echo {word}"] * 20) for word in words)
        )
        assert [said.values("data") for said in answers] == [[word] * 20 for word in words]
