"""Ports are checked before an engine starts, with the setting named that chose them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from abci_app.consensus import check_port_free
from edgistry.errors import ConfigError, PortInUseError


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


async def test_a_free_port_passes(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    taken.close()
    await check_port_free("127.0.0.1", port, "peers")


async def test_a_taken_port_is_named_with_its_setting(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    with pytest.raises(PortInUseError, match=rf"port {port} on 127\.0\.0\.1 \(peers in node\.toml"):
        await check_port_free("127.0.0.1", port, "peers", tries_s=0.0)


async def test_a_port_that_is_let_go_meanwhile_passes(taken: socket.socket) -> None:
    port = taken.getsockname()[1]
    checking = asyncio.ensure_future(check_port_free("127.0.0.1", port, "peers", tries_s=30.0))
    await asyncio.sleep(0)
    assert not checking.done()
    taken.close()
    await asyncio.wait_for(checking, 10)


async def test_an_address_of_another_machine_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"api: cannot listen on 192\.0\.2\.1"):
        await check_port_free("192.0.2.1", 27000, "api", tries_s=0.0)


async def test_a_host_that_does_not_resolve_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(ConfigError, match="api: cannot listen on"):
        await check_port_free("no-such-host.invalid", 27000, "api", tries_s=0.0)
