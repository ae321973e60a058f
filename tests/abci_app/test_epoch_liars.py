"""Members that lie about keys of privacy epochs as fast as they can: good epochs go on.

A liar sees every block, sends as much as it likes, comes first into every block, and knows exactly
from when the chain lets it act. What it seals is garbage, to all others or to itself alone.
"""

from __future__ import annotations

import random

import pytest

from abci_app.epoch_rules import due_at_us, gives_from_us, makers_after
from abci_app.turns import TURN_US
from edgistry.transactions import (
    SEALED_KEY_BYTES,
    Body,
    EpochKey,
    EpochShare,
    MemberKey,
    NodeId,
)

from .chain_world import CHAIN, SECOND, Node
from .epoch_world import BEAT_US, Chain, EpochNode, check_agreement, members, rounds

EPOCH_S = 7200
EPOCH_US = EPOCH_S * SECOND


class Liar:
    """Begins epochs with garbage, gives garbage, and says that it was given some.

    One that ``keeps`` gives nothing: nobody has anything to complain of.
    """

    def __init__(self, chain: Chain, node: Node, seed: int, *, does: str) -> None:
        self.chain = chain
        self.node = node
        self._asks = does != "silent"
        self._keeps = does == "keeping"
        self._random = random.Random(f"liar {node.name} {seed}")

    def act(self) -> None:
        """Send all that the next block may take."""
        if not self.chain.blocks:
            return
        sequence = self.chain.world.app.reader.sequence(self.node.id).last
        mine = []
        for body in self._bodies(self.chain.world.now_us + BEAT_US):
            sequence += 1
            mine.append(self.node.sign(sequence, body))
        self.chain.mempool[:0] = mine

    def _bodies(self, next_us: int) -> list[Body]:
        last = self.chain.blocks[-1]
        number, _, current, coming, *_ = last.states
        found: list[Body] = []
        if self._asks:
            found.append(MemberKey(epoch=number + 1, public=self._random.randbytes(32)))
            if number and not self._keeps:
                found.append(MemberKey(epoch=number, public=self._random.randbytes(32)))
        if coming is not None:
            due_us = due_at_us(current, coming, epoch_us=EPOCH_US)
            order = makers_after(
                current,
                number,
                members=frozenset(last.members),
                chain_id=CHAIN,
                given_up=last.states.given_up,
            )
            if next_us >= due_us + order.index(self.node.id) * TURN_US:
                others = [] if self._keeps else [node for node, _ in coming.keys]
                sealed = self._garbage(others or [self.node.id])
                found.append(EpochKey(epoch=number + 1, check=bytes(16), sealed=sealed))
        if current is not None and not self._keeps:
            found += [
                EpochShare(epoch=number, sealed=self._garbage([node]))
                for node, _ in current.keys
                if node not in dict(current.sealed)
                and self._may_give(node, next_us, frozenset(last.members))
            ]
        return found

    def _may_give(self, node: bytes, next_us: int, members: frozenset[NodeId]) -> bool:
        current = self.chain.blocks[-1].states.current
        assert current is not None
        from_us = gives_from_us(current, self.node.id, node, members=members)
        return from_us is not None and next_us >= from_us

    def _garbage(self, nodes: list[bytes]) -> tuple[tuple[bytes, bytes], ...]:
        return tuple((node, self._random.randbytes(SEALED_KEY_BYTES)) for node in sorted(nodes))


async def lied_to(chain: Chain, good: list[EpochNode], liars: list[Liar], count: int) -> int:
    """That many blocks, or fewer until all good nodes have the current key; how many."""
    for done in range(count):
        if all(node.has_current for node in good):
            return done
        for liar in liars:
            liar.act()
        await rounds(chain, good, 1)
    return count


@pytest.mark.parametrize("does", ["asking", "silent", "keeping"])
@pytest.mark.parametrize(("count", "lying", "dead"), [(4, 1, 0), (7, 2, 0), (7, 1, 1), (10, 2, 1)])
@pytest.mark.parametrize("seed", range(2))
async def test_good_epochs_go_on_whatever_fewer_than_a_third_do(
    count: int, lying: int, dead: int, does: str, seed: int
) -> None:
    nodes = members(count)
    source = random.Random(seed)
    source.shuffle(nodes)
    chain = Chain(*nodes, epoch_s=EPOCH_S)
    liars = [Liar(chain, node, seed, does=does) for node in nodes[:lying]]
    good = [EpochNode(chain, node, seed) for node in nodes[lying + dead :]]
    # Each liar spoils one epoch at most: that is given up after a minute, begun anew within the
    # turns and the waiting for those who do not ask. Then comes a good one. Blocks are of 10 s.
    an_epoch = 6 + 6 + 2 * count + 8
    needed = await lied_to(chain, good, liars, (lying + 1) * an_epoch)
    assert all(node.has_current for node in good), needed
    before = chain.number
    assert before <= lying + 1
    for _ in range(6):
        held = {node.keeper.keys.current() for node in good}
        assert len(held) == 1
        check_agreement(chain, good)
        await rounds(chain, good, 1, after_us=EPOCH_US)
        # Whatever comes now: what clients have goes on to work until there is a good key.
        for _ in range((lying + 1) * an_epoch):
            if chain.number > before and all(node.has_current for node in good):
                break
            for liar in liars:
                liar.act()
            await rounds(chain, good, 1)
            for node in good:
                assert node.has_current or node.keeper.keys.current() in held
        else:
            pytest.fail(f"no good epoch {before + 1}, {chain.number}")
        before = chain.number
    # Once each has shown what it is, others come first.
    assert chain.number <= lying + 1 + 6
    assert len(chain.blocks[-1].states.given_up) <= lying
