"""Elements of WooFs as people and programs see them, and as people write them.

Rules kept here:

* Elements are bytes. A column shows them as text, what is no text as escapes (``\\xff``), or all of
  them as hexadecimal digits. JSON has both: ``text`` is null unless the element is UTF-8.
* One element alone is written as it is when nobody looks, so that it goes into a file unchanged.
* What would steer a terminal is spelled out.

Not handled here: where elements come from.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from edgistry.codec import Document
from edgistry.errors import FileError, MalformedError, TooLargeError
from edgistry.woof import MAX_ELEMENT_BYTES
from edgistry.wording import visible

from .output import remark

_MAX_HEX_BYTES = 3 * MAX_ELEMENT_BYTES
"""Of an element as hexadecimal digits, with blanks between the bytes."""


class ElementDocument(Document):
    """One element."""

    number: int
    text: str | None
    hex: str


def element_document(number: int, element: bytes) -> ElementDocument:
    """``element`` for programs."""
    return ElementDocument(number=number, text=text_of(element), hex=element.hex())


def element_row(number: int, element: bytes, *, as_hex: bool) -> tuple[str, str]:
    """``element`` as a row: its number and its content."""
    if as_hex:
        return str(number), element.hex()
    return str(number), element.decode("utf-8", "backslashreplace")


def print_element(element: bytes, *, as_hex: bool) -> None:
    """``element`` alone on standard output; just its bytes, unless a person looks."""
    if as_hex:
        click.echo(element.hex())
        return
    if not sys.stdout.isatty():
        click.echo(element, nl=False)
        return
    text = text_of(element)
    if text is None:
        remark("It is no text, so here are its bytes as hexadecimal digits:")
        text = element.hex()
    click.echo(visible(text))


def element_from(argument: str | None, file: str | None, *, as_hex: bool) -> bytes:
    """The element that a command's argument is, or that ``file`` or standard input has.

    Raises:
        TooLargeError: no WooF takes so much.
        MalformedError: ``as_hex``, and there are other than hexadecimal digits.
        FileError: the file cannot be read.
    """
    if argument is None:
        data = _read(file or "-", _MAX_HEX_BYTES if as_hex else MAX_ELEMENT_BYTES)
    else:
        data = os.fsencode(argument)
    if not as_hex:
        return data
    try:
        return bytes.fromhex(data.decode("ascii"))
    except ValueError:
        raise MalformedError("--hex: write two hexadecimal digits for each byte") from None


def _read(file: str, limit: int) -> bytes:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(limit + 1)
    except OSError as error:
        raise FileError(f"cannot read {file}: {error.strerror}") from None
    if len(data) > limit:
        where = "standard input" if file == "-" else file
        raise TooLargeError(
            f"{where} has more than {limit} bytes; an element has at most {MAX_ELEMENT_BYTES}"
        )
    return data


def text_of(element: bytes) -> str | None:
    """``element`` as text, if it is some."""
    try:
        return element.decode()
    except UnicodeDecodeError:
        return None
