"""Looking for what must not be there: places, ids and secrets, in any spelling, in any bytes.

Rules kept here:

* A secret of bytes is looked for as it is, as hexadecimal digits of either case, and as base64 of
  either alphabet at each of the three places it may begin at in a longer text.
* A coordinate is looked for as text (its first ``DIGITS`` decimals), and as a float64 of either
  byte order, which is also how MessagePack writes it.
* All needles are looked for at once, so that a thousand devices cost about as much as one.

Not handled here: what is searched (``test_leaks``). What is compressed or encrypted is not found.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgistry.adapters.leveldb import LevelKeyValue

DIGITS = 5
"""Decimals of a coordinate: a metre. A cell's centre is written with more of them, of its own."""
SHORTEST = 6
_CHUNK = 1 << 20


def spellings(secret: bytes) -> Iterator[bytes]:
    """All ways in which bytes may have been written."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for skipped in range(3):
        # What stands before and behind is unknown: the characters at the ends depend on it.
        text = base64.b64encode(bytes(skipped) + secret)
        first = -(-skipped * 8 // 6)
        core = text[first : (skipped + len(secret)) * 8 // 6]
        yield core
        yield core.translate(bytes.maketrans(b"+/", b"-_"))


def number_spellings(value: float) -> Iterator[bytes]:
    """All ways in which a coordinate may have been written."""
    text = f"{value:.15f}"
    yield text[: text.index(".") + 1 + DIGITS].encode()
    yield f"{value:.{DIGITS}f}".encode()
    for layout in (">d", "<d"):
        yield struct.pack(layout, value)


@dataclass
class LeakScan:
    """Needles, and where they were found."""

    needles: dict[bytes, str] = field(default_factory=dict)
    """Each spelling, and what it is of."""
    found: dict[str, set[str]] = field(default_factory=dict)
    """What was found, and where."""
    searched_bytes: int = 0
    _by_head: dict[bytes, list[bytes]] = field(default_factory=dict)

    def secret(self, what: str, value: bytes) -> None:
        """``value`` must be nowhere."""
        assert len(value) >= 8, f"{what} is too short to be told from chance"
        for spelling in spellings(value):
            self.needles[spelling] = what

    def text(self, what: str, value: str) -> None:
        """Nor must this text, nor its bytes in another spelling."""
        assert len(value) >= SHORTEST, f"{what} is too short to be told from chance"
        for spelling in spellings(value.encode()):
            self.needles[spelling] = what

    def number(self, what: str, value: float) -> None:
        """Nor must this coordinate."""
        for spelling in number_spellings(value):
            assert len(spelling) >= SHORTEST
            self.needles[spelling] = what

    def search(self, where: str, data: bytes) -> None:
        """Look through ``data``."""
        self.searched_bytes += len(data)
        for needle in self._in(data):
            self.found.setdefault(self.needles[needle], set()).add(where)

    def allow(self, data: bytes) -> int:
        """Look no longer for what is in ``data``, which everybody may know; how many needles."""
        allowed = set(self._in(data))
        for needle in allowed:
            del self.needles[needle]
        return len(allowed)

    def _in(self, data: bytes) -> Iterator[bytes]:
        by_head = self._heads()
        hits = [
            begin
            for begin in range(len(data) - SHORTEST + 1)
            if data[begin : begin + SHORTEST] in by_head
        ]
        for begin in hits:
            for needle in by_head[data[begin : begin + SHORTEST]]:
                if data.startswith(needle, begin):
                    yield needle

    def search_file(self, path: Path) -> None:
        """Look through a file."""
        overlap = max(map(len, self.needles), default=0)
        with path.open("rb") as file:
            kept = b""
            while chunk := file.read(_CHUNK):
                self.search(str(path), kept + chunk)
                kept = (kept + chunk)[-overlap:]

    def search_database(self, path: Path) -> None:
        """Look through all keys and values of a LevelDB that nobody has open."""
        store = LevelKeyValue(path)
        try:
            for key, value in store.scan(b"", b"\xff" * 64):
                self.search(str(path), key + b"\0" + value)
        finally:
            store.close()

    def _heads(self) -> dict[bytes, list[bytes]]:
        """All needles, by how they begin."""
        if sum(map(len, self._by_head.values())) != len(self.needles):
            self._by_head = {}
            for needle in self.needles:
                self._by_head.setdefault(needle[:SHORTEST], []).append(needle)
        return self._by_head
