"""``WoofClient`` for code without an event loop: the same methods, results and refusals.

Rules kept here: one event loop of its own runs for as long as a call does, and no longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import TypeVar

from ..operations import Extent
from .woof_client import WoofClient

T = TypeVar("T")


class BlockingWoofs:
    """The operations on WooFs by ``client``, each run to its end on ``runner``."""

    def __init__(self, client: WoofClient, runner: asyncio.Runner) -> None:
        self._woofs = client
        self._runner = runner
        self._closed = False

    def create_namespace(self, name: str) -> None:
        """See ``WoofClient.create_namespace``."""
        self._runner.run(self._woofs.create_namespace(name))

    def delete_namespace(self, name: str) -> None:
        """See ``WoofClient.delete_namespace``."""
        self._runner.run(self._woofs.delete_namespace(name))

    def create(self, woof: str, history: int, element_size: int = 0) -> None:
        """See ``WoofClient.create``."""
        self._runner.run(self._woofs.create(woof, history, element_size))

    def delete(self, woof: str) -> None:
        """See ``WoofClient.delete``."""
        self._runner.run(self._woofs.delete(woof))

    def put(self, woof: str, element: bytes, *, handler: str = "") -> int:
        """See ``WoofClient.put``."""
        return self._runner.run(self._woofs.put(woof, element, handler=handler))

    def get(self, woof: str, number: int | None = None) -> bytes:
        """See ``WoofClient.get``."""
        return self._runner.run(self._woofs.get(woof, number))

    def newest(self, woof: str) -> tuple[int, bytes]:
        """See ``WoofClient.newest``."""
        return self._runner.run(self._woofs.newest(woof))

    def extent(self, woof: str) -> Extent:
        """See ``WoofClient.extent``."""
        return self._runner.run(self._woofs.extent(woof))

    def latest(self, woof: str) -> int:
        """See ``WoofClient.latest``."""
        return self._runner.run(self._woofs.latest(woof))

    def earliest(self, woof: str) -> int:
        """See ``WoofClient.earliest``."""
        return self._runner.run(self._woofs.earliest(woof))

    def tail(self, woof: str, count: int) -> list[tuple[int, bytes]]:
        """See ``WoofClient.tail``."""
        return self._runner.run(self._woofs.tail(woof, count))

    def scan(
        self, woof: str, first: int | None = None, last: int | None = None
    ) -> Generator[tuple[int, bytes], None, None]:
        """See ``WoofClient.scan``."""
        return self._each(self._woofs.scan(woof, first, last))

    def follow(
        self, woof: str, first: int | None = None, *, tail: int = 0
    ) -> Generator[tuple[int, bytes], None, None]:
        """See ``WoofClient.follow``. Blocks until there is a next element."""
        return self._each(self._woofs.follow(woof, first, tail=tail))

    def _each(self, elements: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        async def advance() -> T | None:
            return await anext(elements, None)

        try:
            while (found := self._runner.run(advance())) is not None:
                yield found
        finally:
            # Closing the client first has closed the loop, and with it whatever was open there.
            if not self._closed:
                self._runner.run(elements.aclose())
