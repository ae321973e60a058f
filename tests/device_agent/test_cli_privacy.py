"""``edgistry-agent move | forget``, and policies, against a node that runs in a thread."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agent import cli_forget
from device_agent.cli_forget import destroy
from device_agent.config import AgentConfig
from device_agent.directory import (
    AgentDirectory,
    create,
    hold,
    hold_whereabouts,
    read_device_id,
    write_epoch,
)
from device_agent.pairing import read_pairing, write_pairing
from device_agent.whereabouts import read_whereabouts
from edgistry.policy import PolicyLimits, PrivacyPolicy
from edgistry.transactions import owner_tag

from .test_cli_pair import MANIFEST, LinkedNode, at_no_node, run, run_pair

OWNER = bytes(range(32))
FUZZY = f"""{MANIFEST}
[privacy]
resolution = 6
noise_m = 3000
crowd = 2
owner = "{OWNER.hex()}"
"""


@pytest.fixture(scope="module")
def node() -> Iterator[LinkedNode]:
    with LinkedNode.started() as started:
        yield started


@pytest.fixture
def agent() -> Iterator[AgentDirectory]:
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as root:
        yield create(Path(root) / "agent", config=AgentConfig(), manifest=MANIFEST, handlers="")


def test_the_node_hears_policy_seed_and_owner(node: LinkedNode, agent: AgentDirectory) -> None:
    agent.manifest_file.write_text(FUZZY)
    assert run_pair(agent, node.code()).exit_code == 0
    paired, kept = node.paired(read_device_id(agent)), read_whereabouts(agent.whereabouts_file)
    assert paired is not None
    assert kept is not None
    assert paired.offer.policy == PrivacyPolicy(resolution=6, noise_m=3000, crowd=2)
    assert (paired.offer.seed, paired.offer.owner) == (kept.seed, OWNER)
    assert owner_tag(paired.offer.owner) == owner_tag(OWNER)


def test_a_cell_is_all_that_a_node_is_told_if_the_owner_wants_so(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    plain = MANIFEST.replace("lat = 46.0\nlon = 8.0", 'cell = "872830828ffffff"')
    agent.manifest_file.write_text(plain)
    assert run_pair(agent, node.code()).exit_code == 0
    paired = node.paired(read_device_id(agent))
    assert paired is not None
    offer = paired.offer
    assert (offer.lat, offer.lon, f"{offer.cell:x}") == (None, None, "872830828ffffff")


def test_a_policy_finer_than_the_node_allows_is_refused_and_the_code_stays_good(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    code = node.code()
    node.devices.desk._limits = PolicyLimits(finest_resolution=6)
    try:
        done = run_pair(agent, code)
        assert done.exit_code == 1
        assert "policy-refused" in done.stderr
        assert "resolution = 7 shows more than this node allows: at most 6" in done.stderr
        assert node.paired(read_device_id(agent)) is None
        agent.manifest_file.write_text(FUZZY)
        assert run_pair(agent, code).exit_code == 0
    finally:
        node.devices.desk._limits = PolicyLimits()


def test_a_move_reaches_the_node_and_small_ones_do_not(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    device = read_device_id(agent)
    near = json.loads(run("move", agent, "--lat", 46.001, "--lon", 8.0, "--json").stdout)
    assert near == {"has_moved": False, "moves": 0, "told": [], "not_told": []}
    with hold(agent):  # as while the agent runs
        far = json.loads(run("move", agent, "--lat", 46.5, "--lon", 8.0, "--json").stdout)
    assert far == {"has_moved": True, "moves": 1, "told": ["solo"], "not_told": []}
    paired = node.paired(device)
    assert paired is not None
    assert (paired.offer.lat, paired.offer.moves) == (46.5, 1)
    # Pairing again says the same, not what the manifest says.
    assert run_pair(agent, node.code()).exit_code == 0
    paired = node.paired(device)
    assert paired is not None
    assert (paired.offer.lat, paired.offer.moves) == (46.5, 1)


def test_a_move_that_no_node_heard_of_is_told_with_the_next_call(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    pairing = read_pairing(agent.root, "primary", epoch=1)
    assert pairing is not None
    device = at_no_node(agent)
    done = run("move", agent, "--lat", 47.0, "--lon", 8.0)
    assert (done.exit_code, "call it again" in done.stderr) == (3, True)
    write_pairing(agent.root, pairing)
    assert run("move", agent, "--lat", 47.0, "--lon", 8.0).exit_code == 0
    paired = node.paired(device)
    assert paired is not None
    assert (paired.offer.lat, paired.offer.moves) == (47.0, 1)


@pytest.mark.parametrize(
    ("words", "exit_code"),
    [
        (("--lat", "91", "--lon", "8"), 1),
        (("--lat", "nan", "--lon", "8"), 1),
        (("--lat", "46"), 2),
        ((), 2),
        (("--cell", "872830828ffffff", "--lat", "1"), 2),
        (("--cell", "882830828bfffff"), 1),
        (("--cell", "8728"), 1),
        (("--cell", "852830bffffffff"), 1),
    ],
)
def test_what_is_no_place_is_refused_and_changes_nothing(
    agent: AgentDirectory, words: tuple[str, ...], exit_code: int
) -> None:
    assert run("move", agent, *words).exit_code == exit_code
    assert read_whereabouts(agent.whereabouts_file) is None


def test_a_move_of_a_device_that_no_node_knows_says_so(agent: AgentDirectory) -> None:
    done = run("move", agent, "--lat", 47.0, "--lon", 8.0)
    assert (done.exit_code, done.stdout) == (
        0,
        "moved; a node hears of it when the device is paired\n",
    )


def test_a_device_that_stays_says_again_where_it_moved_last(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    moved = run("move", agent, "--lat", 47.0, "--lon", 8.0).stdout
    assert moved == "moved; it shows when the next privacy epoch begins\n"
    stayed = run("move", agent, "--lat", 47.001, "--lon", 8.0).stdout
    assert stayed == "not far enough from where it was to show, as solo heard again\n"
    paired = node.paired(read_device_id(agent))
    assert paired is not None
    assert (paired.offer.lat, paired.offer.moves) == (47.0, 1)


def test_one_at_a_time_tells_where_a_device_is(node: LinkedNode, agent: AgentDirectory) -> None:
    """Two who count on from one move would tell two places under one count."""
    assert run_pair(agent, node.code()).exit_code == 0
    known = read_whereabouts(agent.whereabouts_file)
    offer_file = agent.root.parent / "offer"
    code = node.code()
    with hold_whereabouts(agent):
        refused = [
            run("move", agent, "--lat", 47.0, "--lon", 8.0),
            run("pairing-file", agent, offer_file),
            run_pair(agent, code),
            run("forget", agent, "--yes"),
        ]
    assert [each.exit_code for each in refused] == [1] * 4
    assert all("[database-locked]" in each.stderr for each in refused)
    assert (read_whereabouts(agent.whereabouts_file), offer_file.exists()) == (known, False)
    assert agent.secret_file.exists()
    assert run_pair(agent, code).exit_code == 0


# --- forgetting ---------------------------------------------------------------------------------


def test_a_device_that_is_forgotten_leaves_nothing_here_and_at_its_node(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    device = read_device_id(agent)
    done = run("forget", agent, "--yes", "--json")
    assert json.loads(done.stdout) == {"device": device, "told": ["solo"], "not_told": []}
    assert node.paired(device) is None
    assert node.devices.desk.table.to_forget() == []
    assert sorted(path.name for path in agent.root.rglob("*") if path.is_file()) == [
        ".py",
        "agent.pid",
        "move.pid",
    ], "the owner's own handlers, and the locks"


def test_nobody_destroys_a_device_by_mistake(agent: AgentDirectory) -> None:
    done = run("forget", agent, typed="n\n")
    assert (done.exit_code, agent.secret_file.exists()) == (1, True)
    with hold(agent):
        assert run("forget", agent, "--yes").exit_code == 1
    assert agent.secret_file.exists()
    assert run("forget", agent, typed="y\n").exit_code == 0
    assert not agent.secret_file.exists()


def test_a_node_that_is_away_is_named_and_hinders_nothing(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    device = at_no_node(agent)
    done = run("forget", agent, "--yes")
    assert done.exit_code == 0
    assert f"edgistry-node device forget NODE_DIR {device}" in done.stderr
    assert not agent.secret_file.exists()
    done = node.invoke("device", "forget", device, "--yes", "--json")
    assert json.loads(done.stdout) == {"forgotten": device, "tentative": False}
    assert node.paired(device) is None


def die_before(removal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes before so many files and folders were removed."""
    left = [removal]

    def dying(remove: Callable[..., None]) -> Callable[..., None]:
        def remove_or_die(*arguments: Any, **options: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            remove(*arguments, **options)

        return remove_or_die

    monkeypatch.setattr(os, "unlink", dying(os.unlink))
    monkeypatch.setattr(os, "rmdir", dying(os.rmdir))


def furnished(agent: AgentDirectory) -> None:
    """All that a device may have in its keys, and some data."""
    write_epoch(agent, 3)
    for name in ("whereabouts", "primary.pairing", "fallback.pairing", ".whereabouts.0123456789"):
        (agent.keys_dir / name).write_bytes(b"secret")
    agent.database.mkdir()
    (agent.database / "CURRENT").write_bytes(b"readings")


@pytest.mark.parametrize("removal", range(14))
def test_forgetting_that_was_interrupted_is_finished_by_the_next(
    agent: AgentDirectory, monkeypatch: pytest.MonkeyPatch, removal: int
) -> None:
    furnished(agent)
    with monkeypatch.context() as patched:
        die_before(removal, patched)
        with contextlib.suppress(KeyboardInterrupt):
            destroy(agent)
    if removal:
        assert not agent.secret_file.exists(), "the secret goes first"
    if agent.config_file.exists():
        assert run("forget", agent, "--yes").exit_code == 0
        assert not agent.keys_dir.exists()
    # Without settings nobody can run it again: there must be nothing left to destroy.
    assert not agent.config_file.exists()
    assert not agent.database.parent.exists()
    files = {path for path in agent.root.rglob("*") if path.is_file()}
    assert files - {agent.pid_file, agent.move_file} == {agent.handlers_dir / ".py"}


def test_forgetting_tells_a_node_whom_it_could_not_tell_before(
    node: LinkedNode, agent: AgentDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    device = read_device_id(agent)
    pairing = read_pairing(agent.root, "primary", epoch=1)
    assert pairing is not None
    at_no_node(agent)

    def dying(layout: AgentDirectory) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cli_forget, "destroy", dying)
        done = run("forget", agent, "--yes")
        assert f"solo could not be told: edgistry-node device forget NODE_DIR {device}" in (
            done.stderr
        ), "said while it is known"
    write_pairing(agent.root, pairing)
    done = run("forget", agent, "--yes", "--json")
    assert json.loads(done.stdout) == {"device": device, "told": ["solo"], "not_told": []}
    assert node.paired(device) is None


def test_a_node_that_has_forgotten_the_device_already_counts_as_told(
    node: LinkedNode, agent: AgentDirectory
) -> None:
    assert run_pair(agent, node.code()).exit_code == 0
    device = read_device_id(agent)
    assert node.invoke("device", "forget", device, "--yes").exit_code == 0
    done = run("forget", agent, "--yes", "--json")
    assert json.loads(done.stdout) == {"device": device, "told": ["solo"], "not_told": []}
