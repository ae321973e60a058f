"""A capability as a person reads it: who may do what, until when.

Rules kept here: pure; only public ids are shown, no secret and nothing that could stand for one.
Objects and handlers were named by others: callers make the lines printable.

Not handled here: the secret itself (``cap show --danger`` prints it by another way), the wording
of single blocks for programs (``edgistry.captext``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

from edgistry.blocks import Block, blocks_of
from edgistry.capability import Capability
from edgistry.capability_chain import CURRENT_EPOCH, Chain, Entry
from edgistry.captext import CapabilityView, EntryView, caveat_text, utc_text, view
from edgistry.caveats import MAX_TIME_US
from edgistry.codec import Document
from edgistry.rights import ALL_RIGHTS, names_of

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

Tree = Sequence[Union[str, "Branch"]]
"""Lines, and lines with a tree below them."""
Branch = tuple[str, Tree]


class ShownCapability(Document):
    """What ``--json`` prints: what it all comes to, and the chain that says so.

    Times in µs since 1970, ids in hexadecimal digits; ``None`` is no limit. ``danger_text`` is the
    secret text, where it was asked for.
    """

    grants: list[EntryView]
    not_before_us: int | None
    not_after_us: int | None
    clients: list[str]
    handlers: list[str] | None
    max_payload: int | None
    require: list[str]
    sealed: bool
    veil: bool
    chain: CapabilityView
    danger_text: str | None = None


def shown_capability(capability: Capability, *, danger_text: str | None = None) -> ShownCapability:
    """``capability`` for programs; ``danger_text``, if given, is its secret text."""
    chain = capability.chain
    rare = chain.rare
    handlers = rare.handlers
    return ShownCapability(
        grants=[
            EntryView(rights=tuple(names_of(each.rights)), object=each.object)
            for each in capability.entries
        ],
        not_before_us=rare.not_before_us or None,
        not_after_us=end_of(capability),
        clients=[each.hex() for each in chain.clients],
        handlers=None if handlers is None else sorted(map(_text, handlers)),
        max_payload=chain.max_payload,
        require=[each.hex() for each in rare.required],
        sealed=rare.sealed,
        veil=rare.veil,
        chain=view(chain),
        danger_text=danger_text,
    )


def end_of(capability: Capability) -> int | None:
    """The last µs at which ``capability`` holds; ``None``: no end."""
    not_after_us = capability.chain.not_after_us
    return None if not_after_us == MAX_TIME_US else not_after_us


def capability_tree(capability: Capability, *, now_us: int) -> Branch:
    """``capability`` for people, with times relative to ``now_us``."""
    chain = capability.chain
    blocks = list(zip(chain.ids, blocks_of(chain), strict=True))
    steps = f"made in {len(blocks)} step{'s' if len(blocks) > 1 else ''}"
    return (
        f"capability {chain.id.hex()}",
        [
            ("may", [grant_text(each) for each in chain.entries]),
            *_conditions(chain, now_us),
            _issued(chain),
            (steps, [_step(public_id, block) for public_id, block in blocks]),
        ],
    )


def _conditions(chain: Chain, now_us: int) -> list[str]:
    rare = chain.rare
    lines = [_holder(chain)]
    if rare.not_before_us > now_us:
        lines.append(f"from {moment_text(rare.not_before_us, now_us)}")
    lines.append(_until(chain.not_after_us, now_us))
    if rare.handlers is not None:
        names = ", ".join(sorted(map(_text, rare.handlers)))
        lines.append(f"through the handler {names}" if names else "through no handler: never")
    if chain.max_payload is not None:
        lines.append(f"with at most {chain.max_payload} bytes of payload")
    lines += [f"beside capability {each.hex()}" for each in rare.required]
    if rare.veil:
        lines.append("veiled: puts with a handler and gets of the newest element, unnumbered")
    if rare.sealed_early:
        lines.append("never: a block was added after it was sealed")
    elif rare.sealed:
        lines.append("sealed: cannot be narrowed further")
    return lines


def _holder(chain: Chain) -> str:
    clients = [each.hex() for each in chain.clients]
    if len(clients) > 1:
        return "by nobody: it asks to be several clients at once"
    return f"by client {clients[0]}" if clients else "by anybody who holds it"


def _until(not_after_us: int, now_us: int) -> str:
    if not_after_us == MAX_TIME_US:
        return "without end"
    word = "until" if not_after_us >= now_us else "expired"
    return f"{word} {moment_text(not_after_us, now_us)}"


def _issued(chain: Chain) -> str:
    epoch = "the issuer's current epoch" if chain.epoch == CURRENT_EPOCH else f"epoch {chain.epoch}"
    return f"under grant {chain.serial:08x} of {epoch}; {len(chain.public)} public bytes"


def _step(public_id: bytes, block: Block) -> Branch:
    caveats = [f"if {each.name} {caveat_text(each)}".rstrip() for each in block.caveats]
    return public_id.hex(), [*map(grant_text, block.entries), *caveats]


def grant_text(entry: Entry) -> str:
    """``get, latest on ns/woof``."""
    rights = "everything" if entry.rights == ALL_RIGHTS else ", ".join(names_of(entry.rights))
    return f"{rights or 'nothing'} on {entry.object or 'all that the issuer owns'}"


def moment_text(time_us: int, now_us: int) -> str:
    """A time (µs since 1970), and how far from now: ``2030-01-01T00:00:00Z (in 2 h)``."""
    seconds = round(abs(time_us - now_us) / 1_000_000)
    size, unit = next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
    far = f"{(seconds + size // 2) // size} {unit}"
    return f"{utc_text(time_us)} ({f'in {far}' if time_us >= now_us else f'{far} ago'})"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def tree_lines(branch: Branch) -> list[str]:
    """``branch`` with everything below it drawn as a tree."""
    line, below = branch
    return [line, *_below(below)]


def _below(tree: Tree) -> list[str]:
    lines: list[str] = []
    for number, node in enumerate(tree):
        line, below = (node, ()) if isinstance(node, str) else node
        last = number == len(tree) - 1
        lines.append(f"{'└── ' if last else '├── '}{line}")
        lines += [f"{'    ' if last else '│   '}{each}" for each in _below(below)]
    return lines
