"""Committed transactions a second, records in batches, and latency, against CometBFT's kvstore."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import statistics
from collections.abc import Callable, Sequence

from _clusters import (
    NODES,
    Cluster,
    EdgistryCluster,
    KvstoreCluster,
    add_members,
    init_cluster,
)
from _load import Committed, commit_latencies, committed_rate, request_bytes
from measure import report

from edgistry.adapters.crypto import public_key_of, sign
from edgistry.transactions import (
    MAX_BATCH_RECORDS,
    ServiceRecord,
    ServicesPut,
    node_id_of,
    sign_transaction,
)

CLIENTS = 50
TRANSACTION_BYTES = 240
LATENCY_SAMPLES = 40
SYNC = "broadcast_tx_sync"
CELL = 0x872830828FFFFFF

random_bytes = random.Random(1).randbytes  # reproducible keys; nothing here is secret


class Signer:
    """A member of the measured chain that signs its transactions in order."""

    def __init__(self) -> None:
        self.seed = random_bytes(32)
        self.public_key = public_key_of(self.seed)
        self.sequence = 0

    def transaction(self, chain_id: str, records: Sequence[ServiceRecord]) -> bytes:
        self.sequence += 1
        return sign_transaction(
            chain_id=chain_id,
            node_id=node_id_of(self.public_key),
            sequence=self.sequence,
            body=ServicesPut(records=tuple(records)),
            sign=lambda message: sign(self.seed, message),
        )


def record(actions: tuple[str, ...] = ("read",)) -> ServiceRecord:
    return ServiceRecord(
        key=random_bytes(16),
        type="weather-station",
        cell=CELL,
        actions=actions,
        wake=1,
        commitment=hashlib.sha256(random_bytes(16)).digest(),
        owner=random_bytes(8),
        crowd=1,
    )


def single(signer: Signer, chain_id: str) -> bytes:
    """A signed transaction with one record, padded by its action names to 240 bytes."""
    bare = len(signer.transaction(chain_id, [record(())]))
    signer.sequence -= 1
    missing = TRANSACTION_BYTES - bare
    names = []
    while missing > 0:
        # A name of n < 32 characters costs n + 1 bytes; longer ones two more.
        size = min(missing, 31) if missing != 32 else 20
        names.append("abcdefgh"[len(names)] * (size - 1))
        missing -= size
    return signer.transaction(chain_id, [record(tuple(names))])


def kv_transaction(number: int) -> bytes:
    key = f"{number:016d}={number:016d}".encode()
    return key + b"x" * (TRANSACTION_BYTES - len(key))


class Edgistry:
    """Our arm: a fresh cluster a round, with fifty more members as its clients."""

    def __init__(self, base_port: int) -> None:
        self.base_port = base_port

    def prepare(self) -> Cluster:
        cluster = EdgistryCluster(init_cluster("ours", self.base_port), self.base_port)
        self.signers = [Signer() for _ in range(CLIENTS)]
        self.chain_id = add_members(cluster, [signer.public_key for signer in self.signers])
        return cluster

    def singles(self, each: int) -> list[list[bytes]]:
        return [
            [request_bytes(SYNC, single(signer, self.chain_id)) for _ in range(each)]
            for signer in self.signers
        ]

    def batches(self, each: int) -> list[list[bytes]]:
        return [
            [
                request_bytes(
                    SYNC,
                    signer.transaction(self.chain_id, [record() for _ in range(MAX_BATCH_RECORDS)]),
                )
                for _ in range(each)
            ]
            for signer in self.signers
        ]

    def serial(self, count: int) -> list[bytes]:
        return [single(self.extra, self.chain_id) for _ in range(count)]

    @property
    def extra(self) -> Signer:
        return self.signers[0]


class Kvstore:
    def __init__(self, base_port: int, *, builtin: bool) -> None:
        self.base_port = base_port
        self.builtin = builtin
        self.number = 0

    def prepare(self) -> Cluster:
        name = "builtin" if self.builtin else "kv"
        directory = init_cluster(name, self.base_port, engine_files=True)
        return KvstoreCluster(directory, self.base_port, builtin=self.builtin)

    def _next(self) -> bytes:
        self.number += 1
        return kv_transaction(self.number)

    def singles(self, each: int) -> list[list[bytes]]:
        return [[request_bytes(SYNC, self._next()) for _ in range(each)] for _ in range(CLIENTS)]

    def serial(self, count: int) -> list[bytes]:
        return [self._next() for _ in range(count)]


def rate(cluster: Cluster, work: list[list[bytes]], seconds: float) -> Committed:
    ports = [cluster.rpc_port(node) for node in range(NODES)]
    return asyncio.run(committed_rate(ports, work, seconds))


def median_latency(cluster: Cluster, transactions: list[bytes]) -> float:
    return statistics.median(asyncio.run(commit_latencies(cluster.rpc_port(0), transactions)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench commit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--seconds", type=float, default=12, metavar="S")
    parser.add_argument("--base-port", type=int, default=28000, metavar="PORT")
    options = parser.parse_args()
    seconds = options.seconds
    each = int(80 * (seconds + 3))  # more than any client can send in that time

    rates: dict[str, list[float]] = {"ours": [], "socket": [], "builtin": [], "records": []}
    latencies: dict[str, list[float]] = {"ours": [], "socket": [], "builtin": []}

    def ours() -> None:
        arm = Edgistry(options.base_port)
        with arm.prepare().running() as cluster:
            serial = arm.serial(LATENCY_SAMPLES)
            work = arm.singles(each)
            latencies["ours"].append(median_latency(cluster, serial))
            rates["ours"].append(rate(cluster, work, seconds).rate)
        arm = Edgistry(options.base_port)
        with arm.prepare().running() as cluster:
            # The mempools alone take 300 batches in, a second of work for every ten.
            batches = arm.batches(16)
            done = rate(cluster, batches, 3)
            rates["records"].append(done.rate * MAX_BATCH_RECORDS)

    def kvstore(name: str, *, builtin: bool) -> None:
        arm = Kvstore(options.base_port, builtin=builtin)
        with arm.prepare().running() as cluster:
            latencies[name].append(median_latency(cluster, arm.serial(LATENCY_SAMPLES)))
            rates[name].append(rate(cluster, arm.singles(each), seconds).rate)

    arms: list[Callable[[], None]] = [
        ours,
        lambda: kvstore("socket", builtin=False),
        lambda: kvstore("builtin", builtin=True),
    ]
    for number in range(options.rounds):
        for arm in arms if number % 2 == 0 else arms[::-1]:
            arm()

    middle = {name: statistics.median(values) for name, values in rates.items()}
    wait = {name: statistics.median(values) for name, values in latencies.items()}
    common = {"rounds": options.rounds, "clients": CLIENTS, "transaction_bytes": TRANSACTION_BYTES}
    report(
        "commit",
        "signed one-record transactions / kvstore over the unix socket",
        middle["ours"] / middle["socket"],
        at_least=0.6,
        ours_per_s=[round(value) for value in rates["ours"]],
        kvstore_per_s=[round(value) for value in rates["socket"]],
        **common,
    )
    report(
        "commit",
        "records in 512-record batches / kvstore transactions over the unix socket",
        middle["records"] / middle["socket"],
        at_least=3,
        records_per_s=[round(value) for value in rates["records"]],
        **common,
    )
    report(
        "commit",
        "one client waiting for commit, p50 / kvstore over the unix socket",
        wait["ours"] / wait["socket"],
        at_most=1.15,
        ours_ms=[round(value * 1e3, 1) for value in latencies["ours"]],
        kvstore_ms=[round(value * 1e3, 1) for value in latencies["socket"]],
    )
    report(
        "commit",
        "signed one-record transactions / kvstore built into the engine",
        middle["ours"] / middle["builtin"],
        builtin_per_s=[round(value) for value in rates["builtin"]],
        **common,
    )
    report(
        "commit",
        "one client waiting for commit, p50 / kvstore built into the engine",
        wait["ours"] / wait["builtin"],
        builtin_ms=[round(value * 1e3, 1) for value in latencies["builtin"]],
    )


if __name__ == "__main__":
    main()
