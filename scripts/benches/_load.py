"""Load on an engine's RPC: closed-loop clients over plain keep-alive sockets.

Rules kept here:

* A client has one transaction under way; a refused one is sent again, unchanged, before the next
  (sequences are strictly consecutive).
* Only transactions in blocks count; the clock runs until the mempools are empty, so that a full
  one is no advantage.
* Requests are prepared beforehand, so that the load takes as little of the machine as it can.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from _clusters import rpc

RETRY_S = 0.01
DRAIN_LIMIT_S = 120.0


def request_bytes(method: str, transaction: bytes) -> bytes:
    """One JSON-RPC request as it goes over the socket."""
    body = json.dumps(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": method,
            "params": {"tx": base64.b64encode(transaction).decode()},
        }
    ).encode()
    head = (
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> Any:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line[15:])
    return json.loads(await reader.readexactly(length))


@dataclass
class Sent:
    accepted: int = 0
    refused: int = 0


async def _client(port: int, requests: Sequence[bytes], stop_at: float, sent: Sent) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for request in requests:
            while time.monotonic() < stop_at:
                answer = await exchange(reader, writer, request)
                if "result" in answer and answer["result"]["code"] == 0:
                    sent.accepted += 1
                    break
                sent.refused += 1
                await asyncio.sleep(RETRY_S)
            else:
                return
    finally:
        writer.close()


async def drive(ports: Sequence[int], work: Sequence[Sequence[bytes]], seconds: float) -> Sent:
    """Let every client send its requests, client i at port i modulo their number.

    It ends when all are sent or the time is over.
    """
    sent = Sent()
    stop_at = time.monotonic() + seconds
    await asyncio.gather(
        *(
            _client(ports[index % len(ports)], requests, stop_at, sent)
            for index, requests in enumerate(work)
        )
    )
    return sent


async def commit_latencies(port: int, transactions: Sequence[bytes]) -> list[float]:
    """Seconds from sending to the committed answer, one transaction after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seconds = []
    try:
        for transaction in transactions:
            request = request_bytes("broadcast_tx_commit", transaction)
            began = time.perf_counter()
            answer = await exchange(reader, writer, request)
            seconds.append(time.perf_counter() - began)
            result = answer.get("result") or {}
            if result.get("check_tx", {}).get("code") or result.get("tx_result", {}).get("code"):
                raise SystemExit(f"bench: a transaction was refused: {answer}")
            if not result:
                raise SystemExit(f"bench: no commit: {answer}")
    finally:
        writer.close()
    return seconds


@dataclass(frozen=True, kw_only=True)
class Committed:
    transactions: int
    seconds: float
    blocks: int

    @property
    def rate(self) -> float:
        return self.transactions / self.seconds


def height(port: int) -> int:
    return int(rpc(port, "status")["sync_info"]["latest_block_height"])


def transactions_in(port: int, low: int, high: int) -> int:
    """Transactions in blocks low … high."""
    count = 0
    for bottom in range(low, high + 1, 20):
        top = min(bottom + 19, high)
        page = rpc(port, f"blockchain?minHeight={bottom}&maxHeight={top}")
        count += sum(int(meta["num_txs"]) for meta in page["block_metas"])
    return count


def waiting(ports: Sequence[int]) -> int:
    """Transactions in the mempools. An engine may drop what it took in when its own is full."""
    return sum(int(rpc(port, "num_unconfirmed_txs")["total"]) for port in ports)


async def committed_rate(
    ports: Sequence[int], work: Sequence[Sequence[bytes]], seconds: float
) -> Committed:
    """Committed transactions a second: load for that long, then wait until all is in blocks."""
    low = await asyncio.to_thread(height, ports[0])
    began = time.monotonic()
    await drive(ports, work, seconds)
    while await asyncio.to_thread(waiting, ports):
        await asyncio.sleep(0.02)
        if time.monotonic() - began > seconds + DRAIN_LIMIT_S:
            raise SystemExit("bench: the mempools do not get empty")
    ended = time.monotonic()
    # The last block leaves the mempool a moment before it is in the store.
    await asyncio.sleep(1)
    high = await asyncio.to_thread(height, ports[0])
    counted = await asyncio.to_thread(transactions_in, ports[0], low + 1, high)
    return Committed(transactions=counted, seconds=ended - began, blocks=high - low)
