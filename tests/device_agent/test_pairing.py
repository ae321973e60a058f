"""A device and its node, over the real link."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from abci_app.link_server import link_server, pairing_routes
from device_agent.pair_link import ask_to_leave, ask_to_pair, link_url
from device_agent.pairing import (
    Pairing,
    forget_pairing,
    pairing_file,
    pairing_of,
    read_pairing,
    read_pairings,
    write_pairing,
)
from edgistry.adapters.crypto import generate_signing_key, public_key_of
from edgistry.adapters.http import HttpClient
from edgistry.adapters.tls import client_context, server_context
from edgistry.capability_chain import Entry
from edgistry.codec import replace
from edgistry.errors import (
    CannotReachError,
    FileError,
    InvalidValueError,
    NotPairedError,
    PairingCodeError,
    UnprovenRefusalError,
    WrongNodeKeyError,
)
from edgistry.issuer import Issuer
from edgistry.pairing import PairingAnswer, PairingCode, device_object
from edgistry.rights import Right
from edgistry.transactions import node_id_of

from ..abci_app.pairing_world import NODE_SECRET, FakeDevice, PairingWorld, open_world
from ..abci_app.solo_node import SEED

YEAR_US = 365 * 86_400 * 1_000_000


class Linked:
    """A node that answers on its link, and what a device at it was told."""

    def __init__(self, world: PairingWorld, port: int) -> None:
        self.world = world
        self.port = port
        self.url = "http://127.0.0.1:1"

    async def code(self) -> PairingCode:
        code, _ = await self.world.desk.new_code(ttl_s=600)
        return PairingCode(node_key=code.node_key, port=self.port, secret=code.secret)

    async def pair(self, device: FakeDevice) -> Pairing:
        answer = await ask_to_pair(
            device.offer(), url=self.url, code=await self.code(), timeout_s=20
        )
        answer = replace(answer, link_port=self.port)
        return pairing_of(answer, role="primary", url=self.url, device=device.id, epoch=1)


@pytest.fixture
async def linked() -> AsyncIterator[Linked]:
    world = await open_world()
    async with serving(world) as port:
        yield Linked(world, port)


@contextlib.asynccontextmanager
async def serving(world: PairingWorld, seed: bytes = SEED) -> AsyncIterator[int]:
    server = link_server(pairing_routes(world.desk))
    try:
        yield await server.listen_tcp("127.0.0.1", 0, tls=server_context(seed))
    finally:
        await server.stop(grace_s=0.1)


async def test_a_device_pairs_over_the_link_and_knows_its_home(linked: Linked) -> None:
    device = FakeDevice()
    pairing = await linked.pair(device)
    home = pairing.home
    assert (home.id, home.url) == (node_id_of(public_key_of(SEED)), linked.url)
    assert home.capability.entries[0].object == device_object(device.id)
    assert linked.world.desk.table.by_device(device.id) is not None


async def test_a_device_says_nothing_to_a_node_with_another_key(linked: Linked) -> None:
    device = FakeDevice()
    code = await linked.code()
    async with serving(linked.world, seed=generate_signing_key()) as port:
        wrong = PairingCode(node_key=code.node_key, port=port, secret=code.secret)
        with pytest.raises(WrongNodeKeyError):
            await ask_to_pair(device.offer(), url=linked.url, code=wrong, timeout_s=20)
    assert linked.world.desk.table.by_device(device.id) is None


async def test_the_refusal_of_a_code_comes_back_as_itself(linked: Linked) -> None:
    code = PairingCode(node_key=public_key_of(SEED), port=linked.port, secret=b"?" * 16)
    with pytest.raises(PairingCodeError):
        await ask_to_pair(FakeDevice().offer(), url=linked.url, code=code, timeout_s=20)


async def test_a_device_reaches_no_node_where_there_is_none(linked: Linked) -> None:
    code = PairingCode(node_key=public_key_of(SEED), port=1, secret=b"?" * 16)
    with pytest.raises(CannotReachError):
        await ask_to_pair(FakeDevice().offer(), url=linked.url, code=code, timeout_s=20)


async def test_what_is_no_request_to_pair_is_refused(linked: Linked) -> None:

    url = link_url(linked.url, linked.port)
    async with HttpClient(url, tls=client_context(public_key_of(SEED))) as client:
        for path, body in (("/pair/v1/pair", b"?"), ("/pair/v1/pair?a=b", b""), ("/x", b"")):
            answer = await client.request("POST", path, body=body)
            assert answer.status in (400, 404)


@pytest.mark.parametrize("years", [-10, 0, 10])
async def test_a_device_can_leave_whatever_its_clock_says(linked: Linked, years: int) -> None:
    device = FakeDevice()
    pairing = await linked.pair(device)
    now_us = linked.world.now_us + years * YEAR_US
    await ask_to_leave(pairing, now_us=now_us, timeout_s=20)
    assert linked.world.desk.table.by_device(device.id) is None


async def test_a_device_that_is_not_known_any_more_hears_so(linked: Linked) -> None:
    pairing = await linked.pair(FakeDevice())
    await ask_to_leave(pairing, now_us=linked.world.now_us, timeout_s=20)
    with pytest.raises(NotPairedError):
        await ask_to_leave(pairing, now_us=linked.world.now_us + 1, timeout_s=20)


async def test_a_forged_capability_makes_nobody_leave(linked: Linked) -> None:
    device = FakeDevice()
    pairing = await linked.pair(device)
    forged = Issuer.from_secret(b"?" * 32, epoch=0).mint(
        serial=pairing.capability.serial, entries=pairing.capability.entries
    )
    answer = replace(pairing.answer, capability=forged.danger_bytes())
    liar = pairing_of(answer, role="primary", url=linked.url, device=device.id, epoch=1)
    with pytest.raises(UnprovenRefusalError):
        await ask_to_leave(liar, now_us=linked.world.now_us, timeout_s=20)
    assert linked.world.desk.table.by_device(device.id) is not None


# --- what is kept -------------------------------------------------------------------------------

DEVICE = FakeDevice()


def answer(**changes: object) -> PairingAnswer:
    issuer = Issuer.from_secret(NODE_SECRET, epoch=0)

    entry = Entry(Right.POLL | Right.PUT, device_object(DEVICE.id))
    plain = PairingAnswer(
        version=1,
        device=DEVICE.id,
        epoch=1,
        node_name="solo",
        node_key=public_key_of(SEED),
        link_port=27003,
        capability=issuer.mint(serial=1, entries=(entry,)).danger_bytes(),
        now_us=5,
    )
    return replace(plain, **changes)


def made(url: str = "http://127.0.0.1:1", **changes: object) -> Pairing:
    return pairing_of(answer(**changes), role="primary", url=url, device=DEVICE.id, epoch=1)


def test_a_pairing_is_kept_for_its_owner_only_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    write_pairing(tmp_path, made())
    assert read_pairing(tmp_path, "primary", epoch=1) == made()
    assert read_pairings(tmp_path, epoch=1) == [made()]
    mode = pairing_file(tmp_path, "primary").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_pairing_of_an_earlier_epoch_is_none(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    write_pairing(tmp_path, made())
    assert read_pairings(tmp_path, epoch=2) == []


def test_a_later_pairing_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    write_pairing(tmp_path, made())
    write_pairing(tmp_path, made(url="http://127.0.0.1:2/"))
    found = read_pairing(tmp_path, "primary", epoch=1)
    assert found is not None
    assert found.url == "http://127.0.0.1:2"
    forget_pairing(tmp_path, "primary")
    forget_pairing(tmp_path, "primary")
    assert read_pairings(tmp_path, epoch=1) == []


@pytest.mark.parametrize("data", [b"", b"?", b"\x93\x01\xa1x\xc0"])
def test_a_damaged_pairing_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "keys").mkdir()
    pairing_file(tmp_path, "fallback").write_bytes(data)
    with pytest.raises(FileError, match=r"fallback\.pairing is damaged"):
        read_pairing(tmp_path, "fallback", epoch=1)


def test_the_capability_of_a_pairing_is_in_no_text() -> None:
    assert made().answer.capability.hex() not in repr(made())
    assert "capability=" not in repr(made())


def test_an_answer_for_another_device_epoch_or_node_is_refused() -> None:
    with pytest.raises(InvalidValueError):
        made(device=FakeDevice(2).id)
    with pytest.raises(InvalidValueError):
        made(epoch=2)
    with pytest.raises(InvalidValueError):
        made(url="ftp://x")
    with pytest.raises(WrongNodeKeyError):
        pairing_of(
            answer(), role="primary", url="http://h", device=DEVICE.id, epoch=1, node_key=bytes(32)
        )


def test_an_answer_that_does_not_let_the_device_poll_is_refused() -> None:
    issuer = Issuer.from_secret(NODE_SECRET, epoch=0)

    entry = Entry(Right.PUT, device_object(DEVICE.id))
    useless = issuer.mint(serial=1, entries=(entry,)).danger_bytes()
    with pytest.raises(InvalidValueError, match="poll"):
        made(capability=useless)
    with pytest.raises(InvalidValueError):
        made(capability=b"?" * 40)


def test_the_link_is_at_the_host_of_the_api() -> None:
    assert link_url("http://node.example:27000/", 27003) == "https://node.example:27003"
    assert link_url("http://[::1]:27000", 3) == "https://[::1]:3"
    with pytest.raises(InvalidValueError):
        link_url("node.example", 3)
