"""Averaging over real registrations: what nodes publish of one device, whatever happens to it.

The attacker reads the cell that the registry has, over restarts of the node, pairing again,
withdrawals, revocations and a fallback node, while the device's GPS trembles (privacy.md, *Attack
tests*, 1). The naive device draws its seed anew whenever it is paired.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

from abci_app.pairing import Paired, StoredPairing
from abci_app.pairing_desk import noise_of, rows_of
from device_agent.manifest import Manifest, Privacy
from device_agent.whereabouts import begun, followed
from edgistry.kv import MemoryKeyValue
from edgistry.pairing import PairingOffer
from edgistry.policy import PrivacyPolicy
from edgistry.region import cell_center, distance_km

from ..abci_app.pairing_world import FakeDevice, PairingWorld, open_world
from ..abci_app.test_registration import Bench
from ..abci_app.test_stand_in import Fallback

Place = tuple[float, float]
ROUNDS = 300
DEVICES = 7
NOISE_M = 5000
TREMBLE_DEGREES = 0.0002

Seeds = Callable[[random.Random, bytes], bytes]
"""(randomness, the device's seed) to the seed that it gives its node at the next pairing."""


def own_seed(_: random.Random, seed: bytes) -> bytes:
    return seed


def fresh_seed(draw: random.Random, _: bytes) -> bytes:
    """Naive: whoever pairs draws."""
    return draw.randbytes(32)


def trembling(draw: random.Random, at: Place) -> Place:
    return at[0] + draw.gauss(0, TREMBLE_DEGREES), at[1] + draw.gauss(0, TREMBLE_DEGREES)


class Life:
    """One device with a primary and a fallback node, as its owner runs it."""

    def __init__(self, draw: random.Random, at: Place, seeds: Seeds) -> None:
        self.draw, self.at, self.seeds = draw, at, seeds
        self.seed = draw.randbytes(32)
        self.device = FakeDevice(1)
        self.nodes = [Bench(), Bench()]
        self.known = begun(at, seed=self.seed)

    def offer(self) -> PairingOffer:
        lat, lon = trembling(self.draw, self.at)
        manifest = Manifest(lat=lat, lon=lon, privacy=Privacy(noise_m=NOISE_M))
        self.known = followed(self.known, manifest)
        position = self.known.position
        assert not isinstance(position, int)
        return self.device.offer(
            lat=position[0],
            lon=position[1],
            moves=self.known.moves,
            policy=PrivacyPolicy(noise_m=NOISE_M),
            seed=self.seeds(self.draw, self.seed),
        )

    async def read(self) -> Place:
        """What the chain says after something has happened, whatever it is."""
        # The fallback node lists the device's services while it stands in.
        node = self.draw.choice(self.nodes)
        if self.draw.random() < 0.3:
            node.restart()
        if self.draw.random() < 0.3:
            await self.withdraw(node)
        if self.draw.random() < 0.2:
            await node.registrar.place_moved()
        paired = self.paired(self.offer())
        await node.registrar.register(rows_of(paired), noise=noise_of(paired))
        await node.block()
        cells = {record.cell for record in node.chain.records.values()}
        assert len(cells) == 1, "all services of a device are at one place"
        return cell_center(cells.pop())

    def paired(self, offer: PairingOffer) -> Paired:
        stored = StoredPairing(offer=offer, serial=1, paired_us=0)
        return Paired(
            device=offer.device, issuer=self.device.authority.issuer, serial=1, stored=stored
        )

    async def withdraw(self, node: Bench) -> None:
        page = node.registrar.page(after=None, limit=9)
        if page.devices:
            await node.registrar.withdraw([each.handle for each in page.devices])
            await node.block()


async def error_ratio(seeds: Seeds) -> float:
    """The attacker's median error after all readings, as a share of that after the first."""
    draw = random.Random(77)
    first, last = [], []
    for _ in range(DEVICES):
        at = draw.uniform(40, 50), draw.uniform(-120, -110)
        life = Life(draw, at, seeds)
        readings = [await life.read() for _ in range(ROUNDS)]
        middle = (
            statistics.fmean(lat for lat, _ in readings),
            statistics.fmean(lon for _, lon in readings),
        )
        first.append(distance_km(at, readings[0]))
        last.append(distance_km(at, middle))
    return statistics.median(last) / statistics.median(first)


async def test_registering_again_and_again_tells_no_more_than_the_first_time() -> None:
    assert await error_ratio(own_seed) >= 0.95


async def test_a_device_that_draws_at_each_pairing_is_averaged_away() -> None:
    assert await error_ratio(fresh_seed) < 0.5


# --- with whole nodes ---------------------------------------------------------------------------


class NoisyDevice(FakeDevice):
    """A device with noise, whose GPS trembles; it keeps a seed, or draws one for each pairing."""

    def __init__(self, draw: random.Random, seeds: Seeds) -> None:
        super().__init__(3)
        self.draw, self.seeds = draw, seeds
        self.seed = draw.randbytes(32)
        self.known = begun((46.0, 8.0), seed=self.seed)

    def offer(self, **changes: object) -> PairingOffer:
        lat, lon = trembling(self.draw, (46.0, 8.0))
        self.known = followed(self.known, Manifest(lat=lat, lon=lon))
        position = self.known.position
        assert not isinstance(position, int)
        where = {"lat": position[0], "lon": position[1], "moves": self.known.moves}
        seed = self.seeds(self.draw, self.seed)
        policy = PrivacyPolicy(noise_m=NOISE_M)
        return super().offer(**{**where, "policy": policy, "seed": seed, **changes})


def cells_of(node: PairingWorld) -> set[int]:
    """What the chain says now."""
    return {stored.cell for _, stored in node.node.app.reader.services()}


async def cells_over_a_life(seeds: Seeds) -> set[int]:
    """Every cell that is published while a primary and a fallback node are restarted, left, paired
    again, and stand in for one another."""
    draw = random.Random(5)
    device = NoisyDevice(draw, seeds)
    home, registry = await open_world(), MemoryKeyValue()
    fallback = Fallback(await open_world(registry=registry), registry, device=device)
    fallback.keep()
    seen: set[int] = set()
    for step in range(12):
        if step % 4 == 3:
            await home.desk.revoke(device.id)
            await home.node.settle()
        await home.pair(device)
        await home.set_up(device)
        seen |= cells_of(home)
        await fallback.world.pair(device, role="fallback")
        await fallback.wake(is_away=True)
        await fallback.wake(is_away=True)
        seen |= cells_of(fallback.world)
        await fallback.restart()
        seen |= cells_of(fallback.world)
        await fallback.wake(is_away=False)
        await fallback.look(after_minutes=3)
        assert cells_of(fallback.world) == set()
        for each in (home, fallback.world):
            await each.node.service.registrar.place_moved()
            await each.node.settle()
        seen |= cells_of(home)
    return seen


async def test_all_nodes_of_a_device_publish_one_cell_whatever_happens_to_them() -> None:
    assert len(await cells_over_a_life(own_seed)) == 1


async def test_a_device_that_draws_at_each_pairing_shows_many_cells() -> None:
    assert len(await cells_over_a_life(fresh_seed)) > 5
