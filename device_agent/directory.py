"""A device's directory: what is where, and who has it open.

Rules kept here:

* ``init`` refuses a directory that is not empty. Its files are whole and durable, one after the
  other, and ``agent.toml`` is the last: only a complete directory is a device.
* The secret is 0600, written once, and in no file that a WooF shows. The directory is 0700.
* One process at a time runs a device, or changes its keys: it holds a lock on ``run/agent.pid``,
  which the kernel lets go when the process dies, however it dies. One at a time, by another lock,
  changes or tells where the device is.

Not handled here: pairings (``pairing.py``), what the files mean.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgistry.adapters import config as toml
from edgistry.adapters.pid_lock import hold_lock, holder_of
from edgistry.adapters.secret_files import (
    check_secret_folder,
    others_may_read,
    read_secret,
    write_secret,
)
from edgistry.capability_chain import CURRENT_EPOCH
from edgistry.errors import DirectoryError, MalformedError, NotFoundError
from edgistry.pairing import check_device_id, encode_device_id

from .config import AgentConfig
from .manifest import Manifest

SECRET_BYTES = 32
FIRST_EPOCH = 1

AGENT_FILE_TITLE = """\
Settings of one device. Restart the agent after a change.

Never run a copy of this directory: two agents with one identity take each other's requests."""


_INTERRUPTED = "; if an init was interrupted there, remove it: nothing was paired yet"


@dataclass(frozen=True, slots=True)
class AgentDirectory:
    """The layout of one device's directory; ``root`` is absolute."""

    root: Path

    @property
    def config_file(self) -> Path:
        """Settings; its presence makes the directory a device."""
        return self.root / "agent.toml"

    @property
    def manifest_file(self) -> Path:
        """What the device offers."""
        return self.root / "manifest.toml"

    @property
    def id_file(self) -> Path:
        """The device's id."""
        return self.root / "device.id"

    @property
    def keys_dir(self) -> Path:
        """The secret, its epoch, and pairings; 0700."""
        return self.root / "keys"

    @property
    def secret_file(self) -> Path:
        """The secret that the device's capabilities start from, as hexadecimal digits."""
        return self.keys_dir / "device.key"

    @property
    def epoch_file(self) -> Path:
        """The epoch of the secret, a decimal number; missing: the first one."""
        return self.keys_dir / "epoch"

    @property
    def whereabouts_file(self) -> Path:
        """What nodes are told of where the device is, and what its noise is drawn from."""
        return self.keys_dir / "whereabouts"

    @property
    def handlers_dir(self) -> Path:
        """Where the owner's own module is looked for."""
        return self.root / "handlers"

    @property
    def database(self) -> Path:
        """WooFs, replay windows, queues."""
        return self.root / "data" / "device.ldb"

    @property
    def account_file(self) -> Path:
        """What the device has spent, and how its last wake went."""
        return self.root / "data" / "account.json"

    @property
    def pid_file(self) -> Path:
        """Pid of the agent; locked while it runs."""
        return self.root / "run" / "agent.pid"

    @property
    def move_file(self) -> Path:
        """Pid of whoever tells nodes where the device is; locked meanwhile."""
        return self.root / "run" / "move.pid"

    @property
    def log_file(self) -> Path:
        """What happened."""
        return self.root / "logs" / "agent.log"


def create(root: Path, *, config: AgentConfig, manifest: str, handlers: str) -> AgentDirectory:
    """Make ``root`` a device with a secret and an id of its own.

    ``manifest`` and ``handlers`` are the texts of these files to begin with.

    Raises:
        DirectoryError, FileError: ``root`` is not empty, or cannot be written.
    """
    directory = AgentDirectory(root.absolute())
    try:
        directory.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.root.iterdir()):
            raise DirectoryError(
                f"{root} is not empty, and nothing in it will be overwritten"
                + ("" if directory.config_file.exists() else _INTERRUPTED)
            )
        directory.root.chmod(0o700)
        for folder in (
            directory.keys_dir,
            directory.handlers_dir,
            directory.database.parent,
            directory.pid_file.parent,
            directory.log_file.parent,
        ):
            folder.mkdir(mode=0o700)
        secret = secrets.token_bytes(SECRET_BYTES)
        device_id = encode_device_id(secrets.token_bytes(16))
        for path, text in (
            (directory.secret_file, f"{secret.hex()}\n"),
            (directory.id_file, f"{device_id}\n"),
            (directory.manifest_file, manifest),
            (directory.handlers_dir / f"{config.handlers.module}.py", handlers),
            (directory.config_file, toml.render(config, title=AGENT_FILE_TITLE)),
        ):
            write_secret(path, text.encode(), force=False)
    except OSError as error:
        raise DirectoryError(f"{error.filename or root}: {error.strerror}") from None
    return directory


def open_directory(root: Path) -> tuple[AgentDirectory, AgentConfig]:
    """The layout and settings of an existing device.

    Raises:
        DirectoryError: no device, or others have access to its keys.
        ConfigError: ``agent.toml`` is wrong.
    """
    directory = AgentDirectory(root.absolute())
    if not directory.config_file.exists():
        raise DirectoryError(
            f"{root} is not a device's directory (it has no agent.toml);"
            f" `edgistry-agent init {root}` makes one"
        )
    check_secret_folder(directory.keys_dir)
    return directory, toml.load(directory.config_file, AgentConfig)


def read_manifest(directory: AgentDirectory) -> Manifest:
    """What the device offers.

    Raises:
        ConfigError: ``manifest.toml`` is wrong, or missing.
    """
    return toml.load(directory.manifest_file, Manifest)


def read_device_secret(directory: AgentDirectory) -> bytes:
    """The 32 bytes that the device's capabilities start from.

    Raises:
        DirectoryError: missing, readable by others, or damaged.
    """
    path = directory.secret_file
    if others_may_read(path):
        raise DirectoryError(f"{path}: others may read this key; run `chmod 600 {path}`")
    try:
        secret = bytes.fromhex(read_secret(path, limit=100).decode("ascii").strip())
    except NotFoundError:
        raise DirectoryError(f"{path} is missing; restore it, or make a new device") from None
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise DirectoryError(f"{path}: not a key of 64 hexadecimal digits; restore it from backup")
    return secret


def read_device_id(directory: AgentDirectory) -> str:
    """The device's id.

    Raises:
        DirectoryError: missing or damaged.
    """
    try:
        return check_device_id(directory.id_file.read_text("ascii").strip())
    except (OSError, ValueError, MalformedError) as error:
        raise DirectoryError(f"{directory.id_file}: {error}") from None


def read_epoch(directory: AgentDirectory) -> int:
    """The epoch that the device is in.

    Raises:
        DirectoryError: the file is damaged.
    """
    try:
        text = directory.epoch_file.read_text("ascii").strip()
    except FileNotFoundError:
        return FIRST_EPOCH
    except (OSError, ValueError) as error:
        raise DirectoryError(f"{directory.epoch_file}: {error}") from None
    if not text.isdecimal() or len(text) > 10 or not FIRST_EPOCH <= int(text) < CURRENT_EPOCH:
        raise DirectoryError(f"{directory.epoch_file}: not a number from {FIRST_EPOCH} on")
    return int(text)


def write_epoch(directory: AgentDirectory, epoch: int) -> None:
    """The device is in ``epoch`` from its next start on; call it while holding the directory.

    Raises:
        FileError: the file cannot be written; the epoch is as before.
    """
    write_secret(directory.epoch_file, f"{epoch}\n".encode(), force=True)


@contextlib.contextmanager
def hold(directory: AgentDirectory) -> Iterator[None]:
    """Be the one process that has this directory while the block runs.

    Raises:
        DatabaseLockedError: another process has it.
        DirectoryError: ``run/`` cannot be written.
    """
    _make_folders(directory.pid_file.parent, directory.log_file.parent)
    with hold_lock(directory.pid_file, in_use=f"{directory.root} is in use by"):
        yield


@contextlib.contextmanager
def hold_whereabouts(directory: AgentDirectory) -> Iterator[None]:
    """Be the one process that changes or tells where this device is while the block runs.

    The agent may run meanwhile. Raises as ``hold``.
    """
    _make_folders(directory.move_file.parent)
    with hold_lock(directory.move_file, in_use=f"{directory.root}: where it is is being told by"):
        yield


def _make_folders(*folders: Path) -> None:
    try:
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DirectoryError(f"{error.filename}: {error.strerror}") from None


def running_pid(directory: AgentDirectory) -> int | None:
    """Pid of the process that has this directory now, or ``None``."""
    return holder_of(directory.pid_file)
