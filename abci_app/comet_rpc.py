"""The engine's RPC: handing over transactions, and asking how the engine is doing.

Rules kept here:

* One request at a time for transactions, so that they arrive in the order of their sequences.
* "Already in the cache" is no error: the transaction is where it should be.
* Every other refusal of the engine and every failure of the network is ``UnavailableError``: the
  sender keeps its transaction and tries again.

What the engine answers is read by hand: its documents have more fields than we use, and others
with every version. Not handled here: whether a transaction was applied (the registry's state
tells), and the consensus engine's start and stop (``supervisor``).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgistry.adapters.http import HttpClient
from edgistry.errors import CannotReachError, Refused, TimedOutError, UnavailableError

TIMEOUT_S = 5.0
_ALREADY_THERE = "tx already exists in cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """How far the engine is. ``app_hash`` is the one in the last header: of the block before."""

    height: int
    app_hash: str
    block_time: str
    catching_up: bool
    peer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePeer:
    """A node that the engine is connected to."""

    peer_id: str
    name: str


class CometRpc:
    """The RPC of the engine on this machine; a ``TransactionSink``."""

    def __init__(self, port: int, *, timeout_s: float = TIMEOUT_S) -> None:
        self._http = HttpClient(f"http://127.0.0.1:{port}", timeout_s=timeout_s)
        self._one_at_a_time = asyncio.Lock()
        self._number = 0

    async def submit(self, transaction: bytes) -> None:
        """Hand ``transaction`` to the engine's mempool.

        Raises:
            UnavailableError: the engine is away, its mempool full, or it refuses; try again.
        """
        parameters = {"tx": base64.b64encode(transaction).decode()}
        async with self._one_at_a_time:
            try:
                await self._call("broadcast_tx_async", parameters)
            except UnavailableError as error:
                if _ALREADY_THERE not in error.detail:
                    raise

    async def status(self) -> EngineStatus:
        """How far the engine is.

        Raises:
            UnavailableError: it does not answer.
        """
        result = await self._call("status", {})
        try:
            sync = result["sync_info"]
            return EngineStatus(
                height=int(sync["latest_block_height"]),
                app_hash=str(sync["latest_app_hash"]).lower(),
                block_time=str(sync["latest_block_time"]),
                catching_up=bool(sync["catching_up"]),
                peer_id=str(result["node_info"]["id"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _strange("status", error) from None

    async def peers(self) -> tuple[EnginePeer, ...]:
        """The nodes that the engine is connected to.

        Raises:
            UnavailableError: it does not answer.
        """
        result = await self._call("net_info", {})
        try:
            return tuple(
                EnginePeer(
                    peer_id=str(peer["node_info"]["id"]), name=str(peer["node_info"]["moniker"])
                )
                for peer in result["peers"]
            )
        except (KeyError, TypeError) as error:
            raise _strange("net_info", error) from None

    async def block(self, height: int) -> Mapping[str, Any]:
        """The block at ``height`` as the engine describes it.

        Raises:
            UnavailableError: it does not answer, or has no such block.
        """
        return await self._call("block", {"height": str(height)})

    async def close(self) -> None:
        """Close the connections. Closing twice is safe."""
        await self._http.close()

    async def _call(self, method: str, parameters: Mapping[str, str]) -> Mapping[str, Any]:
        self._number += 1
        body = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": parameters}
        try:
            response = await self._http.request(
                "POST",
                "/",
                body=json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
            )
        except (CannotReachError, TimedOutError) as error:
            raise UnavailableError(f"the engine does not answer: {error}") from None
        except Refused as error:
            raise _strange(method, error) from None
        try:
            answer = json.loads(response.body)
            problem, result = answer.get("error"), answer.get("result")
        except (ValueError, AttributeError, RecursionError) as error:
            raise _strange(method, error) from None
        if problem:
            said = problem.get("data") or problem.get("message") if type(problem) is dict else ""
            raise UnavailableError(f"the engine refuses {method}: {said or problem}")
        if not isinstance(result, dict):
            raise _strange(method, TypeError("no result"))
        return result


def _strange(method: str, error: Exception) -> UnavailableError:
    return UnavailableError(f"the engine's answer to {method} cannot be read: {error!r}")
