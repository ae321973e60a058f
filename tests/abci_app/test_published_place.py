"""Where devices are published: decided once, within what the node allows; moves with epochs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from abci_app.admin_api import DeviceRow, RowOutcome
from abci_app.move_keeper import MoveKeeper
from abci_app.moves import cell_in
from abci_app.registration import OwnNoise
from abci_app.schema import EpochStates, Head, StoredEpoch
from edgistry.cell import cell_text, parent_of, parse_cell, resolution_of
from edgistry.codec import replace
from edgistry.errors import CorruptDatabaseError, UnavailableError
from edgistry.kv import MemoryKeyValue
from edgistry.policy import PolicyLimits
from edgistry.region import cell_center, distance_km, published_cell
from edgistry.transactions import owner_tag

from .test_registration import Bench, row

OWNER_KEY = bytes(range(32))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def fuzzy(number: int = 1, **changes: object) -> DeviceRow:
    return row(number, id="a", **{"noise_m": 5000, **changes})


async def published(bench: Bench, *rows: DeviceRow, noise: OwnNoise | None = None) -> list[int]:
    """The cells of all that is published after ``rows`` were registered."""
    outcomes = await bench.registrar.register(rows, noise=noise)
    assert "rejected" not in [outcome.outcome for outcome in outcomes]
    await bench.block()
    return [record.cell for record in bench.chain.records.values()]


async def rejected(bench: Bench, limits: PolicyLimits, bad: DeviceRow) -> RowOutcome:
    bench.registrar._limits = limits
    [outcome] = await bench.registrar.register([bad])
    assert outcome.outcome == "rejected"
    return outcome


# --- what is published --------------------------------------------------------------------------


async def test_the_chain_is_told_the_policy_and_whose_it_is(bench: Bench) -> None:
    await published(bench, row(1, resolution=5, crowd=3, owner=OWNER_KEY.hex()), row(2))
    one, two = sorted(bench.chain.records.values(), key=lambda each: each.crowd, reverse=True)
    assert (resolution_of(one.cell), one.crowd, one.owner) == (5, 3, owner_tag(OWNER_KEY))
    assert (resolution_of(two.cell), two.crowd, two.owner) == (7, 1, b"o" * 8)


async def test_noise_moves_the_published_place_and_no_further_than_was_asked(bench: Bench) -> None:
    rows = [row(1, id=str(number), noise_m=5000) for number in range(40)]
    cells = await published(bench, *rows)
    away_km = [distance_km((46.01, 8.0), cell_center(cell)) for cell in cells]
    assert len(set(cells)) > 5
    # The centre of the cell is up to 1.5 km from the noisy place.
    assert max(away_km) < 5 + 1.6


@pytest.mark.parametrize(
    ("limits", "bad", "reason"),
    [
        (PolicyLimits(finest_resolution=6), row(1), "resolution = 7 shows more than this node"),
        (PolicyLimits(least_noise_m=100), row(1, noise_m=99), "noise_m = 99 shows more"),
        (PolicyLimits(least_crowd=3), row(1, crowd=2), "crowd = 2 shows more"),
        (PolicyLimits(), row(1, resolution=8), "resolution 8"),
        (PolicyLimits(), row(1, noise_m=20_001), "noise_m 20001"),
        (PolicyLimits(), row(1, crowd=0), "crowd 0"),
        (PolicyLimits(), row(1, owner="AB"), "64 hexadecimal digits"),
    ],
)
async def test_a_policy_that_shows_too_much_is_refused_with_the_reason(
    bench: Bench, limits: PolicyLimits, bad: DeviceRow, reason: str
) -> None:
    assert reason in (await rejected(bench, limits, bad)).reason
    assert bench.states() == []


# --- decided once -------------------------------------------------------------------------------


async def test_neither_restarts_nor_registrations_nor_tremors_draw_again(bench: Bench) -> None:
    [first] = await published(bench, fuzzy())
    draw = random.Random(7)
    for _ in range(50):
        bench.restart()
        lat, lon = 46.01 + draw.gauss(0, 0.0002), 8.0 + draw.gauss(0, 0.0002)
        assert await published(bench, fuzzy(lat=lat, lon=lon)) == [first]
        await bench.registrar.place_moved()
        await bench.block()
        assert [record.cell for record in bench.chain.records.values()] == [first]


async def test_a_device_that_was_withdrawn_comes_back_where_it_was(bench: Bench) -> None:
    [first] = await published(bench, fuzzy())
    for _ in range(3):
        [device] = bench.registrar.page(after=None, limit=9).devices
        await bench.registrar.withdraw([device.handle])
        await bench.block()
        assert bench.states() == []
        assert await published(bench, fuzzy()) == [first]


async def test_a_device_that_was_forgotten_leaves_nothing_to_draw_the_same_from(
    bench: Bench,
) -> None:
    await published(bench, fuzzy(name="Upper hut"))
    [device] = bench.registrar.page(after=None, limit=9).devices
    await bench.registrar.withdraw([device.handle], forget=True)
    await bench.block()
    assert list(bench.store.scan(b"d/", b"d0")) == []


async def test_one_on_its_way_out_can_be_forgotten_too(bench: Bench) -> None:
    await published(bench, fuzzy())
    [device] = bench.registrar.page(after=None, limit=9).devices
    _, sequence = await bench.registrar.withdraw([device.handle])
    assert await bench.registrar.withdraw([device.handle], forget=True) == (0, sequence)
    await bench.block()
    assert list(bench.store.scan(b"d/", b"d0")) == []


async def test_another_resolution_is_an_ancestor_of_what_was_published(bench: Bench) -> None:
    [first] = await published(bench, fuzzy())
    assert await published(bench, fuzzy(resolution=5)) == [parent_of(first, 5)]
    assert await published(bench, fuzzy()) == [first]


async def test_all_nodes_draw_the_same_for_a_device_that_keeps_its_seed() -> None:
    noise = OwnNoise(seed=b"s" * 32, moves=2)
    cells = [await published(Bench(), fuzzy(), noise=noise) for _ in range(2)]
    assert cells[0] == cells[1] != await published(Bench(), fuzzy(), noise=replace_moves(noise, 3))


def replace_moves(noise: OwnNoise, moves: int) -> OwnNoise:
    return OwnNoise(seed=noise.seed, moves=moves)


async def test_a_node_that_missed_a_move_draws_what_the_others_draw() -> None:
    here, there = Bench(), Bench()
    seed = b"s" * 32
    await published(here, fuzzy(), noise=OwnNoise(seed=seed, moves=0))
    await published(here, fuzzy(lat=47.0), noise=OwnNoise(seed=seed, moves=2))
    await here.registrar.place_moved()
    await here.block()
    [cell] = [record.cell for record in here.chain.records.values()]
    noise = OwnNoise(seed=seed, moves=2)
    assert await published(there, fuzzy(lat=47.0), noise=noise) == [cell]


async def test_a_told_cell_is_published_as_it_is_or_coarser(bench: Bench) -> None:
    cell = parse_cell("872830828ffffff")
    noise = OwnNoise(seed=bytes(32), moves=0, cell=cell)
    assert await published(bench, row(1, id="a"), noise=noise) == [cell]
    assert await published(bench, row(1, id="a", resolution=6), noise=noise) == [parent_of(cell, 6)]


@pytest.mark.parametrize(
    ("lat", "lon"), [(90.0, 0.0), (-90.0, 137.0), (0.0, 180.0), (0.0, -180.0), (51.9, 179.9999)]
)
async def test_poles_and_the_antimeridian_are_places_like_others(
    bench: Bench, lat: float, lon: float
) -> None:
    [plain] = await published(bench, row(1, lat=lat, lon=lon))
    assert plain == published_cell(lat, lon, 7)
    noisy = row(2, id="n", lat=lat, lon=lon, noise_m=20_000)
    cells = await published(bench, noisy)
    assert all(distance_km((lat, lon), cell_center(cell)) < 22 for cell in cells)


async def test_a_device_in_the_cell_of_another_takes_nothing_from_it(bench: Bench) -> None:
    await published(bench, row(1, id="victim"))
    [before] = bench.chain.records.items()
    noise = OwnNoise(seed=b"x" * 32, moves=0, cell=published_cell(46.01, 8.0, 7))
    await published(bench, row(9, id="thief"), noise=noise)
    assert before in bench.chain.records.items()
    victim, thief = bench.chain.records.values()
    assert (victim.cell, victim.owner) == (thief.cell, thief.owner), "one owner: no crowd"
    assert victim.commitment != thief.commitment


# --- moves --------------------------------------------------------------------------------------


EPOCH_US = 86_400_000_000


class Epochs:
    """A registry whose epochs and block time a test winds on."""

    def __init__(self, bench: Bench, *, epoch_us: int = EPOCH_US) -> None:
        self.parameters = replace(bench.chain.parameters, epoch_us=epoch_us)
        self._bench = bench
        self._since_us = 0
        self.now_us = 0
        self.begin()

    def begin(self) -> None:
        """The next epoch begins now."""
        self._bench.chain.epoch += 1
        self._since_us = self.now_us

    def end_nears(self) -> None:
        """The epoch ends in a minute."""
        self.now_us = self._since_us + self.parameters.epoch_us - 60_000_000

    @property
    def head(self) -> Head:
        return replace(self._bench.chain.head, block_time_us=self.now_us)

    def epochs(self) -> EpochStates:
        number = self._bench.chain.epoch
        current = StoredEpoch(since_us=self._since_us, check=bytes(16), keys=(), sealed=())
        return EpochStates(number, None, current if number else None, None)

    async def next_commit(self) -> None:
        raise NotImplementedError


def keeper(bench: Bench, epochs: Epochs, *, caught_up: bool = True) -> MoveKeeper:
    return MoveKeeper(
        bench.store, registrar=bench.registrar, reader=epochs, caught_up=lambda: caught_up
    )


def shown(bench: Bench) -> list[int]:
    """The cells under which services are shown now."""
    return [cell_in(each, bench.chain.epoch) for each in bench.chain.records.values()]


async def test_a_move_is_sent_when_an_epoch_nears_its_end_and_shows_in_the_next(
    bench: Bench,
) -> None:
    epochs = Epochs(bench)
    [before] = await published(bench, row(1, id="a"))
    for step in range(1, 6):
        await published(bench, row(1, id="a", lat=46.01 + step * 0.1))
        await keeper(bench, epochs).follow()
        await bench.block()
    sent = len(bench.chain.committed)
    assert sent == 1, "nobody is told on the way, not even other nodes"
    epochs.end_nears()
    await keeper(bench, epochs, caught_up=False).follow()
    assert bench.outbox.pending == 0
    await keeper(bench, epochs).follow()
    await bench.block()
    assert shown(bench) == [before]
    [device] = bench.registrar.page(after=None, limit=9).devices
    assert (device.cell, device.moved) == (cell_text(before), True), "as others see it"
    epochs.begin()
    after = published_cell(46.51, 8.0, 7)
    assert shown(bench) == [after]
    [device] = bench.registrar.page(after=None, limit=9).devices
    assert (device.cell, device.moved, device.state) == (cell_text(after), False, "published")
    await keeper(bench, epochs).follow()
    await published(bench, row(1, id="a", lat=46.51))
    assert len(bench.chain.committed) == sent + 1


async def test_moves_are_sent_once_an_epoch_however_many_are_told_at_its_end(bench: Bench) -> None:
    epochs = Epochs(bench)
    await published(bench, row(1, id="a"))
    epochs.end_nears()
    for step in range(1, 4):
        await published(bench, row(1, id="a", lat=46.01 + step * 0.1))
        await keeper(bench, epochs).follow()
        await bench.block()
    epochs.begin()
    assert shown(bench) == [published_cell(46.11, 8.0, 7)]
    epochs.end_nears()
    await keeper(bench, epochs).follow()
    await bench.block()
    epochs.begin()
    assert shown(bench) == [published_cell(46.31, 8.0, 7)]


@pytest.mark.parametrize(("epoch_s", "ahead_s"), [(86_400, 600), (12, 3)])
async def test_it_is_time_for_moves_before_an_epoch_ends(
    bench: Bench, epoch_s: int, ahead_s: int
) -> None:
    epochs = Epochs(bench, epoch_us=epoch_s * 1_000_000)
    await published(bench, row(1, id="a"))
    await bench.registrar.register([row(1, id="a", lat=47.0)])
    for early_us, expected in ((1, 0), (0, 1)):
        epochs.now_us = (epoch_s - ahead_s) * 1_000_000 - early_us
        await keeper(bench, epochs).follow()
        assert bench.outbox.pending == expected


async def test_a_node_that_missed_the_end_of_an_epoch_waits_for_the_end_of_the_next(
    bench: Bench,
) -> None:
    epochs = Epochs(bench)
    [before] = await published(bench, row(1, id="a"))
    await bench.registrar.register([row(1, id="a", lat=47.0)])
    epochs.end_nears()  # nobody looks: the node is off
    epochs.begin()
    bench.restart()
    await keeper(bench, epochs).follow()
    await bench.block()
    assert (shown(bench), len(bench.chain.committed)) == ([before], 1)
    epochs.end_nears()
    await keeper(bench, epochs).follow()
    await bench.block()
    assert shown(bench) == [before]
    epochs.begin()
    assert shown(bench) == [published_cell(47.0, 8.0, 7)]


async def test_what_the_chain_gets_too_late_shows_with_the_epoch_after(bench: Bench) -> None:
    epochs = Epochs(bench)
    [before] = await published(bench, row(1, id="a"))
    await bench.registrar.register([row(1, id="a", lat=47.0)])
    epochs.end_nears()
    await keeper(bench, epochs).follow()
    epochs.begin()  # while the node is cut off
    await bench.block()
    assert shown(bench) == [before]
    epochs.end_nears()
    await keeper(bench, epochs).follow()
    await bench.block()
    epochs.begin()
    assert shown(bench) == [published_cell(47.0, 8.0, 7)]


async def test_an_epoch_that_ends_early_shows_no_moves(bench: Bench) -> None:
    epochs = Epochs(bench)
    [before] = await published(bench, row(1, id="a"))
    await bench.registrar.register([row(1, id="a", lat=47.0)])
    epochs.now_us += EPOCH_US // 2
    await keeper(bench, epochs).follow()
    epochs.begin()
    await keeper(bench, epochs).follow()
    await bench.block()
    assert shown(bench) == [before]


async def test_the_keeper_knows_when_a_move_shows_that_is_told_now(bench: Bench) -> None:
    epochs = Epochs(bench)
    assert keeper(bench, epochs).epochs() == (1, 2)
    epochs.end_nears()
    assert keeper(bench, epochs).epochs() == (1, 2)
    await keeper(bench, epochs).follow()
    assert keeper(bench, epochs).epochs() == (1, 3)
    epochs.begin()
    assert keeper(bench, epochs).epochs() == (2, 3)


async def test_before_the_first_epoch_nothing_is_due(bench: Bench) -> None:
    epochs = Epochs(bench)
    bench.chain.epoch = 0
    await published(bench, row(1, id="a"))
    await bench.registrar.register([row(1, id="a", lat=47.0)])
    epochs.end_nears()
    await keeper(bench, epochs).follow()
    assert bench.outbox.pending == 0


async def test_a_coarser_place_shows_at_once_although_a_move_waits(bench: Bench) -> None:
    epochs = Epochs(bench)
    [before] = await published(bench, row(1, id="a"))
    await bench.registrar.register([row(1, id="a", lat=47.0)])
    epochs.end_nears()
    await keeper(bench, epochs).follow()
    await bench.block()
    await published(bench, row(1, id="a", lat=47.0, resolution=5))
    assert shown(bench) == [parent_of(before, 5)]
    epochs.begin()
    assert shown(bench) == [published_cell(47.0, 8.0, 5)]


@pytest.mark.parametrize("is_on_chain", [True, False])
async def test_a_device_that_comes_back_while_a_move_waits_has_another_handle(
    bench: Bench, is_on_chain: bool
) -> None:
    """Under the same one it could be followed from the old cell to the new one."""
    epochs = Epochs(bench)
    [before] = await published(bench, row(1, id="a"))
    [first] = bench.chain.records
    await bench.registrar.register([row(1, id="a", lat=47.0)])
    epochs.end_nears()
    await keeper(bench, epochs).follow()
    if is_on_chain:
        await bench.block()
    [device] = bench.registrar.page(after=None, limit=9).devices
    await bench.registrar.withdraw([device.handle])
    assert await published(bench, row(1, id="a", lat=47.0)) != [before]
    assert first not in bench.chain.records
    [again] = bench.registrar.page(after=None, limit=9).devices
    assert (again.state, again.handle != device.handle) == ("published", True)


async def test_a_device_that_comes_back_just_behind_its_withdrawal_has_another_handle(
    bench: Bench,
) -> None:
    """The chain does not say any more where it was shown."""
    Epochs(bench)
    await published(bench, row(1, id="a"))
    [device] = bench.registrar.page(after=None, limit=9).devices
    await bench.registrar.withdraw([device.handle])
    await bench.outbox.step()
    bench.chain.commit()
    assert bench.states() == ["withdrawing"], "the outbox has not looked yet"
    await published(bench, row(1, id="a"))
    [again] = bench.registrar.page(after=None, limit=9).devices
    assert (again.state, again.handle != device.handle) == ("published", True)


async def test_a_device_that_comes_back_where_it_was_keeps_its_handle(bench: Bench) -> None:
    Epochs(bench)
    await published(bench, row(1, id="a"))
    [device] = bench.registrar.page(after=None, limit=9).devices
    await bench.registrar.withdraw([device.handle])
    await published(bench, row(1, id="a"))
    [again] = bench.registrar.page(after=None, limit=9).devices
    assert (again.state, again.handle) == ("published", device.handle)


async def test_moves_that_are_not_told_when_the_epoch_begins_wait_for_its_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told in the middle of it they would say when the device came there."""
    monkeypatch.setattr("abci_app.registration.MAX_BATCH_RECORDS", 1)
    epochs = Epochs(bench)
    rows = [row(number, id=f"{number}") for number in range(3)]
    before = set(await published(bench, *rows))
    await bench.registrar.register([replace(each, lat=47.0 + each.line) for each in rows])
    append = bench.outbox.append

    async def is_slow(*words: Any, **more: Any) -> int:
        sequence = await append(*words, **more)
        monkeypatch.setattr(bench.outbox, "append", append)
        epochs.begin()
        return sequence

    monkeypatch.setattr(bench.outbox, "append", is_slow)
    epochs.end_nears()
    await keeper(bench, epochs).follow()
    await bench.block()
    told = {record.cell for record in bench.chain.records.values()}
    assert (len(told), len(told & before)) == (3, 2)
    epochs.end_nears()
    await keeper(bench, epochs).follow()
    await bench.block()
    assert not before & {record.cell for record in bench.chain.records.values()}


async def test_a_device_at_a_border_does_not_go_to_and_fro(bench: Bench) -> None:
    epochs = Epochs(bench)
    cells = set(await published(bench, row(1, id="a")))
    for step in range(30):
        epochs.begin()
        await bench.registrar.register([row(1, id="a", lat=46.01 + 0.012 * (step % 2))])
        epochs.end_nears()
        await keeper(bench, epochs).follow()
        await bench.block()
        cells |= {record.cell for record in bench.chain.records.values()}
    assert len(cells) == 1


async def test_a_full_outbox_makes_moves_wait_and_loses_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = Epochs(bench)
    await published(bench, row(1, id="a"))
    await bench.registrar.register([row(1, id="a", lat=47.0)])
    epochs.end_nears()

    async def full(*_: object, **__: object) -> int:
        raise UnavailableError("full")

    with monkeypatch.context() as patched:
        patched.setattr(bench.outbox, "append", full)
        await keeper(bench, epochs).follow()
    await keeper(bench, epochs).follow()
    await bench.block()
    [record] = bench.chain.records.values()
    assert record.cell == published_cell(47.0, 8.0, 7)


async def test_what_is_kept_of_the_last_epoch_is_read_or_refused() -> None:
    bench = Bench()
    bench.store = MemoryKeyValue()
    bench.store.write([(b"d/e", b"x")], sync=True)
    epochs = Epochs(bench)
    epochs.end_nears()
    with pytest.raises(CorruptDatabaseError):
        await keeper(bench, epochs).follow()
