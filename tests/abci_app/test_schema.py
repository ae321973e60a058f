"""The registry database's values and the genesis document."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app import schema
from abci_app.schema import (
    ChainParameters,
    CurrentEpoch,
    Former,
    GenesisMember,
    GenesisState,
    Head,
    Lease,
    Member,
    Roll,
    SequenceState,
    StoredEpoch,
    StoredRegion,
    StoredService,
    genesis_bytes,
    genesis_members,
    genesis_parameters,
    outage_gap_s,
    pack,
    parse_genesis,
    stored_service,
    unpack,
)
from edgistry.codec import Wire
from edgistry.errors import ConfigError, CorruptDatabaseError

from .chain_world import ANN, BOB, genesis, record

VALUES: list[Wire] = [
    ChainParameters(chain_id="c", lease_us=1, delete_after_us=2, outage_gap_us=3, epoch_us=4),
    CurrentEpoch(number=3, good=1, given_up=((ANN.id, 2),)),
    StoredEpoch(
        since_us=1,
        check=bytes(16),
        keys=((ANN.id, bytes(32)),),
        sealed=((ANN.id, bytes(80)),),
        maker=BOB.id,
        over_us=2,
        late=((ANN.id, 3),),
        took_back=(ANN.id,),
    ),
    StoredEpoch(since_us=0, check=b"", keys=(), sealed=()),
    Member(public_key=ANN.public_key, name="ann"),
    Member(
        public_key=ANN.public_key,
        name="ann",
        validator_key=ANN.validator_key,
        peer_id=ANN.peer_id,
        power=10,
    ),
    Former(left_us=1, peer_id=ANN.peer_id, withdrawing=True),
    Roll(changes=2),
    Lease(expires_us=1 << 60),
    SequenceState(last=3, refused=((1, 14), (2, 2))),
    StoredRegion(owner=ANN.id, version=1, cells=bytes(8)),
    stored_service(ANN.id, record("a")),
    Head(height=7, block_time_us=1, app_hash=bytes(32), previous_app_hash=bytes(32)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_stored_value_reads_back(value: Wire) -> None:
    assert unpack(pack(value), type(value)) == value


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=100), value=st.sampled_from(VALUES))
def test_any_stored_bytes_are_a_value_or_damage(data: bytes, value: Wire) -> None:
    try:
        found = unpack(data, type(value))
    except CorruptDatabaseError:
        return
    assert pack(found) == data


def test_records_of_the_hash_and_bookkeeping_have_apart_keys() -> None:
    hashed = [
        schema.PARAMETERS_KEY,
        schema.LEASE_CLOCK_KEY,
        schema.lease_key(ANN.id),
        schema.member_key(ANN.id),
        schema.sequence_key(ANN.id),
        schema.region_key("bay"),
        schema.service_key(record("a").key),
    ]
    others = [schema.FORMAT_KEY, schema.HEAD_KEY, schema.home_key(ANN.id, record("a").key)]
    assert all(schema.RECORDS_START <= key < schema.RECORDS_STOP for key in hashed)
    assert not any(schema.RECORDS_START <= key < schema.RECORDS_STOP for key in others)
    assert len({key[:1] for key in hashed}) == len(hashed)


def test_a_genesis_document_reads_back() -> None:
    state = genesis(lease_s=20, delete_after_s=40, outage_gap_s=15)
    assert parse_genesis(genesis_bytes(state)) == state
    assert genesis_parameters("c", state).lease_us == 20_000_000
    assert [member.name for member in genesis_members(state).values()] == ["ann", "bob"]
    assert list(genesis_members(state)) == [ANN.id, BOB.id]


def test_periods_have_defaults() -> None:
    state = parse_genesis(
        b'{"members":[{"name":"ann","public_key":"' + ANN.public_key.hex().encode() + b'"}]}'
    )
    assert (state.lease_s, state.delete_after_s, outage_gap_s(state)) == (600, 604_800, 60)


def state_with(**fields: object) -> GenesisState:
    members = (GenesisMember(name="ann", public_key=ANN.public_key.hex()),)
    return GenesisState(**{"members": members, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (state_with(lease_s=0), "lease_s"),
        (state_with(delete_after_s=-1), "delete_after_s"),
        (state_with(outage_gap_s=1 << 40), "outage_gap_s"),
        (state_with(outage_gap_s=10), "outage_gap_s"),
        (state_with(chain_id="Not A Chain"), "chain id"),
        (state_with(members=()), "0 members"),
        (state_with(members=(GenesisMember(name="", public_key="00" * 32),)), "name"),
        (state_with(members=(GenesisMember(name="a b", public_key="00" * 32),)), "name"),
        (state_with(members=(GenesisMember(name="a", public_key="00" * 31),)), "public_key"),
        (state_with(members=(GenesisMember(name="a", public_key="AB" * 32),)), "public_key"),
        (
            state_with(
                members=(
                    GenesisMember(name="a", public_key="00" * 32),
                    GenesisMember(name="a", public_key="01" * 32),
                )
            ),
            "same name",
        ),
        (
            state_with(
                members=(
                    GenesisMember(name="a", public_key="00" * 32),
                    GenesisMember(name="b", public_key="00" * 32),
                )
            ),
            "same public_key",
        ),
        *(
            (
                state_with(
                    members=tuple(
                        GenesisMember(name=name, public_key=f"{number:02}" * 32, **{field: value})
                        for number, name in enumerate("ab")
                    )
                ),
                f"same {field}",
            )
            for field, value in (("validator_key", "cd" * 32), ("peer_id", "ef" * 20))
        ),
    ],
)
def test_a_bad_genesis_is_refused_and_the_field_named(state: GenesisState, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        genesis_bytes(state)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=200))
def test_any_bytes_as_genesis_are_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_genesis(data)


@pytest.mark.parametrize("data", [b'{"members":[],"extra":1}', b'{"members":"x"}', b"{}"])
def test_an_unknown_or_missing_field_of_genesis_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_genesis(data)


def test_a_stored_service_of_another_layout_is_damage() -> None:
    with pytest.raises(CorruptDatabaseError, match="StoredService"):
        unpack(pack(Lease(expires_us=1)), StoredService)
