"""What ``edgistry-agent init`` puts into a new directory, for its owner to change.

Rules kept here: the example works as it is, on any Linux machine: it measures something real.
"""

from __future__ import annotations

from typing import Final

HANDLERS_MODULE: Final = "device_handlers"

HANDLERS: Final = '''\
"""What this device does when it is asked. Change it, and restart the agent.

A handler sees the request and returns the answer, as bytes; what it wants to keep it puts into
WooFs. It may be tried again, so it should do the same thing twice without harm.
"""

import json
import os

from edgistry.handlers import Context, handler


@handler
async def read(context: Context, woof: str, seq: int, element: bytes) -> bytes:
    """How busy this machine is; instead of this, read your sensor."""
    load, _, _ = os.getloadavg()
    return json.dumps({"load": load, "at": context.now().isoformat(timespec="seconds")}).encode()
'''

_MANIFEST: Final = """\
# What this device offers. Pair it again after a change.

# Your own name for it, and where it is (degrees). Both stay at its home node; clients see an area
# of about 5 square kilometres.
name = {name}
{lat}
{lon}

# [privacy]             what clients may see of that
# resolution = 7        5 km², the finest; 6: 36 km², 5: 250 km²
# noise_m = 0           move it at random first, by up to so many metres, once
# crowd = 1             show it only where so many owners have such a device

[[service]]
type = {type}

[[service.action]]
name = "read"
# The function in handlers/{module}.py that answers; the action's name if it is left out.
handler = "read"
# It changes nothing: for a minute its home node may give the same answer to others.
read = true
fresh_s = 60

# [[service.action]]
# name = "open"
# history = 64          requests that are kept
# element_size = 0      bytes of every request; 0: they differ

# [[woof]]              a log of its own, for what it measures
# name = "{namespace}/readings"
# history = 1000
# mirror = true         the home node keeps a copy, and answers for it
"""


def manifest_text(*, name: str, type_name: str, lat: float | None, lon: float | None) -> str:
    """A manifest with one service that has one action, ``read``."""
    return _MANIFEST.format(
        name=_quoted(name),
        type=_quoted(type_name),
        namespace=type_name,
        module=HANDLERS_MODULE,
        lat=_line("lat", lat),
        lon=_line("lon", lon),
    )


def _line(key: str, value: float | None) -> str:
    return f"# {key} = 0.0" if value is None else f"{key} = {value!r}"


def _quoted(text: str) -> str:
    # TOML's basic strings know the escapes that JSON does.
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}"
