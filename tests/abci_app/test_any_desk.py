"""Any service of a type in an area: who is chosen, what comes back, and what a call does."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.any_desk import MAX_LOAD, MAX_OWN_LOAD
from abci_app.any_grants import AnyGrantDesk
from abci_app.config_guards import GrantsConfig
from abci_app.discovery import ServiceIndex
from abci_app.grants import GrantDesk
from abci_app.memberships import Memberships
from abci_app.peer_api import PassedAnyGrant
from edgistry.adapters.any_caller import request_any_grant
from edgistry.adapters.any_search import Attempt
from edgistry.adapters.crypto import seal, sealing_public_key_of, signer
from edgistry.adapters.grant_client import ClientKeys
from edgistry.adapters.http import HttpClient
from edgistry.adapters.node_client import NodeClient
from edgistry.adapters.service_caller import CallTracker
from edgistry.anycast_api import (
    ANY_GRANT_PATH,
    ANY_GRANT_PURPOSE,
    AnyGrantAnswer,
    AnyGrantBody,
    SealedAny,
    alias_name,
    encode_sealed,
    open_any_grant,
    read_any_body,
)
from edgistry.api import CellArea, DiscoverQuery
from edgistry.calls import CallResult
from edgistry.codec import encode_json, replace
from edgistry.errors import (
    BadReplyError,
    BudgetError,
    CallPendingError,
    CannotReachError,
    ClientSignatureError,
    GrantRefusedError,
    InvalidValueError,
    MailboxFullError,
    MalformedError,
    MembersBusyError,
    NoEpochKeyError,
    NoMemberError,
    NotFoundError,
    Refused,
    SealError,
    UnavailableError,
    UnknownHandleError,
)
from edgistry.grants_api import GRANTS_PATH, GrantBody, encode_grant, seal_context
from edgistry.handles import HandleKind, Target, parse_handle_text
from edgistry.requests_api import RequestAnswer, to_text
from edgistry.signed_request import Client, SignedRequest, sign_request
from edgistry.transactions import NodeId, RecordKey

from .any_world import (
    AREA,
    HOME,
    AnyWorld,
    CellListing,
    ManyPairings,
    OneOfMany,
    any_world,
    enter,
    epoch_keys,
    listed,
    record_of,
    stored,
)

ME = ClientKeys.generate()
STRANGER = ClientKeys.generate()
FAR = "87754e64dffffff"
TARGET = Target(NodeId(HOME), RecordKey(record_of(0)))


def signed(
    world_us: int, *, path: str = ANY_GRANT_PATH, who: ClientKeys = ME, **fields: Any
) -> SignedRequest:
    plain = {
        "type": "valve",
        "cell": AREA,
        "actions": ["read"],
        "sealing_key": to_text(sealing_public_key_of(who.sealing)),
    }
    return sign_request(
        "POST",
        path,
        encode_json({**plain, **fields}),
        client=who.public_key,
        sign=signer(who.signing),
        time_us=world_us,
        nonce=b"n" * 16,
    )


async def ask(world: AnyWorld, **fields: Any) -> str:
    """The alias handle of whoever was chosen."""
    return (await world.desk.any_grant(signed(world.now_us, **fields))).handle


def behind(world: AnyWorld, handle: str) -> bytes:
    return world.keys.handles().open(parse_handle_text(handle)).record


# --- who is chosen ------------------------------------------------------------------------------


async def test_choices_are_spread_evenly_over_those_that_wake_equally_soon() -> None:
    async with any_world(5) as world:
        chosen = Counter([behind(world, await ask(world)) for _ in range(20)])
    assert [chosen[record_of(number)] for number in range(5)] == [4] * 5


async def test_two_choices_of_one_service_have_no_name_in_common() -> None:
    async with any_world(1) as world:
        one, two = await ask(world), await ask(world)
    first, second = parse_handle_text(one), parse_handle_text(two)
    assert first.kind is second.kind is HandleKind.ALIAS
    assert first.tag != second.tag
    assert first.sealed != second.sealed


async def test_nobody_has_more_to_do_for_one_client_than_its_share() -> None:
    async with any_world(2) as world:
        for _ in range(2 * MAX_OWN_LOAD):
            await ask(world)
        with pytest.raises(MembersBusyError) as refused:
            await ask(world)
        assert (refused.value.http_status, refused.value.retry_after_s) == (429, 15)
        world.desk._clock_us = lambda: world.now_us + 61_000_000  # nobody made any request
        later = signed(world.now_us + 61_000_000)
        assert (await world.desk.any_grant(later)).handle


async def test_what_others_have_asked_makes_nobody_busy() -> None:
    """A stranger who spends its own share of a small area takes no other's."""
    async with any_world(2) as world:
        for who in (STRANGER, ClientKeys.generate()):
            for _ in range(2 * MAX_OWN_LOAD):
                await ask(world, who=who)
            with pytest.raises(MembersBusyError):
                await ask(world, who=who)
        chosen = Counter([behind(world, await ask(world)) for _ in range(2 * MAX_OWN_LOAD)])
        assert set(chosen.values()) == {MAX_OWN_LOAD}
        with pytest.raises(MembersBusyError):
            await ask(world)


async def test_who_has_less_to_do_for_all_is_preferred() -> None:
    async with any_world(2) as world:
        first = behind(world, await ask(world, who=STRANGER))
        for number in range(MAX_LOAD - 1):
            alias = b"alias %d" % number
            world.choices.made(first, b"stranger", alias=alias, now_us=world.now_us)
        chosen = {behind(world, await ask(world)) for _ in range(4)}
        assert chosen == {record_of(0), record_of(1)} - {first}


async def test_nobody_of_that_type_or_area_or_action_is_no_member() -> None:
    async with any_world() as world:
        for fields in ({"type": "camera"}, {"cell": FAR}, {"actions": ["dance"]}):
            with pytest.raises(NoMemberError) as refused:
                await ask(world, **fields)
            assert refused.value.http_status == 404


async def test_who_is_to_be_avoided_or_was_withdrawn_or_changed_is_passed_over() -> None:
    async with any_world(3) as world:
        first = await ask(world)
        second = await ask(world, avoid=[first])
        records = {behind(world, first), behind(world, second)}
        (third,) = {record_of(number) for number in range(3)} - records
        assert behind(world, await ask(world, avoid=[first, second])) == third
        del world.registry[third]
        with pytest.raises(NoMemberError):
            await ask(world, avoid=[first, second])
        world.registry[third] = stored(type="camera")
        with pytest.raises(NoMemberError):
            await ask(world, avoid=[first, second])


async def test_a_handle_of_ones_own_or_of_another_epoch_avoids_nobody() -> None:
    async with any_world(1) as world:
        target = Target(HOME, RecordKey(record_of(0)))
        own = world.keys.handles().own(ME.tag, target).text
        assert await ask(world, avoid=[own])
        alias = await ask(world)
        enter(world.keys, 8)
        assert await ask(world, avoid=[alias])


async def test_services_of_a_node_without_a_link_are_not_chosen() -> None:
    async with any_world(1) as world:
        world.registry[record_of(0)] = stored(home=b"x" * 20)
        world.index.rebuild([(record_of(0), listed(world.registry[record_of(0)]))])
        with pytest.raises(NoMemberError):
            await ask(world)


async def test_without_an_epoch_key_nobody_can_be_named() -> None:
    async with any_world() as world:
        world.keys.put({}, world.keys._states, epoch_us=1)
        with pytest.raises(NoEpochKeyError):
            await ask(world)


class Deaf:
    """A home node that does not answer, or refuses."""

    seems_up = True

    def __init__(self, error: Refused) -> None:
        self.error = error
        self.asked = 0

    async def any_grant(self, passed: PassedAnyGrant) -> Any:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UnavailableError("away"), NoMemberError),
        (NotFoundError("gone"), NoMemberError),
        (GrantRefusedError("no"), GrantRefusedError),
    ],
)
async def test_members_that_grant_nothing_are_passed_over_a_few_times(
    error: Refused, told: type[Refused]
) -> None:
    deaf = Deaf(error)
    async with any_world(5, local=deaf) as world:
        with pytest.raises(told):
            await ask(world)
        assert (deaf.asked, len(world.choices)) == (3, 0)


@pytest.mark.parametrize(
    "error",
    [
        ClientSignatureError("signed ahead: its clock is wrong"),
        MalformedError("it does not know this kind of wish"),
        BudgetError("enough", retry_after_s=9),
    ],
)
async def test_another_node_that_finds_fault_with_a_wish_turns_nobody_away(error: Refused) -> None:
    other = NodeId(b"o" * 20)
    deaf = Deaf(error)
    async with any_world(2, links={other: deaf}) as world:
        world.registry[record_of(0)] = stored(home=other)
        world.index.rebuild((each, listed(kept)) for each, kept in world.registry.items())
        for _ in range(4):
            await ask(world)
        assert deaf.asked, "it was its turn"
        assert world.choices.loaded_by(ME.id) == [record_of(1)]


async def test_what_is_malformed_unsigned_or_signed_for_another_path_is_refused() -> None:
    async with any_world() as world:
        for fields, error in (
            ({"cell": None}, MalformedError),
            ({"type": "Not A Name"}, MalformedError),
            ({"actions": []}, MalformedError),
            ({"sealing_key": to_text(b"short")}, InvalidValueError),
            ({"path": GRANTS_PATH}, MalformedError),
            ({"avoid": ["x"]}, MalformedError),
        ):
            with pytest.raises(error):
                await ask(world, **fields)
        with pytest.raises(ClientSignatureError):
            await world.desk.any_grant(replace(signed(world.now_us), signature=bytes(64)))
        with pytest.raises(ClientSignatureError):
            await world.desk.any_grant(signed(world.now_us - 3600_000_000))


# --- frozen memberships -------------------------------------------------------------------------


def memberships(count: int, **bounds: int) -> tuple[Memberships, ServiceIndex, CellListing]:
    index = ServiceIndex()
    index.rebuild([(record_of(number), listed(stored())) for number in range(count)])
    listing = CellListing(index)
    made = Memberships(listing, is_visible=lambda _: True, seed=b"s" * 32, **bounds)
    return made, index, listing


def query(cell: str = AREA, type_name: str = "valve") -> DiscoverQuery:
    return DiscoverQuery(area=CellArea(cell=cell), type=type_name)


async def test_members_are_frozen_for_the_epoch() -> None:
    made, index, listing = memberships(3)
    before = await made.of(query(), epoch=1)
    index.rebuild([(record_of(9), listed(stored()))])
    assert (await made.of(query(), epoch=1)) is before
    assert listing.covered == 1
    after = await made.of(query(), epoch=2)
    assert list(after.profiles) == [record_of(9)]


async def test_who_asked_before_the_edge_of_an_epoch_thaws_nothing_behind_it() -> None:
    made, index, _ = memberships(3)
    frozen = await made.of(query(), epoch=2)
    index.rebuild([(record_of(9), listed(stored()))])
    assert list((await made.of(query(), epoch=1)).profiles) == [record_of(9)]
    assert (await made.of(query(), epoch=2)) is frozen


async def test_an_area_with_nobody_is_looked_at_again() -> None:
    made, index, _ = memberships(0)
    assert not (await made.of(query(), epoch=1)).profiles
    index.rebuild([(record_of(1), listed(stored()))])
    assert len((await made.of(query(), epoch=1)).members) == 1


async def test_many_areas_do_not_grow_without_bound() -> None:
    made, index, _ = memberships(3, most_groups=2)
    for name in ("a", "b", "c"):
        index.rebuild([(record_of(1), listed(stored(type=name)))])
        await made.of(query(type_name=name), epoch=1)
    assert made.kept == 2
    bounded, _, _ = memberships(5, most_kept=4)
    await bounded.of(query(), epoch=1)
    assert bounded.kept == 5  # the one that was asked for last is kept at any size


async def test_members_are_the_visible_ones() -> None:
    index = ServiceIndex()
    hidden = stored(home=b"x" * 20)
    index.rebuild([(record_of(1), listed(stored())), (record_of(2), listed(hidden))])
    made = Memberships(CellListing(index), is_visible=lambda home: home == HOME, seed=b"s" * 32)
    assert list((await made.of(query(), epoch=1)).profiles) == [record_of(1)]


# --- the home node's part -----------------------------------------------------------------------


async def test_home_node_checks_what_the_client_signed_and_the_type() -> None:
    device = OneOfMany(0)
    desk = AnyGrantDesk(
        GrantDesk(ManyPairings([device]), GrantsConfig(), epoch_keys(), clock_us=lambda: 9),
        clock_us=lambda: 9,
    )

    async def pass_on(request: SignedRequest) -> None:
        await desk.any_grant(
            PassedAnyGrant(
                request=request, service=device.record, handle=bytes(52) + b"\x02" + bytes(20)
            )
        )

    await pass_on(signed(9))
    with pytest.raises(ClientSignatureError):
        await pass_on(replace(signed(9), body=signed(9, cell=FAR).body))
    with pytest.raises(MalformedError, match="another path"):
        await pass_on(signed(9, path=GRANTS_PATH))
    with pytest.raises(NotFoundError):
        await pass_on(signed(9, type="camera"))
    with pytest.raises(GrantRefusedError):
        await pass_on(signed(9, actions=["open"]))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_wish_or_refused(data: bytes) -> None:
    request = replace(signed(9), body=data)
    with contextlib.suppress(Refused):
        read_any_body(request)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_sealed_grant_or_refused(data: bytes) -> None:
    alias = epoch_keys().handles().alias(bytes(16), TARGET).text
    with pytest.raises(BadReplyError):
        open_any_grant(data, handle=alias, client_id=ME.id)
    inner = encode_sealed(SealedAny(version=1, grant=data, reads=()))
    with pytest.raises(BadReplyError, match="not a grant"):
        open_any_grant(inner, handle=alias, client_id=ME.id)


async def test_a_grant_opens_for_its_client_and_alias_alone() -> None:
    handles = epoch_keys().handles()
    alias, other = (handles.alias(bytes((each,)) * 16, TARGET).text for each in (1, 2))
    device = OneOfMany(0)
    desk = GrantDesk(ManyPairings([device]), GrantsConfig(anyone="all"), epoch_keys())
    body = GrantBody(handle=alias, sealing_key="", actions=("read",))
    grant, _ = desk.granted_to(
        Client(public_key=ME.public_key), body, device.record, now_us=1_800_000_000_000_000
    )
    sealed = encode_sealed(SealedAny(version=1, grant=encode_grant(grant), reads=("read",)))

    assert open_any_grant(sealed, handle=alias, client_id=ME.id) == (grant, ("read",))
    with pytest.raises(BadReplyError, match="another service"):
        open_any_grant(sealed, handle=other, client_id=ME.id)
    with pytest.raises(BadReplyError, match="another client"):
        open_any_grant(sealed, handle=alias, client_id=bytes(8))
    with pytest.raises(BadReplyError, match="not a grant"):
        open_any_grant(sealed, handle="x", client_id=ME.id)


@pytest.mark.parametrize(("type_name", "action"), [("camera", "read"), ("valve", "open")])
async def test_a_grant_on_something_else_than_was_asked_for_is_not_used(
    type_name: str, action: str
) -> None:
    async with any_world(1) as world:
        handle = world.keys.handles().alias(bytes(16), TARGET).text
        grants = GrantDesk(ManyPairings(world.devices), GrantsConfig(anyone="all"), world.keys)
        body = GrantBody(handle=handle, sealing_key="", actions=("read",))
        client = Client(public_key=ME.public_key)
        grant, _ = grants.granted_to(client, body, record_of(0), now_us=world.now_us)

        async def any_grant(request: SignedRequest) -> AnyGrantAnswer:
            sealed = seal(
                sealing_public_key_of(ME.sealing),
                encode_sealed(SealedAny(version=1, grant=encode_grant(grant), reads=("read",))),
                purpose=ANY_GRANT_PURPOSE,
                context=seal_context(ME.tag, alias_name(handle)),
            )
            return AnyGrantAnswer(handle=handle, sealed=to_text(sealed))

        world.desk.any_grant = any_grant  # type: ignore[method-assign]
        async with HttpClient(world.at) as http:
            chosen = await request_any_grant(http, ME, "read", type="valve", ttl_s=60, cell=AREA)
            assert (chosen.handle, chosen.is_read) == (handle, True)
            with pytest.raises(BadReplyError, match="does not allow"):
                await request_any_grant(http, ME, action, type=type_name, ttl_s=60, cell=AREA)


@pytest.mark.parametrize("key", ["", "x", to_text(bytes(31)), to_text(bytes(33))])
def test_a_wish_without_a_key_to_seal_to_is_refused_at_the_entry(key: str) -> None:
    body = AnyGrantBody(type="valve", sealing_key=key, actions=("read",), cell=AREA)
    with pytest.raises((InvalidValueError, MalformedError)):
        read_any_body(replace(signed(9), body=encode_json(body)))


async def test_a_grant_that_came_with_another_alias_is_not_accepted() -> None:
    async with any_world() as world:
        original = world.desk.any_grant
        other = await ask(world)

        async def swapped(request: SignedRequest) -> Any:
            return replace(await original(request), handle=other)

        world.desk.any_grant = swapped  # type: ignore[method-assign]
        async with HttpClient(world.at) as http:
            with pytest.raises(SealError):
                await request_any_grant(http, ME, "read", type="valve", ttl_s=60, cell=AREA)


# --- calls --------------------------------------------------------------------------------------


async def call(world: AnyWorld, action: str = "read", **how: Any) -> str:
    """The id of the device that answered."""
    fields: dict[str, Any] = {"type": "valve", "cell": AREA, "keys": ME, "wait_s": 30.0, **how}
    async with NodeClient(world.at) as node:
        return (await node.call_any(action, b"please", **fields)).payload.decode()


async def answered(world: AnyWorld, calling: asyncio.Task[str], *numbers: int) -> str:
    """What the call gets when these devices wake again and again."""
    async with asyncio.timeout(20):
        while not calling.done():
            await world.wake(*numbers)
            await asyncio.wait({calling}, timeout=0.01)
    return await calling


async def handed(world: AnyWorld, device: OneOfMany) -> None:
    """The device has a request, and has not said what became of it."""
    async with asyncio.timeout(10):
        while not device.executed:
            await device.exchange(world.exchanges, world.now_us)


async def until(world: AnyWorld, count: int) -> None:
    """So many requests have been queued."""
    async with asyncio.timeout(10):
        while len(world.writer.boxes.live) < count:  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.002)


async def test_any_one_service_answers_the_call() -> None:
    async with any_world(3) as world:
        calling = asyncio.create_task(call(world))
        await until(world, 1)
        told = await answered(world, calling, 0, 1, 2)
        assert [target for _, target in world.executed] == ["valve/read"]
        (number,) = [number for number, _ in world.executed]
        assert told == world.devices[number].id
        assert len(world.choices) == 0


@pytest.fixture
def staying(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when a call has run out of patience, and stays with the service that it was given to."""
    decided = asyncio.Event()
    finish = Attempt.finish

    async def stays(attempt: Attempt, wait_s: float) -> CallResult:
        decided.set()
        return await finish(attempt, wait_s)

    monkeypatch.setattr(Attempt, "finish", stays)
    return decided


class Switching:
    """Tickets and news of a call that changes its mind."""

    def __init__(self) -> None:
        self.handles: list[str] = []
        self.states: list[str] = []
        self.second = asyncio.Event()

    def keep(self, ticket: Any) -> None:
        self.handles.append(ticket.handle)

    def news(self, answer: RequestAnswer) -> None:
        self.states.append(answer.state)
        if len(self.handles) == 2:
            self.second.set()


async def test_a_call_that_no_device_was_handed_is_given_to_another_once_it_is_cancelled() -> None:
    async with any_world(2) as world:
        seen = Switching()
        calling = asyncio.create_task(
            call(world, "open", patience_s=0.05, keep=seen.keep, news=seen.news)
        )
        await asyncio.wait_for(seen.second.wait(), 10)
        first, second = (behind(world, handle) for handle in seen.handles[:2])
        told = await answered(world, calling, 0, 1)
        assert first != second
        assert told == world.device_of(second).id
        assert len(world.executed) == 1


async def test_a_call_that_changes_something_stays_where_a_device_was_handed_it(
    staying: asyncio.Event,
) -> None:
    async with any_world(2) as world:
        seen = Switching()
        calling = asyncio.create_task(
            call(world, "open", patience_s=0.5, keep=seen.keep, news=seen.news)
        )
        await until(world, 1)
        device = world.device_of(behind(world, seen.handles[0]))
        await handed(world, device)  # and says nothing yet
        await asyncio.wait_for(staying.wait(), 10)
        assert await answered(world, calling, world.devices.index(device)) == device.id
        assert (len(seen.handles), len(world.executed)) == (1, 1)


async def test_a_call_that_only_reads_is_given_to_another_whatever_became_of_the_first() -> None:
    async with any_world(2) as world:
        seen = Switching()
        calling = asyncio.create_task(call(world, patience_s=0.5, keep=seen.keep, news=seen.news))
        await until(world, 1)
        first = world.device_of(behind(world, seen.handles[0]))
        await handed(world, first)  # and vanishes with it
        await asyncio.wait_for(seen.second.wait(), 10)
        other = 1 - world.devices.index(first)
        assert await answered(world, calling, other) == world.devices[other].id


async def test_a_call_with_nobody_else_to_ask_waits_on(staying: asyncio.Event) -> None:
    async with any_world(1) as world:
        seen = Switching()
        calling = asyncio.create_task(
            call(world, "open", patience_s=0.05, keep=seen.keep, news=seen.news)
        )
        await asyncio.wait_for(staying.wait(), 10)
        assert await answered(world, calling, 0) == world.devices[0].id
        assert len(seen.handles) == 1


@pytest.mark.parametrize(
    "refusal", [BudgetError("enough for now", retry_after_s=9), UnavailableError("not now")]
)
async def test_a_node_that_finds_nobody_else_just_now_costs_no_call(refusal: Refused) -> None:
    async with any_world(2) as world:
        seen = Switching()
        calling = asyncio.create_task(
            call(world, "open", patience_s=0.05, keep=seen.keep, news=seen.news)
        )
        await until(world, 1)
        asked = asyncio.Event()

        async def refuse(request: SignedRequest) -> AnyGrantAnswer:
            asked.set()
            raise refusal

        world.desk.any_grant = refuse  # type: ignore[method-assign]
        await asyncio.wait_for(asked.wait(), 10)
        assert await answered(world, calling, 0, 1)
        assert (len(seen.handles), len(world.executed)) == (1, 1)


@pytest.mark.parametrize("action", ["open", "read"])
async def test_a_call_that_may_not_be_cancelled_is_the_one_to_wait_for(
    action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with any_world(2) as world:
        seen = Switching()
        tried = asyncio.Event()

        async def unheard(_: CallTracker) -> RequestAnswer:
            tried.set()
            raise CannotReachError("no word")

        monkeypatch.setattr(CallTracker, "cancel", unheard)
        calling = asyncio.create_task(
            call(world, action, patience_s=0.05, keep=seen.keep, news=seen.news)
        )
        await asyncio.wait_for(tried.wait(), 10)
        assert await answered(world, calling, 0, 1)
        assert (len(seen.handles), len(world.executed)) == (1, 1)


async def test_a_full_mailbox_sends_the_call_to_another_member() -> None:
    async with any_world(2, depth=1) as world, NodeClient(world.at) as node:
        for _ in range(2):
            with pytest.raises(CallPendingError):
                await node.call_any(
                    "open", type="valve", cell=AREA, keys=ME, wait_s=0.01, patience_s=9
                )
        assert len(world.writer.boxes.live) == 2
        with pytest.raises(MailboxFullError):
            await node.call_any("open", type="valve", cell=AREA, keys=ME, wait_s=1)


async def test_a_call_nobody_answers_is_pending_and_one_in_all_goes_on() -> None:
    async with any_world(5) as world:
        with pytest.raises(CallPendingError):
            await call(world, "open", wait_s=0.3)
        assert len(world.writer.boxes.live) == 1


async def test_an_alias_of_another_epoch_and_a_handle_of_another_client_open_nothing() -> None:
    async with any_world(1) as world:
        other = world.keys.handles().own(bytes(16), Target(NodeId(HOME), RecordKey(record_of(0))))
        async with HttpClient(world.at) as http:
            chosen = await request_any_grant(http, ME, "read", type="valve", ttl_s=60, cell=AREA)
        assert chosen.is_read
        async with NodeClient(world.at, chosen.capability, client=ME.id) as node:
            with pytest.raises(UnknownHandleError):
                await node.call(other.text, "read", wait_s=0)
            enter(world.keys, 9)
            with pytest.raises(UnknownHandleError):
                await node.call(chosen.handle, "read", wait_s=0)
