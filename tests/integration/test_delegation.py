"""Passing authority on without asking anybody (paper §4), by the commands that people use.

The holder of C1 passes on C1' = C1 + require(C2): worthless without C2 beside it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.keyring import Keyring
from device_agent.directory import read_device_secret, read_epoch
from edgistry.adapters.http import HttpClient
from edgistry.adapters.leveldb import LevelKeyValue
from edgistry.adapters.problems import refusal_in
from edgistry.authority import Authority
from edgistry.capability import BoundRequest, Capability
from edgistry.captext import parse_text
from edgistry.codec import encode_json
from edgistry.envelope import Operation, Status
from edgistry.errors import NodeProblemError
from edgistry.issuer import Issuer
from edgistry.replay import Outcome
from edgistry.requests_api import SubmitBody, to_text

from .sleeping import Person, SleepingDevice, SleepingWorld

pytestmark = pytest.mark.engine

HANDLERS = """
@handler
async def read(context, woof, seq, element):
    note(element)
    return b"did " + element
"""
AWAY = "http://127.0.0.1:1"


class Delegated:
    """Alice has C1, to call, and C2, to look; Bob has C2 from earlier, and C1' without C1."""

    def __init__(self, world: SleepingWorld) -> None:
        self.world = world
        self.device: SleepingDevice = world.device("thermometer", HANDLERS)
        self.alice, self.bob, self.eve = (world.person() for _ in range(3))
        self.handle = self.alice.handle("thermometer")
        granted = self.alice.json("grant", "request", self.handle, "--allow", "call,get")
        call, look = granted["granted"]
        self.locked, self.badge = (world.root / name for name in ("locked.cap", "badge.cap"))
        # From here on nobody is reached: neither a node nor the device.
        alone = Person(self.alice.home, AWAY)
        alone.edgistry("cap", "derive", look["name"], "-o", str(self.badge))
        badge = alone.edgistry("cap", "id", str(self.badge)).stdout.strip()
        self.badge_id = bytes.fromhex(badge)
        alone.edgistry("cap", "derive", call["name"], "--require", badge, "-o", str(self.locked))

    def capability(self, file: Path) -> Capability:
        return parse_text(file.read_text())

    def keep(self, person: Person, *files: Path) -> None:
        """Put these capabilities into somebody's keyring."""
        keyring = Keyring(person.home / "edgistry" / "keyring")
        for file in files:
            keyring.add(file.stem, self.capability(file), place=self.handle)

    def bind(self, *beside: Path) -> BoundRequest:
        """A call under C1', without looking whether it can succeed."""
        now_us = time.time_ns() // 1000
        locked = self.capability(self.locked)
        return locked.bind(
            Operation.PUT,
            "thermometer/read",
            b"bound",
            handler="read",
            client=locked.chain.clients[0],
            sequence=now_us,
            deadline=now_us + 60_000_000,
            beside=[self.capability(each) for each in beside],
        )

    def at_the_node(self, request: BoundRequest) -> int:
        """The HTTP status with which the node takes a request; raises what it refuses with."""
        body = SubmitBody(
            handle=self.handle,
            envelope=to_text(request.encoded),
            idempotency_key=to_text(request.envelope.tag),
            fetch_hash=to_text(hashlib.sha256(b"fetch").digest()),
        )

        async def post() -> int:
            async with HttpClient(self.world.node.url) as http:
                response = await http.request("POST", "/v1/requests", body=encode_json(body))
                if response.status >= 400:
                    raise refusal_in(response)
                return response.status

        return asyncio.run(post())

    def at_the_device(self, request: BoundRequest) -> int:
        """The status that the device gives, with its own secret and database, past any node."""
        files = self.device.files
        issuer = Issuer.from_secret(read_device_secret(files), epoch=read_epoch(files))
        store = LevelKeyValue(files.database)
        try:
            answer = Authority(store, issuer).answer(
                request.encoded, lambda _: Outcome(), now_us=time.time_ns() // 1000
            )
        finally:
            store.close()
        return request.open_reply(answer).status


@pytest.fixture(scope="module")
def delegated() -> Iterator[Delegated]:
    with SleepingWorld() as world:
        yield Delegated(world)


def test_call_with_the_required_capability_in_the_keyring_works(delegated: Delegated) -> None:
    delegated.keep(delegated.bob, delegated.locked, delegated.badge)
    request = delegated.bob.call(delegated.handle, "read", "--data", "bob")
    delegated.device.wake()
    assert delegated.bob.answer(request) == "did bob"


def test_required_capability_is_found_for_one_that_is_named(delegated: Delegated) -> None:
    delegated.keep(delegated.eve, delegated.badge)
    locked = str(delegated.locked)
    request = delegated.eve.call(delegated.handle, "read", "--capability", locked)
    Keyring(delegated.eve.home / "edgistry" / "keyring").remove("badge")
    given = ("--capability", locked, "--beside", str(delegated.badge))
    other = delegated.eve.call(delegated.handle, "read", *given)
    delegated.device.wake()
    assert [delegated.eve.answer(each) for each in (request, other)] == ["did "] * 2


def test_capability_that_lacks_the_required_one_is_refused_by_everybody(
    delegated: Delegated,
) -> None:
    done = delegated.device.effects()
    alone, together = delegated.bind(), delegated.bind(delegated.badge)
    with pytest.raises(NodeProblemError, match=delegated.badge_id.hex()) as refusal:
        delegated.at_the_node(alone)
    assert refusal.value.problem_code == "caveat"
    assert delegated.at_the_device(alone) == Status.CAVEAT
    assert delegated.at_the_node(together) == 202
    assert delegated.at_the_device(together) == Status.OK
    assert delegated.device.effects() == done


@pytest.mark.parametrize("named", [False, True])
def test_person_who_lacks_the_required_capability_is_told_which(
    delegated: Delegated, named: bool
) -> None:
    mallory = delegated.world.person()
    words = ("--capability", str(delegated.locked)) if named else ()
    if not named:
        delegated.keep(mallory, delegated.locked)
    told = mallory.edgistry("call", delegated.handle, "read", *words, check=False)
    assert told.exit_code == 1
    assert f"requires {delegated.badge_id.hex()} beside it" in told.stderr
    assert not named or "--beside" in told.stderr, "it says what to do"
