"""Opening transactions, and what the memo may and may not change."""

from __future__ import annotations

import pytest

import abci_app.signatures as signatures_module
from abci_app.schema import Member
from abci_app.signatures import MAX_KEPT_PARSED, SignatureMemo
from edgistry.adapters import sodium
from edgistry.errors import (
    BadSignatureError,
    NotAMemberError,
    WrongChainError,
    WrongSequenceError,
)
from edgistry.transactions import NodeId, Transaction, parse_transaction

from .chain_world import ANN, BOB, CHAIN, EVE, LEASE, put


class Opener:
    """A memo whose verifications are counted."""

    def __init__(self, limit: int = 100) -> None:
        self.verified = 0
        self.members = {
            node.id: Member(public_key=node.public_key, name=node.name) for node in (ANN, BOB)
        }
        self.memo = SignatureMemo(self._verify, limit=limit)

    def _verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.verified += 1
        return sodium.verify(public_key, message, signature)

    def open(self, data: bytes, *, chain_id: str = CHAIN, last: int | None = None) -> Transaction:
        def reached(_: NodeId) -> int:
            return last or 0

        return self.memo.open(
            data,
            chain_id=chain_id,
            member=self.members.get,
            last=None if last is None else reached,
        )


def test_a_transaction_is_verified_once() -> None:
    opener = Opener()
    assert opener.open(ANN.sign(1, LEASE)) == opener.open(ANN.sign(1, LEASE))
    assert opener.verified == 1


def test_a_large_transaction_is_verified_once_and_opens_alike() -> None:
    opener = Opener()
    large = ANN.sign(1, put(*range(100)))
    assert len(large) > MAX_KEPT_PARSED
    assert opener.open(large) == opener.open(large)
    assert opener.verified == 1


def test_large_transactions_are_parsed_once_and_kept_within_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[bytes] = []

    def parse(data: bytes) -> Transaction:
        parsed.append(data)
        return parse_transaction(data)

    monkeypatch.setattr(signatures_module, "parse_transaction", parse)
    large = [ANN.sign(number, put(*range(100))) for number in (1, 2, 3)]
    monkeypatch.setattr(signatures_module, "MAX_LARGE_BYTES", 2 * len(large[0]) + 4096)
    opener = Opener()
    for transaction in (*large, large[2], large[1]):
        opener.open(transaction)
    assert parsed == large
    assert opener.open(large[0]).sequence == 1
    assert (parsed, opener.verified) == ([*large, large[0]], 3)


def test_a_refused_signature_is_not_remembered_as_anything() -> None:
    opener = Opener()
    forged = ANN.sign(1, LEASE, seed=BOB.seed)
    for _ in range(2):
        with pytest.raises(BadSignatureError):
            opener.open(forged)
    assert opener.verified == 2


def test_a_forgery_of_a_remembered_transaction_is_refused() -> None:
    opener = Opener()
    genuine = ANN.sign(1, LEASE)
    opener.open(genuine)
    forged = genuine[:-1] + bytes([genuine[-1] ^ 1])
    with pytest.raises(BadSignatureError):
        opener.open(forged)


def test_membership_is_asked_even_of_remembered_transactions() -> None:
    opener = Opener()
    opener.open(ANN.sign(1, LEASE))
    del opener.members[ANN.id]
    with pytest.raises(NotAMemberError):
        opener.open(ANN.sign(1, LEASE))


def test_chain_and_sequence_are_asked_even_of_remembered_transactions() -> None:
    opener = Opener()
    opener.open(ANN.sign(1, LEASE))
    with pytest.raises(WrongChainError):
        opener.open(ANN.sign(1, LEASE), chain_id="other")
    with pytest.raises(WrongSequenceError) as refusal:
        opener.open(ANN.sign(1, LEASE), last=1)
    assert (refusal.value.expected, refusal.value.got) == (2, 1)


def test_what_can_be_refused_without_arithmetic_is() -> None:
    opener = Opener()
    for transaction, last in (
        (EVE.sign(1, LEASE), 0),
        (ANN.sign(1, LEASE, chain_id="other"), 0),
        (ANN.sign(1, LEASE), 5),
    ):
        with pytest.raises((NotAMemberError, WrongChainError, WrongSequenceError)):
            opener.open(transaction, last=last)
    assert opener.verified == 0


def test_the_oldest_is_forgotten_first_and_verified_again() -> None:
    opener = Opener(limit=2)
    one, two, three = (ANN.sign(number, LEASE) for number in (1, 2, 3))
    for transaction in (one, two, three):
        opener.open(transaction)
    opener.open(two)
    opener.open(three)
    assert opener.verified == 3
    opener.open(one)
    assert opener.verified == 4
