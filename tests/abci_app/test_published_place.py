"""Where devices are published: decided once, within what the node allows; moves with epochs."""

from __future__ import annotations

import random

import pytest

from abci_app.admin_api import DeviceRow, RowOutcome
from abci_app.move_keeper import MoveKeeper
from abci_app.registration import OwnNoise
from edgistry.cell import parent_of, parse_cell, resolution_of
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


class Epochs:
    """A registry whose epochs a test begins."""

    epoch = 1

    async def next_commit(self) -> None:
        raise NotImplementedError


def keeper(bench: Bench, epochs: Epochs, *, caught_up: bool = True) -> MoveKeeper:
    return MoveKeeper(
        bench.store, registrar=bench.registrar, reader=epochs, caught_up=lambda: caught_up
    )


async def test_a_move_shows_when_an_epoch_begins_and_not_before(bench: Bench) -> None:
    epochs = Epochs()
    [before] = await published(bench, row(1, id="a"))
    await keeper(bench, epochs).follow()
    for step in range(1, 6):
        await published(bench, row(1, id="a", lat=46.01 + step * 0.1))
        await keeper(bench, epochs).follow()
        await bench.block()
        assert [record.cell for record in bench.chain.records.values()] == [before]
    epochs.epoch += 1
    await keeper(bench, epochs, caught_up=False).follow()
    assert bench.outbox.pending == 0
    await keeper(bench, epochs).follow()
    await bench.block()
    after = published_cell(46.51, 8.0, 7)
    assert [record.cell for record in bench.chain.records.values()] == [after]
    sent = len(bench.chain.committed)
    await keeper(bench, epochs).follow()
    await bench.block()
    assert len(bench.chain.committed) == sent


async def test_a_device_at_a_border_does_not_go_to_and_fro(bench: Bench) -> None:
    epochs = Epochs()
    cells = set(await published(bench, row(1, id="a")))
    for step in range(30):
        epochs.epoch += 1
        await bench.registrar.register([row(1, id="a", lat=46.01 + 0.012 * (step % 2))])
        await keeper(bench, epochs).follow()
        await bench.block()
        cells |= {record.cell for record in bench.chain.records.values()}
    assert len(cells) == 1


async def test_a_full_outbox_makes_moves_wait_and_loses_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = Epochs()
    await published(bench, row(1, id="a"))
    await bench.registrar.register([row(1, id="a", lat=47.0)])

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
    with pytest.raises(CorruptDatabaseError):
        await keeper(bench, Epochs()).follow()
