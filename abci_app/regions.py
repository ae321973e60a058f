"""Named regions: putting one on the chain, listing and showing them.

Rules kept here:

* A region is made of cells here, once, and only the cells go to the chain.
* Putting the same area again changes nothing. Versions follow one another also when earlier ones
  are still waiting, so that a put during an outage is right when it heals.
* A region belongs to the node that created it; others are told so before anything is sent.

Not handled here: GeoJSON (``edgistry.geojson``) and what is in a region (``discovery``).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Protocol

from edgistry.api import RegionEntry, RegionList, block_time_text
from edgistry.cell import cell_text
from edgistry.codec import Meta, Wire, decode, encode, replace
from edgistry.errors import InvalidValueError, MalformedError, NotOwnerError, UnknownRegionError
from edgistry.geojson import parse_geojson
from edgistry.kv import Change, KeyValue
from edgistry.region import compact_region
from edgistry.transactions import (
    Bytes32,
    Kind,
    NodeId,
    RegionPut,
    check_region_name,
    pack_cells,
    unpack_cells,
)

from .admin_api import RegionDetail, RegionPutAnswer
from .outbox import Outbox
from .outbox_queue import Pending
from .renumbering import Renumbering
from .schema import Head, StoredRegion

_PUTS = b"g/"
_MAX_PUT_BYTES = 128


class RegionReader(Protocol):
    """What regions need of the registry."""

    @property
    def head(self) -> Head: ...
    def region(self, name: str) -> StoredRegion | None: ...
    def regions(self) -> Iterator[tuple[str, StoredRegion]]: ...


class _Put(Wire):
    """The newest put of a region that may still be in the outbox."""

    name: str
    version: Annotated[int, Meta(ge=1)]
    digest: Bytes32
    """SHA-256 of the packed cells."""
    sequence: Annotated[int, Meta(ge=1)]


class Regions:
    """Regions as node ``node_id`` sees and puts them."""

    def __init__(
        self, store: KeyValue, *, node_id: NodeId, reader: RegionReader, outbox: Outbox
    ) -> None:
        self._store = store
        self._node_id = node_id
        self._reader = reader
        self._outbox = outbox
        self._writing = asyncio.Lock()
        self._listed: RegionList | None = None

    async def put(self, name: str, geojson: Mapping[str, Any]) -> RegionPutAnswer:
        """Accept the region ``name`` with the area of a GeoJSON object; durable on return.

        Raises:
            InvalidValueError: a name no region can have.
            MalformedError, InvalidValueError, LimitExceededError: not an area for a region.
            NotOwnerError: another node has a region of that name.
            UnavailableError: the outbox is full.
        """
        try:
            check_region_name(name)
        except MalformedError as error:
            raise InvalidValueError(error.detail) from None
        async with self._writing:
            # A large outline takes up to half a second: not on the event loop.
            cells = await asyncio.to_thread(_cells_of, geojson)
            packed = pack_cells(cells)
            digest = hashlib.sha256(packed).digest()
            version, known, sequence = self._newest(name)
            changed = known != digest
            if changed:
                version += 1
                body = RegionPut(name=name, version=version, cells=packed)

                def remember(sequence: int) -> list[Change]:
                    put = _Put(name=name, version=version, digest=digest, sequence=sequence)
                    return [(_key(name), encode(put))]

                sequence = await self._outbox.append([body], also=remember)
        return RegionPutAnswer(
            name=name,
            version=version,
            cells=len(cells),
            changed=changed,
            sequence=sequence,
            height=self._reader.head.height,
        )

    def settled(self, entry: Pending) -> list[Change]:
        """The changes that follow from a transaction being done (the outbox asks for them)."""
        if entry.kind != Kind.REGION_PUT:
            return []
        puts = self._store.scan(_PUTS, _PUTS + b"\xff")
        return [(key, None) for key, data in puts if _parse(data).sequence == entry.sequence]

    def renumbered(self, renumbering: Renumbering) -> list[Change]:
        """The changes that follow from new sequences (the outbox asks for them).

        Puts that wait get the versions that are next on the chain as it is now.
        """
        changes: list[Change] = [(key, None) for key, _ in self._store.scan(_PUTS, _PUTS + b"\xff")]
        versions: dict[str, int] = {}
        for sequence, body in renumbering.bodies.items():
            if not isinstance(body, RegionPut):
                continue
            name = body.name
            if name not in versions:
                region = self._reader.region(name)
                versions[name] = 0 if region is None else region.version
            versions[name] += 1
            renumbering.bodies[sequence] = replace(body, version=versions[name])
            put = _Put(
                name=name,
                version=versions[name],
                digest=hashlib.sha256(body.cells).digest(),
                sequence=sequence,
            )
            changes.append((_key(name), encode(put)))
        return changes

    def list(self) -> RegionList:
        """All regions of the last committed block."""
        head = self._reader.head
        if self._listed is None or self._listed.height != head.height:
            self._listed = RegionList(
                height=head.height,
                block_time=block_time_text(head.block_time_us),
                regions=tuple(
                    RegionEntry(name=name, version=region.version, cells=len(region.cells) // 8)
                    for name, region in self._reader.regions()
                ),
            )
        return self._listed

    def show(self, name: str) -> RegionDetail:
        """One region with its cells.

        Raises:
            UnknownRegionError: no region of that name.
        """
        region = self._reader.region(name)
        if region is None:
            raise UnknownRegionError(f"there is no region {name[:64]!r} on this chain")
        return RegionDetail(
            name=name,
            version=region.version,
            owner=region.owner.hex(),
            cells=tuple(map(cell_text, unpack_cells(region.cells))),
        )

    def _newest(self, name: str) -> tuple[int, bytes | None, int]:
        """Version, digest and sequence of the newest put: on its way, else on the chain."""
        data = self._store.get(_key(name))
        if data is not None:
            put = _parse(data)
            if self._outbox.is_pending(put.sequence):
                return put.version, put.digest, put.sequence
        region = self._reader.region(name)
        if region is None:
            return 0, None, 0
        if region.owner != self._node_id:
            raise NotOwnerError(
                f"region {name!r} belongs to node {region.owner.hex()}; choose another name"
            )
        return region.version, hashlib.sha256(region.cells).digest(), 0


def _cells_of(geojson: Mapping[str, Any]) -> list[int]:
    return compact_region(parse_geojson(geojson))


def _key(name: str) -> bytes:
    return _PUTS + name.encode()


def _parse(data: bytes) -> _Put:
    return decode(data, _Put, limit=_MAX_PUT_BYTES)
