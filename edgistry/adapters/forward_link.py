"""The way to a destination over HTTP: one request there, one answer back.

Not handled here: what the requests say, and sending them again (``forwarding.py``).
"""

from __future__ import annotations

from ..api import ENVELOPE_CONTENT_TYPE
from ..envelope import MAX_REPLY_BYTES
from .http import HttpClient
from .woof_caller import reply_in

TIMEOUT_S = 30.0


class HttpLink:
    """A link to the runtime at ``node`` (``http://host:port``). Close it.

    Raises (when made):
        InvalidValueError: ``node`` is not such an address.
    """

    def __init__(self, node: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._http = HttpClient(node, timeout_s=timeout_s, response_limit=MAX_REPLY_BYTES)

    async def ask(self, request: bytes) -> bytes:
        """What the destination, or somebody in its place, answers to an envelope.

        Raises:
            Refused: there is no answer; the request may have arrived all the same.
        """
        response = await self._http.request(
            "POST", "/v1/woof", body=request, headers={"Content-Type": ENVELOPE_CONTENT_TYPE}
        )
        return reply_in(response)

    async def close(self) -> None:
        """Close the connections. Closing twice is safe."""
        await self._http.close()
