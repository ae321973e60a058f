"""``edgistry-agent pair | pairing-file | unpair`` against a node that runs in a thread."""

from __future__ import annotations

import json
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from abci_app.admin_requests import AdminRoute
from abci_app.config import NodeConfig
from abci_app.device_parts import DeviceParts, open_device_parts
from abci_app.issuing import open_authority
from abci_app.link_server import link_server, pairing_routes
from abci_app.pairing import Paired
from device_agent.cli import program
from device_agent.config import AgentConfig
from device_agent.directory import (
    AgentDirectory,
    create,
    hold,
    read_device_id,
    read_device_secret,
    read_epoch,
    write_epoch,
)
from device_agent.pairing import pairing_file, read_pairing, read_pairings, write_pairing
from edgistry import codec
from edgistry.adapters.crypto import generate_signing_key, public_key_of
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.tls import server_context
from edgistry.handlers import BlockingContext, HandlerTable, handler
from edgistry.issuer import Issuer
from edgistry.kv import KeyValue
from edgistry.pairing import PairingCode, encode_offer

from ..abci_app.node_thread import NodeThread
from ..abci_app.pairing_world import FakeQueue
from ..abci_app.solo_node import SEED

MANIFEST = """\
name = "hut"
lat = 46.0
lon = 8.0

[[service]]
type = "thermometer"
[[service.action]]
name = "read"
read = true
fresh_s = 60
[[service.action]]
name = "set"
handler = "adjust"
history = 7
element_size = 2

[[woof]]
name = "sensors/air"
history = 100
mirror = true
"""


NODE_PLACED = (
    MANIFEST
    + """\
handler = "%s"
place = "node"

[[result]]
name = "sensors/smooth"
history = 20
"""
)


@handler(for_devices=True)
def smooth(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    """The node's operator lets devices have it run."""


class LinkedNode(NodeThread):
    """A node with which devices can pair over its link."""

    devices: DeviceParts
    port: int

    async def furnish_more(self, parts: AsyncExitStack, queues: KeyValue) -> list[AdminRoute]:
        woofs = DurableWoofs(queues)
        parts.push_async_callback(woofs.close)
        self.devices = open_device_parts(
            NodeConfig(name="solo"),
            seed=SEED,
            store=queues,
            woofs=woofs,
            authority=open_authority(self.layout, queues),
            registrar=self.node.service.registrar,
            moves=self.node.service.moves,
            queue=FakeQueue(),
            handlers=HandlerTable.from_names({"smooth": smooth}),
        )
        link = link_server(pairing_routes(self.devices.desk))
        parts.push_async_callback(link.stop)
        self.port = await link.listen_tcp("127.0.0.1", 0, tls=server_context(SEED))
        # What the node tells devices must be where it listens.
        self.devices.desk._link_port = self.port
        return self.devices.admin_routes()

    def code(self) -> str:
        code, _ = self.ask(self.devices.desk.new_code(ttl_s=600))
        return code.text()

    def paired(self, device: str) -> Paired | None:
        return self.devices.desk.table.by_device(device)


@pytest.fixture(scope="module")
def node() -> Iterator[LinkedNode]:
    with LinkedNode.started() as started:
        yield started


@pytest.fixture
def agent() -> Iterator[AgentDirectory]:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as root:
        yield create(Path(root) / "agent", config=AgentConfig(), manifest=MANIFEST, handlers="")


def run(command: str, agent: AgentDirectory, *words: object, typed: str | None = None) -> Result:
    arguments = [command, str(agent.root), *map(str, words)]
    return CliRunner().invoke(program, arguments, input=typed, catch_exceptions=False)


def run_pair(agent: AgentDirectory, code: str, *words: str) -> Result:
    return run("pair", agent, "--node", "http://127.0.0.1:1", "--code", code, *words)


def test_a_device_is_paired_with_what_its_manifest_offers(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    done = run_pair(agent, node.code())
    assert (done.exit_code, done.stdout.startswith("paired with solo")) == (0, True), done.stderr
    paired = node.paired(read_device_id(agent))
    assert paired is not None
    secret = read_device_secret(agent)
    assert paired.issuer == Issuer.from_secret(secret, epoch=1)
    assert paired.period_s == AgentConfig().cycle.period_s
    (service,) = paired.services
    assert [(each.name, each.read, each.fresh_s) for each in service.actions] == [
        ("read", True, 60),
        ("set", False, 0),
    ]
    assert b"adjust" not in encode_offer(paired.offer), "what functions are called stays there"
    assert (service.actions[1].history, service.actions[1].element_size) == (7, 2)
    (woof,) = paired.offer.woofs
    assert (woof.name, woof.history, woof.mirror) == ("sensors/air", 100, True)
    assert [each.url for each in read_pairings(agent.root, epoch=1)] == ["http://127.0.0.1:1"]


def test_a_code_can_come_from_standard_input(node: LinkedNode, agent: AgentDirectory) -> None:
    words = ("--node", "http://127.0.0.1:1", "--code", "-", "--json")
    done = run("pair", agent, *words, typed=f"{node.code()}\n")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {
        "device": read_device_id(agent),
        "role": "primary",
        "node": "solo",
        "url": "http://127.0.0.1:1",
    }


def test_a_used_code_is_refused_and_nothing_is_kept(
    node: LinkedNode, agent: AgentDirectory, tmp_path: Path
) -> None:
    other = create(tmp_path / "other", config=AgentConfig(), manifest=MANIFEST, handlers="")
    code = node.code()
    assert run_pair(other, code).exit_code == 0
    done = run_pair(agent, code)
    assert (done.exit_code, "another device has used this code" in done.stderr) == (1, True)
    assert read_pairings(agent.root, epoch=1) == []


def test_a_node_with_another_key_gets_nothing(node: LinkedNode, agent: AgentDirectory) -> None:
    stranger = public_key_of(generate_signing_key())
    code = PairingCode(node_key=stranger, port=node.port, secret=b"s" * 16)
    done = run_pair(agent, code.text())
    assert (done.exit_code, "has not the key it should have" in done.stderr) == (1, True)
    assert node.paired(read_device_id(agent)) is None


def test_a_node_that_cannot_be_reached_is_exit_code_3(agent: AgentDirectory) -> None:
    code = PairingCode(node_key=public_key_of(SEED), port=1, secret=b"s" * 16)
    assert run_pair(agent, code.text()).exit_code == 3


def test_what_is_no_code_is_refused_without_quoting_it(agent: AgentDirectory) -> None:
    done = run_pair(agent, "edgpair1:sesame")
    assert done.exit_code == 1
    assert "sesame" not in done.stderr + done.stdout


def test_pairing_again_after_a_change_of_the_manifest_tells_the_node(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    agent.manifest_file.write_text(MANIFEST.replace("thermometer", "barometer"))
    assert run_pair(agent, node.code()).exit_code == 0
    paired = node.paired(read_device_id(agent))
    assert paired is not None
    assert [service.type for service in paired.services] == ["barometer"]


def test_the_key_is_not_given_to_a_second_node_in_place_of_the_first(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    other = PairingCode(node_key=public_key_of(b"o" * 32), port=node.port, secret=b"s" * 16)
    done = run_pair(agent, other.text())
    assert (done.exit_code, "edgistry-agent unpair" in done.stderr) == (1, True)
    done = run_pair(agent, node.code(), "--fallback")
    assert (done.exit_code, "primary node" in done.stderr) == (1, True)


def test_a_fallback_node_is_kept_beside_the_primary_one(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code(), "--fallback").exit_code == 0
    assert read_pairing(agent.root, "fallback", epoch=1) is not None
    paired = node.paired(read_device_id(agent))
    assert paired is not None
    assert paired.services == ()


def test_a_device_pairs_by_files_that_a_person_carries(
    node: LinkedNode, agent: AgentDirectory, tmp_path: Path
) -> None:
    offer, answer = tmp_path / "offer", tmp_path / "answer"
    assert run("pairing-file", agent, offer).exit_code == 0
    assert stat.S_IMODE(offer.stat().st_mode) == 0o600
    assert run("pairing-file", agent, offer).exit_code == 1
    done = node.invoke("device", "import", str(offer), "--out", str(answer))
    assert done.exit_code == 0, done.stderr
    done = run("pair", agent, "--node", "http://127.0.0.1:1", "--answer", answer)
    assert done.exit_code == 0, done.stderr
    assert node.paired(read_device_id(agent)) is not None
    assert read_pairing(agent.root, "primary", epoch=1) is not None


def test_an_answer_for_another_device_is_refused(
    node: LinkedNode, agent: AgentDirectory, tmp_path: Path
) -> None:
    other = create(tmp_path / "other", config=AgentConfig(), manifest=MANIFEST, handlers="")
    offer, answer = tmp_path / "offer", tmp_path / "answer"
    assert run("pairing-file", other, offer).exit_code == 0
    assert node.invoke("device", "import", str(offer), "--out", str(answer)).exit_code == 0
    done = run("pair", agent, "--node", "http://127.0.0.1:1", "--answer", answer)
    assert (done.exit_code, "another device" in done.stderr) == (1, True)


def test_a_device_that_unpairs_enters_a_new_epoch_and_its_node_knows(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    done = run("unpair", agent, "--json")
    answer = json.loads(done.stdout)
    assert (answer["epoch"], answer["told"], answer["not_told"]) == (2, ["solo"], [])
    assert read_epoch(agent) == 2
    assert read_pairings(agent.root, epoch=1) == []
    assert node.paired(read_device_id(agent)) is None
    # And it may come back, with the key of its new epoch.
    assert run_pair(agent, node.code()).exit_code == 0
    paired = node.paired(read_device_id(agent))
    assert paired is not None
    assert paired.epoch == 2


def at_no_node(agent: AgentDirectory) -> str:
    """The device is paired with a node that cannot be reached; the device's id."""
    pairing = read_pairing(agent.root, "primary", epoch=1)
    assert pairing is not None
    away = replace(pairing, answer=codec.replace(pairing.answer, link_port=1))
    write_pairing(agent.root, away)
    return read_device_id(agent)


def test_a_device_can_unpair_while_its_node_is_away(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    device = at_no_node(agent)
    done = run("unpair", agent)
    assert done.exit_code == 0
    assert f"edgistry-node device revoke NODE_DIR {device}" in done.stderr
    assert read_epoch(agent) == 2


def test_a_node_that_has_revoked_the_device_need_not_be_told(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    node.ask(node.devices.desk.revoke(read_device_id(agent)))
    answer = json.loads(run("unpair", agent, "--json").stdout)
    assert (answer["told"], answer["not_told"]) == (["solo"], [])


def test_an_unpairing_that_was_interrupted_is_finished_by_the_next(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    write_epoch(agent, 2)  # killed before the node was told
    answer = json.loads(run("unpair", agent, "--json").stdout)
    assert answer["told"] == ["solo"]
    assert node.paired(read_device_id(agent)) is None


def test_a_damaged_pairing_is_no_dead_end(node: LinkedNode, agent: AgentDirectory) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    pairing_file(agent.root, "primary").write_bytes(b"?")
    for done in (run("run", agent), run_pair(agent, node.code())):
        assert (done.exit_code, f"edgistry-agent unpair {agent.root}" in done.stderr) == (1, True)
    done = run("unpair", agent)
    assert (done.exit_code, "the primary node could not be told" in done.stderr) == (0, True)
    node.ask(node.devices.desk.revoke(read_device_id(agent)))
    assert run_pair(agent, node.code()).exit_code == 0


def test_nothing_changes_while_the_agent_runs(node: LinkedNode, agent: AgentDirectory) -> None:
    with hold(agent):
        assert run_pair(agent, node.code()).exit_code == 1
        assert run("unpair", agent).exit_code == 1
    assert (read_epoch(agent), read_pairings(agent.root, epoch=1)) == (1, [])


def test_a_code_and_an_answer_together_are_a_usage_error(agent: AgentDirectory) -> None:
    assert run("pair", agent, "--node", "http://127.0.0.1:1").exit_code == 2


def test_a_device_that_would_forward_by_itself_is_told_how_instead(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    agent.manifest_file.write_text(f'{MANIFEST}forward = "woof://cloud.example/a/b"\n')
    done = run_pair(agent, node.code())
    assert (done.exit_code, "mirror = true" in done.stderr) == (2, True)


def test_what_runs_at_the_node_and_where_its_results_go_is_offered(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    agent.manifest_file.write_text(NODE_PLACED % "smooth")
    assert run_pair(agent, node.code()).exit_code == 0
    paired = node.paired(read_device_id(agent))
    assert paired is not None
    (woof,), (result,) = paired.offer.woofs, paired.offer.results
    assert (woof.name, woof.handler) == ("sensors/air", "smooth")
    assert (result.name, result.history) == ("sensors/smooth", 20)


def test_who_pairs_learns_that_the_node_has_no_such_handler_and_may_use_the_code_again(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    agent.manifest_file.write_text(NODE_PLACED % "smoooth")
    code = node.code()
    done = run_pair(agent, code)
    assert done.exit_code == 1
    assert "handler-unknown" in done.stderr
    assert "runs no handler 'smoooth' for devices" in done.stderr
    assert node.paired(read_device_id(agent)) is None
    agent.manifest_file.write_text(NODE_PLACED % "smooth")
    assert run_pair(agent, code).exit_code == 0
