"""What commands on WooFs share: the WooF's address, and the authority to ask for it.

Rules kept here:

* An address names the node too, or only the WooF; then the node is that of ``--node``.
* Authority is the capability of ``--capability``, else the one in the keyring that allows this
  operation and otherwise the least. It is checked before anything is sent.

Not handled here: what the commands do (``cmd_woof.py``, ``cmd_namespace.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from edgistry.adapters.node_client import NodeClient
from edgistry.envelope import Operation
from edgistry.woof import check_namespace, split_name
from edgistry.woof_uri import WoofPlace, parse_namespace_uri, parse_woof_uri

from .capability_source import with_required
from .keyring import Keyring, Wanted
from .params import Parsed, node_options, option

Command = TypeVar("Command", bound=Callable[..., Any])


def _reader(
    parse: Callable[[str], WoofPlace], check: Callable[[str], object]
) -> Callable[[str], WoofPlace]:
    def read(text: str) -> WoofPlace:
        if ":" in text:
            return parse(text)
        check(text)
        return WoofPlace(node="", name=text)

    return read


_WOOF = Parsed("URI", _reader(parse_woof_uri, split_name))
_NAMESPACE = Parsed("URI", _reader(parse_namespace_uri, check_namespace))

woof_argument = click.argument("place", type=_WOOF, metavar="URI")
namespace_argument = click.argument("place", type=_NAMESPACE, metavar="URI")


def access_options(command: Command) -> Command:
    """Add ``--node``, ``--timeout``, ``--capability`` and ``--beside``: those of ``Access``."""
    capability = option(
        "--capability",
        metavar="FILE",
        envvar="EDGISTRY_CAPABILITY",
        help="A file with the capability, or its name in the keyring; - reads standard input."
        " Without it the keyring is searched.",
    )
    beside = option(
        "--beside",
        multiple=True,
        metavar="FILE",
        envvar="EDGISTRY_BESIDE",
        help="A capability that the one of --capability requires; may be given again."
        " Those that are not given are looked for in the keyring.",
    )
    return capability(beside(node_options(command)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the arguments say: which WooF or namespace, and how to get at it."""

    place: WoofPlace
    """With its node."""
    timeout_s: float
    capability: str | None
    beside: tuple[str, ...]

    @classmethod
    def of(
        cls,
        *,
        place: WoofPlace,
        node: str,
        timeout_s: float,
        capability: str | None,
        beside: tuple[str, ...],
    ) -> Access:
        """From the parameters of a command with ``access_options``.

        Raises:
            click.UsageError: they contradict each other.
        """
        context = click.get_current_context()
        if not place.node:
            place = WoofPlace(node=node, name=place.name)
        elif context.get_parameter_source("node") == ParameterSource.COMMANDLINE:
            raise click.UsageError("URI names the node already; leave --node out")
        if beside and capability is None:
            raise click.UsageError("--beside goes with --capability; the keyring finds its own")
        if (capability, *beside).count("-") > 1:
            raise click.UsageError("only one capability can come from standard input")
        return cls(place=place, timeout_s=timeout_s, capability=capability, beside=beside)

    @property
    def name(self) -> str:
        """``namespace/woof``, or ``namespace``."""
        return self.place.name

    @property
    def reads_standard_input(self) -> bool:
        """Whether a capability comes from there, so that nothing else can."""
        return "-" in (self.capability, *self.beside)

    def client(
        self, operation: Operation, payload: bytes = b"", *, handler: str = ""
    ) -> NodeClient:
        """A client with the authority for ``operation``.

        Raises:
            Refused: there is none, as far as can be told here.
        """
        node = self.place.node.rstrip("/")
        if self.capability is not None:
            chosen, beside = with_required(self.capability, self.beside)
        else:
            wanted = Wanted(
                operation=operation, target=self.name, payload=payload, handler=handler, place=node
            )
            choice = Keyring.of_user().choose(wanted, now_us=time.time_ns() // 1000)
            chosen, beside = choice.entry.capability, choice.beside
        return NodeClient(node, chosen, beside=beside, timeout_s=self.timeout_s)
