"""How the nodes of a cluster are doing, and waiting for those that do not come."""

from __future__ import annotations

from pathlib import Path

import pytest

from abci_app.cluster import ClusterNode, node_remarks, wait_ready
from abci_app.directory import NodeDirectory
from edgistry.api import ReadyAnswer
from edgistry.errors import TimedOutError
from tests.fake_node import FakeNode, serving


def node_at(api: str, directory: Path) -> ClusterNode:
    return ClusterNode(directory=NodeDirectory(directory), api=api, is_local=True, name="node0")


class Troubled(FakeNode):
    def ready(self) -> tuple[bool, ReadyAnswer]:
        return True, ReadyAnswer(
            ready=True, writes=False, reasons=("cut off",), warnings=("3 devices are lost",)
        )


async def test_remarks_say_why_writes_wait_and_what_should_be_done(tmp_path: Path) -> None:
    async with serving(Troubled()) as url:
        remarks = await node_remarks(node_at(url, tmp_path))
    assert remarks == ["writes wait: cut off", "warning: 3 devices are lost"]
    assert await node_remarks(node_at(url, tmp_path)) == []


@pytest.mark.parametrize(("stays", "told"), [(True, "go on trying"), (False, "stopped again")])
async def test_late_nodes_are_said_to_go_on_only_if_they_do(
    tmp_path: Path, stays: bool, told: str
) -> None:
    node = node_at("http://127.0.0.1:1", tmp_path)
    with pytest.raises(TimedOutError, match=rf"waiting for node0 \(starting\).*{told}"):
        await wait_ready([node], {}, wait_s=0.0, stays=stays, tell=lambda line: None)
