"""Where others see a device that a fallback node has not listed yet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from abci_app.told import MoveEpochs, ToldPlace, seen_in, told
from edgistry.codec import decode, encode, replace
from edgistry.pairing import PairingOffer

from .pairing_world import FakeDevice

HOME = FakeDevice().offer()


def at(lat: float, moves: int) -> PairingOffer:
    return replace(HOME, lat=lat, lon=8.0, moves=moves)


def seen(places: tuple[ToldPlace, ...], *epochs: int) -> list[float | None]:
    return [seen_in(epoch, places, HOME).lat for epoch in epochs]


def test_a_new_device_is_seen_where_it_is() -> None:
    places = told((), at(46.0, 3), MoveEpochs(current=7, shows=8))
    assert seen(places, 0, 7, 8) == [46.0, 46.0, 46.0]
    assert seen_in(7, places, HOME).moves == 3


def test_a_move_is_seen_with_the_epoch_that_shows_it() -> None:
    places = told((), at(46.0, 0), MoveEpochs(1, 2))
    places = told(places, at(47.0, 1), MoveEpochs(1, 2))
    assert seen(places, 1, 2, 3) == [46.0, 47.0, 47.0]
    assert [seen_in(epoch, places, HOME).moves for epoch in (1, 2)] == [0, 1]


def test_the_last_move_before_the_end_of_an_epoch_is_seen_and_later_ones_with_the_next() -> None:
    places = told((), at(46.0, 0), MoveEpochs(1, 2))
    for lat, moves, shows in ((47.0, 1, 2), (48.0, 2, 2), (49.0, 3, 3), (50.0, 4, 3)):
        places = told(places, at(lat, moves), MoveEpochs(1, shows))
    assert seen(places, 1, 2, 3) == [46.0, 48.0, 50.0]
    places = told(places, at(51.0, 5), MoveEpochs(3, 4))
    assert seen(places, 3, 4) == [50.0, 51.0]


def test_who_comes_back_in_time_was_never_away() -> None:
    places = told((), at(46.0, 0), MoveEpochs(1, 2))
    places = told(places, at(47.0, 1), MoveEpochs(1, 2))
    places = told(places, at(46.0001, 2), MoveEpochs(1, 2))
    assert (seen(places, 1, 2), len(places)) == ([46.0, 46.0], 1)


def test_a_told_cell_is_a_place() -> None:
    cell = 0x872830828FFFFFF
    places = told((), at(46.0, 0), MoveEpochs(1, 2))
    places = told(places, replace(HOME, lat=None, lon=None, cell=cell, moves=1), MoveEpochs(1, 2))
    offer = seen_in(2, places, at(40.0, 9))
    assert (offer.lat, offer.lon, offer.cell, offer.moves) == (None, None, cell, 1)
    assert seen_in(1, places, offer).cell == 0


@given(st.lists(st.tuples(st.integers(40, 60), st.integers(0, 2), st.booleans()), max_size=30))
def test_what_is_seen_in_an_epoch_does_not_change_in_it(
    steps: list[tuple[int, int, bool]],
) -> None:
    now, is_late = 1, False
    places = told((), at(45.0, 0), MoveEpochs(1, 2))
    for moves, (lat, later, late) in enumerate(steps, 1):
        is_late = late or (is_late and not later)
        now += later
        before = seen(places, now)
        places = told(places, at(float(lat), moves), MoveEpochs(now, now + 1 + is_late))
        assert seen(places, now) == before
        assert seen(places, now + 2) == [float(lat)]
        assert len(places) <= 3
        assert [each.since for each in places] == sorted({each.since for each in places})
        data = encode(places)
        assert decode(data, tuple[ToldPlace, ...], limit=10_000) == places


def test_a_place_is_not_shown_in_a_log() -> None:
    [place] = told((), at(46.123, 0), MoveEpochs(1, 2))
    assert "46.123" not in repr(place) + str(place)
