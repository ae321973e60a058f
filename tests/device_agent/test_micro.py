"""The microcontroller verifier on its own, with requests written by hand from the format."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import hmac
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.micro import capability as micro

from .hand_made import (
    CLIENT,
    EPOCH,
    GET,
    INVOKE,
    MINUTE,
    NOW,
    PUT,
    SECRET,
    Token,
    block,
    caveat,
    child_entry,
    deep_token,
    envelope,
    key_of,
    mac,
    mint,
    not_after,
    root_entry,
)

ROOT = block([root_entry(micro.ALL_RIGHTS)])


def verifier(*denied: bytes) -> micro.Verifier:
    return micro.Verifier(micro.epoch_key(SECRET, EPOCH), EPOCH, denied)


def refused(
    message: bytes, *, now: int = NOW, checker: micro.Verifier | None = None
) -> tuple[int, str]:
    with pytest.raises(micro.Refusal) as caught:
        (checker or verifier()).check(message, now)
    refusal = caught.value
    assert (refusal.request is None) == (refusal.status == micro.REFUSED)
    return refusal.status, refusal.detail


def chain_refused(public: bytes) -> str:
    with pytest.raises(micro.Refusal) as caught:
        micro.Chain(public)
    assert caught.value.status == micro.REFUSED
    return caught.value.detail


def public_of(*blocks: bytes) -> bytes:
    return (
        b"ED\x01"
        + bytes(3)
        + b"\x07"
        + bytes(3)
        + b"\x01"
        + bytes([len(blocks)])
        + b"".join(blocks)
    )


class TestModule:
    def test_it_imports_hashlib_and_struct_only(self) -> None:
        tree = ast.parse(Path(micro.__file__).read_text())
        imported = {
            name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for name in node.names
        }
        assert imported == {"hashlib", "struct"}
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

    @pytest.mark.parametrize("length", [0, 1, 31, 32, 63, 64, 65, 200])
    def test_its_hmac_is_the_standard_one(self, length: int) -> None:
        key = bytes(range(length))
        expected = hmac.new(key, b"left|right", hashlib.sha256).digest()
        assert micro.hmac_sha256(key, (b"left", memoryview(b"|right"))) == expected

    def test_equality_of_bytes_looks_at_all_of_them(self) -> None:
        assert micro.same_bytes(b"abc", b"abc")
        assert not micro.same_bytes(b"abc", b"abd")
        assert not micro.same_bytes(b"abc", b"ab")


class TestAccepted:
    @pytest.mark.parametrize("levels", [1, 3, 5])
    def test_a_chain_of_any_depth_verifies(self, levels: int) -> None:
        request = verifier().check(envelope([deep_token(levels)]), NOW)
        assert request.target == b"ns/woof"
        assert request.key == deep_token(levels).state

    def test_the_current_epoch_may_be_left_unnamed(self) -> None:
        token = mint(ROOT, header_epoch=0xFFFFFFFF)
        assert verifier().check(envelope([token]), NOW).op == micro.OP_GET

    def test_two_capabilities_sign_together(self) -> None:
        tokens = [mint(ROOT), mint(ROOT, serial=2)]
        request = verifier().check(envelope(tokens), NOW)
        assert request.key == hashlib.sha256(b"\x07" + tokens[0].state + tokens[1].state).digest()

    def test_the_id_of_every_prefix_is_its_hash(self) -> None:
        token = mint(ROOT)
        child = token.derive(block([child_entry(0, GET)]))
        assert micro.Chain(child.public).ids() == [token.id, child.id]

    def test_an_unknown_caveat_that_is_not_critical_is_skipped(self) -> None:
        token = mint(block([root_entry(GET)], caveat(0x10, b"note")))
        assert verifier().check(envelope([token]), NOW).client == CLIENT

    def test_an_entry_holds_for_everything_below_its_object(self) -> None:
        token = mint(block([root_entry(GET, b"ns")]))
        verifier().check(envelope([token], target="ns"), NOW)
        verifier().check(envelope([token], target="ns/woof"), NOW)
        assert refused(envelope([token], target="nsx")) == (micro.NO_RIGHT, "no-right")


class TestChains:
    def test_a_child_cannot_widen_its_parents_rights(self) -> None:
        assert (
            chain_refused(public_of(block([root_entry(GET)]), block([child_entry(0, GET | PUT)])))
            == "widened"
        )

    def test_a_grandchild_cannot_regain_what_its_parent_gave_up(self) -> None:
        blocks = [
            block([root_entry(GET | PUT)]),
            block([child_entry(0, GET)]),
            block([child_entry(0, GET | PUT)]),
        ]
        assert chain_refused(public_of(*blocks)) == "widened"

    def test_the_parent_must_exist_in_the_block_before(self) -> None:
        assert chain_refused(public_of(ROOT, block([child_entry(1, GET)]))) == "parent"

    @pytest.mark.parametrize(
        "name",
        [
            b"..",
            b".",
            b"a//b",
            b"/a",
            b"a/",
            b"A",
            b"a b",
            b"a/b/c",
            b"x" * 33,
            b"a/..",
            b"\xc3\xa9",
        ],
    )
    def test_an_object_outside_the_grammar_is_refused(self, name: bytes) -> None:
        assert chain_refused(public_of(block([root_entry(GET, name)]))) == "object"

    @pytest.mark.parametrize(
        ("caveats", "reason"),
        [
            (caveat(0x8A), "unknown-caveat"),
            (caveat(0x81, bytes(7)), "caveat-length"),
            (caveat(0x84, b""), "caveat-length"),
            (caveat(0x84, b"x" * 33), "caveat-length"),
            (caveat(0x87, b"x"), "caveat-length"),
            (not_after(2) + not_after(2), "caveat-order"),
            (not_after(2) + not_after(1), "caveat-order"),
            (caveat(0x89) + caveat(0x87), "caveat-order"),
            (b"\x81", "truncated"),
            (b"\x81\x08", "truncated"),
        ],
    )
    def test_a_bad_caveat_is_refused(self, caveats: bytes, reason: str) -> None:
        assert chain_refused(public_of(block([root_entry(GET)], caveats))) == reason

    @pytest.mark.parametrize(
        ("public", "reason"),
        [
            (b"", "truncated"),
            (public_of(ROOT)[:-1], "truncated"),
            (public_of(ROOT) + b"\x00", "trailing-bytes"),
            (b"XD" + public_of(ROOT)[2:], "magic"),
            (b"ED\x02" + public_of(ROOT)[3:], "unknown-version"),
            (public_of(), "block-count"),
            (public_of(ROOT, *[block([child_entry(0, GET)])] * 16), "block-count"),
            (public_of(block([])), "entry-count"),
            (public_of(block([root_entry(0)] * 33)), "entry-count"),
            (public_of(block([root_entry(0x0800)])), "rights"),
            (public_of(b"\x00\x00"), "truncated"),
            (bytes(2049), "too-large"),
        ],
    )
    def test_a_misshapen_chain_is_refused(self, public: bytes, reason: str) -> None:
        assert chain_refused(public) == reason


class TestEnvelopes:
    def test_any_flipped_bit_is_refused(self) -> None:
        message = envelope([deep_token(2)])
        for position in range(len(message) * 8):
            flipped = bytearray(message)
            flipped[position // 8] ^= 1 << (position % 8)
            assert refused(bytes(flipped))[0] == micro.REFUSED

    def test_any_cut_is_refused(self) -> None:
        message = envelope([deep_token(2)])
        for length in range(len(message)):
            assert refused(message[:length])[0] == micro.REFUSED
        assert refused(message + b"\x00") == (micro.REFUSED, "trailing-bytes")

    @pytest.mark.parametrize("length", [*range(16), *range(17, 33)])
    def test_a_tag_of_another_length_is_refused(self, length: int) -> None:
        token = mint(ROOT)
        assert refused(envelope([token], tag=bytes(length))) == (micro.REFUSED, "length")

    def test_a_wrong_tag_is_refused(self) -> None:
        assert refused(envelope([mint(ROOT)], tag=bytes(16))) == (micro.REFUSED, "bad-tag")

    def test_the_same_capability_twice_is_refused(self) -> None:
        token = mint(ROOT)
        assert refused(envelope([token, token]))[1] == "duplicate-capability"

    def test_a_capability_of_another_epoch_is_refused(self) -> None:
        token = mint(ROOT, header_epoch=EPOCH - 1, key=key_of(epoch=EPOCH - 1))
        assert refused(envelope([token])) == (micro.REFUSED, "wrong-epoch")

    def test_a_capability_of_another_issuer_is_refused(self) -> None:
        token = mint(ROOT, key=key_of(b"x" * 32))
        assert refused(envelope([token])) == (micro.REFUSED, "bad-tag")
        assert refused(envelope([mint(ROOT, serial=2), token])) == (micro.REFUSED, "bad-tag")

    def test_a_longer_spelling_of_an_integer_is_refused(self) -> None:
        message = envelope([mint(ROOT)])
        assert message[:2] == b"\x9c\x01"
        assert refused(b"\x9c\xcc\x01" + message[2:]) == (micro.REFUSED, "not-canonical")

    def test_a_deadline_beyond_seven_days_is_refused(self) -> None:
        week = 7 * 24 * 60 * MINUTE
        verifier().check(envelope([mint(ROOT)], deadline=NOW + week), NOW)
        assert refused(envelope([mint(ROOT)], deadline=NOW + week + 1))[0] == micro.REFUSED

    def test_a_handler_is_any_text_but_no_other_bytes(self) -> None:
        token = mint(ROOT)
        for name in ("é", "\ud7ff", "\ue000", "\U0010ffff", "x" * 32):
            message = envelope([token], op=3, handler=name)
            assert verifier().check(message, NOW).handler == name.encode()
        assert refused(envelope([token], op=3, handler="x" * 33))[0] == micro.REFUSED

    @given(st.binary(min_size=2, max_size=5))
    def test_what_is_text_is_what_unicode_says(self, data: bytes) -> None:
        message = envelope([mint(ROOT)], op=3, handler="x" * len(data))
        spliced = message.replace(b"x" * len(data), data)
        try:
            data.decode()
        except UnicodeDecodeError:
            assert refused(spliced) == (micro.REFUSED, "handler")
        else:
            assert refused(spliced) == (micro.REFUSED, "bad-tag")

    def test_a_large_payload_is_for_the_exchange_only(self) -> None:
        payload = bytes(64 * 1024 + 1)
        assert refused(envelope([mint(ROOT)], op=3, payload=payload))[0] == micro.REFUSED
        assert verifier().check(envelope([mint(ROOT)], op=7, payload=payload), NOW).op == 7


class TestPermission:
    def test_put_with_a_handler_needs_invoke_too(self) -> None:
        put_only = mint(block([root_entry(PUT)]))
        verifier().check(envelope([put_only], op=3), NOW)
        assert refused(envelope([put_only], op=3, handler="run"))[0] == micro.NO_RIGHT
        both = mint(block([root_entry(PUT | INVOKE)]))
        assert verifier().check(envelope([both], op=3, handler="run"), NOW).handler == b"run"

    def test_rights_of_two_entries_do_not_add_up(self) -> None:
        split = mint(block([root_entry(PUT), root_entry(INVOKE)]))
        assert refused(envelope([split], op=3, handler="run"))[0] == micro.NO_RIGHT

    def test_write_only_cannot_read(self) -> None:
        assert refused(envelope([mint(block([root_entry(PUT)]))], op=4))[0] == micro.NO_RIGHT

    def test_an_operation_that_does_not_exist_is_answered_authentically(self) -> None:
        assert refused(envelope([mint(ROOT)], op=12)) == (micro.MALFORMED, "operation")

    def test_a_sequence_fix_needs_the_right_over_everything(self) -> None:
        narrow = mint(block([root_entry(micro.SEQUENCE_FIX, b"ns")]))
        assert refused(envelope([narrow], op=9, target="ns"))[0] == micro.NO_RIGHT

    @pytest.mark.parametrize(
        ("caveats", "reason"),
        [
            (not_after(NOW - 1), "not_after"),
            (caveat(0x82, (NOW + 1).to_bytes(8, "big")), "not_before"),
            (caveat(0x83, b"client-2"), "client"),
            (caveat(0x84, b"other"), "handler"),
            (caveat(0x85, (7).to_bytes(4, "big")), "max_payload"),
            (caveat(0x86, bytes(16)), "require"),
        ],
    )
    def test_a_caveat_that_does_not_hold_is_named(self, caveats: bytes, reason: str) -> None:
        token = mint(block([root_entry(GET)], caveats))
        assert refused(envelope([token])) == (micro.CAVEAT, reason)

    def test_the_caveats_of_every_block_count(self) -> None:
        token = mint(block([root_entry(GET)], not_after(NOW - 1)))
        child = token.derive(block([child_entry(0, GET)], not_after(NOW + 1)))
        assert refused(envelope([child]))[0] == micro.CAVEAT

    def test_limits_are_inclusive(self) -> None:
        token = mint(block([root_entry(GET)], not_after(NOW), caveat(0x82, NOW.to_bytes(8, "big"))))
        assert verifier().check(envelope([token]), NOW).op == micro.OP_GET

    def test_one_of_a_blocks_handlers_suffices_but_each_block_must_agree(self) -> None:
        names = caveat(0x84, b"one") + caveat(0x84, b"two")
        token = mint(block([root_entry(PUT | INVOKE)], names))
        verifier().check(envelope([token], op=3, handler="one"), NOW)
        verifier().check(envelope([token], op=3, handler="two"), NOW)
        child = token.derive(block([child_entry(0, PUT | INVOKE)], caveat(0x84, b"two")))
        verifier().check(envelope([child], op=3, handler="two"), NOW)
        assert refused(envelope([child], op=3, handler="one")) == (micro.CAVEAT, "handler")

    def test_a_sealed_capability_cannot_be_narrowed(self) -> None:
        token = mint(block([root_entry(GET)], caveat(0x87)))
        verifier().check(envelope([token]), NOW)
        child = token.derive(block([child_entry(0, GET)]))
        assert refused(envelope([child])) == (micro.CAVEAT, "sealed")

    def test_a_denied_prefix_or_lineage_revokes(self) -> None:
        token = mint(ROOT)
        child = token.derive(block([child_entry(0, GET)]))
        flat = mint(block([root_entry(GET)], caveat(0x88, token.id)))
        assert refused(envelope([child]), checker=verifier(token.id)) == (micro.REVOKED, "revoked")
        assert refused(envelope([flat]), checker=verifier(token.id)) == (micro.REVOKED, "revoked")
        verifier(child.id).check(envelope([token]), NOW)


class TestRequire:
    def other(self, *caveats: bytes) -> Token:
        return mint(block([root_entry(0)], *caveats), serial=2)

    def test_the_required_capability_must_be_beside(self) -> None:
        other = self.other()
        token = mint(block([root_entry(GET)], caveat(0x86, other.id)))
        verifier().check(envelope([token, other]), NOW)
        assert refused(envelope([token])) == (micro.CAVEAT, "require")

    def test_a_narrowed_form_of_the_required_one_does_as_well(self) -> None:
        other = self.other()
        token = mint(block([root_entry(GET)], caveat(0x86, other.id)))
        narrowed = other.derive(block([child_entry(0, 0)]))
        assert verifier().check(envelope([token, narrowed]), NOW).op == micro.OP_GET

    def test_the_caveats_of_the_required_one_must_hold(self) -> None:
        other = self.other(not_after(NOW - 1))
        token = mint(block([root_entry(GET)], caveat(0x86, other.id)))
        assert refused(envelope([token, other])) == (micro.CAVEAT, "require")

    def test_it_adds_no_rights(self) -> None:
        other = mint(ROOT, serial=2)
        token = mint(block([root_entry(GET)], caveat(0x86, other.id)))
        assert refused(envelope([token, other], op=6))[0] == micro.NO_RIGHT

    def test_a_chain_of_three_requirements_is_followed(self) -> None:
        last = mint(block([root_entry(0)]), serial=4)
        third = mint(block([root_entry(0)], caveat(0x86, last.id)), serial=3)
        second = mint(block([root_entry(0)], caveat(0x86, third.id)), serial=2)
        first = mint(block([root_entry(GET)], caveat(0x86, second.id)))
        verifier().check(envelope([first, second, third, last]), NOW)
        assert refused(envelope([first, second, third])) == (micro.CAVEAT, "require")

    def test_a_cycle_is_refused(self) -> None:
        one = mint(block([root_entry(GET)]))
        two = mint(block([root_entry(GET)]), serial=2)
        first = one.derive(block([child_entry(0, GET)], caveat(0x86, two.id)))
        second = two.derive(block([child_entry(0, GET)], caveat(0x86, one.id)))
        assert refused(envelope([first, second])) == (micro.CAVEAT, "require")

    def test_a_capability_does_not_satisfy_its_own_requirement(self) -> None:
        one = mint(block([root_entry(GET)]))
        child = one.derive(block([child_entry(0, GET)], caveat(0x86, one.id)))
        assert refused(envelope([child])) == (micro.CAVEAT, "require")

    def test_many_requirements_cost_no_more_than_the_capabilities_there_are(self) -> None:
        tokens = [mint(block([root_entry(GET)]), serial=serial) for serial in range(4)]
        wanted = sorted([mint(block([root_entry(0)]), serial=9).id, *[t.id for t in tokens]])
        hungry = block([child_entry(0, GET)], *[caveat(0x86, name) for name in wanted])
        narrowed = [token.derive(hungry) for token in tokens]
        judged: list[int] = []

        class Counting(micro.Verifier):
            def _failed_caveat(
                self, request: micro.Request, index: int, now: int, path: tuple[int, ...]
            ) -> str:
                judged.append(index)
                return super()._failed_caveat(request, index, now, path)

        checker = Counting(key_of(), EPOCH)
        assert refused(envelope(narrowed), checker=checker) == (micro.CAVEAT, "require")
        assert len(judged) <= 1 + 3 + 3 * 2 + 3 * 2 * 1

    def test_caveats_of_one_that_nobody_requires_do_not_matter(self) -> None:
        idle = self.other(not_after(NOW - 1))
        assert verifier().check(envelope([mint(ROOT), idle]), NOW).op == micro.OP_GET


class TestReplies:
    def test_a_reply_is_authenticated_to_the_request(self) -> None:
        token = mint(ROOT)
        request = verifier().check(envelope([token]), NOW)
        fields = msgpack.unpackb(micro.reply(request, 0, 300, 1, 2**40, b"x" * 300, b"flat"))
        assert fields[:7] == [1, 0, 300, 1, 2**40, b"x" * 300, b"flat"]
        body = bytes(2) + (300).to_bytes(8, "big") + (1).to_bytes(4, "big")
        body += (2**40).to_bytes(8, "big")
        hashes = hashlib.sha256(b"x" * 300).digest() + hashlib.sha256(b"flat").digest()
        assert fields[7] == mac(token.state, b"\x04", request.tag, body, hashes)[:16]

    def test_the_unauthenticated_reply_says_nothing(self) -> None:
        fields = [1, 1, 0, 0, 0, b"", b"", b""]
        assert msgpack.unpackb(micro.UNAUTHENTICATED_REPLY) == fields
        assert msgpack.packb(fields) == micro.UNAUTHENTICATED_REPLY

    def test_a_veiled_reply_hides_its_number(self) -> None:
        token = mint(block([root_entry(PUT | INVOKE | GET)], caveat(0x89)))
        request = verifier().check(envelope([token], op=3, handler="run"), NOW)
        assert msgpack.unpackb(micro.reply(request, 0, 41))[2] == 0

    def test_a_veil_permits_the_newest_element_only(self) -> None:
        token = mint(block([root_entry(0x7FF)], caveat(0x89)))
        verifier().check(envelope([token], payload=bytes(8)), NOW)
        assert refused(envelope([token], payload=bytes(7) + b"\x01"))[0] == micro.CAVEAT
        assert refused(envelope([token], op=3))[0] == micro.CAVEAT
        assert refused(envelope([token], op=5, payload=b""))[0] == micro.CAVEAT


class TestFlattening:
    def flattened(self, token: Token, **fields: object) -> Token:
        checker = verifier()
        request = checker.check(envelope([token], flags=1, **fields), NOW)  # type: ignore[arg-type]
        flat = checker.flatten(request)
        mask = mac(token.state, b"\x05", request.tag)
        state = bytes(left ^ right for left, right in zip(flat[-32:], mask, strict=True))
        return Token(public=flat[:-32], state=state)

    def test_a_flattened_chain_works_as_one_block(self) -> None:
        flat = self.flattened(deep_token(5))
        assert flat.public[11] == 1
        assert verifier().check(envelope([flat]), NOW).chains[0].entries[0] == (0x7F, b"ns/woof")
        assert refused(envelope([flat], target="ns"))[0] == micro.NO_RIGHT

    def test_the_tightest_of_all_limits_is_kept_and_every_prefix_is_named(self) -> None:
        token = deep_token(3)
        chain = micro.Chain(self.flattened(token).public)
        limits = [value for kind, value in chain.caveats(0) if kind == micro.NOT_AFTER]
        lineage = [value for kind, value in chain.caveats(0) if kind == micro.LINEAGE]
        assert limits == [(NOW + 9 * MINUTE).to_bytes(8, "big")]
        assert lineage == sorted(micro.Chain(token.public).ids())

    def test_handlers_are_intersected(self) -> None:
        rights = PUT | INVOKE
        token = mint(block([root_entry(rights)], caveat(0x84, b"a") + caveat(0x84, b"b")))
        child = token.derive(block([child_entry(0, rights)], caveat(0x84, b"b")))
        chain = micro.Chain(self.flattened(child, op=3, handler="b").public)
        assert [v for kind, v in chain.caveats(0) if kind == micro.HANDLER] == [b"b"]

    def test_too_large_a_flattening_is_empty(self) -> None:
        name = b"a" * 32 + b"/" + b"b" * 32
        token = mint(block([root_entry(GET, name)])).derive(block([child_entry(0, GET)] * 32))
        checker = verifier()
        request = checker.check(envelope([token], flags=1, target=name.decode()), NOW)
        assert checker.flatten(request) == b""


class TestWindow:
    def request(self, **fields: object) -> micro.Request:
        token = mint(ROOT)
        return verifier().check(envelope([token], **fields), NOW)  # type: ignore[arg-type]

    def refusal(
        self, window: micro.Window, request: micro.Request, now: int = NOW
    ) -> micro.Refusal:
        with pytest.raises(micro.Refusal) as caught:
            window.admit(request, now)
        assert caught.value.request is request
        return caught.value

    def test_a_request_runs_once_and_its_copy_gets_the_same_reply(self) -> None:
        window = micro.Window()
        request = self.request()
        assert window.admit(request, NOW) is None
        assert self.refusal(window, request).status == micro.BUSY
        window.remember(request, b"answer")
        assert window.admit(request, NOW) == b"answer"

    def test_a_used_sequence_with_other_content_is_stale(self) -> None:
        window = micro.Window()
        window.admit(self.request(), NOW)
        refusal = self.refusal(window, self.request(op=6))
        assert (refusal.status, refusal.sequence_floor) == (micro.STALE, NOW)

    def test_a_full_window_refuses_what_is_below_it(self) -> None:
        window = micro.Window()
        for step in range(1, 66):
            window.admit(self.request(sequence=NOW + 2 * step), NOW)
        assert self.refusal(window, self.request(sequence=NOW + 3)).status == micro.STALE
        assert window.admit(self.request(sequence=NOW + 5), NOW) is None

    def test_the_future_and_the_past_are_told_apart(self) -> None:
        window = micro.Window()
        ahead = self.request(sequence=NOW + 5 * MINUTE + 1, deadline=NOW + 9 * MINUTE)
        refusal = self.refusal(window, ahead)
        assert (refusal.status, refusal.sequence_floor) == (micro.FUTURE, NOW)
        late = self.request(sequence=NOW - 9, deadline=NOW - 1)
        assert self.refusal(window, late).status == micro.EXPIRED

    def test_a_sequence_fix_kills_what_was_sent_before_it(self) -> None:
        window = micro.Window()
        window.admit(self.request(), NOW)
        window.fix(1, bytes(8), NOW - MINUTE)
        refusal = self.refusal(window, self.request(sequence=NOW + 1))
        assert (refusal.status, refusal.sequence_epoch) == (micro.STALE, 1)
        assert refusal.sequence_floor == NOW - MINUTE
        assert window.admit(self.request(sequence_epoch=1, sequence=NOW - 1), NOW) is None
        low = self.request(sequence_epoch=1, sequence=NOW - MINUTE)
        assert self.refusal(window, low).status == micro.STALE

    def test_one_client_cannot_fill_the_window_of_another(self) -> None:
        window = micro.Window()
        for index in range(64):
            child = mint(ROOT).derive(block([child_entry(0, GET)], caveat(0x83, b"intruder")))
            sequence = NOW + 4 * MINUTE + index
            message = envelope([child], client=b"intruder", sequence=sequence, deadline=sequence)
            window.admit(verifier().check(message, NOW), NOW)
        assert window.admit(self.request(), NOW) is None

    def test_the_seventeenth_client_of_a_serial_waits_until_one_has_passed(self) -> None:
        window = micro.Window()

        def of_client(index: int) -> micro.Request:
            name = b"client%02d" % index
            child = mint(ROOT).derive(block([child_entry(0, GET)], caveat(0x83, name)))
            return verifier().check(envelope([child], client=name, deadline=NOW + MINUTE), NOW)

        for index in range(16):
            assert window.admit(of_client(index), NOW) is None
        assert self.refusal(window, of_client(16)).status == micro.BUSY
        later = NOW + MINUTE + 1
        fresh = self.request(sequence=later, deadline=later)
        assert window.admit(fresh, later) is None

    def test_a_clock_that_is_set_back_makes_nothing_fresh_again(self) -> None:
        window = micro.Window()
        request = self.request(deadline=NOW)
        window.admit(request, NOW)
        other = verifier().check(envelope([mint(ROOT, serial=2)], deadline=NOW + 2), NOW)
        window.admit(other, NOW + 1)
        assert self.refusal(window, request, NOW).status == micro.EXPIRED
        assert window.admit(self.request(deadline=NOW + 1), NOW) is None

    def test_it_holds_no_more_than_it_was_allowed(self) -> None:
        window = micro.Window(limit=1)
        window.admit(self.request(), NOW)
        other = verifier().check(envelope([mint(ROOT, serial=2)]), NOW)
        assert self.refusal(window, other).status == micro.BUSY
        with pytest.raises(micro.Refusal) as caught:
            window.fix(2, bytes(8), NOW)
        assert caught.value.status == micro.BUSY
        window.fix(1, bytes(8), NOW)

    def test_an_answer_that_comes_after_its_grant_was_forgotten_is_not_kept(self) -> None:
        window = micro.Window()
        slow = self.request(deadline=NOW)
        window.admit(slow, NOW)
        window.admit(verifier().check(envelope([mint(ROOT, serial=2)]), NOW), NOW + 1)
        window.remember(slow, b"answer")
        assert self.refusal(window, slow, NOW + 1).status == micro.EXPIRED


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_a_refusal(data: bytes) -> None:
    for kind in (micro.Chain, micro.Request):
        with contextlib.suppress(micro.Refusal):
            kind(data)


@given(st.integers(0, 10_000), st.binary(max_size=8), st.integers(0, 8))
def test_a_mangled_request_is_refused_and_never_crashes(at: int, put: bytes, cut: int) -> None:
    message = envelope([deep_token(3)])
    at %= len(message)
    mangled = message[:at] + put + message[at + cut :]
    if mangled != message:
        assert refused(mangled)[0] == micro.REFUSED
