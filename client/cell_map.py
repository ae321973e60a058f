"""Small maps of cells: as braille characters for a terminal, as a PNG for everything else.

Rules kept here: pure. A map shows outlines, the published one strongly, and one point; it is as
wide as its outlines, to scale in both directions at its middle.

Not handled here: which cells, and where they lie (``edgistry.region``).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence

Point = tuple[float, float]
"""Latitude and longitude, degrees."""

_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character by row and column (Unicode, *Braille Patterns*)."""
_CROSS = 2
"""Pixels from the middle of the cross at the point to its ends."""


class CellMap:
    """``outlines`` and ``strong``, the one that matters, with a cross at ``point`` if there is one.

    ``width`` is in pixels; the height follows.
    """

    def __init__(
        self,
        outlines: Sequence[Sequence[Point]],
        *,
        strong: Sequence[Point],
        point: Point | None = None,
        width: int,
    ) -> None:
        every = [*(corner for outline in outlines for corner in outline), *strong]
        self._middle = point or strong[0]
        xs, ys = zip(*map(self._flat, every), strict=True)
        self._left, self._top = min(xs), max(ys)
        across = max(max(xs) - min(xs), 1e-9)
        self._scale = (width - 1) / across
        self.width = width
        self.height = max(4, 1 + math.ceil((max(ys) - min(ys)) * self._scale))
        self.pixels = [bytearray(width) for _ in range(self.height)]
        """Rows from north to south: 0 nothing, 1 an outline, 2 the strong one, 3 the point."""
        # What matters more comes later, and on top.
        for outline in outlines:
            self._draw(outline, 1)
        self._draw(strong, 2)
        if point is not None:
            self._cross(point)

    def braille(self) -> list[str]:
        """Lines of characters, each two pixels wide and four high; weak outlines are dotted."""
        return [
            "".join(self._character(row, column) for column in range(0, self.width, 2)).rstrip(
                chr(_BRAILLE)
            )
            for row in range(0, self.height, 4)
        ]

    def png(self) -> bytes:
        """A PNG file: grey outlines, a black strong one, a red cross (ISO/IEC 15948)."""
        palette = bytes((255, 255, 255, 190, 190, 190, 20, 20, 20, 210, 30, 30))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 3, 0, 0, 0)
        rows = b"".join(b"\0" + bytes(row) for row in self.pixels)
        return b"".join(
            (
                b"\x89PNG\r\n\x1a\n",
                _chunk(b"IHDR", header),
                _chunk(b"PLTE", palette),
                _chunk(b"IDAT", zlib.compress(rows, 9)),
                _chunk(b"IEND", b""),
            )
        )

    def _flat(self, point: Point) -> Point:
        """East and north of the middle, in radii of the earth: seen from straight above it.

        So the poles and the antimeridian are places like others.
        """
        north, south = math.radians(point[0]), math.radians(self._middle[0])
        east = math.radians(point[1] - self._middle[1])
        across = math.cos(north) * math.sin(east)
        up = math.cos(south) * math.sin(north) - math.sin(south) * math.cos(north) * math.cos(east)
        return across, up

    def _at(self, point: Point) -> tuple[int, int]:
        x, y = self._flat(point)
        return round((x - self._left) * self._scale), round((self._top - y) * self._scale)

    def _draw(self, outline: Sequence[Point], colour: int) -> None:
        for one, other in zip(outline, [*outline[1:], outline[0]], strict=True):
            for number, (x, y) in enumerate(_line(self._at(one), self._at(other))):
                # Every third pixel of a weak line: what matters stands out without colours.
                if colour != 1 or number % 3 == 0:
                    self._dot(x, y, colour)

    def _cross(self, point: Point) -> None:
        x, y = self._at(point)
        for step in range(-_CROSS, _CROSS + 1):
            self._dot(x + step, y, 3)
            self._dot(x, y + step, 3)

    def _dot(self, x: int, y: int, colour: int) -> None:
        if 0 <= x < self.width and 0 <= y < self.height:
            self.pixels[y][x] = colour

    def _character(self, row: int, column: int) -> str:
        bits = 0
        for down, dots in enumerate(_DOTS):
            for right, dot in enumerate(dots):
                y, x = row + down, column + right
                if y < self.height and x < self.width and self.pixels[y][x]:
                    bits |= dot
        return chr(_BRAILLE | bits)


def _line(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for step in range(steps + 1):
        yield (
            start[0] + round((end[0] - start[0]) * step / steps),
            start[1] + round((end[1] - start[1]) * step / steps),
        )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
