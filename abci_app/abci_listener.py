"""Where the ABCI server listens, and where it refuses to.

Rules kept here:

* ABCI has no authentication, and whoever connects can commit blocks. So: a Unix socket in a
  directory that only its owner may enter, or TCP on a loopback address, nothing else.
* A socket file left by a process that died is removed; one that somebody serves, or a file that
  is no socket, is not touched.

Not handled here: two processes that start at the same moment on one path; a node holds its
database's lock before it comes here.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path

from edgistry.errors import ConfigError, DirectoryError, PortInUseError

PATH_LIMIT = 100
"""Longest socket path in bytes. The kernel's limit is 107; the rest is for a temporary suffix."""

BACKLOG = 16
"""Connections that may wait to be accepted; the engine opens four."""


def listen_unix(path: Path) -> socket.socket:
    """A listening socket at ``path``, mode 0600, in a directory of mode 0700.

    A missing directory is made; its parent must exist.

    Raises:
        DirectoryError: the path is too long, is not a socket, or others may enter its directory.
        PortInUseError: somebody serves this socket.
    """
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise DirectoryError(
            f"the socket path {path} is longer than {PATH_LIMIT} bytes (a limit of the kernel); "
            "choose a shorter directory"
        )
    _guard_directory(path.parent)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"another process has just taken {path}") from None
        raise
    return listener


def _guard_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        raise DirectoryError(f"{directory.parent} does not exist") from None
    except FileExistsError:
        raise DirectoryError(f"{directory} is not a directory") from None
    state = directory.stat()
    if state.st_uid != os.geteuid():
        raise DirectoryError(f"{directory} belongs to another user (uid {state.st_uid})")
    if stat.S_IMODE(state.st_mode) & 0o077:
        raise DirectoryError(f"others may enter {directory}; run: chmod 700 {directory}")


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise DirectoryError(f"{path} is not a socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Not blocking: a server whose backlog is full is alive all the same.
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass
    raise PortInUseError(f"another process serves {path}")


def listen_tcp(host: str, port: int) -> socket.socket:
    """A socket that listens on a loopback address; port 0 lets the kernel choose.

    Raises:
        ConfigError: the address is not a loopback address.
        PortInUseError: the port is taken.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ConfigError(f"{host!r} is not an IP address") from None
    if not address.is_loopback:
        raise ConfigError(f"ABCI has no authentication: {host} is not a loopback address")
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"{address}:{port} is taken") from None
        raise
    return listener


def remove_socket(path: Path, inode: int) -> None:
    """Delete the socket file at ``path`` unless another one has taken its place."""
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        return
