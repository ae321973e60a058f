"""Whose requests count together, told by what the issuer has signed and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from abci_app.parties import party_of, party_of_client, proven_client
from edgistry import caveats
from edgistry.capability import Capability
from edgistry.capability_chain import Chain, Entry
from edgistry.flatten import flatten_chain
from edgistry.issuer import Issuer
from edgistry.rights import Right

ISSUER = Issuer.from_secret(b"d" * 32, epoch=1)
ENTRIES = (Entry(Right.PUT | Right.INVOKE, "thermometer/read"),)
VICTIM = b"victim.."
CLIENTS = st.binary(min_size=8, max_size=8)


def minted(*clients: bytes, serial: int = 77) -> Capability:
    return ISSUER.mint(
        serial=serial, entries=ENTRIES, caveats=[caveats.client(each) for each in clients]
    )


def chain_of(capability: Capability) -> Chain:
    return Chain.parse(capability.public)


@given(CLIENTS, st.integers(1, 0xFFFFFFFF), st.integers(1, 0xFFFFFFFF))
def test_all_grants_of_a_client_are_one_party(client: bytes, first: int, second: int) -> None:
    grants = [chain_of(minted(client, serial=serial)) for serial in (first, second)]
    assert {party_of(each) for each in grants} == {party_of_client(client)}
    narrowed = minted(client, serial=first).derive(not_after_us=5)
    assert party_of(chain_of(narrowed)) == party_of_client(client)


def test_holder_who_adds_a_client_is_not_that_client() -> None:
    held = minted()
    named = held.derive(client=VICTIM)
    assert proven_client(chain_of(named)) is None
    assert party_of(chain_of(named)) == party_of(chain_of(held)) != party_of_client(VICTIM)


def test_holder_who_makes_up_clients_makes_no_parties() -> None:
    held = minted()
    made_up = [held.derive(client=b"client%2d" % number) for number in range(20)]
    assert len({party_of(chain_of(each)) for each in made_up}) == 1


def test_flattened_capability_proves_no_client() -> None:
    """Its one block has the caveats of all: also those that a holder has added."""
    flat = flatten_chain(chain_of(minted().derive(client=VICTIM)))
    assert len(flat.ends) == 1
    assert flat.clients == (VICTIM,)
    assert proven_client(flat) is None


def test_grants_without_a_client_are_parties_of_their_own() -> None:
    first, second = (party_of(chain_of(minted(serial=serial))) for serial in (1, 2))
    assert first != second
