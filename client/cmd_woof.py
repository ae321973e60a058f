"""``edgistry woof``: make WooFs, put elements into them and read them, at any node.

Rules kept here: results are on standard output and nothing else is; what follows a WooF writes an
element out before it waits for the next one.

Not handled here: addresses and authority (``woof_options.py``), how elements look
(``element_view.py``), requests and their retries (``NodeClient``).
"""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import Any

import click

from edgistry.adapters.http import run
from edgistry.codec import Document
from edgistry.envelope import Operation
from edgistry.operations import NEWEST, Extent, encode_get

from .element_view import (
    ElementDocument,
    element_document,
    element_from,
    element_row,
    print_element,
)
from .output import (
    print_json,
    print_json_line,
    print_row,
    print_table,
    remark,
    while_somebody_reads,
)
from .params import json_option, option
from .woof_options import Access, access_options, woof_argument

_NEGATIVE_NUMBER = re.compile(r"-\.?[0-9].*")

hex_option = option(
    "--hex",
    "as_hex",
    is_flag=True,
    envvar="EDGISTRY_HEX",
    help="Elements are hexadecimal digits, not text.",
)


class WoofDocument(Document):
    """A WooF that was made; ``element_size`` 0 is any."""

    woof: str
    history: int
    element_size: int


class PutDocument(Document):
    """The number that an element got."""

    woof: str
    number: int


class ExtentDocument(Document):
    """The numbers that can be read; ``latest`` 0: none was put yet."""

    woof: str
    earliest: int
    latest: int


class TailDocument(Document):
    """The newest elements, newest first."""

    woof: str
    elements: list[ElementDocument]


class DeletedDocument(Document):
    """A WooF that was deleted."""

    deleted: str


class _ElementCommand(click.Command):
    """A command whose last argument may be a negative number, which looks like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args:
            numbers = [each for each in args if _NEGATIVE_NUMBER.fullmatch(each)]
            args = [each for each in args if each not in numbers] + ["--", *numbers]
        return super().parse_args(ctx, args)


@click.group("woof")
def woof() -> None:
    """WooFs: append-only logs at a node, in which a put can fire a function.

    URI is woof://HOST:PORT/NAMESPACE/WOOF, or NAMESPACE/WOOF at the node of --node. Elements are
    numbered from 1; a WooF keeps the newest ones, as many as its history says.
    """


@woof.command("create", short_help="Make sure that a WooF exists.")
@woof_argument
@option("--history", type=int, required=True, metavar="N", help="Elements to keep, 1 to 2^32.")
@option(
    "--element-size",
    type=int,
    default=0,
    metavar="BYTES",
    help="Of every element, at most 65536; without it they may differ.",
)
@access_options
@json_option
def create(history: int, element_size: int, as_json: bool, **access: Any) -> None:
    """Make sure that the WooF exists. One that is there already must have the same parameters.

    \b
    Example:
      edgistry woof create woof://127.0.0.1:27000/greenhouse/temp --history 1000
    """
    told = Access.of(**access)

    async def ask() -> None:
        async with told.client(Operation.WOOF_CREATE) as client:
            await client.create(told.name, history, element_size)

    run(ask())
    if as_json:
        print_json(WoofDocument(woof=told.name, history=history, element_size=element_size))
    else:
        remark(f"WooF {told.name} is there; its history is {history}.")


@woof.command("put", cls=_ElementCommand, short_help="Append an element.")
@woof_argument
@click.argument("element", metavar="[ELEMENT]", required=False)
@option(
    "--file",
    metavar="FILE",
    envvar="EDGISTRY_WOOF_PUT_FILE",
    help="Put the content of FILE; - is standard input.",
)
@option("--handler", default="", metavar="NAME", help="The function at the node to run on it.")
@hex_option
@access_options
@json_option
def put(
    element: str | None,
    file: str | None,
    handler: str,
    as_hex: bool,
    as_json: bool,
    **access: Any,
) -> None:
    """Append an element, and print its number once the node has made it durable.

    The element is ELEMENT, the content of --file, or else standard input, as it is: `echo` adds
    the end of a line, `printf` does not. The command sends again what got no answer, and the node
    appends once. After exit code 3 or 4 the element may be there: `edgistry woof tail` shows it.

    \b
    Examples:
      edgistry woof put woof://127.0.0.1:27000/greenhouse/temp 21.5
      printf 21.5 | edgistry woof put greenhouse/temp --handler alarm
    """
    told = Access.of(**access)
    if element is not None and file is not None:
        raise click.UsageError("give ELEMENT or --file, not both")
    if element is None and file in (None, "-") and told.reads_standard_input:
        raise click.UsageError(
            "the capability comes from standard input, so give ELEMENT or --file"
        )
    payload = element_from(element, file, as_hex=as_hex)

    async def ask() -> int:
        async with told.client(Operation.PUT, payload, handler=handler) as client:
            return await client.put(told.name, payload, handler=handler)

    number = run(ask())
    if as_json:
        print_json(PutDocument(woof=told.name, number=number))
    else:
        click.echo(number)


@woof.command("get", short_help="Print an element.")
@woof_argument
@click.argument("number", type=int, metavar="[NUMBER]", required=False)
@hex_option
@access_options
@json_option
def get(number: int | None, as_hex: bool, as_json: bool, **access: Any) -> None:
    """Print element NUMBER, or the newest one.

    Into a file or a pipe goes exactly the element, without an end of line after it.
    """
    told = Access.of(**access)

    async def ask() -> tuple[int, bytes]:
        payload = encode_get(NEWEST if number is None else number)
        async with told.client(Operation.GET, payload) as client:
            if number is None:
                return await client.newest(told.name)
            return number, await client.get(told.name, number)

    found, element = run(ask())
    if as_json:
        print_json(element_document(found, element))
    else:
        print_element(element, as_hex=as_hex)


@woof.command("latest", short_help="Print the newest element's number.")
@woof_argument
@access_options
@json_option
def latest(as_json: bool, **access: Any) -> None:
    """Print the number of the newest element, 0 if none was put yet.

    --json has the number of the oldest one that is kept, too.
    """
    told = Access.of(**access)

    async def ask() -> Extent:
        async with told.client(Operation.LATEST) as client:
            return await client.extent(told.name)

    extent = run(ask())
    if as_json:
        print_json(ExtentDocument(woof=told.name, earliest=extent.earliest, latest=extent.latest))
    else:
        click.echo(extent.latest)


@woof.command("tail", short_help="Show the newest elements.")
@woof_argument
@option(
    "-n",
    "--count",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="N",
    envvar="EDGISTRY_WOOF_TAIL_COUNT",
    help="How many elements.",
)
@hex_option
@access_options
@json_option
def tail(count: int, as_hex: bool, as_json: bool, **access: Any) -> None:
    """Show the newest elements with their numbers, newest first."""
    told = Access.of(**access)

    async def ask() -> list[tuple[int, bytes]]:
        async with told.client(Operation.SCAN) as client:
            return await client.tail(told.name, count)

    found = run(ask())
    if as_json:
        elements = [element_document(number, element) for number, element in found]
        print_json(TailDocument(woof=told.name, elements=elements))
        return
    rows = [element_row(number, element, as_hex=as_hex) for number, element in found]
    print_table(told.name, ("number", "element"), rows)
    if not rows:
        remark(f"Nothing was put into {told.name} yet.")


@woof.command("follow", short_help="Show elements as they are put.")
@woof_argument
@option(
    "--from",
    "first",
    type=click.IntRange(1),
    metavar="NUMBER",
    envvar="EDGISTRY_WOOF_FOLLOW_FROM",
    help="Begin with this element; without it, with the next one that is put.",
)
@option(
    "--tail",
    "before",
    type=click.IntRange(1),
    metavar="N",
    envvar="EDGISTRY_WOOF_FOLLOW_TAIL",
    help="Begin with the newest N elements that are there.",
)
@option(
    "-n",
    "--count",
    type=click.IntRange(1),
    metavar="N",
    envvar="EDGISTRY_WOOF_FOLLOW_COUNT",
    help="End after so many elements.",
)
@hex_option
@access_options
@json_option
def follow(
    first: int | None,
    before: int | None,
    count: int | None,
    as_hex: bool,
    as_json: bool,
    **access: Any,
) -> None:
    """Show each element with its number as soon as it is put: none is left out, none comes twice.

    A broken connection is made anew, for as long as --timeout. When the node no longer has the
    next element, since the history has moved on, the command ends as refused and says where the
    WooF begins now. --json prints one object a line.
    """
    told = Access.of(**access)
    if first is not None and before is not None:
        raise click.UsageError("give --from or --tail, not both")

    async def ask() -> None:
        left = count
        async with (
            told.client(Operation.SCAN) as client,
            aclosing(client.follow(told.name, first, tail=before or 0)) as elements,
        ):
            async for number, element in elements:
                if as_json:
                    print_json_line(element_document(number, element))
                else:
                    print_row(element_row(number, element, as_hex=as_hex))
                if left is not None:
                    left -= 1
                    if not left:
                        return

    try:
        run(while_somebody_reads(ask()))
    except KeyboardInterrupt:
        click.get_current_context().exit(0)  # how a person ends it


@woof.command("delete", short_help="Delete a WooF and all that is in it.")
@woof_argument
@access_options
@json_option
def delete(as_json: bool, **access: Any) -> None:
    """Delete the WooF and all its elements, for ever. One that is made anew begins at number 1."""
    told = Access.of(**access)

    async def ask() -> None:
        async with told.client(Operation.DELETE) as client:
            await client.delete(told.name)

    run(ask())
    if as_json:
        print_json(DeletedDocument(deleted=told.name))
    else:
        remark(f"WooF {told.name} is deleted.")
