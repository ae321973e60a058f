"""Who may be chosen in an area: memberships, frozen for a privacy epoch (privacy.md, *Anycast*).

Rules kept here:

* The members of (type, area) are those that the index lists when they are first asked for in an
  epoch; queries later in it see the same ones, whatever is registered or moves meanwhile. So a
  client cannot find out by asking again which member is new. Who left is passed over.
* No members are not kept: a type that appears can be asked for at once.
* Bounded in areas and in members: those that nobody has asked for longest are made anew when they
  are asked for again. An area with more members than ``MAX_MEMBERS`` has the first of them.

Not handled here: whose turn it is (``anycast``), and who is fit (``any_desk``).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from edgistry.anycast_api import area_name
from edgistry.api import Area, DiscoverQuery
from edgistry.cover import Cover
from edgistry.mac import mac

from .anycast import Member, Members
from .discovery import ServiceIndex
from .profiles import Profile

MAX_MEMBERS: Final = 10_000
MAX_RUNS: Final = 400
"""Looks at the index for one area, of 64 rows at most; about 10 ms."""
MAX_GROUPS: Final = 256
MAX_KEPT: Final = 100_000
"""Members in all groups."""


@dataclass(frozen=True, slots=True)
class Group:
    """The members of one type and area, and what their records said when they were frozen."""

    members: Members
    profiles: dict[bytes, Profile]


class Listing(Protocol):
    """Who is listed. ``Discoverer`` is one."""

    @property
    def index(self) -> ServiceIndex: ...
    async def cover(self, area: Area) -> Cover: ...


class Memberships:
    """Memberships of ``listing``; ``seed`` (32 secret bytes) makes the order of turns."""

    def __init__(
        self,
        listing: Listing,
        *,
        is_visible: Callable[[bytes], bool],
        seed: bytes,
        most_groups: int = MAX_GROUPS,
        most_kept: int = MAX_KEPT,
    ) -> None:
        self._listing = listing
        self._is_visible = is_visible
        self._seed = seed
        self._most_groups = most_groups
        self._most_kept = most_kept
        self._epoch = 0
        self._groups: OrderedDict[bytes, Group] = OrderedDict()
        self._making = asyncio.Lock()

    @property
    def kept(self) -> int:
        """Members of all groups that are kept."""
        return sum(len(group.profiles) for group in self._groups.values())

    async def of(self, query: DiscoverQuery, *, epoch: int) -> Group:
        """The members of ``query``'s type and area in ``epoch``.

        Raises:
            BusyError, UnknownRegionError, MalformedError, InvalidValueError, LimitExceededError:
                the area.
        """
        name = (query.type or "").encode() + b"\0" + area_name(query.area)
        found = self._known(name, epoch)
        if found is not None:
            return found
        cover = await self._listing.cover(query.area)
        async with self._making:
            found = self._known(name, epoch)
            if found is None:
                profiles = self._listed(cover, query.type)
                members = [Member(key, profile.wake) for key, profile in profiles.items()]
                seed = mac(self._seed, epoch.to_bytes(4, "big") + name)
                # Ten thousand of them are put in order in 15 ms.
                made = await asyncio.to_thread(Members, members, seed=seed)
                found = Group(made, profiles)
                if profiles and epoch == self._epoch:
                    self._keep(name, found)
        return found

    def _known(self, name: bytes, epoch: int) -> Group | None:
        if epoch > self._epoch:
            self._groups.clear()
            self._epoch = epoch
        elif epoch < self._epoch:
            # Asked just before the edge: it must not undo what was frozen behind it.
            return None
        group = self._groups.get(name)
        if group is not None:
            self._groups.move_to_end(name)
        return group

    def _listed(self, cover: Cover, type_name: str | None) -> dict[bytes, Profile]:
        found: dict[bytes, Profile] = {}
        runs = self._listing.index.listed_in(cover, type_name, is_visible=self._is_visible)
        for looked_at, run in enumerate(runs):
            for each in run[: MAX_MEMBERS - len(found)]:
                found[each.key] = each.profile
            if len(found) == MAX_MEMBERS or looked_at == MAX_RUNS:
                break
        return found

    def _keep(self, name: bytes, group: Group) -> None:
        self._groups[name] = group
        while len(self._groups) > 1 and (
            len(self._groups) > self._most_groups or self.kept > self._most_kept
        ):
            self._groups.popitem(last=False)
