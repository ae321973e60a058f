"""Addresses of WooFs and namespaces."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry.errors import InvalidValueError, MalformedError
from edgistry.woof import check_namespace, split_name
from edgistry.woof_uri import WoofPlace, parse_namespace_uri, parse_woof_uri


@pytest.mark.parametrize(
    ("address", "node"),
    [
        ("woof://edge.example", "http://edge.example:27000"),
        ("woof://edge.example:1234", "http://edge.example:1234"),
        ("woof://127.0.0.1:1", "http://127.0.0.1:1"),
        ("woof://[::1]:27010", "http://[::1]:27010"),
        ("woof://[::1]", "http://[::1]:27000"),
        ("http://edge.example", "http://edge.example"),
        ("https://edge.example:8443", "https://edge.example:8443"),
        ("https://edge.example/behind/a/proxy", "https://edge.example/behind/a/proxy"),
    ],
)
def test_address_names_the_node_and_what_is_there(address: str, node: str) -> None:
    assert parse_woof_uri(f"{address}/ns/temp") == WoofPlace(node=node, name="ns/temp")
    assert parse_namespace_uri(f"{address}/ns") == WoofPlace(node=node, name="ns")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ns/temp",
        "ftp://host/ns/temp",
        "woof:///ns/temp",
        "woof://host",
        "woof://host/temp",
        "woof://host:0/ns/temp",
        "woof://host:70000/ns/temp",
        "woof://host:x/ns/temp",
        "woof://host/more/ns/temp",
        "woof://user@host/ns/temp",
        "woof://user:password@host/ns/temp",
        "woof://host/ns/temp?x=1",
        "woof://host/ns/temp#1",
        "woof://höst/ns/temp",
        "woof://[::1/ns/temp",
    ],
)
def test_other_text_is_no_address_of_a_woof(text: str) -> None:
    with pytest.raises(MalformedError, match="write woof://HOST:PORT/namespace/woof"):
        parse_woof_uri(text)


@pytest.mark.parametrize("text", ["ns", "woof://host", "woof://host/ns/temp", "ftp://host/ns"])
def test_other_text_is_no_address_of_a_namespace(text: str) -> None:
    with pytest.raises(MalformedError, match=r"write woof://HOST:PORT/namespace$"):
        parse_namespace_uri(text)


@pytest.mark.parametrize("name", ["ns/", "/temp", "NS/temp", "ns/..", "ns/temp%20"])
def test_name_that_no_woof_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_woof_uri(f"http://host/{name}")


@pytest.mark.parametrize("name", ["", "..", "A", "n" * 33])
def test_name_that_no_namespace_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_namespace_uri(f"woof://host/{name}")


@given(st.text(max_size=30), st.sampled_from(["", "woof://", "http://h", "woof://h:1/ns/"]))
def test_any_text_is_an_address_or_refused(rest: str, beginning: str) -> None:
    with contextlib.suppress(MalformedError, InvalidValueError):
        split_name(parse_woof_uri(beginning + rest).name)
    with contextlib.suppress(MalformedError, InvalidValueError):
        check_namespace(parse_namespace_uri(beginning + rest).name)


def test_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(MalformedError) as refusal:
        parse_woof_uri("woof://me:secret@cloud/a/b")
    assert "secret" not in str(refusal.value)
