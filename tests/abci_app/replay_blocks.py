"""A chain of seeded random blocks; run as a program it prints what each block came to.

``python -m tests.abci_app.replay_blocks [DATABASE]``: one line a block, with the app hash, a hash
of all that is stored, and result codes. Good and bad transactions of every kind are in it, epochs
with services that move and that want a crowd, outages and deletion, too. The registry is in memory,
or in LevelDB at DATABASE.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from pathlib import Path

from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.cell import base_cell, children_of, parent_of
from edgistry.codec import encode
from edgistry.kv import KeyValue, MemoryKeyValue
from edgistry.membership import NodeLeave
from edgistry.transactions import (
    Body,
    EpochKey,
    EpochShare,
    MemberKey,
    ServiceRecord,
    ServicesPut,
)

from .chain_world import (
    ANN,
    BOB,
    CELL,
    DAY,
    EVE,
    LEASE,
    SECOND,
    Node,
    World,
    genesis,
    put,
    record,
    region,
    started,
    withdraw,
)
from .member_world import joins, removes

BLOCKS = 60
CAROL, GUEST = Node("carol"), Node("guest")
MEMBERS = (ANN, BOB, CAROL)
_SHOWN = children_of(parent_of(CELL, 6))[:3]
_CELLS = [cell for parent in children_of(base_cell(20)) for cell in children_of(parent)]


def _body(source: random.Random, node: Node, now: int) -> Body:
    """What ``node`` sends in the epoch ``now``."""
    # Mostly the node's own records; now and then those that others may have taken.
    owner = node.name if source.randrange(6) else "anyone"
    numbers = source.sample(range(200), source.randint(1, 40))
    names = [f"{owner} {number}" for number in numbers]
    choice = source.randrange(16)
    epoch = now + source.randint(0, 1)
    sealed = tuple(sorted((each.id, source.randbytes(80)) for each in source.sample(MEMBERS, 2)))
    if choice < 2:
        return put(*names)
    if choice < 5:
        return ServicesPut(records=tuple(_placed(source, name) for name in names))
    if choice < 7:
        return withdraw(*names)
    if choice == 7:
        cells = source.sample(_CELLS, source.randint(1, 20))
        return region(f"{owner}-{source.randrange(2)}", source.randint(1, 2), cells)
    if choice == 8:
        return ServicesPut(records=(record("good"), record("bad", cell=source.getrandbits(62))))
    if choice < 12:
        return MemberKey(epoch=max(1, epoch), public=source.randbytes(32))
    if choice < 14:
        return EpochKey(epoch=now + 1, check=source.randbytes(16), sealed=sealed)
    if choice == 14:
        return EpochShare(epoch=max(1, now), sealed=sealed)
    return LEASE


def _placed(source: random.Random, name: str) -> ServiceRecord:
    owner = f"owner {source.randrange(4)}"
    return record(name, cell=source.choice(_SHOWN), owner=owner, crowd=source.randint(1, 3))


def _transactions(source: random.Random, world: World) -> list[bytes]:
    found = []
    epoch = world.app.reader.epoch
    for _ in range(source.randrange(8)):
        node = source.choice(MEMBERS)
        odd = source.randrange(12)
        if odd == 0:
            found.append(source.randbytes(source.randrange(200)))
        elif odd == 1:
            found.append(EVE.sign(1, _body(source, EVE, epoch)))
        elif odd == 2:
            found.append(node.sign(source.randint(1, 1000), _body(source, node, epoch)))
        else:
            found.append(world.next(node, _body(source, node, epoch)))
    return found


def _guest(world: World, number: int) -> list[bytes]:
    """The guest joins every twelve blocks, publishes, and is removed or leaves in between."""
    step, change = number % 12, world.app.reader.member_changes + 1
    until_us = world.now_us + 2 * DAY
    if step == 1:
        body = joins(GUEST, *MEMBERS, change=change, not_after_us=until_us, power=number + 1)
        return [world.next(ANN, body), GUEST.sign(_next(world), put(f"guest {number}"))]
    if step == 7:
        leaves = GUEST.sign(_next(world), NodeLeave(change=change))
        removed = world.next(BOB, removes(GUEST, *MEMBERS, change=change, not_after_us=until_us))
        return [removed, leaves] if number % 24 == 7 else [leaves, removed]
    return []


def _next(world: World) -> int:
    return world.app.reader.sequence(GUEST.id).last + 1


def _stored(store: KeyValue) -> str:
    """A hash of all that a node has, also of what is beside the records."""
    found = hashlib.sha256()
    for key, value in store.scan(b"", None):
        found.update(encode((key, value)))
    return found.hexdigest()


async def replay(store: KeyValue, *, starts_anew: bool = False) -> list[str]:
    """What each block came to; ``starts_anew``: the node is started anew after each."""
    source = random.Random(20)
    world = started(
        store, genesis(*MEMBERS, validating=True, lease_s=60, delete_after_s=600, epoch_s=300)
    )
    lines = [world.app_hash.hex()]
    for number in range(BLOCKS):
        pause = source.choice((SECOND, 10 * SECOND, 59 * SECOND, DAY))
        transactions = [*_guest(world, number), *_transactions(source, world)]
        codes = await world.block(*transactions, after_us=pause)
        lines.append(f"{world.app_hash.hex()} {_stored(store)} {codes}")
        if starts_anew:
            world = world.started_anew()
    for _ in range(80):
        await world.block(after_us=10 * SECOND)
        lines.append(world.app_hash.hex())
    left = sum(1 for _ in world.app.reader.services())
    changes, epoch = world.app.reader.member_changes, world.app.reader.epoch
    return [*lines, f"{changes} changes of members, epoch {epoch}, {left} records left"]


def main(arguments: list[str]) -> None:
    store: KeyValue = LevelKeyValue(Path(arguments[0])) if arguments else MemoryKeyValue()
    for line in asyncio.run(replay(store)):
        print(line)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1:])
