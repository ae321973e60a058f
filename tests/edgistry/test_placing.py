"""Where devices are published: noise that stays, moves that are few, odd places of the earth."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.cell import children_of, is_cell, parent_of, resolution_of
from edgistry.codec import decode, encode
from edgistry.errors import InvalidValueError, MalformedError, PolicyRefusedError
from edgistry.placing import Placement, noisy_position, place
from edgistry.policy import PolicyLimits, PrivacyPolicy, check_policy
from edgistry.position import LEAST_MOVE_M
from edgistry.region import distance_km, published_cell

SEATTLE = (47.6062, -122.3321)
SEED = bytes(range(32))
FINER_THAN_7 = children_of(published_cell(*SEATTLE))[0]
NOISY = PrivacyPolicy(noise_m=5000)

positions = st.tuples(
    st.floats(-90, 90, allow_nan=False) | st.sampled_from([-90.0, 90.0]),
    st.floats(-180, 180, allow_nan=False) | st.sampled_from([-180.0, 180.0]),
)


def north_of(position: tuple[float, float], metres: float) -> tuple[float, float]:
    return position[0] + metres / 111_195, position[1]


@given(positions, st.integers(0, 20_000), st.binary(min_size=32, max_size=32), st.integers(0, 9))
def test_noise_stays_within_its_radius_everywhere_on_earth(
    position: tuple[float, float], radius_m: int, seed: bytes, moves: int
) -> None:
    noisy = noisy_position(position, radius_m=radius_m, seed=seed, moves=moves)

    assert -90 <= noisy[0] <= 90
    assert -180 <= noisy[1] <= 180
    assert distance_km(position, noisy) * 1000 <= radius_m + 1
    assert is_cell(published_cell(*noisy))


def test_noise_is_uniform_in_the_disc() -> None:
    seeds = [random.Random(number).randbytes(32) for number in range(4000)]
    noisy = [noisy_position(SEATTLE, radius_m=1000, seed=seed, moves=0) for seed in seeds]

    inner = sum(distance_km(SEATTLE, each) <= 1 / math.sqrt(2) for each in noisy)
    north = sum(each[0] > SEATTLE[0] for each in noisy)

    # Four standard deviations of a fair coin tossed 4000 times.
    assert abs(inner - 2000) < 127
    assert abs(north - 2000) < 127


def test_the_same_seed_gives_the_same_place_to_every_node() -> None:
    assert place(NOISY, SEATTLE, seed=SEED) == place(NOISY, SEATTLE, seed=bytes(SEED))


def test_another_seed_gives_another_place() -> None:
    places = {place(NOISY, SEATTLE, seed=bytes([n]) * 32).cell for n in range(50)}

    assert len(places) > 5


def test_registering_again_with_a_trembling_position_changes_nothing() -> None:
    known = place(NOISY, SEATTLE, seed=SEED)

    for metres in range(-400, 400, 7):
        again = place(NOISY, north_of(SEATTLE, metres), seed=SEED, known=known)
        assert again == known


def test_a_move_is_published_at_an_edge_and_not_before() -> None:
    known = place(PrivacyPolicy(), SEATTLE, seed=SEED)
    away = north_of(SEATTLE, 20_000)

    assert place(PrivacyPolicy(), away, seed=SEED, known=known, is_edge=False) == known
    moved = place(PrivacyPolicy(), away, seed=SEED, known=known, is_edge=True)
    assert (moved.moves, moved.cell) == (1, published_cell(*away))


def test_a_move_within_the_noise_is_none() -> None:
    known = place(NOISY, SEATTLE, seed=SEED)

    assert place(NOISY, north_of(SEATTLE, 4900), seed=SEED, known=known) == known
    assert place(NOISY, north_of(SEATTLE, 5100), seed=SEED, known=known).moves == 1


def test_a_device_at_a_border_does_not_change_cells_by_trembling() -> None:
    policy = PrivacyPolicy()
    border = next(
        metres
        for metres in range(1, 5000)
        if published_cell(*north_of(SEATTLE, metres)) != published_cell(*SEATTLE)
    )
    known = place(policy, north_of(SEATTLE, border - 1), seed=SEED)

    beyond = place(policy, north_of(SEATTLE, border + LEAST_MOVE_M / 2), seed=SEED, known=known)

    assert beyond == known


def test_coarser_and_finer_again_shows_only_cells_around_each_other() -> None:
    fine = place(NOISY, SEATTLE, seed=SEED)
    coarse = place(PrivacyPolicy(noise_m=5000, resolution=5), SEATTLE, seed=SEED, known=fine)
    again = place(NOISY, SEATTLE, seed=SEED, known=coarse)

    assert coarse.cell == parent_of(fine.cell, 5)
    assert again == fine


def test_another_radius_waits_for_the_next_move() -> None:
    known = place(NOISY, SEATTLE, seed=SEED)
    wider = PrivacyPolicy(noise_m=9000)

    assert place(wider, SEATTLE, seed=SEED, known=known) == known
    assert place(wider, north_of(SEATTLE, 30_000), seed=SEED, known=known).noise_m == 9000


def test_a_device_may_tell_a_cell_instead_of_a_position() -> None:
    cell = published_cell(*SEATTLE)

    placed = place(PrivacyPolicy(resolution=6), cell, seed=SEED)

    assert (placed.anchor, placed.cell) == (None, parent_of(cell, 6))


@pytest.mark.parametrize(
    ("policy", "cell", "error"),
    [
        (NOISY, published_cell(*SEATTLE), InvalidValueError),
        (PrivacyPolicy(), parent_of(published_cell(*SEATTLE), 6), MalformedError),
        (PrivacyPolicy(), FINER_THAN_7, InvalidValueError),
        (PrivacyPolicy(), 12345, MalformedError),
    ],
    ids=["noise", "coarser than the policy", "finer than 7", "no cell"],
)
def test_a_told_cell_that_cannot_be_published_is_refused(
    policy: PrivacyPolicy, cell: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        place(policy, cell, seed=SEED)


def test_a_told_cell_stays_when_a_finer_one_is_to_be_published() -> None:
    told = parent_of(published_cell(*SEATTLE), 6)
    placed = place(PrivacyPolicy(resolution=6), told, seed=SEED)

    assert place(PrivacyPolicy(resolution=7), told, seed=SEED, known=placed) == placed


@pytest.mark.parametrize("position", [(90.5, 0.0), (0.0, 1000.0), (math.nan, 0.0), (0.0, math.inf)])
def test_a_position_that_is_none_is_refused_before_any_noise(position: tuple[float, float]) -> None:
    with pytest.raises(InvalidValueError):
        place(NOISY, position, seed=SEED)


def test_a_placement_rests_and_returns() -> None:
    placed = place(NOISY, SEATTLE, seed=SEED)

    assert decode(encode(placed), Placement, limit=200) == placed
    assert resolution_of(placed.finest) == 7


def test_what_is_printed_of_a_placement_has_no_position() -> None:
    assert "47" not in repr(place(NOISY, SEATTLE, seed=SEED)).replace(
        f"{place(NOISY, SEATTLE, seed=SEED).cell:x}", ""
    )


@pytest.mark.parametrize(
    ("policy", "limits", "word"),
    [
        (PrivacyPolicy(resolution=7), PolicyLimits(finest_resolution=6), "resolution"),
        (PrivacyPolicy(), PolicyLimits(least_noise_m=100), "noise_m"),
        (PrivacyPolicy(), PolicyLimits(least_crowd=3), "crowd"),
        (
            PrivacyPolicy(noise_m=50),
            PolicyLimits(finest_resolution=6, least_noise_m=100, least_crowd=3),
            "^resolution = 7 .* at most 6; noise_m = 50 .* at least 100; crowd = 1 .* at least 3$",
        ),
    ],
)
def test_a_policy_finer_than_the_node_allows_is_refused(
    policy: PrivacyPolicy, limits: PolicyLimits, word: str
) -> None:
    with pytest.raises(PolicyRefusedError, match=word):
        check_policy(policy, limits)


def test_a_policy_as_fine_as_the_node_allows_is_not_refused() -> None:
    limits = PolicyLimits(finest_resolution=6, least_noise_m=100, least_crowd=3)

    check_policy(PrivacyPolicy(resolution=6, noise_m=100, crowd=3), limits)
    check_policy(PrivacyPolicy(resolution=5, noise_m=900, crowd=9), limits)


def test_a_device_that_has_moved_as_often_as_can_be_counted_moves_on() -> None:
    most = (1 << 32) - 1
    known = place(NOISY, SEATTLE, seed=SEED, moves=most)
    moved = place(NOISY, north_of(SEATTLE, 50_000), seed=SEED, known=known, moves=most)
    assert moved.cell != known.cell
    assert decode(encode(moved), Placement, limit=200) == moved
