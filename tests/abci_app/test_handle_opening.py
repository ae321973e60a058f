"""Whose handle opens for a request, and for what somebody has signed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.epoch_keys import EpochKeys
from abci_app.handle_opening import KeyWait, alias_in, service_of_request, service_of_signer
from edgistry.errors import NoEpochKeyError, UnknownHandleError
from edgistry.handles import Target
from edgistry.requests_api import to_text
from edgistry.transactions import RecordKey
from tests.handle_world import HOME, begin_epoch, epoch_keys, handle_for

RECORD = RecordKey(b"r" * 16)
ALICE, BOB = b"a" * 16, b"b" * 16
OWN = handle_for(RECORD, tag=ALICE)
ALIAS = epoch_keys().handles().alias(b"x" * 16, Target(HOME, RECORD)).text
OTHER_CLUSTER = handle_for(RECORD, tag=ALICE)[:69] + handle_for(RECORD, tag=BOB)[69:]


def test_request_may_use_its_client_s_handle_or_an_alias() -> None:
    keys = epoch_keys()
    assert service_of_request(keys, OWN, ALICE[:8]) == RECORD
    assert service_of_request(keys, ALIAS, ALICE[:8]) == RECORD
    assert service_of_request(keys, ALIAS, BOB[:8]) == RECORD
    assert service_of_signer(keys, OWN, ALICE) == RECORD


def test_alias_is_told_from_others_by_what_only_its_holder_knows() -> None:
    other = epoch_keys().handles().alias(b"y" * 16, Target(HOME, RECORD)).text
    assert alias_in(ALIAS) != alias_in(other)
    assert alias_in(ALIAS)
    assert alias_in(OWN) == b""


def test_handle_of_the_epoch_before_goes_on_working_and_an_older_one_does_not() -> None:
    keys = epoch_keys(1)
    begin_epoch(keys, 2)
    assert service_of_request(keys, OWN, ALICE[:8]) == RECORD
    assert service_of_signer(keys, OWN, ALICE) == RECORD
    begin_epoch(keys, 3)
    with pytest.raises(UnknownHandleError):
        service_of_request(keys, OWN, ALICE[:8])


WRONG = {
    "another client's": handle_for(RECORD, tag=BOB),
    "a later epoch's": handle_for(RECORD, tag=ALICE, epoch=9),
    "cut off": OWN[:-1],
    "longer": OWN + "A",
    "changed": ("B" if OWN[0] != "B" else "C") + OWN[1:],
    "of two": OTHER_CLUSTER,
    "a record key": to_text(RECORD),
    "empty": "",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_whatever_is_wrong_with_a_handle_the_answer_is_the_same(text: str) -> None:
    tries: list[Callable[[], object]] = [
        lambda: service_of_request(epoch_keys(), text, ALICE[:8]),
        lambda: service_of_signer(epoch_keys(), text, ALICE),
        lambda: service_of_signer(epoch_keys(), ALIAS, ALICE),
        lambda: service_of_request(EpochKeys(), OWN, ALICE[:8]),
    ]
    told = set()
    for opened in tries:
        with pytest.raises(UnknownHandleError) as refused:
            opened()
        told.add(refused.value.detail)
    assert len(told) == 1


@given(st.text(max_size=120) | st.binary(min_size=73, max_size=73).map(to_text))
def test_any_text_opens_nothing_by_chance(text: str) -> None:
    with pytest.raises(UnknownHandleError):
        service_of_request(epoch_keys(), text, ALICE[:8])


# --- handles that come before their key ---------------------------------------------------------


@pytest.mark.parametrize(("first", "begins"), [(0, 1), (0, 5), (1, 2)])
async def test_handle_waits_for_the_key_of_the_epoch_that_begins(first: int, begins: int) -> None:
    keys = epoch_keys(first) if first else EpochKeys()
    wait = KeyWait(keys)
    text = handle_for(RECORD, tag=ALICE, epoch=begins)
    waiting = asyncio.create_task(wait.until_here(text))
    await asyncio.sleep(0)
    assert not waiting.done()
    begin_epoch(keys, begins)
    await waiting
    assert service_of_signer(keys, text, ALICE) == RECORD


@pytest.mark.parametrize("text", [OWN, *WRONG.values()], ids=["good", *WRONG])
async def test_nothing_else_waits(text: str) -> None:
    waiting = asyncio.create_task(KeyWait(epoch_keys()).until_here(text))
    await asyncio.sleep(0)
    assert waiting.done()
    await waiting


async def test_key_that_does_not_come_is_missing_and_not_the_handle_unknown() -> None:
    text = handle_for(RECORD, tag=ALICE, epoch=2)
    with pytest.raises(NoEpochKeyError):
        await KeyWait(epoch_keys(), wait_s=0.001).until_here(text)


async def test_few_handles_wait_at_a_time() -> None:
    keys = epoch_keys()
    wait = KeyWait(keys, most=1)
    text = handle_for(RECORD, tag=ALICE, epoch=2)
    first = asyncio.create_task(wait.until_here(text))
    await asyncio.sleep(0)
    with pytest.raises(NoEpochKeyError):
        await wait.until_here(text)
    begin_epoch(keys, 2)
    await first
    again = asyncio.create_task(wait.until_here(handle_for(RECORD, tag=ALICE, epoch=3)))
    await asyncio.sleep(0)
    begin_epoch(keys, 3)
    await again


class ShowsTheFirst:
    """Implements ``Shown``: what is shown is still of the first epoch."""

    def keys_changed(self) -> None:
        return None

    def allows(self, epoch: int) -> bool:
        return epoch == 1


async def test_handle_whose_key_is_here_waits_for_nothing_that_is_to_be_shown() -> None:
    keys = epoch_keys()
    keys.shown = ShowsTheFirst()
    begin_epoch(keys, 2)
    assert keys.number == 1
    text = handle_for(RECORD, tag=ALICE, epoch=2)
    waiting = asyncio.create_task(KeyWait(keys).until_here(text))
    await asyncio.sleep(0)
    assert waiting.done()
    assert service_of_signer(keys, text, ALICE) == RECORD
