"""Write tests/vectors/handles.json: test vectors of handles, orders and cursors.

``--check`` compares instead of writing. Everything is derived from fixed labels, so that the file
is the same on every machine; docs/protocol.md is the specification.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from edgistry.adapters import crypto
from edgistry.cell import parse_cell
from edgistry.errors import Refused
from edgistry.handles import (
    Arithmetic,
    Handle,
    HandleKey,
    Place,
    Target,
    parse_handle,
    parse_handle_text,
)
from edgistry.transactions import NodeId, RecordKey
from scripts.gen_vectors import write_or_check

TARGET = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "handles.json"
ARITHMETIC = Arithmetic(crypto.Siv, crypto.permute, crypto.permute_back)
CELL = parse_cell("872830828ffffff")


def derived(label: str, size: int) -> bytes:
    """Bytes that look random and are the same everywhere."""
    return hashlib.sha256(b"edgistry handle vector: " + label.encode()).digest()[:size]


ALICE, BOB = derived("alice", 16), derived("bob", 16)
KEY = HandleKey(20_000, derived("epoch key", 32), ARITHMETIC)
LATER = HandleKey(20_001, derived("epoch key of the next epoch", 32), ARITHMETIC)
OTHER = HandleKey(20_000, derived("epoch key of another cluster", 32), ARITHMETIC)
TARGETS = [
    Target(NodeId(derived(f"node {number % 2}", 20)), RecordKey(derived(f"record {number}", 16)))
    for number in range(4)
]


def _described(name: str, handle: Handle, target: Target) -> dict[str, Any]:
    return {
        "name": name,
        "node": target.node.hex(),
        "record": target.record.hex(),
        "kind": int(handle.kind),
        "epoch": handle.epoch,
        "tag": handle.tag.hex(),
        "bytes": handle.data.hex(),
        "text": handle.text,
    }


def handles() -> list[dict[str, Any]]:
    found = []
    for number, target in enumerate(TARGETS):
        for who, tag in (("alice", ALICE), ("bob", BOB)):
            found.append(_described(f"{who}'s of record {number}", KEY.own(tag, target), target))
        found.append(
            _described(f"an alias of {number}", KEY.alias(derived("n", 16), target), target)
        )
    return found


def refused() -> Iterator[tuple[str, bytes]]:
    """Bytes that are no handle of Alice's in this epoch."""
    good = KEY.own(ALICE, TARGETS[0]).data
    yield "another client's", KEY.own(BOB, TARGETS[0]).data
    yield "another epoch's", LATER.own(ALICE, TARGETS[0]).data
    yield "another cluster's", OTHER.own(ALICE, TARGETS[0]).data
    yield "an alias with her tag", KEY.alias(ALICE, TARGETS[0]).data
    yield "made an alias", good[:52] + b"\x02" + good[53:]
    yield "of kind 3", good[:52] + b"\x03" + good[53:]
    yield "one bit changed", bytes((good[0] ^ 1,)) + good[1:]
    yield "cut", good[:-1]
    yield "one byte more", good + b"\0"
    yield "empty", b""


def _reason(data: bytes) -> str:
    try:
        KEY.open(parse_handle(data), tag=ALICE)
    except Refused as error:
        return error.code
    raise SystemExit("a handle that should be refused was accepted")


def build() -> dict[str, Any]:
    """The whole document."""
    made = handles()
    for each in made:
        handle = parse_handle_text(each["text"])
        if KEY.open(handle) != (bytes.fromhex(each["node"]), bytes.fromhex(each["record"])):
            raise SystemExit(f"handle {each['name']!r} does not open as it was made")
    records = [target.record for target in TARGETS]
    places = KEY.order(ALICE).places(records)
    return {
        "epoch": KEY.epoch,
        "epoch_key": derived("epoch key", 32).hex(),
        "handles": made,
        "refused": [
            {"name": name, "bytes": data.hex(), "reason": _reason(data)} for name, data in refused()
        ],
        "order": {
            "tag": ALICE.hex(),
            "records": [record.hex() for record in records],
            "places": [place.hex() for place in places],
        },
        "cursors": [
            {
                "tag": tag.hex(),
                "cell": f"{CELL:x}",
                "place": place.hex(),
                "text": KEY.seal_cursor(tag, Place(CELL, place)),
            }
            for tag in (ALICE, BOB)
            for place in places[:2]
        ],
    }


def document() -> bytes:
    """The bytes of the vector file."""
    return json.dumps(build(), indent=1).encode() + b"\n"


if __name__ == "__main__":
    sys.exit(write_or_check(sys.argv[1:], TARGET, document(), script="gen_handle_vectors.py"))
