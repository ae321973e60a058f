"""Alike: the grants of 100 clients on one device look like those on 100 devices.

The attackers are clients who lay their grants side by side, and whoever reads capabilities in clear
on the way. They compare every field of the public bytes (privacy.md, *Must show*): how often two
grants say the same in it must not depend on whether they are for the same device.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import pytest

from abci_app.config_guards import GrantsConfig
from abci_app.grants import GrantDesk
from abci_app.pairing import Paired, StoredPairing
from edgistry import caveats as make
from edgistry.adapters.crypto import open_sealed, public_key_of, sealing_public_key_of, signer
from edgistry.capability import Capability
from edgistry.capability_chain import Entry
from edgistry.codec import encode_json
from edgistry.grants_api import (
    GRANT_PURPOSE,
    GRANTS_PATH,
    USES,
    Grant,
    grant_service,
    open_grant,
    seal_context,
)
from edgistry.issuer import Issuer
from edgistry.pairing import ServiceOffer
from edgistry.requests_api import to_bytes, to_text
from edgistry.signed_request import client_tag, sign_request

from ..abci_app.granting_world import KEYS, SERVICE, handle_of
from ..abci_app.pairing_world import FakeDevice

NOW = 1_800_000_000_000_000
EPOCH_ENDS = NOW + 3600_000_000
PEOPLE = 100

Public = Mapping[str, object]
"""What the public bytes of one grant say, field by field."""
Granting = Callable[[random.Random, int, int], list[Public]]
"""(randomness, number of the device, number of the client) to one grant of each kind."""


class OneOfMany:
    """A node that is home to device ``number``, whose epochs and names are its own."""

    def __init__(self, number: int) -> None:
        self.device = FakeDevice(1 + number % 200, epoch=1 + number)

    def by_device(self, device: str) -> Paired | None:
        found = self.by_record(b"")
        return found[0] if found is not None and device == self.device.id else None

    def by_record(self, key: bytes) -> tuple[Paired, ServiceOffer] | None:
        stored = StoredPairing(offer=self.device.offer(), serial=1, paired_us=0)
        issuer = Issuer(stored.offer.epoch, stored.offer.key)
        return Paired(device=self.device.id, issuer=issuer, serial=1, stored=stored), SERVICE


def fields(capability: Capability) -> Public:
    """Everything that the public bytes of ``capability`` say, and their length."""
    public = capability.public
    chain = capability.chain
    entries = [(int(each.rights), each.object) for each in capability.entries]
    found: dict[str, object] = {
        "length": len(public),
        "version": public[2],
        "epoch": chain.epoch,
        "serial": chain.serial,
        "entries": tuple(entries),
        "not_after": chain.not_after_us,
        "client": tuple(chain.clients),
        "handlers": tuple(chain.rare.handlers or ()),
        "veil": chain.rare.veil,
        "lineages": tuple(chain.rare.lineages),
        "required": tuple(chain.rare.required),
    }
    # And whatever a parser would overlook: each byte by itself, but for the serial, which is drawn,
    # and the client's own id.
    own = [chain.serial.to_bytes(4, "big"), *chain.clients]
    rest = public
    for each in own:
        rest = rest.replace(each, bytes(len(each)))
    found |= {f"byte {at}": value for at, value in enumerate(rest)}
    return found


def client_seed(number: int) -> bytes:
    return hashlib.sha256(b"client %d" % number).digest()


async def granted(desk: GrantDesk, number: int) -> Grant:
    """What ``desk`` grants to client ``number``."""
    seed = client_seed(number)
    sealing = hashlib.sha256(b"sealing" + seed).digest()
    public = public_key_of(seed)
    request = sign_request(
        "POST",
        GRANTS_PATH,
        encode_json(
            {
                "handle": handle_of(client_tag(public)),
                "sealing_key": to_text(sealing_public_key_of(sealing)),
                "uses": ["call", "get"],
            }
        ),
        client=public,
        sign=signer(seed),
        time_us=NOW,
        nonce=b"n" * 16,
    )

    sealed = to_bytes((await desk.grant(request)).sealed, "sealed")
    context = seal_context(client_tag(public), grant_service(handle_of(client_tag(public))))
    data = open_sealed(sealing, sealed, purpose=GRANT_PURPOSE, context=context)
    return open_grant(data, client_id=client_tag(public)[:8])


async def ours(draw: random.Random, device: int, client: int) -> list[Public]:
    """What a node really grants."""
    policy = GrantsConfig(anyone="all")
    desk = GrantDesk(
        OneOfMany(device),
        policy,
        KEYS,
        epoch_ends_us=lambda: EPOCH_ENDS,
        clock_us=lambda: NOW + draw.randrange(1_000_000),
        draw=draw.randbytes,
    )
    grant = await granted(desk, client)
    return [fields(Capability.from_bytes(each.capability)) for each in grant.granted]


def naive(
    *,
    names_epoch: bool,
    function: Callable[[int], str],
    serial: Callable[[random.Random, int], int],
) -> Granting:
    """Grants that were made with less care."""

    def granting(draw: random.Random, device: int, client: int) -> list[Public]:
        fake = FakeDevice(1 + device % 200, epoch=1 + device)
        issuer = Issuer.from_secret(fake.secret, epoch=fake.epoch)
        capability = issuer.mint(
            serial=serial(draw, device),
            entries=(Entry(USES["call"], "valve/open"),),
            caveats=(
                make.client(client_tag(public_key_of(client_seed(client)))[:8]),
                make.not_after(EPOCH_ENDS),
                make.VEIL,
                make.handler(function(device)),
            ),
            hide_epoch=not names_epoch,
        )
        return [fields(capability)]

    return granting


def any_serial(draw: random.Random, _: int) -> int:
    return draw.getrandbits(32)


NAIVE = {
    "the device's epoch in the header": naive(
        names_epoch=True, function=lambda _: "open", serial=any_serial
    ),
    "the function's name from the manifest": naive(
        names_epoch=False, function=lambda device: f"turn{device}", serial=any_serial
    ),
    "one serial for all grants on a device": naive(
        names_epoch=False, function=lambda _: "open", serial=lambda _, device: 77 + device
    ),
}


def agreeing(values: Iterable[object]) -> float:
    """The share of pairs that say the same."""
    counted = Counter(values)
    total = sum(counted.values())
    return sum(math.comb(count, 2) for count in counted.values()) / math.comb(total, 2)


def _kinds(grants: list[list[Public]]) -> list[tuple[Public, ...]]:
    """The first capability of each grant, then the second of each."""
    return list(zip(*grants, strict=True))


def telling(on_one: list[list[Public]], on_many: list[list[Public]]) -> dict[str, float]:
    """By field: how much more (or less) often grants on one device agree than those on many."""
    found: dict[str, float] = {}
    for kind, (one, many) in enumerate(zip(_kinds(on_one), _kinds(on_many), strict=True)):
        names = {name for each in (*one, *many) for name in each}
        for name in names:
            difference = agreeing(each.get(name) for each in one) - agreeing(
                each.get(name) for each in many
            )
            if abs(difference) > 0.02:
                found[f"{name} of capability {kind}"] = difference
    return found


async def test_grants_on_one_device_look_like_grants_on_a_hundred() -> None:
    draw = random.Random(33)
    on_one = [await ours(draw, 1, client) for client in range(PEOPLE)]
    on_many = [await ours(draw, number, number) for number in range(PEOPLE)]
    assert len(on_one[0]) > 1
    assert telling(on_one, on_many) == {}
    serials = [each["serial"] for grants in (*on_one, *on_many) for each in grants]
    assert len(set(serials)) == len(serials)


@pytest.mark.parametrize("what", NAIVE)
def test_grants_made_with_less_care_tell_the_device(what: str) -> None:
    draw = random.Random(33)
    on_one = [NAIVE[what](draw, 1, client) for client in range(PEOPLE)]
    on_many = [NAIVE[what](draw, number, number) for number in range(PEOPLE)]
    assert telling(on_one, on_many) != {}
