"""Verifying requests: the order of the checks, the memo, the deny set, epochs."""

from __future__ import annotations

import threading

import pytest

from edgistry.blocks import ChildEntry, append_block, child_block
from edgistry.capability import BoundRequest, Capability
from edgistry.capability_chain import Chain, Entry
from edgistry.caveats import lineage
from edgistry.codec import encode
from edgistry.envelope import GENERIC_REFUSAL, Operation, Status, reply_to, with_tag
from edgistry.errors import (
    BadTagError,
    CaveatError,
    InvalidValueError,
    NoRightError,
    Refused,
    RevokedError,
    TooLargeError,
    WrongEpochError,
)
from edgistry.issuer import Issuer
from edgistry.rights import Right
from edgistry.verifier import Verifier

from .grants import ISSUER, ME, NEWEST, NOW, ROOT, SECRET, YOU, bind, check


def refusal(request: BoundRequest | bytes, verifier: Verifier | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        check(request, verifier)
    return caught.value


def forged(request: BoundRequest) -> bytes:
    return encode(with_tag(request.envelope, bytes(16)))


def test_before_the_tag_every_refusal_is_the_same() -> None:
    stranger = Issuer.from_secret(bytes(32), epoch=4).mint(serial=1)
    older = Issuer.from_secret(SECRET, epoch=3).mint(serial=1)
    denied = Verifier(ISSUER, denied=[ROOT.id])
    for data, verifier in [
        (b"", None),
        (forged(bind(ROOT)), None),
        (forged(bind(ROOT)), denied),
        (forged(bind(ROOT.derive(client=YOU))), None),
        (forged(bind(ROOT.derive(allow=Right.PUT))), None),
        (bind(stranger).encoded, None),
        (bind(older).encoded, None),
    ]:
        assert reply_to(refusal(data, verifier)) == GENERIC_REFUSAL


@pytest.mark.parametrize(
    ("capability", "status"),
    [
        (ROOT.derive(client=YOU), Status.CAVEAT),
        (ROOT.derive(allow=Right.PUT), Status.NO_RIGHT),
        (ROOT.derive(client=YOU, allow=Right.PUT), Status.CAVEAT),
    ],
)
def test_after_the_tag_the_exact_reason_is_proven(capability: Capability, status: Status) -> None:
    request = bind(capability)
    error = refusal(request)
    reply = request.open_reply(reply_to(error))
    assert reply.status == status == error.wire_status
    assert (reply.result, reply.payload, reply.flat) == (0, b"", b"")


def test_revocation_is_looked_at_before_caveats_and_rights() -> None:
    capability = ROOT.derive(client=YOU)
    request = bind(capability)
    error = refusal(request, Verifier(ISSUER, denied=[capability.id]))
    assert isinstance(error, RevokedError)
    assert request.open_reply(reply_to(error)).status == Status.REVOKED


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_denying_a_prefix_denies_all_derived_from_it_and_nothing_else(depth: int) -> None:
    chain = [ROOT]
    for number in range(3):
        chain.append(chain[-1].derive(max_payload=1000 - number))
    verifier = Verifier(ISSUER, denied=[chain[depth].id])
    for index, capability in enumerate(chain):
        if index >= depth:
            assert isinstance(refusal(bind(capability), verifier), RevokedError)
        else:
            check(bind(capability), verifier)
    check(bind(chain[0].derive(max_payload=50)) if depth else bind(ISSUER.mint(serial=2)), verifier)


def test_lineage_is_denied_like_a_prefix() -> None:
    flattened = ISSUER.mint(serial=1, caveats=[lineage(ROOT.id)])
    check(bind(flattened))
    assert isinstance(refusal(bind(flattened), Verifier(ISSUER, denied=[ROOT.id])), RevokedError)


def test_every_capability_of_an_envelope_must_verify_and_not_be_denied() -> None:
    beside = ISSUER.mint(serial=2)
    request = bind(ROOT, beside=[beside])
    check(request)
    assert isinstance(refusal(request, Verifier(ISSUER, denied=[beside.id])), RevokedError)
    stranger = Issuer.from_secret(bytes(32), epoch=4).mint(serial=2)
    assert isinstance(refusal(bind(ROOT, beside=[stranger])), BadTagError)


def test_required_capability_adds_no_rights() -> None:
    badge = ISSUER.mint(serial=2, entries=[Entry(int(Right.PUT), "")])
    reader = ROOT.derive(allow=Right.GET, require=[badge.id])
    check(bind(reader, beside=[badge]))
    error = refusal(bind(reader, Operation.PUT, beside=[badge]))
    assert isinstance(error, NoRightError)


def test_capability_requires_a_prefix_of_another_one() -> None:
    badge = ISSUER.mint(serial=2)
    reader = ROOT.derive(require=[badge.id])
    check(bind(reader, beside=[badge.derive(client=ME).derive(max_payload=100)]))
    assert isinstance(refusal(bind(reader)), CaveatError)
    assert isinstance(refusal(bind(reader, beside=[ISSUER.mint(serial=3)])), CaveatError)


def test_capability_that_requires_its_own_prefix_needs_another_copy_of_it() -> None:
    needy = ROOT.derive(require=[ROOT.id])
    assert isinstance(refusal(bind(needy)), CaveatError)
    check(bind(needy, beside=[ROOT]))


def test_caveats_of_required_capabilities_hold_too() -> None:
    badge = ISSUER.mint(serial=2)
    reader = ROOT.derive(require=[badge.id])
    for beside in (badge.derive(client=YOU), badge.derive(not_after_us=NOW - 1)):
        error = refusal(bind(reader, beside=[beside]))
        assert isinstance(error, CaveatError)
        assert error.caveat == "require"
    # One of two candidates is enough.
    check(bind(reader, beside=[badge.derive(client=YOU), badge]))


def test_requirements_are_followed_through_all_four_capabilities() -> None:
    first = ISSUER.mint(serial=11)
    second = ISSUER.mint(serial=12).derive(require=[first.id])
    third = ISSUER.mint(serial=13).derive(require=[second.id])
    fourth = ROOT.derive(require=[third.id])
    check(bind(fourth, beside=[first, second, third]))
    assert isinstance(refusal(bind(fourth, beside=[second, third])), CaveatError)
    broken = ISSUER.mint(serial=11).derive(client=YOU)
    assert isinstance(refusal(bind(fourth, beside=[broken, second, third])), CaveatError)


def test_capabilities_that_require_each_other_are_refused() -> None:
    one, two = ISSUER.mint(serial=11), ISSUER.mint(serial=12)
    needs_two, needs_one = one.derive(require=[two.id]), two.derive(require=[one.id])
    error = refusal(bind(needs_two, beside=[needs_one]))
    assert isinstance(error, CaveatError)
    assert error.caveat == "require"
    # A third party breaks the circle.
    check(bind(needs_two, beside=[needs_one, one]))


def test_many_requirements_cost_no_more_than_few() -> None:
    """Each other capability is looked into once, not once for every id that asks for it."""
    layers = [ISSUER.mint(serial=20)]
    for serial in (21, 22, 23):
        below = layers[-1]
        while len(below.chain.ends) < 16:
            below = below.derive(max_payload=1000 + len(below.chain.ends))
        layers[-1] = below
        layers.append(ISSUER.mint(serial=serial).derive(require=below.chain.ids))
    check(bind(layers[-1], beside=layers[:-1]))


def test_one_entry_must_hold_all_rights() -> None:
    split = ISSUER.mint(serial=2, entries=[Entry(int(Right.PUT), ""), Entry(int(Right.INVOKE), "")])
    check(bind(split, Operation.PUT))
    assert isinstance(refusal(bind(split, Operation.PUT, handler="h")), NoRightError)
    both = ISSUER.mint(serial=2, entries=[Entry(int(Right.PUT | Right.INVOKE), "ns/w")])
    check(bind(both, Operation.PUT, handler="h"))


def test_put_needs_no_get() -> None:
    check(bind(ROOT.derive(allow=Right.PUT), Operation.PUT, payload=b"x"))


def test_sequence_fix_needs_its_right_on_everything() -> None:
    below = ROOT.derive(allow=Right.SEQUENCE_FIX, object_name="ns")
    assert isinstance(refusal(bind(below, Operation.SEQUENCE_FIX, "ns")), NoRightError)
    check(bind(ROOT.derive(allow=Right.SEQUENCE_FIX), Operation.SEQUENCE_FIX, ""))


@pytest.mark.parametrize(
    ("op", "payload", "handler", "holds"),
    [
        (Operation.PUT, b"x", "h", True),
        (Operation.PUT, b"x", "", False),
        (Operation.GET, NEWEST, "", True),
        (Operation.GET, bytes(7) + b"\x01", "", False),
        (Operation.GET, b"", "", False),
        (Operation.LATEST, b"", "", False),
        (Operation.SCAN, bytes(11) + b"\x01", "", False),
        (Operation.DELETE, b"", "", False),
        (Operation.MINT, b"", "h", False),
    ],
)
def test_veil_allows_a_put_with_a_handler_and_a_get_of_the_newest(
    op: Operation, payload: bytes, handler: str, holds: bool
) -> None:
    request = bind(ROOT.derive(veil=True), op, payload=payload, handler=handler)
    if holds:
        check(request)
    else:
        assert isinstance(refusal(request), CaveatError)


def test_replies_under_a_veil_carry_result_zero() -> None:
    request = bind(ROOT.derive(veil=True))
    assert request.open_reply(check(request).reply(0, result=77)).result == 0
    open_request = bind(ROOT)
    assert open_request.open_reply(check(open_request).reply(0, result=77)).result == 77


def test_time_caveats_include_their_borders() -> None:
    capability = ROOT.derive(not_before_us=NOW, not_after_us=NOW + 1)
    for now_us, holds in ((NOW - 1, False), (NOW, True), (NOW + 1, True), (NOW + 2, False)):
        if holds:
            check(bind(capability), now_us=now_us)
        else:
            with pytest.raises(CaveatError):
                check(bind(capability), now_us=now_us)


def test_payload_may_be_as_long_as_its_caveat() -> None:
    capability = ROOT.derive(max_payload=4).derive(max_payload=9)
    check(bind(capability, Operation.PUT, payload=b"1234"))
    assert isinstance(refusal(bind(capability, Operation.PUT, payload=b"12345")), CaveatError)


def test_handler_must_be_one_of_every_block() -> None:
    capability = ROOT.derive(handlers=["a", "b"]).derive(handlers=["b", "c"])
    check(bind(capability, Operation.PUT, handler="b"))
    for handler in ("a", "c", "", "bb"):
        assert isinstance(refusal(bind(capability, Operation.PUT, handler=handler)), CaveatError)


# --- the memo --------------------------------------------------------------------------------


def remembered(verifier: Verifier) -> set[bytes]:
    return set(verifier._generation.memo)


def test_memo_remembers_accepted_chains_and_they_stay_accepted() -> None:
    verifier = Verifier(ISSUER)
    for number in range(3):
        check(bind(ROOT, sequence=NOW + number), verifier)
    assert remembered(verifier) == {ROOT.public}


def test_memo_is_not_poisoned_by_a_refused_chain() -> None:
    verifier = Verifier(ISSUER)
    stranger = Issuer.from_secret(bytes(32), epoch=4).mint(serial=1)
    attached = append_block(ROOT.public, child_block([ChildEntry(0, 16)]))
    stolen = BoundRequest.sealed(
        with_tag(bind(ROOT.derive(allow=16)).envelope, bytes(16)), bytes(32)
    )
    assert stolen.envelope.capabilities == (attached,)
    for data in (bind(stranger).encoded, forged(bind(ROOT)), stolen.encoded, b"\x9c"):
        refusal(data, verifier)
        refusal(data, verifier)
    assert remembered(verifier) == set()
    check(bind(ROOT), verifier)
    assert isinstance(refusal(forged(bind(ROOT, sequence=NOW + 1)), verifier), BadTagError)


def test_memo_does_not_remember_denied_chains() -> None:
    verifier = Verifier(ISSUER, denied=[ROOT.id])
    refusal(bind(ROOT), verifier)
    assert remembered(verifier) == set()


def test_memo_still_judges_every_request() -> None:
    verifier = Verifier(ISSUER)
    reader = ROOT.derive(allow=Right.GET, not_after_us=NOW)
    check(bind(reader), verifier)
    assert isinstance(refusal(bind(reader, Operation.PUT), verifier), NoRightError)
    with pytest.raises(CaveatError):
        check(bind(reader), verifier, now_us=NOW + 1)


def test_memo_is_bounded_and_can_be_left_out() -> None:
    verifier, without = Verifier(ISSUER, memo=3), Verifier(ISSUER, memo=0)
    for number in range(10):
        check(bind(ISSUER.mint(serial=number)), verifier)
        check(bind(ISSUER.mint(serial=number)), without)
    assert len(remembered(verifier)) == 3
    assert remembered(without) == set()


def test_memo_ends_with_its_deny_set_and_its_epoch() -> None:
    verifier = Verifier(ISSUER)
    check(bind(ROOT), verifier)
    verifier.replace(denied=[ROOT.id])
    assert isinstance(refusal(bind(ROOT), verifier), RevokedError)
    verifier.replace(issuer=Issuer.from_secret(SECRET, epoch=5), denied=[])
    assert isinstance(refusal(bind(ROOT), verifier), WrongEpochError)
    assert verifier.issuer.epoch == 5


def test_request_that_began_before_a_revocation_does_not_enter_the_new_memo() -> None:
    """A check is stopped between reading the chain and remembering it; meanwhile it is revoked."""
    verifier = Verifier(ISSUER)
    reached, go_on = threading.Event(), threading.Event()
    admit = verifier._admit

    def stopped(generation: object, fresh: object) -> None:
        reached.set()
        assert go_on.wait(10)
        admit(generation, fresh)  # type: ignore[arg-type]

    verifier._admit = stopped  # type: ignore[method-assign]
    thread = threading.Thread(target=check, args=(bind(ROOT), verifier))
    thread.start()
    assert reached.wait(10)
    verifier.replace(denied=[ROOT.id])
    go_on.set()
    thread.join(10)
    assert remembered(verifier) == set()
    assert isinstance(refusal(bind(ROOT), verifier), RevokedError)


def test_checking_from_many_threads_is_safe() -> None:
    verifier = Verifier(ISSUER, memo=2)
    capabilities = [ISSUER.mint(serial=number) for number in range(6)]
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for number in range(200):
                check(bind(capabilities[number % 6], sequence=NOW + number), verifier)
        except BaseException as error:  # the test reports whatever a thread met
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(remembered(verifier)) == 2


# --- replies ---------------------------------------------------------------------------------


def test_reply_numbers_must_fit() -> None:
    checked = check(bind(ROOT))
    for result in (1 << 64, -1):
        with pytest.raises(InvalidValueError):
            checked.reply(0, result=result)
    with pytest.raises(InvalidValueError):
        checked.reply(0, sequence_epoch=1 << 32)
    with pytest.raises(InvalidValueError):
        checked.reply(0x10000)
    with pytest.raises(TooLargeError):
        checked.reply(0, payload=bytes(65_537))


def test_checked_request_shows_what_it_is_and_no_secret() -> None:
    checked = check(bind(ROOT))
    assert checked.envelope.target == "ns/w"
    assert list(checked.chains) == [ROOT.chain]
    assert isinstance(checked.chain, Chain)
    assert ROOT.id.hex() in repr(checked)


# --- final replies ---------------------------------------------------------------------------


def test_admitted_request_can_still_be_answered_when_its_capability_is_over() -> None:
    capability = ROOT.derive(not_after_us=NOW)
    verifier = Verifier(ISSUER, memo=0)
    request = bind(capability)
    check(request, verifier)
    verifier.replace(denied=[capability.id])
    reply = request.open_reply(verifier.reopen(request.encoded).reply(Status.OK, payload=b"done"))
    assert reply.payload == b"done"


def test_forged_request_is_not_reopened() -> None:
    with pytest.raises(BadTagError):
        Verifier(ISSUER).reopen(forged(bind(ROOT)))
    with pytest.raises(WrongEpochError):
        Verifier(Issuer.from_secret(SECRET, epoch=5)).reopen(bind(ROOT).encoded)


def test_reopening_a_denied_request_does_not_make_it_pass_the_deny_set() -> None:
    verifier = Verifier(ISSUER, denied=[ROOT.id])
    request = bind(ROOT)
    verifier.reopen(request.encoded)
    assert isinstance(refusal(request, verifier), RevokedError)
