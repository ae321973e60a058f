"""Capability verification for microcontrollers: one module, CPython or MicroPython.

Rules kept here:

* It is written from the public format alone and shares no code with ``edgistry.capability``, so
  that each checks the other: the same bytes are accepted and refused, for the same reason.
* Imports are ``hashlib`` and ``struct`` only; no ``hmac``, ``typing`` or ``dataclasses``, which
  small interpreters lack. HMAC-SHA256 is made from SHA-256 here.
* Little memory: received bytes are looked at through ``memoryview`` and never re-encoded; what is
  copied are object names. Ids of prefixes are hashed only when something asks for them.
* Before the tag is verified there is one answer to everything, ``REFUSED``; the reason after it is
  for a log. Afterwards a ``Refusal`` carries the request, so that the answer can be authenticated.
* No clock and no randomness: the time is an argument, in microseconds.

It is one file on purpose (a device copies it), and so longer than others. Not handled here:
making envelopes and minting capabilities, what an operation does, and remembering anything across
a power cycle (``Window`` is memory; a device that must survive one stores its sequence floor).
"""

import hashlib
import struct

# Status numbers of replies (all of those that verification can give).
OK = 0
REFUSED = 1
STALE = 3
FUTURE = 4
EXPIRED = 5
NO_RIGHT = 6
CAVEAT = 7
REVOKED = 8
BUSY = 17
MALFORMED = 23

NAMESPACE_CREATE = 0x0001
WOOF_CREATE = 0x0002
PUT = 0x0004
INVOKE = 0x0008
GET = 0x0010
LATEST = 0x0020
DELETE = 0x0040
MINT = 0x0080
SEQUENCE_FIX = 0x0100
REVOKE = 0x0200
POLL = 0x0400
ALL_RIGHTS = 0x07FF

NOT_AFTER = 0x81
NOT_BEFORE = 0x82
CLIENT = 0x83
HANDLER = 0x84
MAX_PAYLOAD = 0x85
REQUIRE = 0x86
SEALED = 0x87
LINEAGE = 0x88
VEIL = 0x89

OP_PUT = 3
OP_GET = 4
OP_EXCHANGE = 7
OP_SEQUENCE_FIX = 9

FLATTEN = 0x01
DEVICE_ONLY = 0x02

CURRENT_EPOCH = 0xFFFFFFFF
"""Header epoch that means "whatever the issuer's epoch is now"."""

# The one right that each operation needs (a put with a handler needs INVOKE as well).
_RIGHT_OF = {
    1: NAMESPACE_CREATE,
    2: WOOF_CREATE,
    3: PUT,
    4: GET,
    5: LATEST,
    6: DELETE,
    7: POLL,
    8: MINT,
    9: SEQUENCE_FIX,
    10: REVOKE,
    11: GET,
}

# Value length of each caveat; -1 is the handler's 1 to 32.
_LENGTH_OF = {
    NOT_AFTER: 8,
    NOT_BEFORE: 8,
    CLIENT: 8,
    HANDLER: -1,
    MAX_PAYLOAD: 4,
    REQUIRE: 16,
    SEALED: 0,
    LINEAGE: 16,
    VEIL: 0,
}

# Those that look at the request and the time only.
_NAME_OF = {
    NOT_AFTER: "not_after",
    NOT_BEFORE: "not_before",
    CLIENT: "client",
    MAX_PAYLOAD: "max_payload",
    VEIL: "veil",
}

_HEADER = 12
_MAX_PUBLIC = 2048
_MAX_BLOCKS = 16
_MAX_ENTRIES = 32
_MAX_CAPABILITIES = 4
_MAX_PAYLOAD = 64 * 1024
_MAX_EXCHANGE = 1024 * 1024
_WEEK_US = 7 * 24 * 3600 * 1000000
_AHEAD_US = 5 * 60 * 1000000
_NAME = b"abcdefghijklmnopqrstuvwxyz0123456789._-"


class Refusal(Exception):
    """An expected refusal.

    ``status`` is what the reply says, ``reason`` the kind and ``detail`` the particular, for a log.
    ``request`` is the authenticated request, or ``None`` when the tag was not (or not yet)
    verified: then the reply is ``UNAUTHENTICATED_REPLY``. ``sequence_epoch`` and
    ``sequence_floor`` are for the reply.
    """

    def __init__(self, status: int, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.detail = detail or reason
        self.request: Request | None = None
        self.sequence_epoch = 0
        self.sequence_floor = 0


def _malformed(detail: str) -> Refusal:
    return Refusal(REFUSED, "malformed", detail)


# --- hashing ------------------------------------------------------------------------------------


def hmac_sha256(key: bytes, parts: "tuple[bytes | memoryview, ...]") -> bytes:
    """HMAC-SHA256 (RFC 2104) of the concatenated ``parts``, which are never joined in memory."""
    if len(key) > 64:
        key = hashlib.sha256(key).digest()
    pad = bytearray(64)
    for index in range(64):
        pad[index] = 0x36 ^ (key[index] if index < len(key) else 0)
    digest = hashlib.sha256(pad)
    for part in parts:
        digest.update(part)
    inner = digest.digest()
    for index in range(64):
        pad[index] ^= 0x36 ^ 0x5C
    digest = hashlib.sha256(pad)
    digest.update(inner)
    return digest.digest()


def _sha256(parts: "list[bytes | memoryview]") -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def same_bytes(left: bytes, right: bytes) -> bool:
    """Equality in a time that depends on the lengths only."""
    if len(left) != len(right):
        return False
    difference = 0
    for index in range(len(left)):
        difference |= left[index] ^ right[index]
    return difference == 0


def epoch_key(secret: bytes, epoch: int) -> bytes:
    """K: what all capabilities that the issuer signs in ``epoch`` start from."""
    return hmac_sha256(secret, (b"\x10", b"edgistry capability root", struct.pack(">I", epoch)))


# --- chains -------------------------------------------------------------------------------------


class Chain:
    """The public bytes of one capability, parsed; nothing about it is proved yet.

    ``marks`` has (start, first caveat, end) of every block as offsets; ``entries`` the last
    block's (effective rights, object), which are what the capability grants.
    """

    def __init__(self, public: bytes) -> None:
        """Raises: Refusal, with status REFUSED, for any bytes that are not a chain."""
        size = len(public)
        if size < _HEADER:
            raise _malformed("truncated")
        if size > _MAX_PUBLIC:
            raise _malformed("too-large")
        if public[0] != 0x45 or public[1] != 0x44:
            raise _malformed("magic")
        if public[2] != 1:
            raise Refusal(REFUSED, "unknown-version")
        self.public = public
        self.epoch, self.serial, count = struct.unpack_from(">IIB", public, 3)
        if not 1 <= count <= _MAX_BLOCKS:
            raise _malformed("block-count")
        self.marks: list[tuple[int, int, int]] = []
        self.entries: list[tuple[int, bytes]] = []
        self._ids: list[bytes] = []
        at = _HEADER
        for level in range(count):
            if at + 2 > size:
                raise _malformed("truncated")
            end = at + 2 + (public[at] << 8 | public[at + 1])
            if end > size:
                raise _malformed("truncated")
            caveats = self._read_entries(at + 2, end, level == 0)
            self._check_caveats(caveats, end)
            self.marks.append((at, caveats, end))
            at = end
        if at != size:
            raise _malformed("trailing-bytes")

    def _read_entries(self, at: int, end: int, root: bool) -> int:
        """Replace ``entries`` by those of the block at ``at``; returns where its caveats begin."""
        public = self.public
        if at >= end:
            raise _malformed("truncated")
        count = public[at]
        if not 1 <= count <= _MAX_ENTRIES:
            raise _malformed("entry-count")
        at += 1
        found = []
        for _ in range(count):
            allowed = ALL_RIGHTS
            above = b""
            if not root:
                if at >= end:
                    raise _malformed("truncated")
                if public[at] >= len(self.entries):
                    raise _malformed("parent")
                allowed, above = self.entries[public[at]]
                at += 1
            if at + 3 > end or at + 3 + public[at + 2] > end:
                raise _malformed("truncated")
            rights = public[at] << 8 | public[at + 1]
            name = public[at + 3 : at + 3 + public[at + 2]]
            at += 3 + len(name)
            if rights & ~ALL_RIGHTS:
                raise _malformed("rights")
            if rights & ~allowed:
                raise Refusal(REFUSED, "widened")
            found.append((rights, _below(above, name)))
        self.entries = found
        return at

    def _check_caveats(self, at: int, end: int) -> None:
        public = self.public
        last_kind = -1
        last_value = b""
        while at < end:
            if at + 2 > end or at + 2 + public[at + 1] > end:
                raise _malformed("truncated")
            kind = public[at]
            value = public[at + 2 : at + 2 + public[at + 1]]
            at += 2 + len(value)
            if kind & 0x80:
                if kind not in _LENGTH_OF:
                    raise Refusal(REFUSED, "unknown-caveat")
                length = _LENGTH_OF[kind]
                if len(value) != length and not (length < 0 and 1 <= len(value) <= 32):
                    raise _malformed("caveat-length")
            if kind < last_kind or (kind == last_kind and value <= last_value):
                raise _malformed("caveat-order")
            last_kind = kind
            last_value = value

    def state(self, key: bytes) -> bytes:
        """s_n under the issuer's epoch key ``key``: 32 bytes, a bearer secret."""
        view = memoryview(self.public)
        first = self.marks[0]
        state = hmac_sha256(key, (b"\x00", view[:11], view[first[0] : first[2]]))
        for level in range(1, len(self.marks)):
            mark = self.marks[level]
            state = hmac_sha256(state, (b"\x01", view[mark[0] : mark[2]]))
        return state

    def ids(self) -> "list[bytes]":
        """The public id of every prefix, 16 bytes each; the last is the capability's own."""
        if not self._ids:
            view = memoryview(self.public)
            for mark in self.marks:
                parts: list[bytes | memoryview] = [b"\x02", view[:11], view[_HEADER : mark[2]]]
                self._ids.append(_sha256(parts)[:16])
        return self._ids

    def caveats(self, level: int) -> "list[tuple[int, bytes]]":
        """(type, value) of the caveats of one block, in order."""
        _, at, end = self.marks[level]
        found = []
        while at < end:
            stop = at + 2 + self.public[at + 1]
            found.append((self.public[at], self.public[at + 2 : stop]))
            at = stop
        return found

    def has(self, wanted: int) -> bool:
        """Whether any block has a caveat of type ``wanted``."""
        for level in range(len(self.marks)):
            for kind, _ in self.caveats(level):
                if kind == wanted:
                    return True
        return False

    def grants(self, rights: int, target: bytes) -> bool:
        """Whether one entry holds all of ``rights`` over ``target``."""
        for held, name in self.entries:
            if rights & ~held == 0 and (
                not name or name == target or target.startswith(name + b"/")
            ):
                return True
        return False


def _is_object(name: bytes) -> bool:
    """Whether ``name`` is "", a namespace, or namespace/woof."""
    if not name:
        return True
    components = name.split(b"/")
    if len(components) > 2:
        return False
    for component in components:
        if not 1 <= len(component) <= 32 or component == b"." or component == b"..":
            return False
        for letter in component:
            if letter not in _NAME:
                return False
    return True


def _below(above: bytes, narrow: bytes) -> bytes:
    """The object that ``narrow`` names inside ``above``."""
    if not narrow:
        return above
    name = above + b"/" + narrow if above else narrow
    if not _is_object(name):
        raise _malformed("object")
    return name


# --- envelopes ----------------------------------------------------------------------------------


class _Reader:
    """Canonical MessagePack: every value in its shortest form, or a refusal."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def _take(self, count: int) -> int:
        at = self.at
        if at + count > len(self.data):
            raise _malformed("truncated")
        self.at = at + count
        return at

    def _number(self, count: int) -> int:
        at = self._take(count)
        return int.from_bytes(self.data[at : at + count], "big")

    def integer(self, limit: int) -> int:
        """A non-negative integer up to ``limit``."""
        first = self.data[self._take(1)]
        if first < 0x80:
            value = first
        elif 0xCC <= first <= 0xCF:
            size = 1 << (first - 0xCC)
            value = self._number(size)
            if value < 0x80 or (size > 1 and value < 1 << (4 * size)):
                raise _malformed("not-canonical")
        else:
            raise _malformed("type")
        if value > limit:
            raise _malformed("range")
        return value

    def array(self) -> int:
        """The length of an array of at most 15."""
        first = self.data[self._take(1)]
        if first & 0xF0 != 0x90:
            raise _malformed("type")
        return first & 0x0F

    def binary(self, low: int, high: int) -> memoryview:
        """A byte string of ``low`` to ``high`` bytes, not copied."""
        first = self.data[self._take(1)]
        if not 0xC4 <= first <= 0xC6:
            raise _malformed("type")
        return self._body(1 << (first - 0xC4), 0, low, high)

    def text(self, high: int) -> memoryview:
        """A text of at most ``high`` bytes, not copied; its letters are the caller's to check."""
        first = self.data[self._take(1)]
        if 0xA0 <= first < 0xC0:
            at = self._take(first & 0x1F)
            return memoryview(self.data)[at : self.at]
        if not 0xD9 <= first <= 0xDB:
            raise _malformed("type")
        return self._body(1 << (first - 0xD9), 32, 0, high)

    def _body(self, size: int, shortest: int, low: int, high: int) -> memoryview:
        count = self._number(size)
        if count < (shortest if size == 1 else 1 << (4 * size)):
            raise _malformed("not-canonical")
        if not low <= count <= high:
            raise _malformed("length")
        at = self._take(count)
        return memoryview(self.data)[at : self.at]


def _is_utf8(data: bytes) -> bool:
    """Whether ``data`` is text; small interpreters decode more than Unicode allows."""
    more = 0  # continuation bytes still to come
    low, high = 0x80, 0xBF  # what the next of them may be
    for byte in data:
        if more:
            if not low <= byte <= high:
                return False
            more -= 1
            low, high = 0x80, 0xBF
        elif 0xC2 <= byte <= 0xDF:
            more = 1
        elif 0xE0 <= byte <= 0xEF:  # no longer spelling than needed, no surrogates
            more = 2
            low, high = (0xA0 if byte == 0xE0 else 0x80), (0x9F if byte == 0xED else 0xBF)
        elif 0xF0 <= byte <= 0xF4:  # nor beyond the last code point
            more = 3
            low, high = (0x90 if byte == 0xF0 else 0x80), (0x8F if byte == 0xF4 else 0xBF)
        elif byte >= 0x80:
            return False
    return more == 0


class Request:
    """A decoded envelope. ``key`` is empty until its tag was verified."""

    def __init__(self, message: bytes) -> None:
        """Raises: Refusal, with status REFUSED, for any bytes that are not an envelope."""
        reader = _Reader(message)
        if reader.array() != 12:
            raise _malformed("type")
        if reader.integer(255) != 1:
            raise _malformed("version")
        self.flags = reader.integer(FLATTEN | DEVICE_ONLY)
        self.op = reader.integer(255)
        self.target = bytes(reader.text(127))
        if not _is_object(self.target):
            raise _malformed("object")
        self.handler = bytes(reader.text(32))
        if not _is_utf8(self.handler):
            raise _malformed("handler")
        self.sequence_epoch = reader.integer(0xFFFFFFFF)
        self.sequence = reader.integer(0xFFFFFFFFFFFFFFFF)
        self.deadline = reader.integer(0xFFFFFFFFFFFFFFFF)
        if self.deadline > self.sequence + _WEEK_US:
            raise _malformed("deadline")
        self.client = bytes(reader.binary(8, 8))
        count = reader.array()
        if not 1 <= count <= _MAX_CAPABILITIES:
            raise _malformed("capability-count")
        self.chains: list[Chain] = []
        for _ in range(count):
            chain = Chain(bytes(reader.binary(_HEADER, _MAX_PUBLIC)))
            for other in self.chains:
                if other.public == chain.public:
                    raise _malformed("duplicate-capability")
            self.chains.append(chain)
        self.payload = reader.binary(0, _MAX_EXCHANGE if self.op == OP_EXCHANGE else _MAX_PAYLOAD)
        self.tag = bytes(reader.binary(16, 16))
        if reader.at != len(message):
            raise _malformed("trailing-bytes")
        self.key = b""
        self.veiled = False

    def _signed(self) -> "list[bytes | memoryview]":
        """T in pieces: what the tag covers."""
        parts: list[bytes | memoryview] = [
            struct.pack(">BBBH", 3, self.flags, self.op, len(self.target)),
            self.target,
            struct.pack(">B", len(self.handler)),
            self.handler,
            struct.pack(">IQQ", self.sequence_epoch, self.sequence, self.deadline),
            self.client,
            struct.pack(">B", len(self.chains)),
        ]
        for chain in self.chains:
            parts.append(struct.pack(">H", len(chain.public)))
            parts.append(chain.public)
        parts.append(hashlib.sha256(self.payload).digest())
        return parts

    def authenticate(self, key: bytes) -> None:
        """Verify the tag under the issuer's epoch key; afterwards ``key`` is the request's key.

        Raises: Refusal, with status REFUSED, when the tag is not right.
        """
        if len(self.chains) == 1:
            mine = self.chains[0].state(key)
        else:
            states: list[bytes | memoryview] = [b"\x07"]
            for chain in self.chains:
                states.append(chain.state(key))
            mine = _sha256(states)
        if not same_bytes(hmac_sha256(mine, tuple(self._signed()))[:16], self.tag):
            raise Refusal(REFUSED, "bad-tag")
        self.key = mine


# --- verification -------------------------------------------------------------------------------


class Verifier:
    """Checks requests for one issuer; holds its epoch key, a secret."""

    def __init__(self, key: bytes, epoch: int, denied: "tuple[bytes, ...]" = ()) -> None:
        """``key`` from ``epoch_key``; ``denied`` are the public ids (16 bytes) on the deny set."""
        self.key = key
        self.epoch = epoch
        self.denied = denied

    def check(self, message: bytes, now: int) -> Request:
        """The request in ``message``, authentic and permitted at ``now`` (µs); replay is not looked
        at here.

        Raises: Refusal with REFUSED (nothing is known about the sender), or, with ``request`` set,
        REVOKED, CAVEAT, NO_RIGHT or MALFORMED (an operation that does not exist).
        """
        request = Request(message)
        for chain in request.chains:
            if chain.epoch != CURRENT_EPOCH and chain.epoch != self.epoch:
                raise Refusal(REFUSED, "wrong-epoch")
        request.authenticate(self.key)
        try:
            self._permit(request, now)
        except Refusal as refusal:
            refusal.request = request
            raise
        return request

    def _permit(self, request: Request, now: int) -> None:
        for chain in request.chains:
            request.veiled = request.veiled or chain.has(VEIL)
            if self.denied:
                self._check_denied(chain)
        rights = _RIGHT_OF.get(request.op)
        if rights is None:
            raise Refusal(MALFORMED, "bad-request", "operation")
        failed = self._failed_caveat(request, 0, now, ())
        if failed:
            raise Refusal(CAVEAT, "caveat", failed)
        if request.op == OP_PUT and request.handler:
            rights |= INVOKE
        target = b"" if request.op == OP_SEQUENCE_FIX else request.target
        if not request.chains[0].grants(rights, target):
            raise Refusal(NO_RIGHT, "no-right")

    def _check_denied(self, chain: Chain) -> None:
        for name in chain.ids():
            if name in self.denied:
                raise Refusal(REVOKED, "revoked")
        for level in range(len(chain.marks)):
            for kind, value in chain.caveats(level):
                if kind == LINEAGE and value in self.denied:
                    raise Refusal(REVOKED, "revoked")

    def _failed_caveat(
        self, request: Request, index: int, now: int, path: "tuple[int, ...]"
    ) -> str:
        """A word for the first caveat of capability ``index`` that does not hold; "" if all do."""
        chain = request.chains[index]
        path = path + (index,)  # noqa: RUF005 (MicroPython has no star in displays)
        # What the others came to: each is judged once, however many requirements name it.
        verdicts: dict[int, bool] = {}
        for level in range(len(chain.marks)):
            matched = None
            for kind, value in chain.caveats(level):
                if kind == HANDLER:
                    matched = bool(matched) or value == request.handler
                elif kind == REQUIRE:
                    if not self._required(request, value, now, path, verdicts):
                        return "require"
                elif kind == SEALED:
                    if level != len(chain.marks) - 1:
                        return "sealed"
                elif not _holds(request, kind, value, now):
                    return _NAME_OF.get(kind, "")
            if matched is False:
                return "handler"
        return ""

    def _required(
        self,
        request: Request,
        name: bytes,
        now: int,
        path: "tuple[int, ...]",
        verdicts: "dict[int, bool]",
    ) -> bool:
        """Whether another capability of the request has the prefix ``name`` and itself holds."""
        for index in range(len(request.chains)):
            if index in path or name not in request.chains[index].ids():
                continue
            if index not in verdicts:
                # At most four capabilities and no cycles: never deeper than the four allowed.
                verdicts[index] = not self._failed_caveat(request, index, now, path)
            if verdicts[index]:
                return True
        return False

    def flatten(self, request: Request, block: bytes = b"") -> bytes:
        """``flat`` for the reply: a one-block capability that grants what the authorising chain of
        this checked request grants, its state encrypted. With ``block`` (bytes with the length
        field) it grants what the chain and that block grant: a mint.

        b"" when it would be too large, or when no request could satisfy it.

        Raises: Refusal with MALFORMED or CAVEAT: ``block`` is no child, or the chain is sealed.
        """
        chain = request.chains[0]
        if block:
            chain = self._extended(request, block)
        caveats = _merged(chain)
        if caveats is None:
            return b""
        entries = bytearray([len(chain.entries)])
        for rights, name in chain.entries:
            entries += struct.pack(">HB", rights, len(name))
            entries += name
        for kind, value in caveats:
            entries += struct.pack(">BB", kind, len(value))
            entries += value
        public = chain.public[:11] + b"\x01" + struct.pack(">H", len(entries)) + bytes(entries)
        if len(public) > _MAX_PUBLIC:
            return b""
        state = hmac_sha256(self.key, (b"\x00", public[:11], public[_HEADER:]))
        mask = hmac_sha256(request.key, (b"\x05", request.tag))
        return public + bytes([state[index] ^ mask[index] for index in range(32)])

    def _extended(self, request: Request, block: bytes) -> Chain:
        chain = request.chains[0]
        count = len(chain.marks) + 1
        refusal = Refusal(MALFORMED, "malformed", "block")
        if chain.has(SEALED):
            refusal = Refusal(CAVEAT, "caveat", "sealed")
        elif count <= _MAX_BLOCKS:
            try:
                return Chain(chain.public[:11] + bytes([count]) + chain.public[_HEADER:] + block)
            except Refusal as bad:
                refusal = Refusal(MALFORMED, bad.reason, bad.detail)
        refusal.request = request
        raise refusal


def _holds(request: Request, kind: int, value: bytes, now: int) -> bool:
    """Whether one caveat holds that looks at nothing but the request and the time."""
    if kind == NOT_AFTER:
        return now <= int.from_bytes(value, "big")
    if kind == NOT_BEFORE:
        return now >= int.from_bytes(value, "big")
    if kind == CLIENT:
        return request.client == value
    if kind == MAX_PAYLOAD:
        return len(request.payload) <= int.from_bytes(value, "big")
    if kind == VEIL:
        return (request.op == OP_PUT and len(request.handler) > 0) or (
            request.op == OP_GET and bytes(request.payload) == bytes(8)
        )
    return True


def _merged(chain: Chain) -> "list[tuple[int, bytes]] | None":
    """The caveats of all blocks as those of one block, with the lineage of every prefix.

    ``None`` when one block cannot say it: no handler pleases all, or a block follows a seal.
    """
    found = [(LINEAGE, name) for name in chain.ids()]
    handlers: list[bytes] | None = None
    for level in range(len(chain.marks)):
        mine = []
        for kind, value in chain.caveats(level):
            if kind == HANDLER:
                mine.append(value)
            elif kind == SEALED and level != len(chain.marks) - 1:
                return None
            elif (kind, value) not in found:
                found.append((kind, value))
        if mine:
            handlers = [name for name in mine if handlers is None or name in handlers]
            if not handlers:
                return None
    for kind, tightest in ((NOT_AFTER, min), (NOT_BEFORE, max), (MAX_PAYLOAD, min)):
        values = [value for other, value in found if other == kind]
        if values:
            found = [caveat for caveat in found if caveat[0] != kind]
            found.append((kind, tightest(values)))
    found += [(HANDLER, name) for name in handlers or []]
    found.sort()
    return found


# --- replies ------------------------------------------------------------------------------------


def _packed_integer(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    if value < 0x100:
        return struct.pack(">BB", 0xCC, value)
    if value < 0x10000:
        return struct.pack(">BH", 0xCD, value)
    if value < 0x100000000:
        return struct.pack(">BI", 0xCE, value)
    return struct.pack(">BQ", 0xCF, value)


def _packed_bytes(value: bytes) -> bytes:
    if len(value) < 0x100:
        return struct.pack(">BB", 0xC4, len(value)) + value
    if len(value) < 0x10000:
        return struct.pack(">BH", 0xC5, len(value)) + value
    return struct.pack(">BI", 0xC6, len(value)) + value


UNAUTHENTICATED_REPLY = b"\x98\x01\x01\x00\x00\x00\xc4\x00\xc4\x00\xc4\x00"
"""The one answer to everything whose tag did not verify: status REFUSED, no more."""


def reply_tag(
    request: Request,
    status: int,
    result: int,
    sequence_epoch: int,
    sequence_floor: int,
    payload: bytes,
    flat: bytes,
) -> bytes:
    """rtag, 16 bytes: proof to the requester that the answer is the issuer's, to this request."""
    numbers = struct.pack(">HQIQ", status, result, sequence_epoch, sequence_floor)
    hashes = hashlib.sha256(payload).digest() + hashlib.sha256(flat).digest()
    return hmac_sha256(request.key, (b"\x04", request.tag, numbers, hashes))[:16]


def reply(
    request: Request,
    status: int,
    result: int = 0,
    sequence_epoch: int = 0,
    sequence_floor: int = 0,
    payload: bytes = b"",
    flat: bytes = b"",
) -> bytes:
    """The encoded, authenticated reply to an authenticated request; a veiled result becomes 0."""
    if request.veiled:
        result = 0
    tag = reply_tag(request, status, result, sequence_epoch, sequence_floor, payload, flat)
    numbers = (1, status, result, sequence_epoch, sequence_floor)
    return b"".join(
        [b"\x98"]
        + [_packed_integer(number) for number in numbers]
        + [_packed_bytes(part) for part in (payload, flat, tag)]
    )


# --- replay -------------------------------------------------------------------------------------


class _Grant:
    """What is remembered of one (serial, client)."""

    def __init__(self) -> None:
        self.sequence_epoch = 0
        self.floor = 0  # nothing at or below it is accepted; set by a sequence fix only
        self.deadline = 0
        self.accepted: list[tuple[int, bytes]] = []  # (sequence, tag), ascending, at most 64
        self.replies: dict[int, bytes] = {}

    def highest(self) -> int:
        return self.accepted[-1][0] if self.accepted else self.floor


_WORD_OF = {STALE: "stale", FUTURE: "future", EXPIRED: "expired", BUSY: "too-many-clients"}


class Window:
    """Which sequences were accepted: none runs twice. In memory, and bounded."""

    def __init__(self, limit: int = 64) -> None:
        """``limit`` grants in all, at most 16 for one serial; live ones are never forgotten."""
        self.limit = limit
        self._grants: dict[tuple[int, bytes], _Grant] = {}
        # The latest deadline that a forgotten grant had accepted: a clock that is set back must
        # not make its envelopes fresh again.
        self._horizon = -1

    def admit(self, request: Request, now: int) -> "bytes | None":
        """Strike a checked request's sequence out; or the reply remembered for an identical one.

        ``None``: execute it, now and only now, and then ``remember`` the reply.

        Raises: Refusal with STALE, FUTURE, EXPIRED or BUSY.
        """
        name = self._name(request)
        grant = self._grants.get(name)
        fresh = grant is None
        if grant is None:
            grant = _Grant()
        if request.sequence_epoch != grant.sequence_epoch:
            raise self._refusal(request, STALE, "sequence epoch", grant, now)
        used = False
        for sequence, tag in grant.accepted:
            if sequence == request.sequence:
                used = True
                if tag == request.tag:
                    if sequence in grant.replies:
                        return grant.replies[sequence]
                    raise self._refusal(request, BUSY, "unfinished", grant, now)
        if now > request.deadline or (fresh and request.deadline <= self._horizon):
            raise self._refusal(request, EXPIRED, "deadline", grant, now)
        if request.sequence > now + _AHEAD_US:
            raise self._refusal(request, FUTURE, "sequence-ahead", grant, now)
        full = len(grant.accepted) == 64
        if (
            used
            or request.sequence <= grant.floor
            or (full and request.sequence < grant.accepted[0][0])
        ):
            raise self._refusal(request, STALE, "sequence-used", grant, now)
        if fresh:
            self._make_room(request, name, grant, now)
        if full:
            grant.replies.pop(grant.accepted.pop(0)[0], None)
        grant.accepted.append((request.sequence, request.tag))
        grant.accepted.sort()
        grant.deadline = max(grant.deadline, request.deadline)
        return None

    def remember(self, request: Request, answer: bytes) -> None:
        """Keep the reply to an admitted request for its retries.

        Nothing is kept when its grant was forgotten, or fixed, since: no retry is accepted then.
        """
        grant = self._grants.get(self._name(request))
        if grant is not None and (request.sequence, request.tag) in grant.accepted:
            grant.replies[request.sequence] = answer

    def fix(self, serial: int, client: bytes, floor: int) -> None:
        """Set the floor of a grant and kill all envelopes made for it before (sequence fix).

        Raises: Refusal with BUSY: it has no window, and there are as many as there may be.
        """
        name = (serial, client)
        if name not in self._grants and self._is_full(serial):
            raise Refusal(BUSY, _WORD_OF[BUSY], "grants")
        grant = self._grants.setdefault(name, _Grant())
        grant.sequence_epoch += 1
        grant.floor = floor
        grant.accepted = []
        grant.replies = {}

    def _name(self, request: Request) -> "tuple[int, bytes]":
        chain = request.chains[0]
        for level in range(len(chain.marks)):
            for kind, value in chain.caveats(level):
                if kind == CLIENT:
                    return (chain.serial, value)
        return (chain.serial, bytes(8))

    def _make_room(
        self, request: Request, name: "tuple[int, bytes]", grant: _Grant, now: int
    ) -> None:
        for other, old in list(self._grants.items()):
            if now > old.deadline and old.sequence_epoch == 0:
                self._horizon = max(self._horizon, old.deadline)
                del self._grants[other]
        if self._is_full(name[0]):
            raise self._refusal(request, BUSY, "grants", grant, now)
        self._grants[name] = grant

    def _is_full(self, serial: int) -> bool:
        of_serial = sum(1 for other in self._grants if other[0] == serial)
        return of_serial >= 16 or len(self._grants) >= self.limit

    def _refusal(
        self, request: Request, status: int, detail: str, grant: _Grant, now: int
    ) -> Refusal:
        refusal = Refusal(status, _WORD_OF[status], detail)
        refusal.request = request
        refusal.sequence_epoch = grant.sequence_epoch
        refusal.sequence_floor = now if status == FUTURE else grant.highest()
        return refusal
