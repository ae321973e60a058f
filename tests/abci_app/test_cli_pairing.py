"""``edgistry-node pair-code``, ``device import | paired | revoke``."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from abci_app.admin_requests import AdminRoute
from abci_app.cli import program
from abci_app.config import NodeConfig
from abci_app.device_parts import DeviceParts, open_device_parts
from abci_app.issuing import open_authority
from abci_app.mirror import mirror_name
from abci_app.pairing import StoredPairing
from edgistry.adapters.crypto import public_key_of
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.handlers import BlockingContext, HandlerTable, handler
from edgistry.kv import KeyValue
from edgistry.pairing import WoofOffer, decode_answer, encode_offer, parse_code

from .node_thread import NodeThread
from .pairing_world import FakeDevice, FakeQueue
from .solo_node import SEED


@handler(for_devices=True)
def smooth(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    """Devices may have it run."""


@handler
def private(context: BlockingContext, woof: str, seq: int, element: bytes) -> None:
    """The operator's own."""


class PairingNode(NodeThread):
    """A node with which devices can pair."""

    devices: DeviceParts
    queues: KeyValue

    async def furnish_more(self, parts: AsyncExitStack, queues: KeyValue) -> list[AdminRoute]:
        self.queues = queues
        table = HandlerTable.from_names({"smooth": smooth, "private": private})
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
            handlers=table,
        )
        return self.devices.admin_routes()


@pytest.fixture(scope="module")
def node() -> Iterator[PairingNode]:
    with PairingNode.started() as started:
        yield started


@pytest.fixture
def offer(tmp_path: Path) -> Path:
    path = tmp_path / "offer"
    path.write_bytes(encode_offer(FakeDevice(1).offer()))
    return path


def pair_code(node: PairingNode, *words: str) -> Result:
    arguments = ["pair-code", str(node.layout.root), *words]
    return CliRunner().invoke(program, arguments, catch_exceptions=False)


def test_a_code_names_the_key_and_the_link_of_the_node(node: PairingNode) -> None:
    done = pair_code(node)
    assert done.exit_code == 0
    code = parse_code(done.stdout)
    assert (code.node_key, code.port) == (public_key_of(SEED), 27003)
    assert "good for one device until" in done.stderr


def test_a_code_comes_as_json_with_its_end(node: PairingNode) -> None:
    answer = json.loads(pair_code(node, "--json", "--ttl", "1h").stdout)
    (code,) = answer["codes"]
    assert parse_code(code).port == 27003
    assert answer["expires"].endswith("Z")


def test_many_codes_are_made_at_once_and_all_differ(node: PairingNode) -> None:
    lines = pair_code(node, "--count", "50").stdout.splitlines()
    assert len({parse_code(line).secret for line in lines}) == 50


def test_a_code_that_lives_too_long_is_refused(node: PairingNode) -> None:
    done = pair_code(node, "--ttl", "30d")
    assert (done.exit_code, "7 days" in done.stderr) == (1, True)


def test_a_device_is_imported_listed_and_revoked(
    node: PairingNode, offer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answer"
    done = node.invoke("device", "import", str(offer), "--out", str(out))
    assert done.exit_code == 0, done.stderr
    device = FakeDevice(1).id
    assert decode_answer(out.read_bytes()).device == device
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    listed = node.invoke("device", "paired").stdout.splitlines()
    assert listed[1].split()[:4] == [device, "hut", "new", "every"]
    (entry,) = json.loads(node.invoke("device", "paired", "--json").stdout)["devices"]
    assert (entry["types"], entry["stage"]) == (["thermometer", "valve"], "new")
    assert node.invoke("device", "revoke", device).stdout == f"revoked {device}\n"
    assert "no device is paired" in node.invoke("device", "paired").stderr
    again = node.invoke("device", "revoke", device)
    assert (again.exit_code, "no device with that id" in again.stderr) == (1, True)


def test_mirrors_of_devices_are_listed_with_how_far_they_are(node: PairingNode) -> None:
    assert "nothing is mirrored" in node.invoke("device", "mirrors").stderr
    device = FakeDevice(7)
    woof = WoofOffer(name="sensors/air", history=9, mirror=True)
    stored = StoredPairing(offer=device.offer(woofs=(woof,)), serial=70, paired_us=0, stage="ready")
    table = node.devices.desk.table
    node.do(lambda: node.queues.write(table.put(stored), sync=True))
    (entry,) = json.loads(node.invoke("device", "mirrors", "--json").stdout)["mirrors"]
    assert entry["mirror"] == mirror_name(device.id, "sensors/air")
    assert (entry["woof"], entry["through"], entry["lost"]) == ("sensors/air", 0, 0)
    lines = node.invoke("device", "mirrors").stdout.splitlines()
    assert lines[1].split() == [device.id, "sensors/air", entry["mirror"], "0", "0", "-"]
    node.invoke("device", "revoke", device.id)


@pytest.mark.parametrize(
    ("name", "state", "shown"),
    [
        ("smooth", "ok", ["smooth"]),
        ("gone", "missing", ["gone", "(missing)"]),
        ("private", "refused", ["private", "(not", "for", "devices)"]),
    ],
)
def test_mirrors_are_listed_with_the_handlers_that_run_on_them(
    node: PairingNode, name: str, state: str, shown: list[str]
) -> None:
    device = FakeDevice(8)
    woof = WoofOffer(name="sensors/air", history=9, mirror=True, handler=name)
    stored = StoredPairing(offer=device.offer(woofs=(woof,)), serial=71, paired_us=0, stage="ready")
    node.do(lambda: node.queues.write(node.devices.desk.table.put(stored), sync=True))
    (entry,) = json.loads(node.invoke("device", "mirrors", "--json").stdout)["mirrors"]
    assert (entry["handler"], entry["handler_state"]) == (name, state)
    assert node.invoke("device", "mirrors").stdout.splitlines()[1].split()[5:] == shown
    node.invoke("device", "revoke", device.id)


def test_an_imported_device_that_wants_an_unknown_handler_is_refused(
    node: PairingNode, tmp_path: Path
) -> None:
    woof = WoofOffer(name="sensors/air", history=9, mirror=True, handler="private")
    offer = tmp_path / "offer"
    offer.write_bytes(encode_offer(FakeDevice(9).offer(woofs=(woof,))))
    done = node.invoke("device", "import", str(offer), "--out", str(tmp_path / "answer"))
    assert (done.exit_code, "runs no handler 'private' for devices" in done.stderr) == (1, True)
    assert not (tmp_path / "answer").exists()
    assert node.devices.desk.table.by_device(FakeDevice(9).id) is None


def test_an_answer_is_never_written_over_another_file(
    node: PairingNode, offer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answer"
    out.write_text("mine")
    done = node.invoke("device", "import", str(offer), "--out", str(out))
    assert (done.exit_code, out.read_text()) == (1, "mine")
    assert node.devices.desk.table.by_device(FakeDevice(1).id) is None


@pytest.mark.parametrize("data", [b"", b"?", b"x" * 70_000])
def test_a_file_that_is_no_offer_is_refused(node: PairingNode, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "offer"
    path.write_bytes(data)
    done = node.invoke("device", "import", str(path), "--out", str(tmp_path / "answer"))
    assert done.exit_code == 1
    assert not (tmp_path / "answer").exists()


def test_a_missing_file_is_named(node: PairingNode, tmp_path: Path) -> None:
    done = node.invoke("device", "import", str(tmp_path / "none"), "--out", str(tmp_path / "a"))
    assert done.exit_code == 1
    assert "none: No such file" in done.stderr


# --- forgetting ---------------------------------------------------------------------------------


def test_a_registered_device_is_forgotten_by_its_handle(node: PairingNode) -> None:
    words = ("--type", "valve", "--lat", "21", "--lon", "21", "--noise", "500", "--wait", "30s")
    registered = node.invoke("device", "register", *words, "--json")
    handle = json.loads(registered.stdout)["handle"]
    # Ours may look like an option.
    done = node.invoke("device", "forget", "--yes", "--wait", "30s", "--json", "--", handle)
    assert json.loads(done.stdout) == {"forgotten": handle, "tentative": False}, done.stderr
    assert handle not in node.invoke("device", "list").stdout
    again = node.invoke("device", "forget", "--yes", "--", handle)
    assert (again.exit_code, "no device with the handle" in again.stderr) == (1, True)


def test_a_paired_device_is_forgotten_by_its_id(node: PairingNode, offer: Path, out: Path) -> None:
    assert node.invoke("device", "import", str(offer), "--out", str(out)).exit_code == 0
    device = FakeDevice(1).id
    done = node.invoke("device", "forget", device, "--yes")
    assert done.stdout == f"forgotten: {device}\n"
    assert node.devices.desk.table.by_device(device) is None
    again = node.invoke("device", "forget", device, "--yes")
    assert (again.exit_code, "no device with that id" in again.stderr) == (1, True)


def test_nothing_is_forgotten_without_a_question(node: PairingNode) -> None:
    done = node.invoke("device", "forget", FakeDevice(1).id)
    assert done.exit_code == 1
    assert "Destroy all that this node knows" in done.stderr


def test_what_is_kept_of_withdrawn_devices_is_destroyed_when_asked_for(node: PairingNode) -> None:
    words = ("--type", "valve", "--lat", "22", "--lon", "22", "--noise", "500", "--wait", "30s")
    handle = json.loads(node.invoke("device", "register", *words, "--json").stdout)["handle"]
    node.invoke("device", "withdraw", "--wait", "30s", "--", handle)
    done = node.invoke("device", "forget", "--withdrawn", "--yes", "--json")
    assert json.loads(done.stdout) == {"forgotten": "1 withdrawn devices", "tentative": False}
    again = node.invoke("device", "forget", "--withdrawn", "--yes")
    assert again.stdout == "forgotten: 0 withdrawn devices\n"
    for wrong in ((), ("--withdrawn", FakeDevice(1).id)):
        assert node.invoke("device", "forget", "--yes", *wrong).exit_code == 2


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "answer"
