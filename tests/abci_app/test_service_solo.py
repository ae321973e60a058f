"""A real solo node over LevelDB: registered, committed, discovered, restarted."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from abci_app.admin_api import RowOutcome
from abci_app.health import KEY_LATE_S
from abci_app.schema import EpochStates, Lease, lease_key, unpack
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.api import DiscoverQuery, RegionArea
from edgistry.cell import resolution_of
from tests.handle_world import begin_epoch

from .solo_node import NODE_ID, HandClock, SoloNode, kinds, open_solo, row, running

SQUARE = {
    "type": "Polygon",
    "coordinates": [[[7.9, 45.9], [8.1, 45.9], [8.1, 46.1], [7.9, 46.1], [7.9, 45.9]]],
}


@contextlib.asynccontextmanager
async def node_in(
    directory: Path, *, clock: HandClock | None = None, lease_s: int = 600
) -> AsyncIterator[SoloNode]:
    registry = LevelKeyValue(directory / "registry.ldb")
    queues = LevelKeyValue(directory / "queues.ldb")
    try:
        yield await open_solo(registry, queues, clock=clock, lease_s=lease_s)
    finally:
        queues.close()
        registry.close()


async def test_registered_device_is_committed_and_discovered(tmp_path: Path) -> None:
    async with node_in(tmp_path) as node, running(node):
        answer = await node.service.register([row(0), row(1), row(50)])
        assert kinds(answer.outcomes) == ["added"] * 3
        assert await node.service.outbox.wait_until(answer.outcomes[0].sequence, 30.0)
        found = await node.near(46.0, 8.0, 10.0)
        expected = {node.handle(str(outcome.handle)) for outcome in answer.outcomes[:2]}
        assert {service.handle for service in found.services} == expected
        assert {service.state for service in found.services} == {"open"}
        assert {service.resolution for service in found.services} == {7}
        assert found.height == node.app.reader.head.height


async def test_two_thousand_rows_are_found_and_a_second_run_changes_nothing(
    tmp_path: Path,
) -> None:
    rows = [row(n, lat=-60 + n * 0.06, lon=n % 170 * 1.0) for n in range(2000)]
    async with node_in(tmp_path) as node, running(node):
        for expected in ("added", "unchanged"):
            outcomes: list[RowOutcome] = []
            for at in range(0, len(rows), 512):
                outcomes += (await node.service.register(rows[at : at + 512])).outcomes
            last = max(outcome.sequence for outcome in outcomes)
            assert await node.service.outbox.wait_until(last, 60.0)
            assert {outcome.outcome for outcome in outcomes} == {expected}
        assert len(node.service.discoverer.index) == 2000
        assert node.service.status().services == 2000


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    clock = HandClock()
    async with node_in(tmp_path, clock=clock) as node:
        await node.service.register([row(0)])
        await node.service.named_regions.put("alp", SQUARE)
        await node.settle()
        before = await node.near(46.0, 8.0)
    async with node_in(tmp_path, clock=clock) as node:
        assert await node.near(46.0, 8.0) == before
        assert [entry.name for entry in node.service.regions().regions] == ["alp"]
        again = await node.service.register([row(0)])
        assert kinds(again.outcomes) == ["unchanged"]


async def test_what_was_accepted_before_a_crash_is_published_after_it(tmp_path: Path) -> None:
    clock = HandClock()
    async with node_in(tmp_path, clock=clock) as node:
        answer = await node.service.register([row(0)])
        # No block is made, nothing is sent: the process ends here.
    async with node_in(tmp_path, clock=clock) as node:
        assert node.service.outbox.pending == 1
        await node.settle()
        [found] = (await node.near(46.0, 8.0)).services
        assert found.handle == node.handle(str(answer.outcomes[0].handle))


async def test_withdrawn_device_is_no_longer_found(tmp_path: Path) -> None:
    async with node_in(tmp_path) as node:
        answer = await node.service.register([row(0), row(1)])
        await node.settle()
        await node.service.withdraw([answer.outcomes[0].handle])
        await node.settle()
        [found] = (await node.near(46.0, 8.0)).services
        assert found.handle == node.handle(str(answer.outcomes[1].handle))
        assert len(node.service.registrar.page(after=None, limit=10).devices) == 1


async def test_region_finds_what_is_published_in_it(tmp_path: Path) -> None:
    async with node_in(tmp_path) as node:
        await node.service.register([row(0), row(50)])
        put = await node.service.named_regions.put("alp", SQUARE)
        assert (put.version, put.changed) == (1, True)
        await node.settle()
        found = await node.discover(DiscoverQuery(area=RegionArea(name="alp")))
        assert len(found.services) == 1


async def test_services_of_a_lapsed_node_are_hidden_until_it_is_back(tmp_path: Path) -> None:
    clock = HandClock()
    async with node_in(tmp_path, clock=clock, lease_s=60) as node:
        await node.service.register([row(0)])
        await node.settle()
        for _ in range(8):
            clock.advance(10.0)
            await node.engine.make_block()
        assert (await node.near(46.0, 8.0)).services == ()
        assert await node.service.leases.renew()
        await node.settle()
        assert len((await node.near(46.0, 8.0)).services) == 1


async def test_coarser_resolution_is_published_as_asked(tmp_path: Path) -> None:
    async with node_in(tmp_path) as node:
        await node.service.register([row(0, resolution=5)])
        await node.settle()
        [found] = (await node.near(46.0, 8.0, 30.0)).services
        assert found.resolution == 5
        assert resolution_of(int(found.cell, 16)) == 5


async def test_running_node_renews_its_lease_by_itself(tmp_path: Path) -> None:
    registry = LevelKeyValue(tmp_path / "registry.ldb")
    queues = LevelKeyValue(tmp_path / "queues.ldb")
    try:
        node = await open_solo(registry, queues, lease_s=1, beat_s=0.1, real_time=True)
        reader = node.app.reader

        def expires_us() -> int:
            data = registry.get(lease_key(NODE_ID))
            return 0 if data is None else unpack(data, Lease).expires_us

        async with running(node):
            await reader.next_commit()
            first = expires_us()
            while expires_us() <= first + 1_000_000:
                await reader.next_commit()
            assert node.service.outbox.pending <= 1
    finally:
        queues.close()
        registry.close()


@pytest.mark.parametrize("secret", ["hut 0", "46.0012345", "8.0054321"])
async def test_nothing_private_is_in_an_answer(tmp_path: Path, secret: str) -> None:
    async with node_in(tmp_path) as node:
        await node.service.register([row(0, lat=46.0012345, lon=8.0054321, id="SERIAL-7")])
        await node.settle()
        answer = repr(await node.near(46.0, 8.0))
        assert "8" in answer
        assert secret not in answer
        assert "SERIAL" not in answer


async def test_registry_restored_from_a_copy_is_filled_again_by_the_next_import(
    tmp_path: Path,
) -> None:
    clock = HandClock()
    async with node_in(tmp_path, clock=clock) as node:
        await node.service.register([row(0)])
        await node.settle()
    shutil.copytree(tmp_path / "registry.ldb", tmp_path / "copy")
    async with node_in(tmp_path, clock=clock) as node:
        for number in (1, 2, 3):
            await node.service.register([row(number)])
            await node.settle()
        await node.service.register([row(4)])
    shutil.rmtree(tmp_path / "registry.ldb")
    (tmp_path / "copy").rename(tmp_path / "registry.ldb")
    async with node_in(tmp_path, clock=clock) as node:
        await node.settle()
        again = await node.service.register([row(number) for number in range(5)])
        assert kinds(again.outcomes) == ["unchanged", "added", "added", "added", "unchanged"]
        await node.settle()
        assert len((await node.near(46.0, 8.0)).services) == 5


async def test_what_waits_for_a_restored_registry_goes_through_on_it(tmp_path: Path) -> None:
    clock = HandClock()
    larger = {**SQUARE, "coordinates": [[[7.8, 45.8], [8.2, 45.8], [8.2, 46.2], [7.8, 45.8]]]}
    async with node_in(tmp_path, clock=clock) as node:
        first = await node.service.register([row(0)])
        await node.settle()
    shutil.copytree(tmp_path / "registry.ldb", tmp_path / "copy")
    async with node_in(tmp_path, clock=clock) as node:
        for number in (1, 2, 3):
            await node.service.register([row(number)])
            await node.settle()
        await node.service.named_regions.put("alp", SQUARE)
        await node.settle()
        await node.service.withdraw([first.outcomes[0].handle])
        await node.service.named_regions.put("alp", larger)
    shutil.rmtree(tmp_path / "registry.ldb")
    (tmp_path / "copy").rename(tmp_path / "registry.ldb")
    async with node_in(tmp_path, clock=clock) as node:
        # The numbers of what was lost are given anew: no row may still mean its old one.
        again = await node.service.register([row(number) for number in (1, 2, 3)])
        assert kinds(again.outcomes) == ["added"] * 3
        waiting = await node.service.named_regions.put("alp", larger)
        assert (waiting.version, waiting.changed) == (1, False)
        await node.settle()
        assert len(node.service.outbox.dead_letters) == 0
        assert node.service.named_regions.show("alp").version == 1
        devices = node.service.registrar.page(after=None, limit=10).devices
        assert [device.state for device in devices] == ["published"] * 3
        assert len((await node.near(46.0, 8.0)).services) == 3


async def test_wiped_registry_is_warned_of_until_the_devices_are_back(tmp_path: Path) -> None:
    clock = HandClock()
    async with node_in(tmp_path, clock=clock) as node:
        first = await node.service.register([row(0), row(1), row(2)])
        await node.settle()
        assert node.service.ready()[1].warnings == ()
    shutil.rmtree(tmp_path / "registry.ldb")
    async with node_in(tmp_path, clock=clock) as node:
        [warning] = node.service.ready()[1].warnings
        assert warning.startswith("3 devices")
    # It is still so at the next start.
    async with node_in(tmp_path, clock=clock) as node:
        await node.service.register([row(0), row(1)])
        assert node.service.ready()[1].warnings[0].startswith("3 devices")
        await node.settle()
        assert node.service.ready()[1].warnings[0].startswith("1 devices")
        await node.service.withdraw([first.outcomes[2].handle])
        assert node.service.ready()[1].warnings == ()


async def test_node_without_the_key_of_the_epoch_warns_until_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_in(tmp_path) as node:
        keys = node.service.epochs.keys

        async def warnings() -> tuple[str, ...]:
            await node.block()
            node.clock.advance(KEY_LATE_S + 1)
            return node.service.ready()[1].warnings

        assert await warnings() == ()
        keys.put({}, EpochStates(0, None, None, None), epoch_us=1)
        [warning] = await warnings()
        assert warning.startswith("no epoch key for")
        begin_epoch(keys, 1)
        assert await warnings() == ()
        states = EpochStates(2, None, None, None)
        monkeypatch.setattr(node.app.reader, "epochs", lambda: states)
        [warning] = await warnings()
        assert "that of privacy epoch 2 has not come" in warning


async def test_devices_that_a_restored_registry_has_back_are_withdrawn_again(
    tmp_path: Path,
) -> None:
    clock = HandClock()
    async with node_in(tmp_path, clock=clock) as node:
        kept, gone = (await node.service.register([row(0), row(1)])).outcomes
        await node.settle()
    shutil.copytree(tmp_path / "registry.ldb", tmp_path / "copy")
    async with node_in(tmp_path, clock=clock) as node:
        await node.service.withdraw([gone.handle])
        await node.settle()
        await node.service.register([row(2)])
        await node.settle()
        # Waits when the node stops, and goes through behind the registry that was put back.
        await node.service.register([row(3)])
    shutil.rmtree(tmp_path / "registry.ldb")
    (tmp_path / "copy").rename(tmp_path / "registry.ldb")
    async with node_in(tmp_path, clock=clock) as node:
        assert node.handle(str(gone.handle)) in {
            each.handle for each in (await node.near(46.0, 8.0)).services
        }
        assert node.service.ready()[1].warnings[0].startswith("1 devices")
        # Even if it is stopped before it could send anything.
    async with node_in(tmp_path, clock=clock) as node:
        await node.settle()
        found = {each.handle for each in (await node.near(46.0, 8.0)).services}
        assert node.handle(str(kept.handle)) in found
        assert len(found) == 2
        assert node.handle(str(gone.handle)) not in found
        assert len(node.service.outbox.dead_letters) == 0
