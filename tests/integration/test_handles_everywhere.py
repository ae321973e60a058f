"""Handles at four nodes with the real engine: whose they are, and where they are the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgistry.adapters.grant_client import ClientKeys, request_grant
from edgistry.adapters.http import HttpClient, run
from edgistry.adapters.node_client import BlockingNodeClient
from edgistry.errors import NotFoundError, UnknownCursorError, UnknownHandleError

from .harness import Cluster
from .registering import CENTER, RADIUS_KM, TYPE, register, services_of, wait_shown

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four nodes that run, with three devices at home at each."""
    with Cluster() as four:
        four.start()
        made = [
            record
            for number in four.numbers
            for record in register(four, number, *(f"{number}-{at}" for at in range(3)))
        ]
        wait_shown(four, made)
        yield four


def handles(cluster: Cluster, number: int, keys: ClientKeys) -> list[str]:
    return [each.handle for each in services_of(cluster, number, keys)]


def test_a_client_has_the_same_handles_in_the_same_order_at_all_nodes(cluster: Cluster) -> None:
    keys = ClientKeys.generate()
    first, *others = (handles(cluster, number, keys) for number in cluster.numbers)
    assert len(set(first)) == 12
    assert others == [first] * 3


def test_two_clients_have_no_handle_in_common_nor_any_part_of_one(cluster: Cluster) -> None:
    one, two = (handles(cluster, 0, ClientKeys.generate()) for _ in range(2))
    assert len(one) == len(two) == 12
    assert not {each[:16] for each in one} & {each[:16] for each in two}


def test_handle_and_cursor_of_another_client_mean_nothing_at_any_node(cluster: Cluster) -> None:
    mine, theirs = ClientKeys.generate(), ClientKeys.generate()
    handle = handles(cluster, 0, theirs)[0]
    with BlockingNodeClient(cluster.api(0), keys=theirs) as client:
        page = client.discover(near=CENTER, radius_km=RADIUS_KM, type=TYPE, limit=5)

    async def ask(number: int, keys: ClientKeys) -> None:
        async with HttpClient(cluster.api(number)) as http:
            await request_grant(http, keys, handle)

    for number in cluster.numbers:
        with pytest.raises(UnknownHandleError):
            run(ask(number, mine))
        # Its owner is understood: the device is registered by hand, so that nothing is granted.
        with pytest.raises(NotFoundError, match="no paired device has it"):
            run(ask(number, theirs))
        with (
            BlockingNodeClient(cluster.api(number), keys=mine) as client,
            pytest.raises(UnknownCursorError),
        ):
            client.discover(near=CENTER, radius_km=RADIUS_KM, type=TYPE, cursor=page.next)
        with BlockingNodeClient(cluster.api(number), keys=theirs) as client:
            rest = client.discover(near=CENTER, radius_km=RADIUS_KM, type=TYPE, cursor=page.next)
        assert len(rest.services) == 7


def test_who_does_not_sign_is_told_how_many_there_are_and_no_handle(cluster: Cluster) -> None:
    for number in cluster.numbers:
        with BlockingNodeClient(cluster.api(number)) as client:
            answer = client.browse(near=CENTER, radius_km=RADIUS_KM, type=TYPE)
        assert answer.services == ()
        assert sum(each.services for each in answer.counts) == 12
        assert {each.type for each in answer.counts} == {TYPE}
