"""Codes, and devices that come and go."""

from __future__ import annotations

import asyncio

import pytest

from abci_app.device_counts import kinds
from abci_app.pairing import node_capability
from edgistry.capability import Capability
from edgistry.codec import encode, replace
from edgistry.envelope import Operation, Status, decode_reply
from edgistry.errors import (
    AlreadyPairedError,
    InvalidValueError,
    LimitExceededError,
    NotFoundError,
    PairingCodeError,
    PolicyRefusedError,
    RevokedError,
    UnknownHandlerError,
)
from edgistry.handlers import Context, HandlerTable, handler
from edgistry.pairing import UNPAIR, Moved, PairingRequest, WoofOffer, device_object
from edgistry.policy import PolicyLimits, PrivacyPolicy
from edgistry.rights import Right

from .pairing_world import FakeDevice, open_world


async def test_a_device_with_a_code_is_paired_and_can_poll() -> None:
    world, device = await open_world(), FakeDevice()
    answer = await world.pair(device)
    assert (answer.device, answer.epoch, answer.node_name) == (device.id, 1, "solo")
    paired = world.desk.table.by_device(device.id)
    assert paired is not None
    capability = Capability.from_bytes(answer.capability)
    assert capability == node_capability(world.authority.issuer, paired)
    capability.check(
        Operation.EXCHANGE, device_object(device.id), client=bytes(8), now_us=world.now_us
    )


async def test_a_code_that_was_never_made_is_refused() -> None:
    world = await open_world()
    with pytest.raises(PairingCodeError):
        await world.desk.pair(PairingRequest(secret=b"?" * 16, offer=FakeDevice().offer()))


async def test_a_code_is_good_for_one_device_only() -> None:
    world, first, second = await open_world(), FakeDevice(1), FakeDevice(2)
    code, _ = await world.desk.new_code(ttl_s=60)
    await world.desk.pair(PairingRequest(secret=code.secret, offer=first.offer()))
    with pytest.raises(PairingCodeError):
        await world.desk.pair(PairingRequest(secret=code.secret, offer=second.offer()))
    assert world.desk.table.by_device(second.id) is None


async def test_a_device_that_lost_the_answer_gets_the_same_one_again() -> None:
    world, device = await open_world(), FakeDevice()
    code, _ = await world.desk.new_code(ttl_s=60)
    request = PairingRequest(secret=code.secret, offer=device.offer())
    first = await world.desk.pair(request)
    assert await world.desk.pair(request) == first


async def test_a_device_that_was_revoked_does_not_come_back_with_the_code_it_has_used() -> None:
    world, device = await open_world(), FakeDevice()
    code, _ = await world.desk.new_code(ttl_s=60)
    request = PairingRequest(secret=code.secret, offer=device.offer())
    await world.desk.pair(request)
    await world.desk.revoke(device.id)
    with pytest.raises(PairingCodeError):
        await world.desk.pair(request)
    assert world.desk.table.by_device(device.id) is None


async def test_a_used_code_replaces_no_key_a_second_time() -> None:
    world, device, thief = await open_world(), FakeDevice(1), FakeDevice(2, epoch=9)
    thief.id = device.id
    code, _ = await world.desk.new_code(ttl_s=60, replace_key=True)
    await world.desk.pair(PairingRequest(secret=code.secret, offer=device.offer()))
    with pytest.raises(PairingCodeError):
        await world.desk.pair(PairingRequest(secret=code.secret, offer=thief.offer()))
    paired = world.desk.table.by_device(device.id)
    assert paired is not None
    assert paired.epoch == 1


async def test_a_code_that_is_too_old_is_refused_and_forgotten() -> None:
    world, device = await open_world(), FakeDevice()
    code, _ = await world.desk.new_code(ttl_s=60)
    world.node.clock.advance(61)
    with pytest.raises(PairingCodeError):
        await world.desk.pair(PairingRequest(secret=code.secret, offer=device.offer()))
    await world.desk.new_code(ttl_s=60)
    assert len(list(world.desk.table.codes())) == 1


async def test_a_code_works_after_the_node_has_been_restarted() -> None:
    world, device = await open_world(), FakeDevice()
    code, _ = await world.desk.new_code(ttl_s=60)
    restarted = await open_world(world.store)
    await restarted.desk.pair(PairingRequest(secret=code.secret, offer=device.offer()))
    assert restarted.desk.table.by_device(device.id) is not None


async def test_a_code_stays_used_after_the_node_has_been_restarted() -> None:
    world, first, second = await open_world(), FakeDevice(1), FakeDevice(2)
    code, _ = await world.desk.new_code(ttl_s=60)
    request = PairingRequest(secret=code.secret, offer=first.offer())
    answer = await world.desk.pair(request)
    world = await open_world(world.store)
    with pytest.raises(PairingCodeError, match="another device"):
        await world.desk.pair(PairingRequest(secret=code.secret, offer=second.offer()))
    assert (await world.desk.pair(request)).capability == answer.capability


@pytest.mark.parametrize("way", ["revoked", "left", "replaced"])
async def test_a_device_does_not_come_back_with_the_code_that_it_has_used(way: str) -> None:
    world, device, other = await open_world(), FakeDevice(1), FakeDevice(2)
    code, _ = await world.desk.new_code(ttl_s=600, replace_key=True)
    other_code, _ = await world.desk.new_code(ttl_s=600)
    request = PairingRequest(secret=code.secret, offer=device.offer())
    other_request = PairingRequest(secret=other_code.secret, offer=other.offer())
    answer = await world.desk.pair(request)
    await world.desk.pair(other_request)
    if way == "revoked":
        await world.desk.revoke(device.id)
    elif way == "left":
        assert decode_reply(await world.desk.unpair(world.leave(answer))).status == Status.OK
    else:
        second, _ = await world.desk.new_code(ttl_s=600, replace_key=True)
        anew = PairingRequest(secret=second.secret, offer=device.offer(key=b"k" * 32))
        first_answer = await world.desk.pair(anew)
        assert (await world.desk.pair(anew)).capability == first_answer.capability
    world = await open_world(world.store)
    with pytest.raises(PairingCodeError, match="is over"):
        await world.desk.pair(request)
    await world.desk.pair(other_request)


async def test_a_device_whose_handler_is_not_for_devices_is_not_admitted() -> None:
    @handler
    async def private(context: Context, woof: str, seq: int, element: bytes) -> None:
        """The operator's own."""

    table = HandlerTable.from_names({"private": private})
    world, device = await open_world(handlers=table), FakeDevice()
    for name in ("private", "unknown"):
        woof = WoofOffer(name="a/b", history=1, mirror=True, handler=name)
        with pytest.raises(UnknownHandlerError, match="for devices"):
            await world.pair(device, woofs=(woof,))
        await world.pair(FakeDevice(2), woofs=(woof,), role="fallback")
    assert world.desk.table.by_device(device.id) is None


async def test_devices_are_counted_by_how_often_they_wake_and_how_far_they_are() -> None:
    world, one, two = await open_world(), FakeDevice(1), FakeDevice(2)
    await world.pair(one)
    await world.make_ready(two)
    await world.pair(FakeDevice(3), role="fallback", period_s=7200)
    expected = {("15m", "new"): 1, ("15m", "ready"): 1, ("later", "fallback"): 1}
    for _ in range(2):
        counts = world.setup.counts
        assert {kind: counts.count(kind) for kind in kinds() if counts.count(kind)} == expected
        world = await open_world(world.store)
        await world.setup.counts.load()
    counts = world.setup.counts
    await world.desk.revoke(two.id)
    assert (counts.count(("15m", "ready")), counts.count(("15m", "new"))) == (0, 1)


async def test_device_that_comes_or_goes_while_others_are_counted_is_counted_once() -> None:
    world, one, two = await open_world(), FakeDevice(1), FakeDevice(2)
    await world.pair(one)
    again = await open_world(world.store)
    loading = asyncio.create_task(again.setup.counts.load())
    await again.desk.revoke(one.id)
    await again.pair(two)
    await loading
    counts = again.setup.counts
    assert sum(counts.count(kind) for kind in kinds()) == counts.count(("15m", "new")) == 1


async def test_the_secret_of_a_code_is_not_in_the_store() -> None:
    world = await open_world()
    code, _ = await world.desk.new_code(ttl_s=60)
    assert not any(code.secret in key + value for key, value in world.store.scan(b"", None))


async def test_codes_are_bounded_in_number_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abci_app.pairing_desk.MAX_OPEN_CODES", 2)
    world = await open_world()
    for _ in range(2):
        await world.desk.new_code(ttl_s=60)
    with pytest.raises(LimitExceededError):
        await world.desk.new_code(ttl_s=60)
    for ttl_s in (0, -1, 8 * 86400):
        with pytest.raises(LimitExceededError):
            await world.desk.new_code(ttl_s=ttl_s)


async def test_a_known_id_with_another_key_is_refused_unless_the_operator_says_so() -> None:
    world, device, thief = await open_world(), FakeDevice(1), FakeDevice(2, epoch=9)
    thief.id = device.id
    await world.pair(device)
    with pytest.raises(AlreadyPairedError):
        await world.pair(thief)
    with pytest.raises(AlreadyPairedError):
        await world.desk.import_offer(thief.offer(), replace_key=False)
    paired = world.desk.table.by_device(device.id)
    assert paired is not None
    assert paired.epoch == 1


async def test_a_replaced_key_makes_the_earlier_capability_void() -> None:
    world = await open_world()
    old, new = FakeDevice(1), FakeDevice(1, epoch=2)
    first = Capability.from_bytes((await world.pair(old)).capability)
    code, _ = await world.desk.new_code(ttl_s=60, replace_key=True)
    answer = await world.desk.pair(PairingRequest(secret=code.secret, offer=new.offer()))
    assert Capability.from_bytes(answer.capability).serial != first.serial
    assert world.queue.forgotten == [old.id]
    request = first.bind(
        Operation.LATEST,
        device_object(old.id),
        client=bytes(8),
        sequence=world.now_us,
        deadline=world.now_us,
    )
    with pytest.raises(RevokedError):
        world.authority.verifier.check(request.encoded, now_us=world.now_us)


async def test_a_device_may_tell_something_new_under_the_same_key() -> None:
    world, device = await open_world(), FakeDevice()
    first = await world.pair(device)
    second = await world.pair(device, period_s=30)
    assert second.capability == first.capability
    paired = world.desk.table.by_device(device.id)
    assert paired is not None
    assert paired.period_s == 30
    assert world.queue.forgotten == []


async def test_what_could_not_be_listed_is_not_admitted() -> None:
    world, device = await open_world(), FakeDevice()
    with pytest.raises(InvalidValueError):
        await world.pair(device, name="a\nb")
    assert world.desk.table.by_device(device.id) is None


async def test_serials_of_devices_are_never_the_same() -> None:
    world = await open_world()
    serials = [4, 4, 4, 5]
    world.desk._draw = lambda size: (
        serials.pop(0).to_bytes(4, "big") if size == 4 else world.draw(size)
    )
    answers = [await world.pair(FakeDevice(number)) for number in (1, 2)]
    assert [Capability.from_bytes(each.capability).serial for each in answers] == [4, 5]


async def test_a_revoked_device_is_forgotten_with_its_key_and_its_capability_is_denied() -> None:
    world, device = await open_world(), FakeDevice()
    answer = await world.pair(device)
    await world.desk.revoke(device.id)
    assert world.desk.table.by_device(device.id) is None
    assert world.queue.forgotten == [device.id]
    key = device.offer().key
    assert not any(key in value for _, value in world.store.scan(b"p/", b"p0"))
    with pytest.raises(RevokedError):
        world.authority.verifier.check(world.leave(answer), now_us=world.now_us)
    with pytest.raises(NotFoundError):
        await world.desk.revoke(device.id)


async def test_more_devices_can_be_revoked_than_capabilities_denied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgistry.denials.MAX_DENIED", 1)
    world = await open_world()
    for number in (1, 2):
        device = FakeDevice(number)
        await world.pair(device)
        await world.desk.revoke(device.id)
    assert list(world.desk.table.scan()) == []


async def test_a_device_can_leave_and_is_told_so() -> None:
    world, device = await open_world(), FakeDevice()
    data = world.leave(await world.pair(device))
    reply = decode_reply(await world.desk.unpair(data))
    assert reply.status == Status.OK
    assert world.desk.table.by_device(device.id) is None
    assert world.queue.forgotten == [device.id]
    # The answer was lost: asked again, it is the same.
    assert decode_reply(await world.desk.unpair(data)) == reply
    assert world.queue.forgotten == [device.id]


async def test_nobody_but_the_device_can_make_it_leave() -> None:
    world, device, other = await open_world(), FakeDevice(1), FakeDevice(2)
    await world.pair(device)
    answer = await world.pair(other)
    for data in (
        b"",
        b"?",
        world.leave(answer, device=device.id),
        world.leave(answer, payload=b""),
    ):
        assert decode_reply(await world.desk.unpair(data)).status != Status.OK
    reader = Capability.from_bytes(answer.capability).derive(allow=Right.GET)
    request = reader.bind(
        Operation.PUT,
        device_object(other.id),
        UNPAIR,
        client=bytes(8),
        sequence=world.now_us,
        deadline=world.now_us,
    )
    assert decode_reply(await world.desk.unpair(request.encoded)).status == Status.NO_RIGHT
    assert len(list(world.desk.table.scan())) == 2


async def test_an_earlier_capability_of_the_device_cannot_make_it_leave() -> None:
    world, old, new = await open_world(), FakeDevice(1), FakeDevice(1, epoch=2)
    earlier = await world.pair(old)
    data = world.leave(earlier)
    assert decode_reply(await world.desk.unpair(data)).status == Status.OK
    await world.pair(new)
    world.node.clock.advance(1)
    again = decode_reply(await world.desk.unpair(data))
    assert again.status == Status.OK  # the remembered reply, and nothing else
    asked = decode_reply(await world.desk.unpair(world.leave(earlier)))
    assert asked.status == Status.REJECTED
    assert world.desk.table.by_device(new.id) is not None


# --- where a device is --------------------------------------------------------------------------


def moved(lat: float | None = 47.0, moves: int = 1, **changes: object) -> bytes:
    plain = Moved(what="edgistry move 1", lat=lat, lon=8.0, cell=0, moves=moves)
    return encode(replace(plain, **changes))


async def test_a_move_is_known_at_once_and_shows_with_the_next_epoch() -> None:
    world, device = await open_world(), FakeDevice()
    answer = await world.pair(device)
    await world.set_up(device)
    before = await world.listed()
    await world.desk.move(world.leave(answer, payload=moved()))
    await world.node.settle()
    paired = world.desk.table.by_device(device.id)
    assert paired is not None
    assert (paired.offer.lat, paired.offer.moves) == (47.0, 1)
    assert (await world.listed(), world.stage(device)) == (before, "ready")
    await world.node.service.registrar.place_moved()
    await world.node.settle()
    assert await world.listed() == []
    found = await world.node.near(47.0, 8.0)
    assert sorted(each.type for each in found.services) == ["thermometer", "valve"]


async def test_a_move_before_the_services_are_listed_shows_with_them() -> None:
    world, device = await open_world(), FakeDevice()
    answer = await world.pair(device)
    await world.desk.move(world.leave(answer, payload=moved()))
    await world.set_up(device)
    assert len((await world.node.near(47.0, 8.0)).services) == 2


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"edgistry move 1",
        UNPAIR,
        moved(cell=0x872830828FFFFFF),
        moved(lat=None),
        moved(lat=None, lon=None, cell=0x882830828BFFFFF),
        moved(lat=None, lon=None, cell=7),
        moved(moves=4),
    ],
)
async def test_what_is_no_move_or_an_old_one_changes_nothing(payload: bytes) -> None:
    world, device = await open_world(), FakeDevice()
    answer = await world.pair(device, moves=5)
    before = world.desk.table.by_device(device.id)
    reply = decode_reply(await world.desk.move(world.leave(answer, payload=payload)))
    assert reply.status != Status.OK
    assert world.desk.table.by_device(device.id) == before


async def test_no_device_moves_another_one_and_none_without_its_capability() -> None:
    world, device, other = await open_world(), FakeDevice(1), FakeDevice(2)
    answer, _ = await world.pair(device), await world.pair(other)
    before = world.desk.table.by_device(other.id)
    await world.desk.move(world.leave(answer, payload=moved(), device=other.id))
    await world.desk.revoke(device.id)
    await world.desk.move(world.leave(answer, payload=moved()))
    assert world.desk.table.by_device(other.id) == before
    assert world.desk.table.by_device(device.id) is None


async def test_a_policy_that_shows_too_much_is_refused_and_the_code_is_still_good() -> None:
    world, device = await open_world(), FakeDevice()
    world.desk._limits = PolicyLimits(least_noise_m=1000, finest_resolution=6)
    code, _ = await world.desk.new_code(ttl_s=60)
    with pytest.raises(PolicyRefusedError, match="resolution = 7"):
        await world.desk.pair(PairingRequest(secret=code.secret, offer=device.offer()))
    policy = PrivacyPolicy(resolution=6, noise_m=1000)
    offer = device.offer(policy=policy)
    answer = await world.desk.pair(PairingRequest(secret=code.secret, offer=offer))
    assert answer.device == device.id
    # And a device that is here already keeps what it had.
    with pytest.raises(PolicyRefusedError, match="noise_m = 0"):
        await world.pair(device, policy=PrivacyPolicy(resolution=6))
    paired = world.desk.table.by_device(device.id)
    assert paired is not None
    assert paired.offer.policy == policy
