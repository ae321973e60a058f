# mypy: ignore-errors
"""What the micro verifier makes of a case, as JSON values; runs on CPython and on MicroPython.

A case names a function here and has the arguments, all bytes as hex. Not handled here: what the
outcome should have been; the tests compare.
"""

import binascii


def _hex(data) -> str:
    return str(binascii.hexlify(data), "ascii")


def chain(micro, case):
    """Parse public bytes; the states and ids of all prefixes under the secret."""
    public = binascii.unhexlify(case["public"])
    parsed = micro.Chain(public)
    states = []
    if "secret" in case:
        key = micro.epoch_key(binascii.unhexlify(case["secret"]), case["issuer_epoch"])
        for level, mark in enumerate(parsed.marks):
            prefix = public[:11] + bytes([level + 1]) + public[12 : mark[2]]
            states.append(_hex(micro.Chain(prefix).state(key)))
    return {
        "epoch": parsed.epoch,
        "serial": parsed.serial,
        "entries": [[rights, str(name, "ascii")] for rights, name in parsed.entries],
        "ids": [_hex(name) for name in parsed.ids()],
        "states": states,
    }


def request(micro, case):
    """Check one envelope; see ``_request``."""
    return _request(micro, _verifier(micro, case), None, case, case["now"])


def session(micro, case):
    """Check envelopes one after the other, with one replay window for all of them."""
    verifier = _verifier(micro, case)
    window = micro.Window()
    return [
        _guarded(_request, micro, verifier, window, step, case["now"]) for step in case["steps"]
    ]


def _verifier(micro, case):
    key = micro.epoch_key(binascii.unhexlify(case["secret"]), case["issuer_epoch"])
    denied = tuple([binascii.unhexlify(name) for name in case.get("denied", ())])
    return micro.Verifier(key, case["issuer_epoch"], denied)


def _request(micro, verifier, window, case, now):
    """The fields of an envelope, its flattening, and the tags of the replies in the case."""
    checked = verifier.check(binascii.unhexlify(case["encoded"]), now)
    if window is not None:
        window.admit(checked, now)
    return {
        "flags": checked.flags,
        "op": checked.op,
        "target": str(checked.target, "ascii"),
        "handler": str(checked.handler, "utf-8"),
        "sequence_epoch": checked.sequence_epoch,
        "sequence": checked.sequence,
        "deadline": checked.deadline,
        "client": _hex(checked.client),
        "publics": [_hex(one.public) for one in checked.chains],
        "payload": _hex(bytes(checked.payload)),
        "tag": _hex(checked.tag),
        "key": _hex(checked.key),
        "veiled": checked.veiled,
        "flat": _hex(verifier.flatten(checked)),
        "minted": _hex(verifier.flatten(checked, bytes(checked.payload)))
        if checked.op == 8
        else "",
        "rtags": [_reply_tag(micro, checked, reply) for reply in case.get("replies", ())],
    }


def _reply_tag(micro, checked, reply):
    numbers = [reply[name] for name in ("status", "result", "sequence_epoch", "sequence_floor")]
    payload = binascii.unhexlify(reply["payload"])
    flat = binascii.unhexlify(reply["flat"])
    return _hex(micro.reply_tag(checked, *numbers, payload, flat))


FUNCTIONS = {"chain": chain, "request": request, "session": session}


def of_case(micro: object, case: dict) -> dict | list:
    """The outcome of one case: what the named function gives, or the refusal."""
    return _guarded(FUNCTIONS[case["what"]], micro, case)


def _guarded(function, micro, *arguments):
    try:
        return function(micro, *arguments)
    except micro.Refusal as refusal:
        return {
            "status": refusal.status,
            "reason": refusal.reason,
            "detail": refusal.detail,
            "authentic": refusal.request is not None,
        }
