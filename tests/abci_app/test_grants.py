"""Who is granted what, and what a grant is good for."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.config_guards import GrantsConfig
from abci_app.grants import GrantDesk, end_of_grant
from edgistry.adapters.crypto import (
    generate_sealing_key,
    open_sealed,
    public_key_of,
    sealing_public_key_of,
    signer,
)
from edgistry.capability import Capability
from edgistry.codec import encode, encode_json
from edgistry.envelope import Operation
from edgistry.errors import (
    BadReplyError,
    CaveatError,
    ClientSignatureError,
    GrantRefusedError,
    InvalidValueError,
    LimitExceededError,
    MalformedError,
    NoRightError,
    NotFoundError,
    SealError,
    UnknownHandleError,
)
from edgistry.grants_api import (
    GRANT_PURPOSE,
    GRANTS_PATH,
    Grant,
    GrantAnswer,
    Granted,
    grant_service,
    open_grant,
    seal_context,
)
from edgistry.handles import Target
from edgistry.issuer import Issuer
from edgistry.operations import NEWEST, encode_get
from edgistry.requests_api import to_bytes, to_text
from edgistry.signed_request import SignedRequest, client_tag, sign_request
from edgistry.transactions import RecordKey
from tests.handle_world import HOME, handle_for

from .granting_world import DEVICE, KEYS, RECORD, OneService, handle_of
from .pairing_world import Draw

NOW = 1_800_000_000_000_000


@dataclass
class Asker:
    """A client with keys of its own."""

    seed: bytes = b"c" * 32
    sealing: bytes = generate_sealing_key()
    epoch: int = 1

    @property
    def public(self) -> bytes:
        return public_key_of(self.seed)

    @property
    def handle(self) -> str:
        return handle_of(client_tag(self.public), epoch=self.epoch)

    @property
    def service(self) -> bytes:
        return grant_service(self.handle)

    @property
    def id(self) -> bytes:
        return client_tag(self.public)[:8]

    async def ask(
        self,
        policy: GrantsConfig,
        *,
        time_us: int = NOW,
        raw: bytes | None = None,
        epoch_ends_us: int | None = None,
        **fields: object,
    ) -> Grant:
        desk = GrantDesk(
            OneService(),
            policy,
            KEYS,
            epoch_ends_us=lambda: epoch_ends_us,
            clock_us=lambda: NOW,
            draw=Draw(),
        )
        return self.open(await desk.grant(self.signed(time_us=time_us, raw=raw, **fields)))

    def signed(
        self, *, time_us: int = NOW, raw: bytes | None = None, **fields: object
    ) -> SignedRequest:
        plain = {"handle": self.handle, "sealing_key": to_text(sealing_public_key_of(self.sealing))}
        body = encode_json({**plain, **fields}) if raw is None else raw
        return sign_request(
            "POST",
            GRANTS_PATH,
            body,
            client=self.public,
            sign=signer(self.seed),
            time_us=time_us,
            nonce=b"n" * 16,
        )

    def open(self, answer: GrantAnswer) -> Grant:
        return open_grant(self.unseal(to_bytes(answer.sealed, "sealed")), client_id=self.id)

    def unseal(self, sealed: bytes) -> bytes:
        context = seal_context(client_tag(self.public), self.service)
        return open_sealed(self.sealing, sealed, purpose=GRANT_PURPOSE, context=context)


OPEN = GrantsConfig(anyone="all")
READ_ONLY = GrantsConfig(anyone="read")
CLOSED = GrantsConfig(anyone="none")
ME = Asker()
LISTED = GrantsConfig(anyone="none", clients=(ME.id.hex(),))


def names(grant: Grant) -> list[tuple[str, bool]]:
    return [(each.action, each.is_call) for each in grant.granted]


async def test_anyone_is_granted_what_only_reads() -> None:
    grant = await ME.ask(READ_ONLY)
    assert (grant.service, grant.type, names(grant)) == (
        grant_service(ME.handle),
        "valve",
        [("read", True)],
    )


async def test_what_changes_something_is_granted_to_named_clients_only() -> None:
    with pytest.raises(GrantRefusedError, match=ME.id.hex()):
        await ME.ask(READ_ONLY, actions=["open"])
    with pytest.raises(GrantRefusedError):
        await ME.ask(READ_ONLY, actions=["read", "open"])
    assert names(await ME.ask(LISTED)) == [("open", True), ("read", True)]
    stranger = Asker(seed=b"x" * 32)
    with pytest.raises(GrantRefusedError):
        await stranger.ask(LISTED)


async def test_a_closed_node_grants_nothing() -> None:
    with pytest.raises(GrantRefusedError):
        await ME.ask(CLOSED)


async def test_a_call_is_good_for_one_action_one_handler_one_client_and_a_time() -> None:
    grant = await ME.ask(OPEN, actions=["open"], ttl_s=60)
    (granted,) = grant.granted
    capability = Capability.from_bytes(granted.capability)

    def check(
        operation: int = Operation.PUT, target: str = "valve/open", **changes: object
    ) -> None:
        given = {"client": ME.id, "handler": "open", "now_us": NOW, **changes}
        capability.check(operation, target, b"x", **given)  # type: ignore[arg-type]

    check()
    assert grant.not_after_us == NOW + 60_000_000
    for wrong in (
        {"now_us": NOW + 60_000_001},
        {"client": bytes(8)},
        {"handler": "read"},
        {"handler": "turn"},
        {"handler": ""},
    ):
        with pytest.raises(CaveatError):
            check(**wrong)
    for target in ("valve/read", "valve", "other/open"):
        with pytest.raises(NoRightError):
            check(target=target)


async def test_a_call_does_not_let_the_client_look_at_what_others_asked() -> None:
    (granted,) = (await ME.ask(READ_ONLY)).granted
    capability = Capability.from_bytes(granted.capability)
    with pytest.raises((NoRightError, CaveatError)):
        capability.check(Operation.GET, "valve/read", bytes(8), client=ME.id, now_us=NOW)


async def test_looking_is_a_capability_of_its_own() -> None:
    grant = await ME.ask(READ_ONLY, uses=["call", "get"])
    assert names(grant) == [("read", True), ("read", False)]
    look = Capability.from_bytes(grant.granted[1].capability)
    look.check(Operation.GET, "valve/read", encode_get(NEWEST), client=ME.id, now_us=NOW)
    with pytest.raises((NoRightError, CaveatError)):
        look.check(Operation.PUT, "valve/read", client=ME.id, now_us=NOW)


async def test_nobody_is_granted_the_numbers_that_all_callers_share() -> None:
    with pytest.raises(MalformedError):
        await ME.ask(LISTED, uses=["latest"])
    look = Capability.from_bytes((await ME.ask(LISTED, uses=["get"])).granted[0].capability)
    with pytest.raises(CaveatError):
        look.check(Operation.LATEST, "valve/open", client=ME.id, now_us=NOW)
    with pytest.raises(CaveatError):
        look.check(Operation.GET, "valve/open", encode_get(7), client=ME.id, now_us=NOW)


@pytest.mark.parametrize(
    ("ttl_s", "epoch_ends_us", "good_for_s"),
    [
        (3600, None, 3600),
        (3600, NOW + 1_000_000, 3600),
        (30 * 86_400, NOW + 3600_000_000, 3600 + 86_400),
        (30 * 86_400, NOW - 9 * 86_400_000_000, 86_400),
    ],
)
async def test_a_grant_ends_a_day_after_its_privacy_epoch_at_the_latest(
    ttl_s: int, epoch_ends_us: int | None, good_for_s: int
) -> None:
    grant = await ME.ask(OPEN, ttl_s=ttl_s, epoch_ends_us=epoch_ends_us)
    assert grant.not_after_us == NOW + good_for_s * 1_000_000
    for each in grant.granted:
        assert Capability.from_bytes(each.capability).chain.not_after_us == grant.not_after_us


@given(
    now_us=st.integers(0, 1 << 62),
    ttl_s=st.integers(1, 10 * 365 * 86_400),
    ends_us=st.none() | st.integers(0, 1 << 62),
)
def test_the_end_of_a_grant_is_ahead_and_never_later_than_asked_for(
    now_us: int, ttl_s: int, ends_us: int | None
) -> None:
    end_us = end_of_grant(now_us, ttl_s, ends_us)
    assert now_us < end_us <= now_us + ttl_s * 1_000_000
    if ends_us is not None and ends_us > now_us:
        assert end_us <= max(ends_us + 86_400_000_000, now_us + 1)


async def test_nobody_but_named_clients_looks_at_actions_that_change_something() -> None:
    grant = await ME.ask(OPEN, uses=["call", "get"])
    assert names(grant) == [("open", True), ("read", True), ("read", False)]
    with pytest.raises(GrantRefusedError):
        await ME.ask(OPEN, uses=["get"], actions=["open"])
    assert names(await ME.ask(LISTED, uses=["get"], actions=["open"])) == [("open", False)]


async def test_the_device_executes_what_was_granted() -> None:
    (granted,) = (await ME.ask(READ_ONLY)).granted
    capability = Capability.from_bytes(granted.capability)
    request = capability.bind(
        Operation.PUT,
        "valve/read",
        client=ME.id,
        handler="read",
        sequence=NOW,
        deadline=NOW + 1,
    )
    reply = request.open_reply(DEVICE.execute(request.encoded, NOW))
    assert reply.status == 0


async def test_two_grants_share_no_bytes_that_name_the_device() -> None:
    first = Capability.from_bytes((await ME.ask(OPEN)).granted[0].capability)
    second = Capability.from_bytes((await ME.ask(OPEN)).granted[1].capability)
    assert first.serial != second.serial
    assert DEVICE.id.encode() not in first.public


async def test_a_grant_opens_for_nobody_else() -> None:
    thief = Asker(seed=ME.seed)
    thief.sealing = generate_sealing_key()
    with pytest.raises(SealError):
        await thief.ask(OPEN, sealing_key=to_text(sealing_public_key_of(ME.sealing)))


def for_clients(*clients: bytes) -> Capability:
    capability = Issuer(1, b"K" * 32).mint(serial=1)
    for client in clients:
        capability = capability.derive(client=client)
    return capability


@pytest.mark.parametrize(
    ("clients", "is_accepted"),
    [((), False), ((bytes(8),), False), ((ME.id, bytes(8)), False), ((ME.id,), True)],
)
def test_only_a_grant_for_the_client_itself_is_accepted(
    clients: tuple[bytes, ...], is_accepted: bool
) -> None:
    data = for_clients(*clients).danger_bytes()
    granted = Granted(action="read", is_call=True, capability=data)
    grant = Grant(version=1, service=RECORD, type="valve", not_after_us=1, granted=(granted,))
    if is_accepted:
        assert open_grant(encode(grant), client_id=ME.id) == grant
        return
    with pytest.raises(BadReplyError):
        open_grant(encode(grant), client_id=ME.id)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_grant_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadReplyError):
        open_grant(data, client_id=ME.id)


async def test_an_unknown_service_or_action_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        await ME.ask(OPEN, handle=handle_of(client_tag(ME.public), bytes(16)))
    with pytest.raises(NotFoundError):
        await ME.ask(OPEN, actions=["shut"])


async def test_handle_of_anybody_else_is_unknown_and_the_answer_does_not_tell_why() -> None:
    tag = client_tag(ME.public)
    wrong = [
        handle_of(client_tag(Asker(seed=b"x" * 32).public)),
        handle_for(RECORD, tag=tag, epoch=7),
        handle_of(tag)[:-1],
        "B" + handle_of(tag)[1:] if handle_of(tag)[0] != "B" else "C" + handle_of(tag)[1:],
        KEYS.handles().alias(tag, Target(HOME, RecordKey(RECORD))).text,
        to_text(RECORD),
    ]
    answers = set()
    for handle in wrong:
        with pytest.raises(UnknownHandleError) as refused:
            await ME.ask(OPEN, handle=handle)
        answers.add(str(refused.value))
    assert len(answers) == 1


async def test_a_request_that_was_not_signed_now_is_refused() -> None:
    with pytest.raises(ClientSignatureError):
        await ME.ask(OPEN, time_us=NOW - 301_000_000)


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"handle": "x"}, UnknownHandleError),
        ({"sealing_key": "AAAA"}, InvalidValueError),
        ({"sealing_key": to_text(bytes(32))}, InvalidValueError),
        ({"uses": []}, MalformedError),
        ({"uses": ["mint"]}, MalformedError),
        ({"ttl_s": 0}, MalformedError),
        ({"ttl_s": 30 * 86_400 + 1}, LimitExceededError),
        ({"raw": b"?"}, MalformedError),
    ],
)
async def test_what_makes_no_sense_is_refused(
    fields: dict[str, object], refusal: type[Exception]
) -> None:
    with pytest.raises(refusal):
        await ME.ask(OPEN, **fields)  # type: ignore[arg-type]


def test_the_secrets_of_a_grant_are_in_no_text() -> None:
    granted = Granted(action="read", is_call=True, capability=b"s" * 40)
    grant = Grant(version=1, service=RECORD, type="valve", not_after_us=1, granted=(granted,))
    assert "ssss" not in f"{granted!r} {grant!r}"
