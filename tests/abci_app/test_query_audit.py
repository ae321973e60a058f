"""What is kept of questions to a node, for how long, and what it does not say."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.admin_audit import audit_admin_routes
from abci_app.audit_api import (
    MAX_READ_BODY,
    QueryRow,
    asked_about,
    decode_row,
    encode_row,
    pseudonym,
)
from abci_app.query_audit import MAX_WAITING, WOOF, QueryAudit
from edgistry.adapters.durable_woofs import DurableWoofs
from edgistry.adapters.http import Request, Response
from edgistry.codec import encode_json
from edgistry.errors import ConfigError, MalformedError
from edgistry.kv import MemoryKeyValue

DAY_US = 86_400_000_000
KEY = b"k" * 32
POINT = (46.5197123, 6.6322734)


@dataclass
class World:
    woofs: DurableWoofs
    now_us: int = 100 * DAY_US
    history: int = 10
    days: int = 7
    audit: QueryAudit = field(init=False)

    async def start(self) -> None:
        self.audit = QueryAudit(
            self.woofs,
            key=KEY,
            history=self.history,
            days=self.days,
            clock_us=lambda: self.now_us,
        )
        await self.audit.tidy()

    async def asked(self, who: bytes = b"alice", **query: str) -> None:
        request = Request(method="GET", path="/v1/discover", query=query)
        self.audit.note("discover", request, Response(body=b"12345"), who)
        await self.audit.flush()

    def areas(self) -> list[str]:
        return [each.area for each in self.audit.newest(1000).queries]


@contextlib.asynccontextmanager
async def world(**settings: int) -> AsyncIterator[World]:
    woofs = DurableWoofs(MemoryKeyValue())
    made = World(woofs, **settings)
    await made.start()
    try:
        yield made
    finally:
        await woofs.close()


async def test_questions_are_listed_newest_first_with_what_they_were_about() -> None:
    async with world() as kept:
        await kept.asked(region="bay", type="thermometer")
        await kept.asked(cell="87283082bffffff")
        kept.audit.note("grant", Request(method="POST", path="/v1/grants"), None, b"bob")
        await kept.audit.flush()
        refused, cell, region = kept.audit.newest(10).queries
    assert (refused.operation, refused.status, refused.size) == ("grant", 0, 0)
    assert (cell.area, cell.type) == ("cell 87283082bffffff", "")
    assert (region.area, region.type, region.status, region.size) == (
        "region bay",
        "thermometer",
        200,
        5,
    )
    assert refused.who != cell.who == region.who == pseudonym(KEY, b"alice").hex()


async def test_only_the_newest_are_kept() -> None:
    async with world(history=3) as kept:
        for name in "abcde":
            await kept.asked(region=name)
        assert kept.areas() == ["region e", "region d", "region c"]


async def test_what_is_too_old_is_removed_and_what_is_younger_stays() -> None:
    async with world() as kept:
        await kept.asked(region="old")
        kept.now_us += 5 * DAY_US
        await kept.asked(region="young")
        await kept.audit.tidy()
        assert kept.areas() == ["region young", "region old"]
        kept.now_us += 3 * DAY_US
        await kept.audit.tidy()
        assert kept.areas() == ["region young"]
        await kept.asked(region="new")
        assert kept.areas() == ["region new", "region young"]


async def test_another_history_keeps_what_fits() -> None:
    async with world() as kept:
        for name in "abc":
            await kept.asked(region=name)
        kept.history = 2
        await kept.start()
        assert kept.areas() == ["region c", "region b"]
        assert kept.woofs.woofs.info(WOOF).history == 2


async def test_what_comes_too_fast_is_counted() -> None:
    async with world() as kept:
        request = Request(method="GET", path="/")
        for _ in range(MAX_WAITING + 3):
            kept.audit.note("discover", request, None, b"flood")
        assert kept.audit.newest(1).lost == 3


async def test_no_point_is_kept_finer_than_services_are_published() -> None:
    async with world() as kept:
        await kept.asked(near=f"{POINT[0]},{POINT[1]}", radius_km="3")
        body = encode_json({"near": list(POINT), "radius_km": 3, "type": "valve"})
        request = Request(method="POST", path="/v1/discover", body=body)
        kept.audit.note("discover_by_body", request, Response(), b"alice")
        await kept.audit.flush()
        by_body, by_query = kept.audit.newest(2).queries
        rows = [element for _, element in kept.woofs.woofs.tail(WOOF, 10)]
    assert by_body.area == by_query.area
    assert by_query.area.startswith("near 87")
    assert not any(b"46.5" in row or b"6.63" in row for row in rows)


def test_finer_cells_and_polygons_are_not_kept() -> None:
    assert asked_about({"cell": "89283082803ffff"}, b"") == ("", "cell 872830828ffffff")
    assert asked_about({"cell": "nonsense"}, b"") == ("", "")
    assert asked_about({}, encode_json({"polygon": {"type": "Polygon"}})) == ("", "polygon")
    assert asked_about({}, None) == ("", "polygon")


@given(st.dictionaries(st.text(), st.text(max_size=50)), st.binary(max_size=MAX_READ_BODY))
def test_whatever_a_stranger_sends_gives_an_entry(query: dict[str, str], body: bytes) -> None:
    type_name, area = asked_about(query, body)
    encode_row(row(type=type_name, area=area))


NAMES = st.sampled_from(["region", "cell", "near", "polygon", "type"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, "1e400", "9" * 4000])
def test_numbers_beyond_all_measure_give_an_entry(number: str) -> None:
    assert asked_about({}, f'{{"near": [{number}, 2]}}'.encode()) == ("", "")


@given(st.dictionaries(NAMES, VALUES))
def test_whatever_stands_in_a_body_gives_an_entry(fields: dict[str, object]) -> None:
    try:
        body = encode_json(fields)
    except UnicodeEncodeError:
        return
    type_name, area = asked_about({}, body)
    assert len(type_name) <= 128
    assert len(area) <= 128


def row(**changes: object) -> QueryRow:
    fields: dict[str, object] = {
        "time_us": 1,
        "who": b"w" * 8,
        "operation": "discover",
        "type": "",
        "area": "",
        "status": 200,
        "size": 9,
        **changes,
    }
    return QueryRow(**fields)  # type: ignore[arg-type]


def test_rows_come_back_as_they_were() -> None:
    assert decode_row(encode_row(row(area="region bay"))) == row(area="region bay")


@given(st.binary(max_size=100))
def test_any_bytes_are_a_row_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert encode_row(decode_row(data)) == data


async def test_what_somebody_else_put_there_is_passed_over() -> None:
    async with world() as kept:
        await kept.asked(region="bay")
        await kept.woofs.put(WOOF, b"noise")
        assert kept.areas() == ["region bay"]
        await kept.audit.tidy()  # and has no age: it goes
        assert kept.areas() == ["region bay"]


async def test_operators_are_told_when_nothing_is_kept() -> None:
    ((_, _, handler),) = audit_admin_routes(None)
    with pytest.raises(ConfigError):
        await handler(Request(method="GET", path="/admin/queries"))
    async with world() as kept:
        await kept.asked(region="bay")
        ((_, _, handler),) = audit_admin_routes(kept.audit)
        found = await handler(Request(method="GET", path="/", query={"limit": "1"}))
        assert json.loads(encode_json(found))["queries"][0]["area"] == "region bay"
