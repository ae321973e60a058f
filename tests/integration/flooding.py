"""A member of the chain without a node, which floods the mempools of the others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from abci_app.comet_rpc import CometRpc
from edgistry.adapters.crypto import generate_signing_key, public_key_of, signer
from edgistry.errors import UnavailableError
from edgistry.transactions import NodeLease, node_id_of, sign_transaction

from .harness import Cluster

MEMPOOL_SIZE = 2000
"""Transactions that an engine's mempool holds in our configuration."""
ASK_AGAIN_S = 0.1


class Flooder:
    """Signs transactions in order; ``join`` its genesis before the chain begins."""

    def __init__(self) -> None:
        seed = generate_signing_key()
        self.public_key = public_key_of(seed)
        self._sign = signer(seed)
        self._sequence = 0

    def join(self, state: dict[str, Any]) -> None:
        """Become a member in ``state``, the ``app_state`` of a genesis document."""
        state["members"].append({"name": "flooder", "public_key": self.public_key.hex()})

    def leases(self, cluster: Cluster) -> Iterator[bytes]:
        """Small good transactions without end, in the order of their sequences."""
        while True:
            self._sequence += 1
            yield sign_transaction(
                chain_id=cluster.chain_id,
                node_id=node_id_of(self.public_key),
                sequence=self._sequence,
                body=NodeLease(),
                sign=self._sign,
            )


def fill_mempool(
    cluster: Cluster, number: int, transactions: Iterator[bytes], *, room: int = 0
) -> None:
    """Hand transactions to a node's engine until its mempool has ``room`` for so many more."""
    waiting = int(cluster.engine_rpc(number, "num_unconfirmed_txs")["n_txs"])
    count = MEMPOOL_SIZE - room - waiting
    full = flood(cluster, number, itertools.islice(transactions, max(0, count)), lambda: True)
    assert full == 0, "no other transactions were expected"


def flood(
    cluster: Cluster, number: int, transactions: Iterator[bytes], going_on: Callable[[], bool]
) -> int:
    """Hand transactions to a node's engine while ``going_on``; how often its mempool was full."""
    return asyncio.run(_flood(cluster, number, transactions, going_on))


async def _flood(
    cluster: Cluster, number: int, transactions: Iterator[bytes], going_on: Callable[[], bool]
) -> int:
    rpc = CometRpc(cluster.port(number) + 2)
    full = 0
    try:
        for transaction in transactions:
            while going_on():
                try:
                    await rpc.submit(transaction)
                    break
                except UnavailableError:
                    full += 1
                    await asyncio.sleep(ASK_AGAIN_S)
            if not going_on():
                break
    finally:
        await rpc.close()
    return full
