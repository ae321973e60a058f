"""Forgetting a device at its node: nothing stays that old blocks could be brought together with."""

from __future__ import annotations

import hashlib

import pytest

from abci_app.device_setup import DeviceSetup
from abci_app.devices import identity_of
from abci_app.pairing_desk import rows_of
from edgistry.codec import encode
from edgistry.errors import NotFoundError
from edgistry.kv import KeyValue
from edgistry.pairing import FORGET, UNPAIR
from edgistry.policy import PrivacyPolicy

from .pairing_world import FakeDevice, PairingWorld, open_world
from .test_pairing_crashes import KilledError, Life

POLICY = PrivacyPolicy(noise_m=2000)
NAME = "Villa Esperanza, attic"


async def listed_device(world: PairingWorld) -> FakeDevice:
    device = FakeDevice(7)
    await world.pair(device, name=NAME, lat=46.123456, lon=8.654321, policy=POLICY)
    await world.set_up(device)
    assert len(list(world.setup._rows.scan())) == 2
    return device


def everything(store: KeyValue) -> bytes:
    return b"|".join(part for pair in store.scan(b"", None) for part in pair)


def secrets_of(world: PairingWorld, device: FakeDevice) -> dict[str, bytes]:
    """What may not stay, by what it is."""
    offer = device.offer()
    rows = {f"salt {row.type}": row.salt for row in world.setup._rows.scan()}
    return rows | {
        "name": NAME.encode(),
        "latitude": encode(46.123456),
        "longitude": encode(8.654321),
        "seed": offer.seed,
        "key": offer.key,
    }


def confirmed(commitment: bytes, identity: bytes, store: KeyValue) -> bool:
    """Whether somebody who has ``store`` can tell that ``commitment`` is about ``identity``."""
    known = everything(store)
    return any(
        hashlib.sha256(known[at : at + 32] + identity).digest() == commitment
        for at in range(len(known) - 31)
    )


async def test_nothing_of_a_forgotten_device_is_left_in_the_database() -> None:
    world = await open_world()
    device = await listed_device(world)
    secrets = secrets_of(world, device)
    before = everything(world.store)
    assert [what for what, secret in secrets.items() if secret not in before] == []
    await world.desk.revoke(device.id, forget=True)
    await world.node.settle()
    after = everything(world.store)
    assert [what for what, secret in secrets.items() if secret in after] == []
    assert await world.listed() == []
    assert world.desk.table.to_forget() == []


async def test_what_the_chain_says_of_it_can_be_confirmed_by_nobody() -> None:
    world = await open_world()
    device = await listed_device(world)
    paired = world.desk.table.by_device(device.id)
    assert paired is not None
    reader = world.node.service._reader
    commitments = {
        identity_of(row): stored.commitment
        for row in rows_of(paired)
        for known in world.setup._rows.scan()
        if known.id == row.id and (stored := reader.service(known.key)) is not None
    }
    assert len(commitments) == 2
    for identity, commitment in commitments.items():
        assert confirmed(commitment, identity, world.store), "its node can, while it knows it"
    await world.desk.revoke(device.id, forget=True)
    await world.node.settle()
    for identity, commitment in commitments.items():
        assert not confirmed(commitment, identity, world.store)
        assert hashlib.sha256(identity).digest() != commitment, "nor can whoever guesses the id"


async def test_a_device_asks_to_be_forgotten_over_the_link() -> None:
    world = await open_world()
    device = FakeDevice(7)
    answer = await world.pair(device, name=NAME)
    await world.desk.unpair(world.leave(answer, payload=FORGET))
    await world.node.settle()
    assert world.desk.table.by_device(device.id) is None
    assert NAME.encode() not in everything(world.store)


async def test_no_device_has_another_one_forgotten() -> None:
    world = await open_world()
    answer = await world.pair(FakeDevice(7))
    other = FakeDevice(8)
    await world.pair(other)
    await world.desk.unpair(world.leave(answer, payload=FORGET, device=other.id))
    assert world.desk.table.by_device(other.id) is not None


async def test_codes_that_a_forgotten_device_used_are_forgotten() -> None:
    world = await open_world()
    device = await listed_device(world)
    assert any(code.device == device.id for _, code in world.desk.table.codes())
    await world.desk.revoke(device.id, forget=True)
    assert [code for _, code in world.desk.table.codes() if code.device] == []


async def test_a_device_that_left_without_more_may_come_back_where_it_was() -> None:
    world = await open_world()
    device = FakeDevice(7)
    answer = await world.pair(device, policy=POLICY)
    await world.set_up(device)
    before = {row.type: row.cell for row in world.setup._rows.scan()}
    await world.desk.unpair(world.leave(answer, payload=UNPAIR))
    await world.node.settle()
    await world.pair(device, policy=POLICY)
    await world.set_up(device)
    assert {row.type: row.cell for row in world.setup._rows.scan()} == before


async def test_who_is_not_paired_cannot_be_forgotten() -> None:
    world = await open_world()
    with pytest.raises(NotFoundError):
        await world.desk.revoke(FakeDevice(7).id, forget=True)


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("left", range(1, 7))
async def test_a_node_that_is_killed_while_it_forgets_ends_it_at_the_next_start(
    left: int, is_written: bool
) -> None:
    life = Life(0, is_written=is_written)
    world = await life.start()
    await life.become_ready(world)
    forgotten: list[str] = []

    async def note(device: str) -> None:
        forgotten.append(device)

    world.setup.on_forget = note
    secrets = [row.salt for row in world.setup._rows.scan()]
    life.store.left = left
    try:
        await world.desk.revoke(life.device.id, forget=True)
        await world.node.settle()
    except KilledError:
        life.store.left = 0
        world = await life.start()
        world.setup.on_forget = note
        if world.desk.table.by_device(life.device.id) is not None:
            await world.desk.revoke(life.device.id, forget=True)
        else:
            await start_again(world.setup)
    life.store.left = 0
    await world.node.settle()
    assert set(forgotten) == {life.device.id}, "and its mirrors with it"
    assert world.desk.table.to_forget() == []
    assert not any(secret in everything(life.store) for secret in secrets)


async def start_again(setup: DeviceSetup) -> None:
    """What a node does when it starts."""
    await setup.withdraw_orphans()
    await setup.finish_forgetting()
