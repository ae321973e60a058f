"""Waiting for a cluster whose nodes do not come."""

from __future__ import annotations

from pathlib import Path

import pytest

from abci_app.cluster import ClusterNode, wait_ready
from abci_app.directory import NodeDirectory
from edgistry.errors import TimedOutError


@pytest.mark.parametrize(("stays", "told"), [(True, "go on trying"), (False, "stopped again")])
async def test_late_nodes_are_said_to_go_on_only_if_they_do(
    tmp_path: Path, stays: bool, told: str
) -> None:
    node = ClusterNode(
        directory=NodeDirectory(tmp_path), api="http://127.0.0.1:1", is_local=True, name="node0"
    )
    with pytest.raises(TimedOutError, match=rf"waiting for node0 \(starting\).*{told}"):
        await wait_ready([node], {}, wait_s=0.0, stays=stays, tell=lambda line: None)
