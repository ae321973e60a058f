"""Addresses of WooFs, and everything else that somebody may write instead."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.errors import InvalidValueError, MalformedError
from edgistry.woof_uri import WoofPlace, parse_woof_uri


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("woof://cloud:28000/sensors/temp", "http://cloud:28000"),
        ("woof://cloud/sensors/temp", "http://cloud:27000"),
        ("woof://[::1]:28000/sensors/temp", "http://[::1]:28000"),
        ("http://cloud:28000/sensors/temp", "http://cloud:28000"),
        ("https://cloud/sensors/temp", "https://cloud"),
        ("https://cloud/edge/sensors/temp", "https://cloud/edge"),
    ],
)
def test_address_names_node_and_woof(text: str, node: str) -> None:
    assert parse_woof_uri(text) == WoofPlace(node=node, name="sensors/temp")


@pytest.mark.parametrize(
    "text",
    [
        "", "sensors/temp", "cloud/sensors/temp", "ftp://cloud/a/b", "woof:///a/b", "woof://cloud",
        "woof://cloud/a", "woof://cloud/a/b/c", "woof://cloud:0/a/b", "woof://cloud:99999/a/b",
        "woof://cloud:x/a/b", "woof://cloud/a/b?c", "woof://cloud/a/b#c", "woof://[::1/a/b",
        "woof://cloud/A/b", "woof://cloud/a/..", "woof://cloud/a/b/", "woof://clöud/a/b",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises((MalformedError, InvalidValueError)):
        parse_woof_uri(text)


def test_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(MalformedError) as refusal:
        parse_woof_uri("woof://me:secret@cloud/a/b")
    assert "secret" not in str(refusal.value)


@given(st.text(max_size=50) | st.text(max_size=30).map("woof://{}".format))
def test_any_text_is_a_place_or_a_refusal(text: str) -> None:
    with contextlib.suppress(MalformedError, InvalidValueError):
        place = parse_woof_uri(text)
        assert parse_woof_uri(f"{place.node}/{place.name}") == place
