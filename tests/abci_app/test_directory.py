"""A node's directory: made once, kept private, run by one process."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from abci_app.config import NodeConfig
from abci_app.directory import (
    NodeDirectory,
    check_empty,
    check_socket_paths,
    create_layout,
    fresh,
    hold,
    open_directory,
    read_registry_seed,
    running_pid,
    write_config,
    write_secret,
)
from edgistry.errors import (
    ConfigError,
    DatabaseLockedError,
    DirectoryError,
    PermissionRefusedError,
)

SEED = bytes(range(32))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def node() -> Iterator[NodeDirectory]:
    # Short, since a socket's path must be: pytest's own directories can be too deep.
    with tempfile.TemporaryDirectory(prefix="edg", dir="/tmp") as parent:
        directory = NodeDirectory(Path(parent) / "n")
        with fresh(directory.root):
            create_layout(directory, registry_seed=SEED)
            write_config(directory, NodeConfig(name="a"))
        yield directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_directory_opens_with_its_settings(node: NodeDirectory) -> None:
    assert open_directory(node.root) == (node, NodeConfig(name="a"))


def test_keys_and_folders_are_private(node: NodeDirectory) -> None:
    assert mode(node.registry_key_file) == 0o600
    for folder in (node.root, node.run_dir, node.registry_key_file.parent, node.logs_dir):
        assert mode(folder) == 0o700


def test_keys_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_secret(tmp_path / "key", b"x")
    finally:
        os.umask(before)
    assert mode(tmp_path / "key") == 0o600


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    write_secret(tmp_path / "key", b"first")
    with pytest.raises(DirectoryError, match="keys are never overwritten"):
        write_secret(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"


def test_a_key_is_not_written_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DirectoryError):
        write_secret(tmp_path / "key", b"x")
    assert not (tmp_path / "elsewhere").exists()


def test_the_registry_seed_reads_back(node: NodeDirectory) -> None:
    assert read_registry_seed(node) == SEED


def test_a_key_that_others_may_read_is_refused_with_the_remedy(node: NodeDirectory) -> None:
    node.registry_key_file.chmod(0o640)
    with pytest.raises(DirectoryError, match="chmod 600"):
        read_registry_seed(node)


@pytest.mark.parametrize("data", [b"", b"zz", b"ab" * 31, b"ab" * 33, b"\xff" * 64])
def test_a_damaged_key_is_refused(node: NodeDirectory, data: bytes) -> None:
    node.registry_key_file.write_bytes(data)
    with pytest.raises(DirectoryError, match="64 hexadecimal digits"):
        read_registry_seed(node)


def test_a_directory_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryError, match="not empty"):
        check_empty(tmp_path)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryError, match="not a directory"):
        check_empty(tmp_path / "file")


def fail_halfway(root: Path, error: BaseException) -> None:
    with fresh(root):
        create_layout(NodeDirectory(root), registry_seed=SEED)
        raise error


def test_a_failed_init_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="No space"):
        fail_halfway(tmp_path / "n", OSError(28, "No space left on device"))
    assert not (tmp_path / "n").exists()


def test_a_failed_init_keeps_a_directory_that_was_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_halfway(tmp_path, KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_a_second_init_at_the_same_time_takes_nothing_from_the_first(tmp_path: Path) -> None:
    root = tmp_path / "n"
    with fresh(root):
        # The moment in which the second one finds the directory empty.
        with pytest.raises(DirectoryError, match="just being made"), fresh(root):
            pass
        create_layout(NodeDirectory(root), registry_seed=SEED)
    assert read_registry_seed(NodeDirectory(root)) == SEED
    with pytest.raises(DirectoryError, match="not empty"), fresh(root):
        pass
    assert read_registry_seed(NodeDirectory(root)) == SEED


def test_a_path_too_long_for_sockets_is_refused_with_advice() -> None:
    with pytest.raises(DirectoryError, match=r"101 bytes; at most\s+100 work.*1 bytes shorter"):
        check_socket_paths(Path("/" + "x" * (101 - len("//run/admin.sock"))))


def test_a_path_of_exactly_the_limit_is_accepted() -> None:
    check_socket_paths(Path("/" + "x" * (100 - len("//run/admin.sock"))))


def test_socket_paths_are_measured_in_bytes() -> None:
    with pytest.raises(DirectoryError):
        check_socket_paths(Path("/" + "ä" * 50))


def test_a_directory_without_settings_is_not_a_node(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match=r"no node\.toml.*edgistry-node init"):
        open_directory(tmp_path)


def test_a_cluster_directory_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").touch()
    with pytest.raises(DirectoryError, match="it is a cluster: name one of its nodes"):
        open_directory(tmp_path)


def test_the_engine_of_a_directory_cannot_be_changed(node: NodeDirectory) -> None:
    text = node.config_file.read_text()
    node.config_file.write_text(text.replace('engine = "solo"', 'engine = "cometbft"'))
    with pytest.raises(ConfigError, match="made for 'solo'"):
        open_directory(node.root)


def test_nobody_runs_a_fresh_directory(node: NodeDirectory) -> None:
    assert running_pid(node) is None


def test_a_pid_left_by_a_dead_process_means_nothing(node: NodeDirectory) -> None:
    node.pid_file.write_text(f"{os.getpid()}\n")
    assert running_pid(node) is None


def test_a_held_directory_shows_its_pid(node: NodeDirectory) -> None:
    with hold(node):
        assert running_pid(node) == os.getpid()
    assert running_pid(node) is None


def test_a_second_process_is_told_who_runs_the_directory(node: NodeDirectory) -> None:
    with (
        hold(node),
        pytest.raises(DatabaseLockedError, match=f"already run by process {os.getpid()}"),
        hold(node),
    ):
        raise AssertionError


def test_a_killed_process_lets_go_of_its_directory(node: NodeDirectory) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from abci_app.directory import NodeDirectory, hold\n"
        "with hold(NodeDirectory(Path(sys.argv[1]))):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(node.root)], cwd=ROOT, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert running_pid(node) == child.pid
        child.kill()
    assert running_pid(node) is None
    with hold(node):
        assert running_pid(node) == os.getpid()


NOBODY = 65534


@contextmanager
def shut_out_of(folder: Path) -> Iterator[None]:
    """Be a user who may not look into ``folder``."""
    if os.geteuid() == 0:
        folder.parent.chmod(0o755)
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        folder.chmod(0)
        try:
            yield
        finally:
            folder.chmod(0o700)


@pytest.mark.parametrize("part", ["", "run"], ids=["all of it", "what runs in it"])
def test_node_of_another_user_is_neither_missing_nor_stopped(
    node: NodeDirectory, part: str
) -> None:
    node.root.parent.chmod(0o755)
    with (
        shut_out_of(node.root / part),
        pytest.raises(PermissionRefusedError, match="belongs to another user"),
    ):
        open_directory(node.root)
