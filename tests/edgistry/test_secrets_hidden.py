"""Secrets are in no repr, str, log, exception or traceback."""

from __future__ import annotations

import logging
import re
import traceback
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgistry.authority import Authority
from edgistry.capability import Capability
from edgistry.capability_chain import Chain
from edgistry.captext import PREFIX, danger_text, parse_text, tree, view
from edgistry.codec import encode
from edgistry.envelope import Flag, with_tag
from edgistry.errors import Refused
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.replay import Outcome
from edgistry.rights import Right
from edgistry.verifier import Verifier

from .grants import ISSUER, ME, NOW, ROOT, SECRET, YOU, Server, bind, check

DERIVED = ROOT.derive(allow=Right.GET, client=ME)
REQUEST = bind(DERIVED, flags=Flag.FLATTEN)
SECRETS = {
    "secret": SECRET,
    "epoch key": ISSUER.danger_key(),
    "root state": ROOT._state,
    "derived state": DERIVED._state,
    "request key": bind(DERIVED, beside=[ROOT])._key,
}
SOURCES = Path(__file__).parent.parent.parent / "edgistry"


def assert_no_secret(text: str) -> None:
    for name, secret in SECRETS.items():
        forms = [secret.hex(), secret.hex().upper(), repr(secret)[2:-1], str(list(secret))]
        # In base64 what a secret looks like depends on how many bytes stand before it.
        forms += [urlsafe_b64encode(bytes(pad) + secret).decode()[4:40] for pad in range(3)]
        for form in forms:
            assert form not in text, name


def test_the_search_finds_secrets_in_every_form() -> None:
    for secret in SECRETS.values():
        for text in (f"x{secret!r}", secret.hex(), danger_text(Capability(DERIVED.chain, secret))):
            with pytest.raises(AssertionError):
                assert_no_secret(text)


def values() -> Iterator[object]:
    server = Server()
    yield from (ISSUER, ROOT, DERIVED, DERIVED.chain, REQUEST, bind(DERIVED, beside=[ROOT]))
    verifier = Verifier(ISSUER)
    checked = check(REQUEST, verifier)
    yield from (verifier, checked, checked.chain, list(checked.chains), verifier._generation)
    yield verifier._generation.memo
    yield from (server.authority, server.guard, server.guard.admit(checked, now_us=NOW))
    reply = server.send(bind(ROOT, flags=Flag.FLATTEN))
    yield reply
    yield bind(ROOT, flags=Flag.FLATTEN).open_flat(reply)
    yield from (view(DERIVED.chain), tree(DERIVED.chain), Outcome())


@pytest.mark.parametrize("value", list(values()), ids=lambda value: type(value).__name__)
def test_no_value_shows_a_secret(value: object) -> None:
    assert_no_secret(f"{value!r} {value!s} {value}")
    assert_no_secret(repr([value]) + repr({"value": value}))


FAILURES: dict[str, Callable[[], object]] = {
    "bad tag": lambda: check(encode(with_tag(REQUEST.envelope, bytes(16)))),
    "wrong client": lambda: check(bind(DERIVED, client=YOU)),
    "no right": lambda: check(bind(DERIVED, 3)),
    "revoked": lambda: check(REQUEST, Verifier(ISSUER, denied=[ROOT.id])),
    "wrong epoch": lambda: check(REQUEST, Verifier(Issuer.from_secret(SECRET, epoch=9))),
    "two capabilities": lambda: check(
        encode(with_tag(bind(DERIVED, beside=[ROOT]).envelope, bytes(16)))
    ),
    "widening": lambda: DERIVED.derive(allow=Right.PUT),
    "sealed": lambda: DERIVED.derive(seal=True).derive(),
    "block of nonsense": lambda: DERIVED.extended(b"\x00\x01\x00"),
    "bytes with a secret": lambda: Capability.from_bytes(b"x" + DERIVED.danger_bytes()),
    "text with a secret": lambda: parse_text(danger_text(DERIVED) + "!"),
    "other text": lambda: parse_text(danger_text(DERIVED)[1:]),
    "bind": lambda: bind(DERIVED, target="//"),
    "bind numbers": lambda: bind(DERIVED, sequence=-1),
    "forged reply": lambda: REQUEST.open_reply(check(bind(ROOT)).reply(0)),
    "generic refusal": lambda: REQUEST.open_reply(
        b"\x98\x01\x01\x00\x00\x00\xc4\x00\xc4\x00\xc4\x00"
    ),
    "foreign flat": lambda: bind(ISSUER.mint(serial=2)).open_flat(
        Server().send(bind(ROOT, flags=Flag.FLATTEN))
    ),
    "short secret": lambda: Issuer.from_secret(SECRET[:31], epoch=1),
    "short key": lambda: Issuer(1, ISSUER.danger_key()[:31]),
    "issuer's epoch": lambda: Issuer.from_secret(SECRET, epoch=9).holding(ROOT.chain),
    "authority's epoch": lambda: newer().begin_epoch(ISSUER),
    "stale": lambda: sent_twice(),
}


def newer() -> Authority:
    return Authority(MemoryKeyValue(), Issuer.from_secret(SECRET, epoch=9))


def sent_twice() -> None:
    guard = Server().guard
    for target in ("ns/a", "ns/b"):
        guard.once(check(bind(ROOT, target=target)), lambda _: Outcome(), now_us=NOW)


@pytest.mark.parametrize("name", list(FAILURES))
def test_no_exception_shows_a_secret(name: str) -> None:
    with pytest.raises(Refused) as caught:
        FAILURES[name]()
    error = caught.value
    assert_no_secret(f"{error} {error!r} {error.args} {error.detail} {vars(error)}")
    assert_no_secret("".join(traceback.format_exception(error)))


LOCALS_SHOWN = ["bad tag", "wrong client", "no right", "revoked", "wrong epoch",
                "two capabilities", "widening", "sealed", "forged reply", "generic refusal",
                "stale", "foreign flat"]  # fmt: skip


@pytest.mark.parametrize("name", LOCALS_SHOWN)
def test_not_even_a_traceback_with_local_variables_shows_a_secret(name: str) -> None:
    """Some log formatters print the variables of every frame."""
    with pytest.raises(Refused) as caught:
        FAILURES[name]()
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert_no_secret("".join(shown.format()))


def test_nothing_of_authority_logs_or_prints(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        server = Server()
        server.send(REQUEST)
        server.answer(b"nonsense")
        for failure in FAILURES.values():
            with pytest.raises(Refused):
                failure()
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")


def test_only_three_modules_read_secret_attributes() -> None:
    readers = {
        path.name
        for path in SOURCES.glob("*.py")
        if re.search(r"(?:signed\[0\]|chain|holder|self|request|issuer)\._(?:state|key)\b(?!\()",
                     path.read_text())
    }  # fmt: skip
    assert {"capability.py", "issuer.py", "verifier.py"} <= readers
    assert readers.isdisjoint(AUTHORITY_FILES)


AUTHORITY_FILES = {
    "authority.py", "blocks.py", "captext.py", "caveats.py", "capability_chain.py", "denials.py",
    "envelope.py", "flatten.py", "judge.py", "mac.py", "operations.py", "replay_records.py",
    "replay_window.py", "rights.py", "sequence.py",
}  # fmt: skip


def test_only_the_format_computes_macs_over_authority() -> None:
    callers = {
        path.name
        for folder in ("edgistry", "abci_app", "client")
        for path in (SOURCES.parent / folder).rglob("*.py")
        if re.search(r"from \S*\bmac import .*\b(?:mac|chain_state)\b", path.read_text())
    }
    # None of these is about authority: keys of seals, noise, pseudonyms, and the order of turns.
    callers -= {"handles.py", "placing.py", "audit_api.py", "query_audit.py", "memberships.py"}
    assert callers == {"blocks.py", "capability_chain.py", "envelope.py", "verifier.py"}


def test_danger_is_in_the_name_of_everything_that_gives_secrets_out() -> None:
    assert ROOT.danger_bytes()[-32:] == ROOT._state
    assert danger_text(ROOT).startswith(PREFIX)
    assert ISSUER.danger_key() == ISSUER._key
    for kind in (Capability, Issuer, Chain, Verifier):
        for name in dir(kind):
            if not name.startswith("_") and ("secret" in name or "key" in name or "bytes" in name):
                assert name.startswith(("danger_", "from_")), f"{kind.__name__}.{name}"
