"""The engine makers' own client speaks to ``edgistry-node abci``."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from abci_app.abci_framing import encode_frame, encode_uvarint
from abci_app.launch import node_program
from tests.abci_app.abci_client import Client

from .stock_client import stock

pytestmark = pytest.mark.engine

START_TIMEOUT_S = 60


def edgistry_node(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*node_program(), *words], capture_output=True, text=True, timeout=START_TIMEOUT_S
    )


def start_abci(directory: Path) -> subprocess.Popen[bytes]:
    """Start the command and wait until it listens."""
    process = subprocess.Popen(
        [*node_program(), "abci", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(directory / "run" / "abci.sock")) == 0:
                return process
        time.sleep(0.05)
    process.kill()
    output, _ = process.communicate()
    raise AssertionError(f"`edgistry-node abci` does not listen: {output.decode()}")


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="edg", dir="/tmp"))
    made = edgistry_node("init", str(folder / "node"), "--engine", "cometbft")
    assert made.returncode == 0, made.stderr
    yield folder / "node"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def path(directory: Path) -> Iterator[Path]:
    """The socket of a running ``edgistry-node abci``, which must end well on SIGTERM."""
    process = start_abci(directory)
    try:
        yield directory / "run" / "abci.sock"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=START_TIMEOUT_S)
        assert process.returncode == 0, output.decode()
        assert not (directory / "run" / "abci.sock").exists()
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


async def is_alive(path: Path) -> bool:
    said = await stock(path, "echo", "alive")
    return said.values("data") == ["alive"]


async def test_echo_comes_back(path: Path) -> None:
    assert await is_alive(path)


async def test_info_names_the_registry(path: Path) -> None:
    said = await stock(path, "info")
    assert (said.exit_code, said.values("code"), said.values("data")) == (0, ["OK"], ["edgistry"])


@pytest.mark.parametrize(
    "transaction", ["0x00", "0xff00", '""', '"not a transaction"', f"0x{'93' * 500}"]
)
async def test_malformed_transaction_gets_a_code(path: Path, transaction: str) -> None:
    said = await stock(path, "check_tx", transaction)
    assert said.exit_code == 0
    assert said.values("code") not in ([], ["OK"])
    assert said.values("log")[0]


@pytest.mark.parametrize("where", ["/store", "/proof", "/nowhere", "", "/p2p/filter/id/stranger"])
async def test_query_that_cannot_be_answered_gets_a_code(path: Path, where: str) -> None:
    said = await stock(path, "query", "0xff00", f"--path={where}")
    assert said.exit_code == 0
    assert said.values("code") not in ([], ["OK"])
    assert said.values("log")[0]


async def test_peer_address_filter_lets_addresses_pass(path: Path) -> None:
    said = await stock(path, "query", '""', "--path=/p2p/filter/addr/127.0.0.1:26656")
    assert said.values("code") == ["OK"]


async def test_a_whole_conversation_over_one_connection(path: Path) -> None:
    said = await stock(path, batch=["echo one", "info", "check_tx 0xff", 'query "x"', "echo two"])
    assert said.exit_code == 0
    assert said.values("data") == ["one", "edgistry", "two"]


async def test_malformed_frames_get_an_exception_and_the_node_lives(path: Path) -> None:
    seeded = random.Random(20240)
    streams = [
        b"\x00",
        encode_frame(b"\x22\x00"),
        encode_frame(b"\xff" * 50),
        encode_uvarint(1 << 50),
        b"\xff" * 20,
        *(encode_frame(seeded.randbytes(seeded.randint(1, 300))) for _ in range(50)),
    ]
    for stream in streams:
        client = Client(*await asyncio.open_unix_connection(path))
        await client.send(stream)
        client.writer.write_eof()
        answer = await client.receive()
        assert answer is not None
        assert answer.WhichOneof("value") == "exception"
        assert await client.receive() is None
        await client.close()
    assert await is_alive(path)


def test_second_server_in_one_directory_is_told_why_not(directory: Path, path: Path) -> None:
    second = edgistry_node("abci", str(directory))
    assert second.returncode == 1
    assert "Traceback" not in second.stderr
    assert str(directory) in second.stderr


def test_killed_server_starts_again_over_its_stale_socket(directory: Path, path: Path) -> None:
    copy = directory.with_name("killed")
    made = edgistry_node("init", str(copy), "--engine", "cometbft", "--base-port", "28400")
    assert made.returncode == 0, made.stderr
    for _ in range(2):
        process = start_abci(copy)
        process.kill()
        process.communicate()
        assert (copy / "run" / "abci.sock").exists()
