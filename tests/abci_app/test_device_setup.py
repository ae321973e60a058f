"""What a node does with a device once it is paired."""

from __future__ import annotations

import asyncio

from abci_app.device_setup import creations
from edgistry.envelope import Operation, Status
from edgistry.operations import decode_woof_shape

from .pairing_world import READ, FakeDevice, open_world


async def test_the_device_is_asked_to_create_its_namespaces_and_woofs_in_order() -> None:
    world, device = await open_world(), FakeDevice()
    await world.make_ready(device)
    assert [(op, target) for op, target, _ in device.done] == [
        (Operation.NAMESPACE_CREATE, "thermometer"),
        (Operation.WOOF_CREATE, "thermometer/read"),
        (Operation.NAMESPACE_CREATE, "valve"),
        (Operation.WOOF_CREATE, "valve/open"),
        (Operation.WOOF_CREATE, "valve/read"),
    ]
    shape = decode_woof_shape(device.done[3][2])
    assert (shape.history, shape.element_size) == (5, 1)


async def test_services_are_listed_when_the_device_has_answered_and_not_before() -> None:
    world, device = await open_world(), FakeDevice()
    await world.pair(device)
    await world.setup.step(device.id)
    world.queue.serve(device, world.now_us, most=4)
    await world.setup.step(device.id)
    await world.node.settle()
    assert await world.listed() == []
    world.queue.serve(device, world.now_us)
    await world.setup.step(device.id)
    await world.node.settle()
    assert await world.listed() == [("thermometer", "15m"), ("valve", "15m")]
    assert world.stage(device) == "ready"


async def test_a_listed_record_leads_to_its_device_and_service() -> None:
    world, device = await open_world(), FakeDevice()
    await world.make_ready(device)
    for row in world.setup._rows.scan():
        found = world.desk.table.by_record(row.key)
        assert found is not None
        assert (found[0].device, found[1].type) == (device.id, row.type)


async def test_setting_up_goes_on_after_a_restart() -> None:
    world, device = await open_world(), FakeDevice()
    await world.pair(device)
    await world.setup.step(device.id)
    restarted = await open_world(world.store)
    restarted.queue.waiting = world.queue.waiting
    running = asyncio.create_task(restarted.setup.run())
    restarted.queue.serve(device, world.now_us)
    async with asyncio.timeout(10):
        while restarted.stage(device) != "ready":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(device.done) == 5


async def test_what_expired_is_asked_again_after_a_pause() -> None:
    world, device = await open_world(), FakeDevice()
    await world.pair(device)
    await world.setup.step(device.id)
    world.queue.waiting.clear()
    await world.setup.step(device.id)
    await world.setup.step(device.id)
    assert world.queue.waiting == {}
    world.node.clock.advance(61)
    await world.set_up(device)
    assert world.stage(device) == "ready"


async def test_a_device_that_cannot_create_its_woofs_is_not_listed() -> None:
    world, device = await open_world(), FakeDevice()
    device.status = Status.STORAGE
    await world.make_ready(device)
    assert (world.stage(device), await world.listed()) == ("new", [])


async def test_woofs_that_are_there_already_are_good_enough() -> None:
    world, device = await open_world(), FakeDevice()
    device.status = Status.EXISTS
    await world.make_ready(device)
    assert world.stage(device) == "ready"


async def test_a_full_queue_is_tried_again_after_a_pause() -> None:
    world, device = await open_world(), FakeDevice()
    await world.pair(device)
    world.queue.refuse = True
    await world.setup.step(device.id)
    world.queue.refuse = False
    await world.set_up(device)
    assert world.stage(device) == "new"
    world.node.clock.advance(61)
    await world.set_up(device)
    assert world.stage(device) == "ready"


async def test_a_service_that_is_offered_no_longer_is_withdrawn() -> None:
    world, device = await open_world(), FakeDevice()
    await world.make_ready(device)
    await world.pair(device, services=device.offer().services[:1], period_s=30)
    await world.set_up(device)
    assert await world.listed() == [("thermometer", "1m")]


async def test_the_services_of_a_revoked_device_are_withdrawn() -> None:
    world, device = await open_world(), FakeDevice()
    await world.make_ready(device)
    await world.desk.revoke(device.id)
    await world.node.settle()
    assert await world.listed() == []


async def test_a_device_that_is_revoked_while_it_is_set_up_is_never_listed() -> None:
    world, device = await open_world(), FakeDevice()
    await world.pair(device)
    await world.setup.step(device.id)
    world.queue.serve(device, world.now_us)
    await asyncio.gather(world.setup.step(device.id), world.desk.revoke(device.id))
    await world.node.settle()
    assert (world.stage(device), await world.listed()) == (None, [])


async def test_services_that_a_crash_left_behind_are_withdrawn_at_the_next_start() -> None:
    world, device = await open_world(), FakeDevice()
    await world.make_ready(device)
    paired = world.desk.table.by_device(device.id)
    assert paired is not None
    world.store.write(world.desk.table.delete(paired), sync=True)
    await world.setup.withdraw_orphans()
    await world.node.settle()
    assert await world.listed() == []


async def test_a_device_of_an_import_is_left_alone() -> None:
    from .solo_node import row

    world = await open_world()
    await world.node.service.register([row(0)])
    await world.node.settle()
    await world.setup.withdraw_orphans()
    await world.node.settle()
    assert len(await world.listed()) == 1


async def test_a_fallback_node_lists_nothing_and_asks_nothing() -> None:
    world, device = await open_world(), FakeDevice()
    await world.pair(device, role="fallback")
    await world.set_up(device)
    assert (world.stage(device), await world.listed(), device.done) == ("ready", [], [])


async def test_a_node_that_becomes_the_fallback_withdraws_what_it_listed() -> None:
    world, device = await open_world(), FakeDevice()
    await world.make_ready(device)
    await world.pair(device, role="fallback")
    await world.set_up(device)
    assert await world.listed() == []


async def test_a_new_key_keeps_the_handles_of_a_device() -> None:
    world, device = await open_world(), FakeDevice(1)
    await world.make_ready(device)
    before = {row.key for row in world.setup._rows.scan()}
    renewed = FakeDevice(1, epoch=2)
    await world.desk.import_offer(renewed.offer(), replace_key=True)
    await world.set_up(renewed)
    assert {row.key for row in world.setup._rows.scan()} == before
    assert len(await world.listed()) == 2


def test_a_namespace_is_created_once_before_its_woofs() -> None:
    offer = FakeDevice().offer()
    targets = [target for _, target, _ in creations(offer)]
    assert targets.index("valve") < targets.index("valve/open")
    assert targets.count("valve") == 1
    assert READ in offer.services[0].actions
