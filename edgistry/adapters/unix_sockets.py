"""Unix sockets: where we listen, and who is at the other end.

Rules kept here: a socket is made with mode 0600; a stale one (nobody listens) is replaced; anything
else at its path is left alone and reported. Callers put sockets into 0700 directories.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
from pathlib import Path

from ..errors import ConfigError, PortInUseError

MAX_SOCKET_PATH_BYTES = 100
"""The kernel allows 107; the margin leaves room for a suffix."""

_CREDENTIALS = struct.Struct("3i")
"""What SO_PEERCRED returns: pid, uid, gid."""


def peer_uid(transport: asyncio.BaseTransport) -> int | None:
    """Who is at the other end, from the kernel (SO_PEERCRED); only Unix sockets know."""
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


def bind_unix(path: Path) -> socket.socket:
    """A bound stream socket at ``path``, ready to listen.

    Raises:
        ConfigError: the path is too long, or cannot be made.
        PortInUseError: another process listens there, or it is some other file.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"{path}: a socket path may have {MAX_SOCKET_PATH_BYTES} bytes at most; "
            "use a directory with a shorter path"
        )
    _remove_stale_socket(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(os.fspath(path))
        path.chmod(0o600)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"{path} is in use by another process") from None
        raise ConfigError(f"cannot make the socket {path}: {error.strerror}") from None
    return bound


def remove_socket(path: Path) -> None:
    """Make sure that no socket is at ``path`` any more."""
    path.unlink(missing_ok=True)


def _remove_stale_socket(path: Path) -> None:
    """Remove a socket that nobody listens on; refuse to touch anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"cannot look at {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise PortInUseError(f"{path} exists and is not a socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise PortInUseError(f"{path} does not answer: {error}") from None
    raise PortInUseError(f"{path} is in use by another process")
