"""The ABCI server listens where only its owner can reach it, and takes nobody's place."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from abci_app.abci_application import BaseApplication
from abci_app.abci_server import ABCIServer
from edgistry.errors import ConfigError, DirectoryError, PortInUseError

from .abci_client import Client


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="edg", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


async def test_socket_and_its_directory_are_closed_to_others(short_path: Path) -> None:
    path = short_path / "run" / "abci.sock"
    server = ABCIServer(BaseApplication(), path=path)
    await server.start()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    await server.stop()
    assert not path.exists()


async def test_directory_that_others_may_enter_is_refused(short_path: Path) -> None:
    directory = short_path / "open"
    await asyncio.to_thread(directory.mkdir, 0o750)
    with pytest.raises(DirectoryError, match="chmod 700"):
        await ABCIServer(BaseApplication(), path=directory / "abci.sock").start()


async def test_missing_parent_is_refused(short_path: Path) -> None:
    with pytest.raises(DirectoryError, match="does not exist"):
        await ABCIServer(BaseApplication(), path=short_path / "no" / "run" / "abci.sock").start()


async def test_path_over_the_limit_is_refused(short_path: Path) -> None:
    with pytest.raises(DirectoryError, match="100 bytes"):
        await ABCIServer(BaseApplication(), path=short_path / ("x" * 100)).start()


async def test_stale_socket_is_replaced(short_path: Path) -> None:
    path = short_path / "abci.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    server = ABCIServer(BaseApplication(), path=path)
    await server.start()
    client = Client(*await asyncio.open_unix_connection(path))
    assert (await client.call("echo", message="new")).message == "new"
    await client.close()
    await server.stop()


async def test_socket_that_is_served_is_left_alone(short_path: Path) -> None:
    path = short_path / "abci.sock"
    first = ABCIServer(BaseApplication(), path=path)
    await first.start()
    with pytest.raises(PortInUseError, match="another process"):
        await ABCIServer(BaseApplication(), path=path).start()
    client = Client(*await asyncio.open_unix_connection(path))
    assert (await client.call("echo", message="first")).message == "first"
    await client.close()
    await first.stop()


async def test_file_that_is_no_socket_is_left_alone(short_path: Path) -> None:
    path = short_path / "abci.sock"
    path.write_text("precious")
    with pytest.raises(DirectoryError, match="not a socket"):
        await ABCIServer(BaseApplication(), path=path).start()
    assert path.read_text() == "precious"


async def test_stop_leaves_the_socket_of_a_successor(short_path: Path) -> None:
    path = short_path / "abci.sock"
    first = ABCIServer(BaseApplication(), path=path)
    await first.start()
    path.rename(short_path / "moved")
    second = ABCIServer(BaseApplication(), path=path)
    await second.start()
    await first.stop()
    assert path.exists()
    await second.stop()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
async def test_tcp_beyond_loopback_is_refused(host: str) -> None:
    with pytest.raises(ConfigError):
        await ABCIServer(BaseApplication(), host=host, port=0).start()


async def test_loopback_tcp_is_served_and_a_taken_port_refused() -> None:
    server = ABCIServer(BaseApplication(), host="localhost", port=0)
    await server.start()
    client = Client(*await asyncio.open_connection("127.0.0.1", server.port))
    assert (await client.call("echo", message="tcp")).message == "tcp"
    with pytest.raises(PortInUseError, match=str(server.port)):
        await ABCIServer(BaseApplication(), host="127.0.0.1", port=server.port).start()
    await client.close()
    await server.stop()
