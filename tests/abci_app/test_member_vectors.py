"""The vectors of members' changes, read with an independent MessagePack and hashes made here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from abci_app import turns
from edgistry.adapters import crypto
from edgistry.membership import NodeJoin, NodeRemove, change_bytes
from edgistry.transactions import parse_body, parse_transaction

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "members.json").read_bytes())
CHAIN = VECTORS["chain_id"]
SEEDS = {each["node"]: bytes.fromhex(each["seed"]) for each in VECTORS["members"]}


def test_node_ids_are_hashes_of_keys() -> None:
    for node, seed in SEEDS.items():
        assert hashlib.sha256(crypto.public_key_of(seed)).digest()[:20].hex() == node


@pytest.mark.parametrize("vector", VECTORS["changes"], ids=lambda each: each["name"])
def test_a_change_is_signed_over_what_the_page_says(vector: dict[str, Any]) -> None:
    transaction = parse_transaction(bytes.fromhex(vector["transaction"]))
    assert transaction.kind == vector["kind"]
    assert bytes(transaction.body).hex() == vector["body"]
    if "signed" not in vector:
        assert msgpack.unpackb(bytes.fromhex(vector["body"])) == [3]
        return
    change, not_after_us, subject, signatures = msgpack.unpackb(bytes.fromhex(vector["body"]))
    message = b"edgistry member 1\0" + msgpack.packb(
        [CHAIN, vector["kind"], change, not_after_us, subject]
    )
    body = parse_body(transaction)
    assert isinstance(body, (NodeJoin, NodeRemove))
    assert message.hex() == vector["signed"] == change_bytes(CHAIN, body).hex()
    assert {node.hex(): made.hex() for node, made in signatures} == vector["signatures"]
    for node, made in signatures:
        assert crypto.sign(SEEDS[node.hex()], message) == made


@pytest.mark.parametrize("vector", VECTORS["makers"], ids=lambda each: str(each["epoch"]))
def test_makers_come_in_the_order_of_the_page(vector: dict[str, Any]) -> None:
    given_up, epoch = vector["given_up"], vector["epoch"]

    def place(node: str) -> tuple[int, bytes]:
        drawn = b"edgistry epoch maker 1\0" + epoch.to_bytes(4, "big") + CHAIN.encode() + b"\0"
        return given_up.get(node, 0), hashlib.sha256(drawn + bytes.fromhex(node)).digest()

    assert sorted(SEEDS, key=place) == vector["order"]
    made = turns.makers(
        map(bytes.fromhex, SEEDS),
        chain_id=CHAIN,
        epoch=epoch,
        given_up={bytes.fromhex(node): number for node, number in given_up.items()},
    )
    assert [node.hex() for node in made] == vector["order"]


@pytest.mark.parametrize("vector", VECTORS["givers"])
def test_givers_come_in_the_order_of_the_page(vector: dict[str, Any]) -> None:
    public = bytes.fromhex(vector["public"])

    def place(node: str) -> tuple[bool, bytes]:
        drawn = b"edgistry epoch giver 1\0" + public + bytes.fromhex(node)
        return node not in vector["having"], hashlib.sha256(drawn).digest()

    assert sorted(vector["having"] + vector["once_having"], key=place) == vector["order"]
    made = turns.givers(
        map(bytes.fromhex, vector["having"]),
        map(bytes.fromhex, vector["once_having"]),
        public=public,
    )
    assert [node.hex() for node in made] == vector["order"]
