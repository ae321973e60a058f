"""Write the worked example into docs/protocol.md; ``--check`` compares instead.

The example is computed by the code itself, so that the page cannot drift from it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from edgistry.authority import Authority
from edgistry.blocks import blocks_of
from edgistry.capability_chain import Entry
from edgistry.captext import danger_text, tree
from edgistry.caveats import not_after
from edgistry.envelope import Flag, Operation, envelope_message
from edgistry.issuer import Issuer
from edgistry.kv import MemoryKeyValue
from edgistry.operations import encode_get
from edgistry.replay import Outcome
from edgistry.rights import Right

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"
BEGIN = "<!-- example: written by scripts/protocol_example.py -->\n"
END = "<!-- end of example -->\n"
NOW = 1_750_000_000_000_000
SECRET = bytes(range(32))
CLIENT = bytes.fromhex("c11e470000000001")
WIDTH = 64


def hexed(name: str, data: bytes, note: str = "") -> list[str]:
    """A named value, over as many lines as it needs."""
    lines = [data.hex()[at : at + WIDTH] for at in range(0, 2 * len(data), WIDTH)] or ["(empty)"]
    first = f"{name:<12} {lines[0]}"
    return [f"{first}  {note}".rstrip(), *(f"{'':<12} {line}" for line in lines[1:])]


def example() -> str:
    """The Markdown of the example."""
    issuer = Issuer.from_secret(SECRET, epoch=7)
    root = issuer.mint(
        serial=0x1A2B3C4D,
        entries=[Entry(Right.PUT | Right.GET | Right.LATEST, "sensors")],
        caveats=[not_after(NOW + 86_400_000_000)],
    )
    reader = root.derive(allow=Right.GET, object_name="sensors/temp", client=CLIENT)
    request = reader.bind(
        Operation.GET,
        "sensors/temp",
        encode_get(),
        client=CLIENT,
        sequence=NOW,
        deadline=NOW + 60_000_000,
        flags=Flag.FLATTEN,
    )
    authority = Authority(MemoryKeyValue(), issuer)
    answer = authority.answer(
        request.encoded, lambda _: Outcome(result=41, payload=b"21.5"), now_us=NOW
    )
    reply = request.open_reply(answer)
    flattened = request.open_flat(reply)
    if flattened is None:
        raise SystemExit("the example did not flatten")
    blocks, ids = blocks_of(reader.chain), reader.chain.ids
    states = reader.chain.states(issuer.danger_key())
    parts = [
        "An issuer in epoch 7 with this secret grants putting, getting and looking at `sensors`\n"
        "for a day, and the holder passes on reading `sensors/temp` to one client:\n",
        block_of(
            hexed("secret", SECRET),
            hexed("K", issuer.danger_key()),
            hexed("header", reader.public[:12], "H11 and the number of blocks"),
            hexed("block_0", blocks[0].data),
            hexed("block_1", blocks[1].data),
            hexed("s_0", states[0]),
            hexed("s_1", states[1]),
            hexed("id_0", ids[0]),
            hexed("id_1", ids[1]),
        ),
        "Block 0 reads: 0x0015 bytes follow; 1 entry; rights 0x0034 on the 7 bytes `sensors`;\n"
        "caveat 0x81 (not_after) of 8 bytes. Block 1: 0x0013 bytes; 1 entry; parent 0, rights\n"
        "0x0010, the 4 bytes `temp`; caveat 0x83 (client) of 8 bytes. People are shown\n",
        block_of(tree(reader.chain)),
        "Its delegable form, a bearer secret, is the text\n",
        block_of([danger_text(reader)]),
        "The client asks for the newest element, and for a flattened capability:\n",
        block_of(
            hexed("T", envelope_message(request.envelope)),
            hexed("tag", request.envelope.tag),
            hexed("envelope", request.encoded),
        ),
        "The issuer answers with element 41, `21.5`:\n",
        block_of(
            hexed("payload", reply.payload),
            hexed("flat", reply.flat),
            hexed("rtag", reply.rtag),
            hexed("reply", answer),
        ),
        "The last 32 bytes of `flat` are masked; unmasked they are the new capability's state:\n",
        block_of(
            hexed("public'", flattened.public),
            hexed("s_0'", issuer.state_of(flattened.chain)),
        ),
    ]
    return "\n".join(parts)


def block_of(*parts: list[str]) -> str:
    return "```\n" + "\n".join(line for part in parts for line in part) + "\n```\n"


def page(text: str) -> str:
    """The page ``text`` with the example as the code computes it now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        raise SystemExit(f"{PAGE} has no place for the example")
    return before + BEGIN + example() + END + after


def main(arguments: list[str]) -> int:
    text = PAGE.read_text()
    written = page(text)
    if arguments == ["--check"]:
        if written != text:
            print(f"{PAGE}: the example is not what the code computes", file=sys.stderr)
        return int(written != text)
    PAGE.write_text(written)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
