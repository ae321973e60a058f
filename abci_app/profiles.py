"""What service records say besides where they are, each distinct saying kept once.

Rules kept here: pure; a profile has one number while a record uses it. Thousands of stations of one
node differ in place and key alone, so that an index can hold all that a client may see of a record
in four bytes more. Not handled here: the index (``discovery``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from .schema import StoredService

NUMBER_BYTES = 4


class Profile(NamedTuple):
    """What a record says besides its key, cell and commitment."""

    home: bytes
    type: str
    actions: tuple[str, ...]
    wake: int
    owner: bytes

    @classmethod
    def of(cls, service: StoredService) -> Profile:
        """The profile of ``service``."""
        return cls(service.home, service.type, service.actions, service.wake, service.owner)


class Listed(NamedTuple):
    """A service as it is shown: under which cell, and what it says."""

    cell: int
    profile: Profile


def listed(service: StoredService, cell: int | None) -> Listed | None:
    """``service`` as it is shown under ``cell``; ``None``: not at all."""
    return None if cell is None else Listed(cell, profile_of(service))


def profile_of(service: StoredService) -> Profile:
    """The profile of ``service``: mostly one object for equal ones."""
    return _shared(service.home, service.type, service.actions, service.wake, service.owner)


# One object for equal profiles: thousands of records say the same.
_shared = lru_cache(maxsize=1024)(Profile)


class Profiles:
    """The profiles in use, each with its number (4 bytes, never all ones) and its uses."""

    def __init__(self) -> None:
        self._numbers: dict[Profile, bytes] = {}
        self._profiles: dict[bytes, Profile] = {}
        self._uses: dict[bytes, int] = {}
        self._free: list[bytes] = []

    def copy(self) -> Profiles:
        """The same numbers and uses, to be changed apart from these."""
        made = Profiles()
        made._numbers, made._profiles = self._numbers.copy(), self._profiles.copy()
        made._uses, made._free = self._uses.copy(), self._free.copy()
        return made

    def __len__(self) -> int:
        """The number of distinct profiles in use."""
        return len(self._numbers)

    def __getitem__(self, number: bytes) -> Profile:
        """The profile with ``number``, which is in use."""
        return self._profiles[number]

    def take(self, profile: Profile) -> bytes:
        """The number of ``profile``, used once more."""
        number = self._numbers.get(profile)
        if number is None:
            # Numbers given back are used again first, so they are always less than the most
            # profiles ever in use at once.
            fresh = len(self._numbers).to_bytes(NUMBER_BYTES, "big")
            number = self._free.pop() if self._free else fresh
            self._numbers[profile] = number
            self._profiles[number] = profile
            self._uses[number] = 0
        self._uses[number] += 1
        return number

    def give_back(self, profile: Profile) -> bytes:
        """The number that ``profile`` had, used once less.

        One that is not in use is a bug: ``LookupError``.
        """
        number = self._numbers[profile]
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._numbers[profile], self._profiles[number], self._uses[number]
            self._free.append(number)
        return number
