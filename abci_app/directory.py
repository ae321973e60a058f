"""A node's directory: what is where, who may read it, and who has it open.

Rules kept here:

* ``init`` refuses a directory that is not empty; what it made is removed when it fails half-way,
  and ``node.toml`` is written last: only a complete directory is a node.
* Private keys are 0600 and created exclusively (an existing key is never overwritten). The
  directory itself is 0700: positions and names of devices are in it.
* Unix socket paths stay under 100 bytes (the kernel allows 107): refused at ``init``, and again
  at ``run``, since a directory can be moved.
* One process runs a directory at a time: it holds a lock on ``run/node.pid``, which the kernel
  lets go when the process dies, however it dies. A pid in that file means something only while
  the lock is held.

Not handled here: the engine's home inside it (``comet_config``), what the files mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgistry.adapters import config as toml
from edgistry.adapters import secret_files
from edgistry.adapters.pid_lock import hold_lock, holder_of
from edgistry.errors import (
    AlreadyThereError,
    ConfigError,
    DirectoryError,
    PermissionRefusedError,
)

from .config import EngineKind, NodeConfig

KEY_BYTES = 32

MAX_SOCKET_PATH_BYTES = 100
"""Linux allows 107 bytes for a Unix socket's path; the rest is left for temporary names."""

NODE_FILE_TITLE = """\
Settings of one Edgistry node. Restart the node after a change.

Never run a copy of this directory, and never restore an old one, while or after the original
ran: two nodes with one validator key sign different blocks, and the others shut both out."""


@dataclass(frozen=True, slots=True)
class NodeDirectory:
    """The layout of one node's directory; ``root`` is absolute."""

    root: Path

    @property
    def config_file(self) -> Path:
        """Settings; its presence makes the directory a node."""
        return self.root / "node.toml"

    @property
    def genesis_file(self) -> Path:
        """The chain's beginning, the same on all nodes; CometBFT's format, also for solo."""
        return self.root / "genesis.json"

    @property
    def member_card_file(self) -> Path:
        """What members of a running chain sign to take this node in; others have no such file."""
        return self.root / "member.json"

    @property
    def registry_key_file(self) -> Path:
        """The seed that signs this node's registry transactions, as hexadecimal digits."""
        return self.root / "keys" / "registry.key"

    @property
    def issuer_key_file(self) -> Path:
        """The secret that this node's capabilities start from, as hexadecimal digits."""
        return self.root / "keys" / "issuer.key"

    @property
    def registry_db(self) -> Path:
        """The replicated database. May be wiped: the engine replays the blocks."""
        return self.root / "data" / "registry.ldb"

    @property
    def queues_db(self) -> Path:
        """This node's own database: outbox, devices, queues. Needs a backup."""
        return self.root / "data" / "queues.ldb"

    @property
    def run_dir(self) -> Path:
        """Sockets and pid files, 0700."""
        return self.root / "run"

    @property
    def abci_socket(self) -> Path:
        """Where the engine reaches the application."""
        return self.run_dir / "abci.sock"

    @property
    def admin_socket(self) -> Path:
        """Where the operator's commands reach the node."""
        return self.run_dir / "admin.sock"

    @property
    def pid_file(self) -> Path:
        """Pid of the running node; locked while it runs."""
        return self.run_dir / "node.pid"

    @property
    def engine_pid_file(self) -> Path:
        """Pid and start time of the engine that this node started last."""
        return self.run_dir / "engine.pid"

    @property
    def engine_home(self) -> Path:
        """CometBFT's home; absent for solo."""
        return self.root / "engine"

    @property
    def logs_dir(self) -> Path:
        """``node.log``, ``engine.log``, and ``console.log`` when started in the background."""
        return self.root / "logs"


def check_socket_paths(root: Path) -> None:
    """Refuse a directory whose sockets the kernel could not bind.

    Raises:
        DirectoryError: a socket's path would be longer than 100 bytes, or is no readable text.
    """
    directory = NodeDirectory(root)
    if not str(root).isprintable():
        # The engine's configuration is text: it could not name the socket.
        raise DirectoryError(f"{str(root)!r}: choose a path of printable UTF-8 characters")
    for path in (directory.abci_socket, directory.admin_socket):
        size = len(os.fsencode(path))
        if size > MAX_SOCKET_PATH_BYTES:
            raise DirectoryError(
                f"{root}: its socket {path.name} would have a path of {size} bytes; at most"
                f" {MAX_SOCKET_PATH_BYTES} work. Choose a directory whose path is at least"
                f" {size - MAX_SOCKET_PATH_BYTES} bytes shorter, such as /var/lib/edgistry"
            )


def check_empty(root: Path) -> None:
    """Raises DirectoryError unless ``root`` is missing or an empty directory."""
    try:
        if root.is_symlink() and not root.exists():
            raise DirectoryError(f"{root} is a symbolic link to nothing")
        if not root.exists():
            return
        if not root.is_dir():
            raise DirectoryError(f"{root} exists and is not a directory")
        if any(root.iterdir()):
            raise DirectoryError(
                f"{root} is not empty, and nothing in it will be overwritten."
                " Name a new directory, or remove this one first if you are sure"
            )
    except OSError as error:
        raise DirectoryError(f"{root}: {error.strerror}") from None


@contextlib.contextmanager
def fresh(root: Path) -> Iterator[None]:
    """Make ``root`` (0700) for the block, and empty it again if the block fails.

    Raises:
        DirectoryError: not empty, or it cannot be made or written.
    """
    check_empty(root)
    existed = root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DirectoryError(f"{error.filename or root}: {error.strerror}") from None
    try:
        # A second one here would remove, when it fails, what the first has made.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DirectoryError(f"{root} is just being made by another process") from None
        check_empty(root)
        with _emptied_on_failure(root, existed=existed):
            root.chmod(0o700)
            yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _emptied_on_failure(root: Path, *, existed: bool) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            for entry in list(root.iterdir()):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if not existed:
                root.rmdir()
        if isinstance(error, OSError):
            raise DirectoryError(f"{error.filename or root}: {error.strerror}") from None
        raise


def write_secret(path: Path, data: bytes) -> None:
    """Create ``path`` with ``data``, mode 0600, durable.

    Raises:
        DirectoryError: it exists already.
        FileError: it cannot be written.
    """
    try:
        secret_files.write_secret(path, data, force=False)
    except AlreadyThereError:
        raise DirectoryError(f"{path} exists; keys are never overwritten") from None


def create_layout(directory: NodeDirectory, *, registry_seed: bytes | None) -> None:
    """Make the folders of a node and its own keys in the empty directory.

    A host has no ``registry_seed``.
    """
    for folder in (
        directory.registry_key_file.parent,
        directory.registry_db.parent,
        directory.run_dir,
        directory.logs_dir,
    ):
        folder.mkdir(mode=0o700)
    if registry_seed is not None:
        _write_key(directory.registry_key_file, registry_seed)
    _write_key(directory.issuer_key_file, secrets.token_bytes(KEY_BYTES))


def write_config(directory: NodeDirectory, config: NodeConfig) -> None:
    """Write ``node.toml``, the last step of ``init``."""
    directory.config_file.write_text(toml.render(config, title=NODE_FILE_TITLE), encoding="utf-8")


def open_directory(root: Path) -> tuple[NodeDirectory, NodeConfig]:
    """The layout and settings of an existing node.

    Raises:
        DirectoryError: no node, or unusable as it is.
        PermissionRefusedError: it belongs to another user.
        ConfigError: ``node.toml`` is wrong, or does not fit what is in the directory.
    """
    directory = NodeDirectory(root.absolute())
    _refuse_other_users(directory)
    if not directory.config_file.exists():
        advice = f"`edgistry-node init {root}` makes one"
        if (root / "cluster.toml").exists():
            advice = f"it is a cluster: name one of its nodes ({root / 'node0'}), or use `cluster`"
        raise DirectoryError(f"{root} is not a node's directory (it has no node.toml); {advice}")
    config = toml.load(directory.config_file, NodeConfig)
    check_socket_paths(directory.root)
    made_for = _made_for(directory)
    if config.engine != made_for:
        raise ConfigError(
            f"{directory.config_file}: engine: this directory was made for {made_for!r}, and"
            " there is no conversion; put that back, or init a new directory"
        )
    return directory, config


def _made_for(directory: NodeDirectory) -> EngineKind:
    if directory.engine_home.exists():
        return "cometbft"
    has_chain = directory.genesis_file.exists() or directory.registry_key_file.exists()
    return "solo" if has_chain else "none"


def _refuse_other_users(directory: NodeDirectory) -> None:
    """Tell a node that this user may not look into from one that is missing, or does not run."""
    try:
        directory.config_file.stat()
        os.scandir(directory.run_dir).close()
    except PermissionError as error:
        raise PermissionRefusedError(
            f"{error.filename}: {error.strerror}; the node belongs to another user"
        ) from None
    except OSError:
        pass  # something is missing: what that means is said elsewhere


def read_registry_seed(directory: NodeDirectory) -> bytes:
    """The 32-byte seed of this node's registry key.

    Raises:
        DirectoryError: missing, readable by others, or damaged.
    """
    return _read_key(directory.registry_key_file)


def read_issuer_secret(directory: NodeDirectory) -> tuple[bytes, bool]:
    """The 32-byte secret of this node as an issuer of capabilities; whether it is a new one.

    A directory that has none gets one: those made by earlier versions, and those from which the
    key was removed to make every capability void.

    Raises:
        DirectoryError: readable by others, damaged, or it cannot be written.
    """
    path = directory.issuer_key_file
    is_new = not path.exists()
    if is_new:
        try:
            _write_key(path, secrets.token_bytes(KEY_BYTES))
        except OSError as error:
            raise DirectoryError(f"{path}: {error.strerror}") from None
    return _read_key(path), is_new


def _write_key(path: Path, key: bytes) -> None:
    write_secret(path, key.hex().encode() + b"\n")


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(100)
    except OSError as error:
        raise DirectoryError(f"{path}: the node's key cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise DirectoryError(f"{path}: others may read this key; run `chmod 600 {path}`")
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise DirectoryError(f"{path}: not a key of 64 hexadecimal digits; restore it from backup")
    return key


# --- who runs it -------------------------------------------------------------------------------


@contextlib.contextmanager
def hold(directory: NodeDirectory) -> Iterator[None]:
    """Be the one process that runs this directory while the block runs.

    Raises:
        DatabaseLockedError: another process runs it.
        DirectoryError: ``run/`` cannot be written.
    """
    try:
        directory.run_dir.mkdir(mode=0o700, exist_ok=True)
        directory.run_dir.chmod(0o700)
        directory.logs_dir.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DirectoryError(f"{error.filename}: {error.strerror}") from None
    with hold_lock(directory.pid_file, in_use=f"{directory.root} is already run by"):
        yield


def running_pid(directory: NodeDirectory) -> int | None:
    """Pid of the process that runs this directory now, or ``None``."""
    return holder_of(directory.pid_file)
