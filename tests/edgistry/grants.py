"""An issuer with fixed keys, and requests to it: what the tests of authority start from."""

from __future__ import annotations

import hashlib
from typing import Any

from edgistry.authority import Authority
from edgistry.capability import BoundRequest, Capability
from edgistry.envelope import Operation, Reply
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.operations import encode_get
from edgistry.replay import Execute, Outcome, ReplayGuard
from edgistry.verifier import Checked, Verifier

NOW = 1_750_000_000_000_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE
ME = b"client-1"
YOU = b"client-2"
NEWEST = encode_get()
SECRET = hashlib.sha256(b"a device's secret").digest()
ISSUER = Issuer.from_secret(SECRET, epoch=4)
ROOT = ISSUER.mint(serial=1)
"""Everything, nothing narrowed."""


def bind(
    capability: Capability, op: int = Operation.GET, target: str = "ns/w", **more: Any
) -> BoundRequest:
    """A request as a test needs it: now, by ``ME``, for the newest element of ns/w."""
    fields: dict[str, Any] = {
        "payload": NEWEST,
        "client": ME,
        "sequence": NOW,
        "deadline": NOW + MINUTE,
        **more,
    }
    return capability.bind(Operation(op), target, **fields)


def check(
    request: BoundRequest | bytes, verifier: Verifier | None = None, *, now_us: int = NOW
) -> Checked:
    """``request`` checked by a verifier of ``ISSUER`` that knows nothing else."""
    data = request if isinstance(request, bytes) else request.encoded
    return (verifier or Verifier(ISSUER)).check(data, now_us=now_us)


class Server:
    """An authority over a store in memory, with an executor that counts."""

    def __init__(self, store: MemoryKeyValue | None = None, *, issuer: Issuer = ISSUER) -> None:
        self.store = store if store is not None else MemoryKeyValue()
        self.authority = Authority(self.store, issuer)
        self.executed: list[Checked] = []

    @property
    def guard(self) -> ReplayGuard:
        return self.authority.guard

    def execute(self, checked: Checked) -> Outcome:
        self.executed.append(checked)
        number = len(self.executed)
        return Outcome(result=number, payload=b"answer", changes=[(b"done/%d" % number, b"1")])

    def send(
        self, request: BoundRequest, *, now_us: int = NOW, execute: Execute | None = None
    ) -> Reply:
        """The proven reply to ``request``."""
        return request.open_reply(self.answer(request.encoded, now_us=now_us, execute=execute))

    def answer(self, data: bytes, *, now_us: int = NOW, execute: Execute | None = None) -> bytes:
        return self.authority.answer(data, execute or self.execute, now_us=now_us)
