"""Capabilities as text: canonical for machines, readable for people."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgistry import caveats as cv
from edgistry.capability_chain import Entry
from edgistry.captext import PREFIX, danger_text, parse_text, tree, utc_text, view
from edgistry.caveats import Caveat
from edgistry.codec import encode_json
from edgistry.errors import MalformedError
from edgistry.rights import Right

from .grants import ISSUER, ME, ROOT

TEXT = danger_text(ROOT)


def test_text_is_one_ascii_line_that_is_read_back() -> None:
    assert TEXT.startswith("edgcap1:")
    assert "=" not in TEXT
    assert "\n" not in TEXT
    assert parse_text(TEXT) == ROOT
    assert parse_text(f"\n  {TEXT}\r\n") == ROOT


@pytest.mark.parametrize(
    "text",
    [
        "",
        PREFIX,
        TEXT[1:],
        TEXT.upper(),
        TEXT[:-1],
        TEXT + "=",
        TEXT + "A",
        TEXT.replace(":", ": ", 1),
        TEXT[:20] + "\n" + TEXT[20:],
        TEXT[:20] + "+" + TEXT[21:],
        TEXT[:20] + "/" + TEXT[21:],
        TEXT[:20] + "é" + TEXT[21:],
        "edgcap2:" + TEXT[8:],
        PREFIX + "A" * 3000,
    ],
)
def test_other_texts_are_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_text(text)
    assert TEXT[8:40] not in str(caught.value)


def test_stray_bits_in_the_last_letter_are_refused() -> None:
    assert len(ROOT.danger_bytes()) % 3
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    readable = 0
    for letter in alphabet:
        try:
            assert parse_text(TEXT[:-1] + letter)
            readable += 1
        except MalformedError:
            continue
    assert readable in (4, 16)


def test_tree_says_who_may_do_what_until_when() -> None:
    capability = ISSUER.mint(
        serial=0xBEEF,
        entries=[Entry(0x7FF, ""), Entry(0, "none")],
        caveats=[cv.not_after(1_738_367_999_500_000)],
        hide_epoch=True,
    ).derive(
        allow=Right.GET | Right.PUT,
        object_name="ns/w",
        client=ME,
        max_payload=100,
        handlers=["dim\n"],
        require=[bytes(16)],
        veil=True,
        seal=True,
        not_before_us=0,
        caveats=[cv.lineage(b"\xff" * 16), Caveat(5, b"\x01")],
    )
    first, last = (public_id.hex() for public_id in capability.chain.ids)
    assert tree(capability.chain) == [
        f"capability {last}",
        "  grant 0000beef of the current epoch",
        f"  issued {first}",
        "    may do everything on everything the issuer owns",
        "    may do nothing on none",
        "    only if not after 2025-01-31T23:59:59.5Z",
        f"    derived {last}",
        "      may put, get on ns/w",
        "      only if caveat_0x05 01",
        "      only if not before 1970-01-01T00:00:00Z",
        "      only if sent by client 636c69656e742d31",
        "      only if the handler is dim\\n",
        "      only if the payload has at most 100 bytes",
        "      only if capability 00000000000000000000000000000000 stands beside it",
        "      only if nothing is derived from it (sealed)",
        "      only if ffffffffffffffffffffffffffffffff is not revoked (lineage)",
        "      only if it puts with a handler, or gets the newest element (veil)",
    ]


def test_view_is_made_for_json() -> None:
    shown = encode_json(view(ROOT.derive(allow=Right.GET).chain))
    assert b'"epoch":4,"serial":1,' in shown
    assert b'{"rights":["get"],"object":""}' in shown


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400_000_000, "2000-02-29T00:00:00Z"),
        (4_107_542_399_999_999, "2100-02-28T23:59:59.999999Z"),
        (253_402_300_799_000_000, "9999-12-31T23:59:59Z"),
        (253_402_300_800_000_000, "253402300800000000 µs"),
        ((1 << 64) - 1, "18446744073709551615 µs"),
    ],
)
def test_times_are_utc(time_us: int, text: str) -> None:
    assert utc_text(time_us) == text


@given(st.integers(0, 253_402_300_799), st.integers(0, 999_999))
def test_times_are_those_of_the_calendar(seconds: int, microseconds: int) -> None:
    text = utc_text(seconds * 1_000_000 + microseconds)
    moment = datetime.fromtimestamp(seconds, UTC)
    assert text.startswith(moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0"))
    fraction = text[19:-1]
    assert fraction == (f".{microseconds:06}".rstrip("0") if microseconds else "")
