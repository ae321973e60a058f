"""The HTTP API as data: reading queries, problem documents, times, the OpenAPI description."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.definitions import OPENAPI_31

from edgistry.api import (
    CellArea,
    DiscoverAnswer,
    DiscoverBody,
    DiscoverQuery,
    NearArea,
    PolygonArea,
    RegionArea,
    block_time_text,
    problem_of,
)
from edgistry.codec import decode_json, encode_json
from edgistry.discover_query import (
    check_discover_body,
    discover_body,
    discover_parameters,
    parse_discover_body,
    parse_discover_parameters,
)
from edgistry.errors import (
    InvalidValueError,
    LimitExceededError,
    MalformedError,
    Refused,
    TooLargeError,
    UnknownRegionError,
    every_refusal,
)
from edgistry.openapi import openapi_document
from edgistry.routes import DISCOVER_PARAMETERS, OPERATIONS
from tests.fake_node import BLOCK_TIME, entry

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,31}", fullmatch=True)
areas = st.one_of(
    names.map(lambda name: RegionArea(name=name)),
    st.from_regex(r"8[0-9a-f]{14}", fullmatch=True).map(lambda cell: CellArea(cell=cell)),
    st.builds(
        NearArea,
        latitude=st.floats(-90, 90),
        longitude=st.floats(-180, 180),
        radius_km=st.floats(0, 500, exclude_min=True),
    ),
)
polygons = st.builds(
    PolygonArea, geojson=st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=3)
)


def queries(area: st.SearchStrategy[Any]) -> st.SearchStrategy[DiscoverQuery]:
    return st.builds(
        DiscoverQuery,
        area=area,
        type=st.none() | names,
        limit=st.integers(1, 1000),
        cursor=st.none() | st.from_regex(r"[A-Za-z0-9_-]{1,200}", fullmatch=True),
        min_height=st.none() | st.integers(0, (1 << 63) - 1),
    )


@settings(deadline=None, max_examples=80)
@given(queries(areas))
def test_query_survives_the_way_through_parameters(query: DiscoverQuery) -> None:
    parameters = discover_parameters(query)
    assert parameters is not None
    assert parse_discover_parameters(parameters) == query


@settings(deadline=None, max_examples=80)
@given(queries(areas | polygons))
def test_query_survives_the_way_through_a_body(query: DiscoverQuery) -> None:
    assert parse_discover_body(discover_body(query)) == query


def test_polygon_does_not_fit_into_parameters() -> None:
    assert discover_parameters(DiscoverQuery(area=PolygonArea(geojson={}))) is None


@settings(deadline=None, max_examples=120)
@given(
    st.dictionaries(
        st.sampled_from([each.name for each in DISCOVER_PARAMETERS]),
        st.text(max_size=30) | st.floats().map(repr) | st.integers().map(str),
        max_size=4,
    )
)
def test_any_parameters_give_a_query_or_a_refusal(parameters: dict[str, str]) -> None:
    try:
        query = parse_discover_parameters(parameters)
    except (MalformedError, InvalidValueError, LimitExceededError, UnknownRegionError):
        return
    assert 1 <= query.limit <= 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=120)
@given(
    st.binary(max_size=80)
    | st.dictionaries(
        st.sampled_from([*(each.name for each in DISCOVER_PARAMETERS), "polygon", "other"]),
        json_values,
        max_size=4,
    ).map(encode_json)
)
def test_any_body_gives_a_query_or_a_refusal(body: bytes) -> None:
    try:
        query = parse_discover_body(body)
    except (MalformedError, InvalidValueError, LimitExceededError, UnknownRegionError):
        return
    assert 1 <= query.limit <= 1000


def test_number_of_a_million_digits_is_refused() -> None:
    for field in (b"limit", b"min_height", b"radius_km"):
        with pytest.raises((MalformedError, InvalidValueError, LimitExceededError)):
            parse_discover_body(b'{"near":[1,1],"%s":%s}' % (field, b"9" * 990_000))


def test_body_nested_a_thousand_deep_is_refused() -> None:
    with pytest.raises(MalformedError):
        parse_discover_body(b'{"polygon":' + b"[" * 5000 + b"]" * 5000 + b"}")


def test_body_over_a_megabyte_is_too_large() -> None:
    with pytest.raises(TooLargeError):
        parse_discover_body(b" " * 1_000_001)


NEAR = {"near": "37.77,-122.42", "radius_km": "20"}


@pytest.mark.parametrize(
    ("parameters", "refusal", "says"),
    [
        ({}, MalformedError, "none of them"),
        ({"region": "bay", "cell": "87283082effffff"}, MalformedError, "region and cell"),
        ({"region": "bay", "color": "red"}, MalformedError, "'color'"),
        ({"region": "bay", "polygon": "{}"}, MalformedError, "'polygon'"),
        ({"region": "Bay Area"}, UnknownRegionError, "region name"),
        ({"region": "x" * 65}, MalformedError, "region name"),
        ({"region": "\n"}, MalformedError, "region name"),
        ({"region": ""}, MalformedError, "region name"),
        ({"region": "bay", "radius_km": "3"}, MalformedError, "goes with near"),
        ({"cell": "87283082EFFFFFF"}, MalformedError, "15 lower-case hex"),
        ({"cell": "8"}, MalformedError, "15 lower-case hex"),
        ({"near": "37.77,-122.42"}, MalformedError, "needs radius_km"),
        ({**NEAR, "near": "37.77"}, MalformedError, "LAT,LON"),
        ({**NEAR, "near": "37.77,-122.42,3"}, MalformedError, "not a number"),
        ({**NEAR, "near": "nan,0"}, MalformedError, "not a number"),
        ({**NEAR, "near": "0,inf"}, MalformedError, "not a number"),
        ({**NEAR, "near": "0,1e999"}, InvalidValueError, "longitude"),
        ({**NEAR, "near": "90.1,0"}, InvalidValueError, "latitude 90.1"),
        ({**NEAR, "near": "0,-180.5"}, InvalidValueError, "longitude -180.5"),
        ({**NEAR, "radius_km": "NaN"}, MalformedError, "not a number"),
        ({**NEAR, "radius_km": "1_0"}, MalformedError, "not a number"),
        ({**NEAR, "radius_km": "٣"}, MalformedError, "not a number"),
        ({**NEAR, "radius_km": "0"}, InvalidValueError, "above 0"),
        ({**NEAR, "radius_km": "-1"}, InvalidValueError, "above 0"),
        ({**NEAR, "radius_km": "500.1"}, LimitExceededError, "at most 500"),
        ({**NEAR, "radius_km": "1e999"}, LimitExceededError, "at most 500"),
        ({**NEAR, "type": "Thermo Meter"}, MalformedError, "Thermo Meter"),
        ({**NEAR, "type": ""}, MalformedError, "name ''"),
        ({**NEAR, "limit": "0"}, InvalidValueError, "at least 1"),
        ({**NEAR, "limit": "-5"}, InvalidValueError, "at least 1"),
        ({**NEAR, "limit": "1001"}, LimitExceededError, "at most 1000"),
        ({**NEAR, "limit": "ten"}, MalformedError, "not a whole number"),
        ({**NEAR, "limit": "1.5"}, MalformedError, "not a whole number"),
        ({**NEAR, "cursor": "a b"}, MalformedError, "cursor"),
        ({**NEAR, "cursor": "x" * 201}, MalformedError, "cursor"),
        ({**NEAR, "min_height": "-1"}, InvalidValueError, "min_height -1"),
        ({**NEAR, "min_height": "9223372036854775808"}, InvalidValueError, "min_height"),
    ],
)
def test_bad_parameter_is_refused_with_its_reason(
    parameters: dict[str, str], refusal: type[Refused], says: str
) -> None:
    with pytest.raises(refusal) as caught:
        parse_discover_parameters(parameters)
    assert type(caught.value) is refusal
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"", MalformedError),
        (b"[]", MalformedError),
        (b'{"region":7}', MalformedError),
        (b'{"region":"bay","colour":1}', MalformedError),
        (b'{"near":[37.77],"radius_km":1}', MalformedError),
        (b'{"near":[NaN,1],"radius_km":1}', MalformedError),
        (b'{"near":[91,1],"radius_km":1}', InvalidValueError),
        (b'{"near":[1,1],"radius_km":501}', LimitExceededError),
        (b'{"near":[1,1],"radius_km":0}', InvalidValueError),
        (b'{"region":"bay","limit":"5"}', MalformedError),
        (b'{"region":"bay","limit":5000}', LimitExceededError),
        (b'{"polygon":[],"limit":5}', MalformedError),
        (b'{"polygon":{},"region":"bay"}', MalformedError),
    ],
)
def test_bad_body_is_refused_as_bad_parameters_are(body: bytes, refusal: type[Refused]) -> None:
    with pytest.raises(refusal) as caught:
        parse_discover_body(body)
    assert type(caught.value) is refusal


def test_near_in_a_body_may_be_text_or_a_pair() -> None:
    pair = parse_discover_body(b'{"near":[37.5,-122],"radius_km":3}')
    text = parse_discover_body(b'{"near":"37.5,-122","radius_km":3}')
    assert pair == text == parse_discover_parameters({"near": "37.5,-122", "radius_km": "3"})


def test_edges_of_every_range_are_accepted() -> None:
    query = parse_discover_parameters(
        {"near": "-90,180", "radius_km": "500", "limit": "1000", "min_height": "0"}
    )
    assert query == DiscoverQuery(
        area=NearArea(latitude=-90.0, longitude=180.0, radius_km=500.0), limit=1000, min_height=0
    )


@pytest.mark.parametrize(
    ("block_time_us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_772_366_400_123_456, "2026-03-01T12:00:00.123456Z"),
        (-62_135_596_800_000_001, "0001-01-01T00:00:00.000000Z"),
        (1 << 63, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_block_time_is_rfc_3339_in_utc(block_time_us: int, text: str) -> None:
    assert block_time_text(block_time_us) == text


def test_no_two_refusals_have_one_number_or_code() -> None:
    for attribute in ("number", "code"):
        used = Counter(vars(kind)[attribute] for kind in every_refusal() if attribute in vars(kind))
        assert [value for value, times in used.items() if times > 1] == []


def test_problem_of_every_refusal_is_complete() -> None:
    for kind in every_refusal():
        error = kind.__new__(kind)
        Refused.__init__(error, "what was wrong")
        if kind.advice is not Refused.advice:
            continue
        problem = problem_of(error)
        assert problem.type == f"urn:edgistry:error:{kind.code}"
        assert 400 <= problem.status <= 599
        assert problem.title
        assert problem.help.endswith((".", "?", "'"))


# --- OpenAPI --------------------------------------------------------------------------------


DOCUMENT = openapi_document("0.1.0")


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [text for name, text in value.items() if name == "$ref"]
        return found + [each for inner in value.values() for each in references(inner)]
    if isinstance(value, list | tuple):
        return [each for inner in value for each in references(inner)]
    return []


def test_description_is_valid_openapi_3_1() -> None:
    plain = decode_json(encode_json(DOCUMENT), dict[str, Any], limit=1_000_000)
    jsonschema_rs.validator_for(OPENAPI_31).validate(plain)
    assert plain["openapi"].startswith("3.1.")


def test_validator_of_descriptions_bites() -> None:
    broken = {**DOCUMENT, "info": {"title": "no version"}}
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(OPENAPI_31).validate(broken)


def test_every_reference_in_the_description_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert found == known


def test_schemas_in_the_description_are_json_schema_2020_12() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate({**schema, "$defs": {}})


def test_every_operation_is_described_once() -> None:
    described = [
        (method, path) for path, methods in DOCUMENT["paths"].items() for method in methods
    ]
    assert described == [(each.method.lower(), each.path) for each in OPERATIONS]
    identifiers = [
        each["operationId"] for methods in DOCUMENT["paths"].values() for each in methods.values()
    ]
    assert len(set(identifiers)) == len(OPERATIONS)


def test_discover_documents_what_it_may_refuse() -> None:
    responses = DOCUMENT["paths"]["/v1/discover"]["get"]["responses"]
    assert list(responses) == ["200", "400", "401", "404", "408", "413", "422", "500", "503"]
    assert "unknown-region" in responses["404"]["description"]
    assert "Retry-After" in responses["503"]["headers"]


def test_parameters_of_discover_are_the_ones_that_are_read() -> None:
    for parameter in DISCOVER_PARAMETERS:
        with pytest.raises(Refused) as caught:
            parse_discover_parameters({parameter.name: "?"})
        assert "unknown query parameter" not in str(caught.value)


def test_real_answer_fits_its_schema() -> None:
    answer = DiscoverAnswer(height=1, block_time=BLOCK_TIME, services=(entry(1),), next=None)
    schema = {**DOCUMENT, "$ref": "#/components/schemas/DiscoverAnswer"}
    plain = decode_json(encode_json(answer), dict[str, Any], limit=100_000)
    jsonschema_rs.validator_for(schema).validate(plain)
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(schema).validate({**plain, "height": "one"})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_number_that_is_none_never_becomes_a_query(number: float) -> None:
    for body in (
        DiscoverBody(near=(number, 0.0), radius_km=1.0),
        DiscoverBody(near=(0.0, number), radius_km=1.0),
        DiscoverBody(near=(0.0, 0.0), radius_km=number),
    ):
        with pytest.raises((InvalidValueError, LimitExceededError)):
            check_discover_body(body)
