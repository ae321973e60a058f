"""``edgistry-node cap``: grants go to private files, and can be taken back."""

from __future__ import annotations

import json
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from abci_app.admin_issuing import issuing_routes
from abci_app.admin_requests import AdminRoute
from abci_app.cli import program
from abci_app.directory import NodeDirectory, read_issuer_secret
from abci_app.initialize import init_node
from abci_app.issuing import open_authority
from abci_app.issuing_api import MintRequest
from abci_app.issuing_desk import IssuingDesk
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.authority import Authority
from edgistry.capability import Capability
from edgistry.captext import parse_text
from edgistry.envelope import Operation
from edgistry.errors import DirectoryError, InvalidValueError, MalformedError, RevokedError
from edgistry.issuer import Issuer
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.rights import ALL_RIGHTS, Right

from .node_thread import NodeThread

NOW = 1_750_000_000_000_000


class IssuingNode(NodeThread):
    """A node that can be asked for capabilities."""

    authority: Authority

    async def furnish_more(self, parts: AsyncExitStack, queues: KeyValue) -> list[AdminRoute]:
        woofs = DurableWoofs(queues)
        parts.push_async_callback(woofs.close)
        self.authority = open_authority(self.layout, queues)
        return issuing_routes(IssuingDesk(self.authority, woofs.committer))


@pytest.fixture(scope="module")
def node() -> Iterator[IssuingNode]:
    with IssuingNode.started() as started:
        yield started


def bound(capability: Capability) -> bytes:
    return capability.bind(
        Operation.GET, "ns/w", bytes(8), client=bytes(8), sequence=NOW, deadline=NOW
    ).encoded


def test_mint_writes_a_private_file_that_the_node_honours(
    node: IssuingNode, tmp_path: Path
) -> None:
    file = tmp_path / "mine.cap"
    result = node.invoke(
        "cap", "mint", "--object", "ns", "--allow", "get,latest",
        "--not-after", "2100-01-01T00:00Z", "--handler", "alarm",
        "--client", "00000000000000AA", "--max-payload", "9",
        "--out", str(file), "--json",
    )  # fmt: skip
    assert result.exit_code == 0
    made = parse_text(file.read_text().strip())
    answer = json.loads(result.stdout)
    assert (answer["id"], answer["danger_text"]) == (made.id.hex(), None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [(entry.rights, entry.object) for entry in made.entries] == [
        (Right.GET | Right.LATEST, "ns")
    ]
    assert made.chain.not_after_us == 4_102_444_800_000_000
    assert made.chain.clients == (b"\0\0\0\0\0\0\0\xaa",)
    assert (made.chain.max_payload, made.chain.rare.handlers) == (9, frozenset({b"alarm"}))
    assert node.authority.issuer.holding(made.chain).danger_bytes() == made.danger_bytes()


def test_mint_never_prints_the_secret_unasked(node: IssuingNode, tmp_path: Path) -> None:
    file = tmp_path / "mine.cap"
    result = node.invoke("cap", "mint", "-o", str(file))
    assert result.exit_code == 0
    assert "edgcap1:" not in result.output
    asked = node.invoke("cap", "mint", "--text")
    made = parse_text(asked.stdout.strip())
    assert [(entry.rights, entry.object) for entry in made.entries] == [(ALL_RIGHTS, "")]


def test_existing_file_is_left_alone(node: IssuingNode, tmp_path: Path) -> None:
    file = tmp_path / "mine.cap"
    file.write_text("mine")
    result = node.invoke("cap", "mint", "--out", str(file))
    assert result.exit_code == 1
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--text", "--out", "x"),
        ("--text", "--allow", "fly"),
        ("--text", "--object", "a/b/c"),
        ("--text", "--not-after", "later"),
        ("--text", "--client", "12"),
    ],
)
def test_wrong_use_is_told_before_anything_is_made(
    node: IssuingNode, words: tuple[str, ...]
) -> None:
    assert node.invoke("cap", "mint", *words).exit_code == 2


def test_two_grants_have_nothing_in_common(node: IssuingNode) -> None:
    made = [parse_text(node.invoke("cap", "mint", "--text").stdout.strip()) for _ in range(2)]
    assert made[0].serial != made[1].serial


def test_revoked_capability_is_refused(node: IssuingNode) -> None:
    made = parse_text(node.invoke("cap", "mint", "--text").stdout.strip())
    check = node.authority.verifier.check
    assert check(bound(made), now_us=NOW)
    result = node.invoke("cap", "revoke", made.id.hex().upper())
    assert result.exit_code == 0
    assert "of 256" in result.stdout
    with pytest.raises(RevokedError):
        check(bound(made.derive(object_name="ns")), now_us=NOW)
    assert node.invoke("cap", "revoke", "12").exit_code == 2


def test_node_that_does_not_run_is_told(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as directory:
        root = Path(directory) / "node"
        init_node(root, name="n", engine="solo", base_port=27000, chain_id="c")
        result = CliRunner().invoke(program, ["cap", "mint", str(root), "--text"])
    assert result.exit_code == 3


def desk() -> IssuingDesk:
    authority = Authority(MemoryKeyValue(), Issuer.from_secret(bytes(32), epoch=0))
    return IssuingDesk(authority, DurableWoofs(MemoryKeyValue()).committer)


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        (MintRequest(object="..", rights=("get",)), MalformedError),
        (MintRequest(object="ns", rights=("fly",)), InvalidValueError),
        (MintRequest(object="ns", rights=("get",), handlers=("",)), MalformedError),
    ],
)
def test_node_checks_what_it_is_asked_to_grant(
    asked: MintRequest, refusal: type[Exception]
) -> None:
    with pytest.raises((refusal, InvalidValueError)):
        desk().mint(asked)


def test_answer_shows_no_secret() -> None:
    answer = desk().mint(MintRequest(object="ns", rights=("get",)))
    assert answer.danger_text.startswith("edgcap1:")
    assert "edgcap1" not in f"{answer!r} {answer}"


# --- the node's secret ----------------------------------------------------------------------------


@pytest.fixture
def layout() -> Iterator[NodeDirectory]:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as directory:
        yield init_node(
            Path(directory) / "n", name="n", engine="solo", base_port=27000, chain_id="c"
        )


def test_init_makes_a_secret_of_its_own(layout: NodeDirectory) -> None:
    secret, is_new = read_issuer_secret(layout)
    assert len(secret) == 32
    assert not is_new
    assert stat.S_IMODE(layout.issuer_key_file.stat().st_mode) == 0o600
    assert secret.hex() not in layout.registry_key_file.read_text()


def test_directory_without_a_secret_gets_one(layout: NodeDirectory) -> None:
    before, _ = read_issuer_secret(layout)
    layout.issuer_key_file.unlink()
    after, is_new = read_issuer_secret(layout)
    assert is_new
    assert after != before
    assert read_issuer_secret(layout) == (after, False)
    assert stat.S_IMODE(layout.issuer_key_file.stat().st_mode) == 0o600


def test_secret_that_others_may_read_is_refused(layout: NodeDirectory) -> None:
    layout.issuer_key_file.chmod(0o640)
    with pytest.raises(DirectoryError, match="chmod 600"):
        read_issuer_secret(layout)


def test_damaged_secret_is_not_replaced(layout: NodeDirectory) -> None:
    layout.issuer_key_file.write_text("00\n")
    with pytest.raises(DirectoryError, match="backup"):
        read_issuer_secret(layout)
    assert layout.issuer_key_file.read_text() == "00\n"
