"""Profiles and their numbers."""

from __future__ import annotations

import random

import pytest

from abci_app.profiles import NUMBER_BYTES, Profile, Profiles


def profile(wake: int) -> Profile:
    return Profile(home=b"h" * 20, type="valve", actions=("read",), wake=wake, owner=b"o" * 8)


def test_records_that_say_the_same_share_a_number() -> None:
    profiles = Profiles()
    number = profiles.take(profile(1))
    assert profiles.take(profile(1)) == number != profiles.take(profile(2))
    assert len(number) == NUMBER_BYTES
    assert profiles[number] == profile(1)


def test_a_profile_stays_while_one_record_uses_it() -> None:
    profiles = Profiles()
    number = profiles.take(profile(1))
    profiles.take(profile(1))
    assert profiles.give_back(profile(1)) == number
    assert profiles[number] == profile(1)
    profiles.give_back(profile(1))
    assert len(profiles) == 0
    with pytest.raises(LookupError):
        profiles.give_back(profile(1))


def test_numbers_stay_distinct_and_few_while_profiles_come_and_go() -> None:
    randomness = random.Random(5)
    profiles = Profiles()
    held: dict[int, bytes] = {}
    for _ in range(2000):
        wake = randomness.randrange(20)
        if wake in held:
            assert profiles.give_back(profile(wake)) == held.pop(wake)
        else:
            held[wake] = profiles.take(profile(wake))
        assert len(set(held.values())) == len(held) == len(profiles)
        assert all(profiles[number] == profile(wake) for wake, number in held.items())
        assert all(int.from_bytes(number, "big") < 20 for number in held.values())
