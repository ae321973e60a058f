"""What the chain refuses is a dead letter of the node that sent it; the next one goes through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from abci_app.admin_api import WAKE_UNKNOWN
from abci_app.devices import parse_handle
from abci_app.directory import read_registry_seed
from abci_app.handlers_api import DeadLetterEntry, DeadLetterList
from abci_app.outbox import Outbox
from abci_app.schema import SequenceState
from edgistry.adapters.crypto import public_key_of, signer
from edgistry.adapters.http import HttpClient
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.codec import decode_json
from edgistry.region import published_cell
from edgistry.transactions import NodeId, ServiceRecord, ServicesPut, node_id_of

from .harness import Cluster
from .outages import outage
from .registering import CENTER, check_shown, register, wait_shown

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four nodes that run; a test leaves them running."""
    with Cluster() as four:
        four.start()
        yield four


@pytest.fixture(scope="module")
def shown(cluster: Cluster) -> set[str]:
    """The devices that all nodes show; tests add what they registered."""
    handles = {register(cluster, n, f"first-{n}")[0] for n in cluster.numbers}
    wait_shown(cluster, handles)
    return handles


def dead_letters(cluster: Cluster, number: int) -> tuple[DeadLetterEntry, ...]:
    """The dead letters of a node, newest first."""

    async def ask() -> bytes:
        async with HttpClient(cluster.directory(number).admin_socket) as client:
            return (await client.request("GET", "/admin/dead-letters")).body

    return decode_json(asyncio.run(ask()), DeadLetterList, limit=1 << 20).dead_letters


def square(path: Path, *, west: float) -> str:
    """A file with a square of half a degree as GeoJSON."""
    corners = [(west, 34.0), (west + 0.5, 34.0), (west + 0.5, 34.5), (west, 34.5), (west, 34.0)]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    return str(path)


def test_of_two_regions_with_one_name_the_second_is_a_dead_letter(
    cluster: Cluster, shown: set[str], tmp_path: Path
) -> None:
    directories = [str(cluster.directory(number).root) for number in cluster.numbers]
    files = [square(tmp_path / f"{n}.geojson", west=-120.0 + n) for n in (0, 1)]
    with outage(cluster, 2, 3):
        for number in (0, 1):
            answer = cluster.command_json(
                "region", "put", directories[number], "--name", "valley",
                "--geojson", files[number], "--wait", "1s",
            )  # fmt: skip
            assert answer["tentative"] is True
        # Each node has something that comes after its region.
        behind = {register(cluster, number, f"behind the region {number}")[0] for number in (0, 1)}
    shown |= behind
    wait_shown(cluster, shown)

    letters = {number: dead_letters(cluster, number) for number in cluster.numbers}
    (loser,) = (number for number in cluster.numbers if letters[number])
    assert loser in (0, 1)
    (letter,) = letters[loser]
    assert letter.what == "region-put"
    assert "another node" in letter.reason or "owner" in letter.reason, letter
    winner = 1 - loser

    regions = [
        cluster.command_json("region", "show", directory, "--name", "valley")
        for directory in directories
    ]
    assert regions == regions[:1] * 4
    seed = read_registry_seed(cluster.directory(winner))
    assert regions[0]["owner"] == node_id_of(public_key_of(seed)).hex()

    cluster.command(
        "region", "put", directories[loser], "--name", "valley", "--geojson", files[loser],
        accept=(1,),
    )  # fmt: skip
    again = cluster.command_json(
        "region", "put", directories[loser], "--name", "dale", "--geojson", files[loser]
    )
    assert (again["changed"], again["tentative"]) == (True, False)
    assert len(dead_letters(cluster, loser)) == 1


class NeverAsked:
    """Stands for the chain while a node is stopped."""

    def sequence(self, node_id: NodeId) -> SequenceState:
        return SequenceState(last=0)

    async def submit(self, transaction: bytes) -> None:
        raise AssertionError("nothing is sent")


def append_to_outbox(cluster: Cluster, number: int, body: ServicesPut) -> int:
    """Put a transaction into the outbox of a node that does not run; its sequence."""
    directory = cluster.directory(number)
    seed = read_registry_seed(directory)
    store = LevelKeyValue(directory.queues_db)
    try:
        outbox = Outbox(
            store,
            chain_id=cluster.chain_id,
            node_id=node_id_of(public_key_of(seed)),
            sign=signer(seed),
            reader=NeverAsked(),
            sink=NeverAsked(),
        )
        return asyncio.run(outbox.append([body]))
    finally:
        store.close()


def test_a_batch_with_a_record_of_another_node_is_a_dead_letter(
    cluster: Cluster, shown: set[str]
) -> None:
    (theirs,) = register(cluster, 0, "what another node wants")
    shown.add(theirs)
    wait_shown(cluster, shown)
    before = len(dead_letters(cluster, 1))
    cell = published_cell(*CENTER, 7)
    keys = (parse_handle(theirs), bytes(16))
    cluster.stop(1)
    sequence = append_to_outbox(
        cluster,
        1,
        ServicesPut(
            records=tuple(
                ServiceRecord(
                    key=key,
                    type="stolen",
                    cell=cell,
                    actions=("read",),
                    wake=WAKE_UNKNOWN,
                    commitment=bytes(32),
                    owner=bytes(8),
                    crowd=1,
                )
                for key in keys
            )
        ),
    )
    cluster.start(1)
    (behind,) = register(cluster, 1, "behind the refused batch")
    shown.add(behind)
    wait_shown(cluster, shown)

    letters = dead_letters(cluster, 1)
    assert len(letters) == before + 1
    assert (letters[0].about, letters[0].what) == (f"sequence {sequence}", "services-put")
    # All or nothing: the record in it that nobody owned is not there either.
    answer = cluster.wait_agreement()
    assert answer.services == len(shown)
    check_shown(cluster, shown)
