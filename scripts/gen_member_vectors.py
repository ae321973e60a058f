"""Write tests/vectors/members.json: test vectors of changes of a chain's members.

``--check`` compares instead of writing. Everything is derived from fixed labels, so that the file
is the same on every machine; docs/protocol.md is the specification.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from abci_app import turns
from edgistry.adapters import crypto
from edgistry.codec import encode, replace
from edgistry.membership import (
    NewMember,
    NodeJoin,
    NodeLeave,
    NodeRemove,
    SignedChange,
    change_bytes,
)
from edgistry.transactions import Body, node_id_of, parse_transaction, sign_transaction
from scripts.gen_vectors import write_or_check

TARGET = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "members.json"
CHAIN = "vector-chain"
NAMES = ("ann", "bob", "carol", "dan")
NOT_AFTER_US = 1_800_000_000_000_000


def derived(label: str, size: int = 32) -> bytes:
    """Bytes that look random and are the same everywhere."""
    return hashlib.sha256(b"edgistry member vector: " + label.encode()).digest()[:size]


SEEDS = {name: derived(f"seed {name}") for name in NAMES}
IDS = {name: node_id_of(crypto.public_key_of(seed)) for name, seed in SEEDS.items()}


def signed(change: SignedChange, *names: str) -> SignedChange:
    """``change`` with the signatures of these members."""
    message = change_bytes(CHAIN, change)
    found = sorted((bytes(IDS[name]), crypto.sign(SEEDS[name], message)) for name in names)
    return replace(change, signatures=tuple(found))


def described(name: str, body: Body, sequence: int) -> dict[str, Any]:
    """A transaction of ann's with ``body``."""
    data = sign_transaction(
        chain_id=CHAIN,
        node_id=IDS["ann"],
        sequence=sequence,
        body=body,
        sign=crypto.signer(SEEDS["ann"]),
    )
    found: dict[str, Any] = {
        "name": name,
        "kind": parse_transaction(data).kind,
        "body": encode(body).hex(),
        "transaction": data.hex(),
    }
    if isinstance(body, (NodeJoin, NodeRemove)):
        found["signed"] = change_bytes(CHAIN, body).hex()
        found["signatures"] = {node.hex(): made.hex() for node, made in body.signatures}
    return found


def build() -> dict[str, Any]:
    """The whole document."""
    eve = NewMember(
        public_key=crypto.public_key_of(derived("seed eve")),
        name="eve",
        validator_key=crypto.public_key_of(derived("validator eve")),
        peer_id=derived("peer eve", 20),
        power=10,
    )
    join = NodeJoin(change=1, not_after_us=NOT_AFTER_US, member=eve, signatures=())
    gone = NodeRemove(change=2, not_after_us=NOT_AFTER_US, node=IDS["dan"], signatures=())
    everybody = tuple(IDS.values())
    return {
        "chain_id": CHAIN,
        "members": [
            {"name": name, "seed": SEEDS[name].hex(), "node": IDS[name].hex()} for name in NAMES
        ],
        "changes": [
            described("join", signed(join, "ann", "bob", "carol"), 1),
            described("remove", signed(gone, "ann", "bob", "carol"), 2),
            described("leave", NodeLeave(change=3), 3),
        ],
        "makers": [
            {
                "epoch": epoch,
                "given_up": {node.hex(): number for node, number in given_up.items()},
                "order": [
                    node.hex()
                    for node in turns.makers(
                        everybody, chain_id=CHAIN, epoch=epoch, given_up=given_up
                    )
                ],
            }
            for epoch, given_up in (
                (1, {}),
                (2, {}),
                (1 << 20, {}),
                (9, {bytes(IDS["ann"]): 8, bytes(IDS["dan"]): 3}),
            )
        ],
        "givers": [
            {
                "public": derived(f"public {number}").hex(),
                "having": [IDS[name].hex() for name in ("ann", "bob", "carol")],
                "once_having": [IDS["dan"].hex()],
                "order": [
                    node.hex()
                    for node in turns.givers(
                        [IDS[name] for name in ("ann", "bob", "carol")],
                        [IDS["dan"]],
                        public=derived(f"public {number}"),
                    )
                ],
            }
            for number in range(3)
        ],
    }


def document() -> bytes:
    """The bytes of the vector file."""
    return json.dumps(build(), indent=1).encode() + b"\n"


if __name__ == "__main__":
    sys.exit(write_or_check(sys.argv[1:], TARGET, document(), script="gen_member_vectors.py"))
