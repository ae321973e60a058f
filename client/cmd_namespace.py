"""``edgistry namespace``: the namespaces that WooFs are in."""

from __future__ import annotations

from typing import Any

import click

from edgistry.adapters.http import run
from edgistry.codec import Document
from edgistry.envelope import Operation

from .output import print_json, remark
from .params import json_option
from .woof_options import Access, access_options, namespace_argument


class NamespaceDocument(Document):
    """A namespace that was made, or deleted."""

    namespace: str


@click.group("namespace")
def namespace() -> None:
    """Namespaces, in which WooFs have their names.

    URI is woof://HOST:PORT/NAMESPACE, or NAMESPACE alone at the node of --node.
    """


@namespace.command("create", short_help="Make sure that a namespace exists.")
@namespace_argument
@access_options
@json_option
def create(as_json: bool, **access: Any) -> None:
    """Make sure that the namespace exists. One that is there already stays as it is.

    \b
    Example:
      edgistry namespace create woof://127.0.0.1:27000/greenhouse
    """
    told = Access.of(**access)

    async def ask() -> None:
        async with told.client(Operation.NAMESPACE_CREATE) as client:
            await client.create_namespace(told.name)

    run(ask())
    _finish(told.name, "is there", as_json)


@namespace.command("delete", short_help="Delete an empty namespace.")
@namespace_argument
@access_options
@json_option
def delete(as_json: bool, **access: Any) -> None:
    """Delete the namespace, which must be empty: delete its WooFs first."""
    told = Access.of(**access)

    async def ask() -> None:
        async with told.client(Operation.DELETE) as client:
            await client.delete_namespace(told.name)

    run(ask())
    _finish(told.name, "is deleted", as_json)


def _finish(name: str, state: str, as_json: bool) -> None:
    if as_json:
        print_json(NamespaceDocument(namespace=name))
    else:
        remark(f"Namespace {name} {state}.")
