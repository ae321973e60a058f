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
    """Check an envelope; its fields, its flattening, and the tags of the replies in the case."""
    key = micro.epoch_key(binascii.unhexlify(case["secret"]), case["issuer_epoch"])
    denied = tuple([binascii.unhexlify(name) for name in case.get("denied", ())])
    verifier = micro.Verifier(key, case["issuer_epoch"], denied)
    checked = verifier.check(binascii.unhexlify(case["encoded"]), case["now"])
    rtags = []
    for reply in case.get("replies", ()):
        numbers = [reply[name] for name in ("status", "result", "sequence_epoch", "sequence_floor")]
        payload = binascii.unhexlify(reply["payload"])
        flat = binascii.unhexlify(reply["flat"])
        rtags.append(_hex(micro.reply_tag(checked, *numbers, payload, flat)))
    return {
        "flags": checked.flags,
        "op": checked.op,
        "target": str(checked.target, "ascii"),
        "handler": str(checked.handler, "ascii"),
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
        "rtags": rtags,
    }


def of_case(micro: object, case: dict) -> dict:
    """The outcome of one case: what the named function gives, or the refusal."""
    try:
        return (chain if case["what"] == "chain" else request)(micro, case)
    except micro.Refusal as refusal:
        return {
            "status": refusal.status,
            "reason": refusal.reason,
            "detail": refusal.detail,
            "authentic": refusal.request is not None,
        }
