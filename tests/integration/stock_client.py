"""Runs the stock ABCI client against a socket and reads what it prints."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from .tools import abci_client

CLIENT_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one command of the stock client printed."""

    exit_code: int
    text: str

    def values(self, name: str) -> list[str]:
        """The values of all lines ``-> name: value``."""
        start = f"-> {name}: "
        return [line[len(start) :] for line in self.text.splitlines() if line.startswith(start)]


async def stock(path: Path, *arguments: str, batch: list[str] | None = None) -> Said:
    """One command of the stock client, or a batch of them over one connection."""
    process = await asyncio.create_subprocess_exec(
        await asyncio.to_thread(abci_client),
        f"--address=unix://{path}",
        "--log_level=error",
        *(arguments if batch is None else ["batch"]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    lines = "".join(f"{line}\n" for line in batch or [])
    try:
        async with asyncio.timeout(CLIENT_TIMEOUT_S):
            output, _ = await process.communicate(lines.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return Said(exit_code=process.returncode or 0, text=output.decode(errors="replace"))
