"""Canonical MessagePack and strict JSON: how untrusted bytes become typed values.

Rules kept here:

* One encoding per value. ``decode`` re-encodes what it read and compares, so that bytes which
  mean the same but are spelled differently (a longer integer form, say) are refused. Signatures
  and hashes may therefore be taken over received bytes.
* Types are strict: no extra elements, no missing ones, no conversions.
* Any bytes give a value or ``MalformedError``; a size limit is checked before anything is read.

This is the only module that imports msgspec. Not handled here: what the values mean.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

import msgspec
from msgspec import Meta, Raw, field

from .errors import MalformedError, TooLargeError

__all__ = [
    "Answer",
    "Document",
    "Meta",
    "Raw",
    "Wire",
    "decode",
    "decode_json",
    "encode",
    "encode_json",
    "field",
    "json_schemas",
    "reader_of",
    "replace",
    "to_builtins",
]

T = TypeVar("T")


if TYPE_CHECKING:
    # msgspec freezes the subclasses too; type checkers learn that only from this form.
    @dataclass_transform(frozen_default=True, kw_only_default=True)
    class Wire: ...

    @dataclass_transform(frozen_default=True, kw_only_default=True)
    class Document: ...

    @dataclass_transform(frozen_default=True, kw_only_default=True)
    class Answer(Document): ...

else:

    class Wire(
        msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, kw_only=True
    ):
        """Base of values that travel or rest as MessagePack arrays (fields in order)."""

    class Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
        """Base of values that travel as JSON objects (HTTP API, ``--json`` output)."""

    class Answer(Document, forbid_unknown_fields=False):
        """A ``Document`` whose reader skips fields it does not know, because the writer, a
        node, may be newer than the reader, a client."""


_encoder = msgspec.msgpack.Encoder()
_json_encoder = msgspec.json.Encoder()
_preparing = threading.Lock()
"""Held while msgspec looks at a type for the first time. Another thread that looks at that type, or
at one inside of it, would find it half prepared: a segmentation fault (seen with msgspec 0.22)."""
_readers: dict[Any, Callable[[bytes], Any]] = {}
_json_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}

# What msgspec may raise on hostile bytes: its own errors, a depth overflow, broken UTF-8.
_DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError)


def _name(kind: object) -> str:
    return getattr(kind, "__name__", None) or str(kind)


def encode(value: object) -> bytes:
    """The one canonical MessagePack encoding of ``value``."""
    return _encoder.encode(value)


def decode(data: bytes, kind: type[T], *, limit: int) -> T:
    """Read one ``kind`` from canonical MessagePack of at most ``limit`` bytes.

    Raises:
        TooLargeError: ``data`` is longer than ``limit``.
        MalformedError: not MessagePack, not this type, or not the canonical encoding.
    """
    reader = _readers.get(kind)
    if reader is None:
        reader = _readers[kind] = _reader(kind)
    if len(data) > limit:
        raise TooLargeError(f"{len(data)} bytes where at most {limit} are allowed")
    value: T = reader(data)
    return value


def reader_of(kind: type[T]) -> Callable[[bytes], T]:
    """``decode`` made ready for one type, without the limit: for what is read very often.

    The caller checks the length first. The function raises ``MalformedError`` as ``decode`` does.
    """
    return _reader(kind)


def _reader(kind: type[T]) -> Callable[[bytes], T]:
    with _preparing:
        read = msgspec.msgpack.Decoder(kind).decode
    write = _encoder.encode

    def reader(data: bytes) -> T:
        try:
            value = read(data)
            canonical = write(value)
        except _DECODE_ERRORS as error:
            raise MalformedError(f"not a {_name(kind)}: {error}") from None
        if canonical != data:
            raise MalformedError(f"not the canonical encoding of a {_name(kind)}")
        return value

    return reader


def encode_json(value: object, *, indent: int = 0) -> bytes:
    """``value`` as UTF-8 JSON; ``indent`` > 0 spreads it over lines for people."""
    data = _json_encoder.encode(value)
    return msgspec.json.format(data, indent=indent) if indent else data


def decode_json(data: bytes, kind: type[T], *, limit: int) -> T:
    """Read one ``kind`` from JSON of at most ``limit`` bytes.

    Raises:
        TooLargeError: ``data`` is longer than ``limit``.
        MalformedError: not JSON, or not this type.
    """
    if len(data) > limit:
        raise TooLargeError(f"{len(data)} bytes where at most {limit} are allowed")
    decoder = _json_decoders.get(kind)
    if decoder is None:
        with _preparing:
            decoder = _json_decoders[kind] = msgspec.json.Decoder(kind)
    try:
        value: T = decoder.decode(data)
    except _DECODE_ERRORS as error:
        raise MalformedError(str(error)) from None
    return value


def replace(value: T, **changes: object) -> T:
    """A copy of the frozen ``value`` with some fields changed; types are not checked."""
    return msgspec.structs.replace(value, **changes)  # type: ignore[type-var]


def to_builtins(value: object) -> Any:
    """``value`` as dicts, lists and scalars, as JSON would have it."""
    return msgspec.to_builtins(value)


def json_schemas(
    kinds: Iterable[Any], *, ref_template: str
) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """JSON Schemas of ``kinds`` and the components they refer to (OpenAPI is built from these)."""
    with _preparing:
        return msgspec.json.schema_components(kinds, ref_template=ref_template)
