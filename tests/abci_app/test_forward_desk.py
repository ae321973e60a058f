"""The desk of forwards: what node.toml names, and what the command line shows of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from abci_app.admin_forwards import forward_routes
from abci_app.admin_requests import AdminRoute
from abci_app.config import ForwardConfig, NodeConfig
from abci_app.forward_desk import ForwardDesk
from abci_app.metrics import NodeMetrics
from edgistry.adapters.config import parse
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.api import ReadyAnswer, StatusAnswer
from edgistry.captext import danger_text
from edgistry.envelope import Operation
from edgistry.errors import ConfigError, InvalidValueError, NotFoundError
from edgistry.forward_records import ForwardRecord, begin, progress
from edgistry.kv import KeyValue, MemoryKeyValue
from tests.edgistry.grants import ISSUER, NOW, ROOT

from .node_thread import NodeThread

CLOUD = "woof://127.0.0.1:1/cloud/log"


def forward(woof: str, **more: str) -> ForwardConfig:
    return ForwardConfig(woof=woof, to=CLOUD, capability_file="absent.cap", **more)


def test_forwards_are_listed_by_woof(tmp_path: Path) -> None:
    woofs = DurableWoofs(MemoryKeyValue())
    desk = ForwardDesk(woofs, [forward("b/b", handler="alarm"), forward("a/a")], root=tmp_path)
    first, second = desk.forwards().forwards
    assert (first.woof, first.to, first.state, first.lag) == ("a/a", CLOUD, "starting", 0)
    assert (second.woof, second.handler) == ("b/b", "alarm")
    woofs.committer.close()


def test_what_is_not_forwarded_cannot_be_settled(tmp_path: Path) -> None:
    woofs = DurableWoofs(MemoryKeyValue())
    desk = ForwardDesk(woofs, [forward("a/a")], root=tmp_path)
    with pytest.raises(NotFoundError):
        desk.settle("b/b", 1)
    with pytest.raises(InvalidValueError):
        desk.settle("a/a", 1)
    woofs.committer.close()


async def test_metrics_add_up_all_forwards_and_name_none(tmp_path: Path) -> None:
    store = MemoryKeyValue()
    for name, count in (("a/a", 3), ("b/b", 4)):
        record = ForwardRecord(client=bytes(8), delivered=count, refused=count + 1, gone=count + 2)
        store.write([progress(name, record)], sync=True)
    woofs = DurableWoofs(store)
    await woofs.create_namespace("a")
    await woofs.create("a/a", 10)
    await woofs.put("a/a", b"x")
    metrics = NodeMetrics()
    ForwardDesk(woofs, [forward("a/a"), forward("b/b")], root=tmp_path).watch(metrics)
    text = metrics.render(
        StatusAnswer(
            node="n", version="1", engine="none", chain_id="", height=0, app_hash="",
            block_time="1970-01-01T00:00:00.000000Z", members=0, peers=0, catching_up=False,
            services=0, regions=0, outbox=0,
        ),
        ReadyAnswer(ready=True, writes=True, reasons=()),
    ).decode()  # fmt: skip
    lines = {line for line in text.splitlines() if line.startswith("edgistry_forward")}
    assert lines == {
        "edgistry_forwards 2.0", "edgistry_forwards_waiting 0.0", "edgistry_forward_lag 1.0",
        "edgistry_forward_delivered 7.0", "edgistry_forward_refused 9.0",
        "edgistry_forward_gone 11.0",
    }  # fmt: skip
    await woofs.close()


def test_calm_forwards_warn_of_nothing(tmp_path: Path) -> None:
    woofs = DurableWoofs(MemoryKeyValue())
    assert ForwardDesk(woofs, [forward("a/a")], root=tmp_path).warnings() == []
    woofs.committer.close()


async def test_doubt_is_a_warning_that_names_no_woof(tmp_path: Path) -> None:
    # The request of an element is under way, made with a capability that was exchanged since.
    store = MemoryKeyValue()
    old = ISSUER.mint(serial=7).bind(
        Operation.PUT, "cloud/log", b"x", client=bytes(8), sequence=NOW, deadline=NOW
    )
    record = ForwardRecord(client=bytes(8), woof_id=1)
    store.write([progress("a/a", record), *begin("a/a", [(1, old.encoded)])], sync=True)
    woofs = DurableWoofs(store)
    file = tmp_path / "absent.cap"
    file.touch(mode=0o600)
    file.write_text(danger_text(ROOT))
    desk = ForwardDesk(woofs, [forward("a/a")], root=tmp_path)
    task = asyncio.create_task(desk.run())
    async with asyncio.timeout(10):
        while not desk.warnings():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)
    [warning] = desk.warnings()
    assert "a/a" not in warning
    [entry] = desk.forwards().forwards
    assert (entry.state, entry.in_doubt) == ("in doubt", (1,))
    [settled] = desk.settle("a/a", 1).forwards
    assert (settled.in_doubt, settled.delivered, desk.warnings()) == ((), 1, [])
    task.cancel()
    await asyncio.wait({task})
    await woofs.close()


# --- node.toml ----------------------------------------------------------------------------------

TABLE = f'[[forward]]\nwoof = "a/a"\nto = "{CLOUD}"\ncapability_file = "keys/c"\n'


def config(text: str) -> NodeConfig:
    return parse(f'name = "n"\n{text}', NodeConfig, source="node.toml")


def test_forwards_are_tables() -> None:
    [found] = config(TABLE).forward
    assert (found.woof, found.to, found.capability_file, found.handler) == (
        "a/a", CLOUD, "keys/c", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (TABLE + TABLE, "a/a is forwarded twice"),
        (TABLE.replace(CLOUD, "woof://127.0.0.1:27000/a/a"), "a/a is forwarded to itself"),
        (TABLE.replace('"a/a"', '"a"'), r"forward\[0\]\.woof"),
        (TABLE.replace(CLOUD, "cloud/log"), r"forward\[0\]\.to"),
        (TABLE.replace("keys/c", ""), r"forward\[0\]\.capability_file"),
        (TABLE + 'handler = "' + "x" * 33 + '"', r"forward\[0\]\.handler"),
        (TABLE + "history = 3", "unknown key"),
    ],
)
def test_what_cannot_be_forwarded_is_named(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        config(text)


def test_capability_in_place_of_its_file_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as refusal:
        config(TABLE.replace("keys/c", "edgcap1:RUQBsecret"))
    assert "RUQB" not in str(refusal.value)


# --- the command line ---------------------------------------------------------------------------


class ForwardingNode(NodeThread):
    """A node with a WooF of which four elements went onward."""

    async def furnish_more(self, parts: AsyncExitStack, queues: KeyValue) -> list[AdminRoute]:
        woofs = DurableWoofs(queues)
        parts.push_async_callback(woofs.close)
        record = ForwardRecord(client=b"somebody", woof_id=1, through=4)
        queues.write([progress("a/a", record)], sync=True)
        self.desk = ForwardDesk(woofs, [forward("a/a")], root=self.layout.root)
        return forward_routes(self.desk)


@pytest.fixture(scope="module")
def node() -> Iterator[ForwardingNode]:
    with ForwardingNode.started() as started:
        yield started


def test_list_prints_a_table(node: ForwardingNode) -> None:
    header, line = node.invoke("forwards", "list").stdout.splitlines()
    assert header.split() == ["WOOF", "TO", "STATE", "LAG", "DELIVERED", "REFUSED", "GONE"]
    assert line.split() == ["a/a", CLOUD, "starting", "0", "0", "0", "0"]


def test_list_prints_json(node: ForwardingNode) -> None:
    [entry] = json.loads(node.invoke("forwards", "list", "--json").stdout)["forwards"]
    assert (entry["woof"], entry["through"], entry["in_doubt"]) == ("a/a", 4, [])


def test_refusal_to_settle_is_told(node: ForwardingNode) -> None:
    done = node.invoke("forwards", "settle", "a/a", "3")
    assert (done.exit_code, "in doubt" in done.stderr) == (1, True)
    assert node.invoke("forwards", "settle", "a/a", "-1").exit_code == 2
