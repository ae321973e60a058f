"""Files that operators sign and pass on, and the commands that do it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from abci_app.cli import program
from abci_app.cli_member import _node_named
from abci_app.comet_config import read_genesis, read_public_keys
from abci_app.directory import NodeDirectory, open_directory
from abci_app.initialize import init_cluster, init_node
from abci_app.member_files import (
    Invitation,
    MemberCard,
    Proposal,
    body_of_proposal,
    sign_proposal,
    subject_of,
)
from abci_app.members_api import MemberRow, MembersAnswer
from edgistry.adapters import crypto, sodium
from edgistry.codec import decode_json, encode_json, replace
from edgistry.errors import InvalidValueError, MalformedError
from edgistry.membership import NodeJoin, NodeRemove, change_bytes
from edgistry.transactions import node_id_of

from .chain_world import ANN, BOB, CHAIN, EVE

CARD = MemberCard(
    chain_id=CHAIN,
    name="eve",
    public_key=EVE.public_key.hex(),
    validator_key=EVE.validator_key.hex(),
    peer_id=EVE.peer_id.hex(),
    link=f"{EVE.id.hex()}@10.0.0.9:27003",
)
JOIN = Proposal(chain_id=CHAIN, change=3, not_after_us=99, joins=CARD, signatures={})
REMOVAL = Proposal(chain_id=CHAIN, change=3, not_after_us=99, removes=BOB.id.hex(), signatures={})


@pytest.mark.parametrize("proposal", [JOIN, REMOVAL])
def test_a_proposal_becomes_the_body_that_its_signers_meant(proposal: Proposal) -> None:
    for node in (BOB, ANN):
        proposal = sign_proposal(proposal, node.id, crypto.signer(node.seed))
    body = body_of_proposal(decode_json(encode_json(proposal), Proposal, limit=10_000))
    message = change_bytes(CHAIN, body)
    expected = sorted((node.id, crypto.sign(node.seed, message)) for node in (ANN, BOB))
    assert body.signatures == tuple(expected)
    assert (body.change, body.not_after_us) == (3, 99)
    if isinstance(body, NodeJoin):
        assert body.member.public_key == EVE.public_key
        assert body.member.power == 10
    else:
        assert isinstance(body, NodeRemove)
        assert body.node == BOB.id


def test_the_link_of_a_card_is_for_people_alone() -> None:
    moved = replace(JOIN, joins=replace(CARD, link=""))
    assert body_of_proposal(moved) == body_of_proposal(JOIN)


@pytest.mark.parametrize(
    "proposal",
    [
        replace(JOIN, removes=BOB.id.hex()),
        replace(JOIN, joins=None),
        replace(JOIN, chain_id="other"),
    ],
)
def test_a_proposal_of_nothing_or_two_things_is_refused(proposal: Proposal) -> None:
    with pytest.raises(InvalidValueError):
        body_of_proposal(proposal)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(MalformedError):
        body_of_proposal(replace(JOIN, joins=replace(CARD, name="e\u202eve")))


@given(st.sampled_from([Invitation, MemberCard, Proposal]), st.binary(max_size=200))
def test_any_bytes_are_a_file_or_malformed(kind: Any, data: bytes) -> None:
    try:
        value = decode_json(data, kind, limit=1000)
    except MalformedError:
        return
    assert isinstance(value, kind)


def test_what_is_signed_is_shown_in_a_line() -> None:
    assert subject_of(JOIN) == f"take in eve, node {EVE.id.hex()}, power 10"
    assert subject_of(REMOVAL) == f"remove node {BOB.id.hex()}"


# --- commands -----------------------------------------------------------------------------------


def invoke(*words: object, accept: int = 0) -> Result:
    result = CliRunner().invoke(program, [str(word) for word in words])
    assert result.exit_code == accept, result.output
    return result


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    root = tmp_path / "c"
    init_cluster(root, hosts=("10.0.0.1", "10.0.0.2"), base_port=27000, chain_id=CHAIN)
    return root


def test_genesis_names_the_validator_and_the_peer_of_each_member(cluster: Path) -> None:
    for number in range(2):
        directory, _ = open_directory(cluster / f"node{number}")
        genesis = read_genesis(directory.genesis_file)
        member = genesis.state.members[number]
        validator, peer = read_public_keys(directory)
        assert (member.validator_key, member.peer_id) == (validator.hex(), peer)
        assert genesis.validators[number].public_key == validator


def test_a_node_that_joins_is_made_from_an_invitation(cluster: Path, tmp_path: Path) -> None:
    invoke("member", "invite", cluster / "node0", accept=2)  # it listens on all addresses
    shown = invoke("member", "invite", cluster / "node0", "--host", "10.0.0.1").stdout
    file = tmp_path / "invitation"
    file.write_text(shown)
    new = tmp_path / "n"
    invoke("join", new, "--invitation", file, "--name", "node2", "--host", "10.0.0.3")
    directory, config = open_directory(new)
    assert directory.genesis_file.read_bytes() == (cluster / "node0/genesis.json").read_bytes()
    settings = [
        tomllib.loads((cluster / f"node{number}/node.toml").read_text()) for number in (0, 1)
    ]
    assert set(config.peers.members) == {
        *settings[0]["peers"]["members"],
        *settings[1]["peers"]["members"],
    }
    assert set(config.link.peers) == {*settings[0]["link"]["peers"], *settings[1]["link"]["peers"]}
    card = decode_json(directory.member_card_file.read_bytes(), MemberCard, limit=10_000)
    validator, peer = read_public_keys(directory)
    assert (card.chain_id, card.name) == (CHAIN, "node2")
    assert (card.validator_key, card.peer_id) == (validator.hex(), peer)
    assert card.link.endswith("@10.0.0.3:27003")


def test_nobody_is_invited_to_a_node_of_its_own(tmp_path: Path) -> None:
    init_node(tmp_path / "n", name="n", engine="solo", base_port=27000, chain_id=CHAIN)
    invoke("member", "invite", tmp_path / "n", accept=2)


def test_each_signs_with_its_own_key_where_no_node_runs(cluster: Path, tmp_path: Path) -> None:
    file = tmp_path / "proposal"
    file.write_bytes(encode_json(JOIN))
    for number in range(2):
        invoke("member", "sign", cluster / f"node{number}", file)
    proposal = decode_json(file.read_bytes(), Proposal, limit=10_000)
    message = change_bytes(CHAIN, body_of_proposal(proposal))
    genesis = read_genesis(NodeDirectory(cluster / "node0").genesis_file)
    keys = {bytes.fromhex(each.public_key) for each in genesis.state.members}
    verified = [
        sodium.verify(key, message, bytes.fromhex(signature))
        for key in sorted(keys)
        for signature in proposal.signatures.values()
    ]
    assert (len(verified), sum(verified)) == (4, 2)
    again = invoke("member", "sign", cluster / "node1", file, "--json")
    assert json.loads(again.stdout)["signatures"] == 2


def test_a_member_is_meant_by_its_id_although_another_has_that_for_a_name() -> None:
    names = {ANN: BOB.id.hex(), BOB: "bob"}
    rows = tuple(
        MemberRow(node=node.id.hex(), name=name, power=10, alive=True, own=False)
        for node, name in names.items()
    )
    known = MembersAnswer(
        chain_id=CHAIN, height=1, changes=0, block_time_us=0, members=rows, former=()
    )
    for text in (BOB.id.hex(), "bob"):
        assert _node_named(known, text) == BOB.id.hex()
    with pytest.raises(InvalidValueError):
        _node_named(known, "carol")


def test_a_node_does_not_sign_its_own_removal(cluster: Path, tmp_path: Path) -> None:
    genesis = read_genesis(NodeDirectory(cluster / "node0").genesis_file)
    key = bytes.fromhex(genesis.state.members[0].public_key)
    file = tmp_path / "proposal"
    file.write_bytes(encode_json(replace(REMOVAL, removes=node_id_of(key).hex())))
    before = file.read_bytes()
    assert "no say" in invoke("member", "sign", cluster / "node0", file, accept=1).output
    assert file.read_bytes() == before
    invoke("member", "sign", cluster / "node1", file)


def test_a_proposal_for_another_chain_is_not_signed(cluster: Path, tmp_path: Path) -> None:
    file = tmp_path / "proposal"
    other = replace(JOIN, chain_id="other", joins=replace(CARD, chain_id="other"))
    file.write_bytes(encode_json(other))
    before = file.read_bytes()
    assert "other" in invoke("member", "sign", cluster / "node0", file, accept=1).output
    assert file.read_bytes() == before


def test_a_damaged_engine_key_is_told(cluster: Path) -> None:
    path = cluster / "node0/engine/config/node_key.json"
    for text in ("{}", "x", '{"priv_key": {"value": "YWJj"}}'):
        path.write_text(text)
        done = invoke("member", "invite", cluster / "node0", "--host", "10.0.0.1", accept=1)
        assert "node_key.json" in done.output
