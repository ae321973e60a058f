"""How deep MessagePack is nested, measured without recursion.

The decoder's own depth limit is the interpreter's: it differs between Python versions and with
the depth of the call. Whether a block's transaction counts must not depend on that, so bodies are
held to ``MAX_NESTING``, far below any such limit and far above any body that means something.

Pure. Not handled here: values (``edgistry.codec`` decodes).
"""

from __future__ import annotations

from edgistry.errors import MalformedError

MAX_NESTING = 32

# First bytes from 0xc0 to 0xdf. A value: its size. A payload: the size of its length, and what
# stands before it. Members: the size of their number, and values for each.
_VALUE = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_VALUE |= {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
_PAYLOAD = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
_PAYLOAD |= {0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
_MEMBERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}

_OPENING = bytes((*range(0x80, 0xA0), *_MEMBERS))
_OTHERS = bytes(sorted(set(range(256)) - set(_OPENING)))


def is_surely_shallow(data: bytes) -> bool:
    """Whether ``data`` has too few bytes that may open a container to nest too deep: a quick look.

    That it does not tell of a short record happens rarely, and of a long batch always.
    """
    return len(data.translate(None, _OTHERS)) <= MAX_NESTING


def check_nesting(data: bytes) -> None:
    """Check that the one MessagePack value in ``data`` nests at most ``MAX_NESTING`` levels.

    Raises:
        MalformedError: it nests deeper, or ``data`` is not one whole MessagePack value.
    """
    at = 0
    open_counts = [1]
    while open_counts:
        if not open_counts[-1]:
            open_counts.pop()
            continue
        if at >= len(data):
            raise MalformedError("MessagePack that ends too early")
        open_counts[-1] -= 1
        at, members = _step(data, at)
        if members:
            open_counts.append(members)
            if len(open_counts) > MAX_NESTING + 1:
                raise MalformedError(f"nested deeper than {MAX_NESTING} levels")
    if at != len(data):
        raise MalformedError("MessagePack that does not fill its place")


def _step(data: bytes, at: int) -> tuple[int, int]:
    """Where the value at ``at`` has its next byte, and how many members follow it there."""
    first = data[at]
    at += 1
    if first < 0x80 or first >= 0xE0:
        return at, 0
    if first < 0x90:
        return at, 2 * (first & 15)
    if first < 0xA0:
        return at, first & 15
    if first < 0xC0:
        return at + (first & 31), 0
    if first in _VALUE:
        return at + _VALUE[first], 0
    if first in _PAYLOAD:
        width, extra = _PAYLOAD[first]
        return at + width + extra + int.from_bytes(data[at : at + width], "big"), 0
    if first in _MEMBERS:
        width, each = _MEMBERS[first]
        return at + width, each * int.from_bytes(data[at : at + width], "big")
    raise MalformedError(f"byte 0x{first:02x} begins no MessagePack value")
