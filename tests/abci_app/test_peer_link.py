"""The link between nodes: who is heard, what passes it, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.any_grants import AnyGrantDesk
from abci_app.config import LinkConfig, NodeConfig
from abci_app.config_guards import GrantsConfig
from abci_app.entry_desk import GrantForwarder
from abci_app.epoch_keys import EpochKeys
from abci_app.grants import GrantDesk
from abci_app.peer_api import (
    ACKNOWLEDGE_PATH,
    ANY_GRANT_PATH,
    CANCEL_PATH,
    GRANT_PATH,
    LOOK_PATH,
    OUTCOMES_PATH,
    PASS_PATH,
    Reference,
)
from abci_app.peer_link import MemberWay, PeerLink, is_away, way_to
from abci_app.peer_parts import links_of
from abci_app.peer_routes import peer_routes
from abci_app.schema import Member, StoredService
from edgistry.adapters.crypto import (
    generate_sealing_key,
    generate_signing_key,
    public_key_of,
    sealing_public_key_of,
)
from edgistry.adapters.http import HttpClient, HttpServer, Request
from edgistry.adapters.tls import client_context, server_context
from edgistry.errors import (
    ClientSignatureError,
    ConfigError,
    FutureError,
    GrantRefusedError,
    NotFoundError,
    PermissionRefusedError,
    UnavailableError,
    UnknownHandleError,
    UnknownRequestError,
    WrongNodeKeyError,
)
from edgistry.requests_api import to_text
from edgistry.signed_request import client_tag
from edgistry.transactions import NodeId, node_id_of
from tests.handle_world import begin_epoch, epoch_keys

from .desk_world import SECOND, desks
from .granting_world import KEYS, RECORD, OneService, handle_of
from .peer_world import ENTRY, HOME, STORED, CutWay, nodes
from .test_grants import NOW, Asker

HOME_SEED, ENTRY_SEED, STRANGER_SEED = (generate_signing_key() for _ in range(3))
NOBODY = Reference(id=b"?" * 16, fetch_hash=b"?" * 32)
PATHS = (
    PASS_PATH,
    LOOK_PATH,
    ACKNOWLEDGE_PATH,
    CANCEL_PATH,
    OUTCOMES_PATH,
    GRANT_PATH,
    ANY_GRANT_PATH,
)


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[str]:
    """A home node's link over TLS that knows the entry node; its address."""
    async with desks() as home:
        grants = GrantDesk(home.pairings, GrantsConfig(), KEYS)
        server = HttpServer(peer_routes(home.requests, grants, AnyGrantDesk(grants)))
        context = server_context(HOME_SEED, members=[public_key_of(ENTRY_SEED)])
        port = await server.listen_tcp("127.0.0.1", 0, tls=context)
        try:
            yield f"https://127.0.0.1:{port}"
        finally:
            await server.stop(grace_s=0.1)


async def test_node_that_proves_to_be_a_member_is_heard_over_tls() -> None:
    async with listening() as url:
        way = way_to(url, public_key=public_key_of(HOME_SEED), seed=ENTRY_SEED)
        link = PeerLink(HOME, way)
        assert (await link.which_ended([NOBODY])).ended == ()
        with pytest.raises(UnknownRequestError):
            await link.look(NOBODY)
        await link.close()


async def test_caller_without_a_node_s_key_is_not_heard_over_tls() -> None:
    async with listening() as url:
        key = public_key_of(HOME_SEED)
        link = PeerLink(HOME, HttpClient(url, tls=client_context(key)))
        with pytest.raises(PermissionRefusedError):
            await link.look(NOBODY)
        await link.close()


async def test_nothing_is_said_to_a_node_with_another_key_and_it_counts_as_away() -> None:
    async with listening() as url:
        way = way_to(url, public_key=public_key_of(STRANGER_SEED), seed=ENTRY_SEED)
        link = PeerLink(HOME, way)
        with pytest.raises(WrongNodeKeyError) as refused:
            await link.look(NOBODY)
        assert is_away(refused.value)
        assert not link.seems_up
        await link.close()


async def test_a_node_that_is_a_member_no_more_is_not_heard_on_an_open_connection() -> None:
    async with desks() as home:
        members = {ENTRY}
        grants = GrantDesk(home.pairings, GrantsConfig(), KEYS)
        routes = peer_routes(
            home.requests, grants, AnyGrantDesk(grants), is_member=members.__contains__
        )
        server = HttpServer(routes)
        for path in PATHS:
            request = Request(method="POST", path=path, body=b"", peer_node=ENTRY)
            assert (await server.answer(request)).status == 400
        members.clear()
        for path in PATHS:
            request = Request(method="POST", path=path, body=b"", peer_node=ENTRY)
            assert (await server.answer(request)).status == 403


async def test_a_link_leads_to_a_member_only_while_it_is_one() -> None:
    member = Member(public_key=public_key_of(HOME_SEED), name="home")
    members: dict[NodeId, Member] = {}
    async with listening() as url:
        way = MemberWay(HOME, url, seed=ENTRY_SEED, members=lambda: members)
        link = PeerLink(HOME, way)
        for is_member in (False, True, False):
            members.clear()
            if is_member:
                members[HOME] = member
                assert (await link.which_ended([NOBODY])).ended == ()
                continue
            with pytest.raises(UnavailableError) as refused:
                await link.which_ended([NOBODY])
            assert is_away(refused.value)
            assert way._way is None, "connections end with the membership"
        await link.close()


async def test_refusal_passes_the_link_as_what_it_is() -> None:
    async with nodes() as world:
        skewed = world.home.asked(world.home.bind(sequence=world.home.now_us + 200 * SECOND))
        world.home.now_us -= 200 * SECOND
        # The entry node's clock is right, the home node's is late.
        world.book.clock_us = lambda: world.home.now_us + 200 * SECOND
        with pytest.raises(FutureError):
            await world.entry.submit(skewed)


@pytest.mark.parametrize("path", PATHS)
@given(body=st.binary(max_size=200))
async def test_any_bytes_from_a_node_are_answered_or_refused(path: str, body: bytes) -> None:
    async with desks() as home:
        grants = GrantDesk(home.pairings, GrantsConfig(), KEYS)
        server = HttpServer(peer_routes(home.requests, grants, AnyGrantDesk(grants)))
        request = Request(method="POST", path=path, body=body, peer_node=ENTRY)
        assert (await server.answer(request)).status in {200, 400, 413}


# --- grants -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def granting(
    keys: EpochKeys = KEYS, home_keys: EpochKeys = KEYS
) -> AsyncIterator[tuple[GrantForwarder, CutWay]]:
    """The entry node's side of grants on a service of ``granting_world``."""
    async with desks() as home:
        desk = GrantDesk(OneService(), GrantsConfig(), home_keys, clock_us=lambda: NOW)
        way = CutWay(HttpServer(peer_routes(home.requests, desk, AnyGrantDesk(desk))))
        nobody = GrantDesk(home.pairings, GrantsConfig(), KEYS, clock_us=lambda: NOW)

        def find(key: bytes) -> StoredService | None:
            return STORED if key == RECORD else None

        links = {HOME: PeerLink(HOME, way)}
        yield GrantForwarder(nobody, links, node_id=ENTRY, find=find, keys=keys), way


async def test_grant_is_asked_for_at_any_node_and_opens_for_the_client_alone() -> None:
    async with granting() as (entry, _):
        asker = Asker()
        granted = asker.open(await entry.grant(asker.signed()))
        assert [each.action for each in granted.granted] == ["read"]


@pytest.mark.parametrize("late", ["home node", "entry node"])
async def test_grant_is_given_also_where_the_key_of_the_epoch_comes_a_moment_later(
    late: str,
) -> None:
    there, behind = epoch_keys(2), epoch_keys(1)
    keys = (there, behind) if late == "home node" else (behind, there)
    async with granting(*keys) as (entry, _):
        asker = Asker(epoch=2)
        asking = asyncio.create_task(entry.grant(asker.signed()))
        for _turn in range(20):
            await asyncio.sleep(0)
        assert not asking.done()
        begin_epoch(behind, 2)
        granted = asker.open(await asking)
        assert [each.action for each in granted.granted] == ["read"]


async def test_node_on_the_way_cannot_have_a_grant_sealed_to_itself() -> None:
    async with granting() as (entry, way):
        asker, thief = Asker(), Asker(sealing=generate_sealing_key())
        old, new = (to_text(sealing_public_key_of(each.sealing)) for each in (asker, thief))
        way.tamper_request = lambda _path, body: body.replace(old.encode(), new.encode())
        with pytest.raises(ClientSignatureError):
            await entry.grant(asker.signed())


async def test_home_node_s_policy_counts() -> None:
    async with granting() as (entry, _):
        with pytest.raises(GrantRefusedError):
            await entry.grant(Asker().signed(actions=("open",)))


async def test_grant_cannot_wait_for_a_home_node_that_is_away_nor_tell_who_it_is() -> None:
    async with granting() as (entry, way):
        way.is_cut = True
        with pytest.raises(UnavailableError) as refused:
            await entry.grant(Asker().signed())
        assert "cut" not in refused.value.detail


async def test_service_of_a_node_without_a_link_is_unavailable() -> None:
    async with granting() as (entry, _):
        entry._links = {}
        with pytest.raises(UnavailableError):
            await entry.grant(Asker().signed())


async def test_unknown_service_is_not_found() -> None:
    async with granting() as (entry, _):
        with pytest.raises(NotFoundError):
            await entry.grant(
                Asker().signed(handle=handle_of(client_tag(Asker().public), bytes(16)))
            )
        with pytest.raises(UnknownHandleError):
            await entry.grant(Asker(seed=b"x" * 32).signed(handle=Asker().handle))


# --- links in node.toml -------------------------------------------------------------------------


def peers(*entries: str) -> NodeConfig:
    return NodeConfig(name="entry", link=LinkConfig(peers=entries))


async def test_links_lead_to_other_nodes_and_to_each_once() -> None:
    own, other, stranger = (
        node_id_of(public_key_of(seed)) for seed in (ENTRY_SEED, HOME_SEED, STRANGER_SEED)
    )
    members = {
        node_id_of(public_key_of(seed)): Member(public_key=public_key_of(seed), name=name)
        for seed, name in ((ENTRY_SEED, "entry"), (HOME_SEED, "home"))
    }

    def links(*entries: str) -> list[bytes]:
        return list(
            links_of(peers(*entries), seed=ENTRY_SEED, node_id=own, members=lambda: members)
        )

    assert links(f"{other.hex()}@10.0.0.1:27013") == [other]
    # A stranger may become a member.
    assert links(f"{stranger.hex()}@10.0.0.1:27013") == [stranger]
    for wrong in (
        [f"{own.hex()}@10.0.0.1:27013"],
        [f"{other.hex()}@10.0.0.1:27013", f"{other.hex()}@10.0.0.2:27013"],
    ):
        with pytest.raises(ConfigError):
            links(*wrong)
