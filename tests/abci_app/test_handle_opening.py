"""Whose handle opens for a request, and for what somebody has signed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.epoch_keys import EpochKeys
from abci_app.handle_opening import service_of_request, service_of_signer
from edgistry.errors import UnknownHandleError
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
