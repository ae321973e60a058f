"""Strict TOML: configuration files become frozen typed values, or a refusal that can be acted on.

A configuration type is a frozen dataclass whose fields are made by ``setting`` (a value) or
``section`` (a table, itself such a dataclass). The type is the only description: ``load`` reads a
file by it, ``render`` writes a commented file from it.

Rules kept here:

* An unknown key, a missing one without default, a wrong type, a value out of range, broken TOML
  and a missing file are all ``ConfigError`` and name the file and the key (``api.port``).
* Nothing is converted: ``"80"`` is no number, ``1`` is no boolean. An integer may stand where a
  number with a fraction is asked for.
* Any text gives a value or ``ConfigError``; files over 1 MB are not read.

This is the only module that imports tomllib. Not handled here: what the settings mean, and where
configuration files live.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError, Refused

T = TypeVar("T")
Check = Callable[[Any], None]
"""Raises ``Refused`` when a value is out of range; the file and key are added by the caller."""

MAX_CONFIG_BYTES = 1_000_000
"""A configuration is read by a person too; a larger file is a mistake."""

_KIND_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
_REQUIRED = dataclasses.MISSING


def setting(default: Any = _REQUIRED, *, help: str, check: Check | None = None) -> Any:
    """A field of a configuration type: one value, what it means, and its range."""
    metadata = {"help": help, "check": check}
    if default is _REQUIRED:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(kind: type[Any], *, help: str) -> Any:
    """A field of a configuration type that is a table of its own; may be left out of the file."""
    return dataclasses.field(default_factory=kind, metadata={"help": help, "check": None})


def tables(*, help: str) -> Any:
    """A field of a configuration type that is any number of tables of one kind: ``[[name]]``.

    Its type is a tuple of such dataclasses.
    """
    return dataclasses.field(default=(), metadata={"help": help, "check": None})


def load(path: Path, kind: type[T]) -> T:
    """The file at ``path`` as a ``kind``.

    Raises:
        ConfigError: missing, unreadable, not TOML, or not what ``kind`` asks for.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: more than {MAX_CONFIG_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    return parse(text, kind, source=str(path))


def parse(text: str, kind: type[T], *, source: str) -> T:
    """``text`` as a ``kind``; ``source`` is what errors call it.

    Raises:
        ConfigError: not TOML, or not what ``kind`` asks for.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # ValueError covers TOMLDecodeError and integers of more digits than Python converts.
        raise ConfigError(f"{source}: not TOML: {str(error) or 'nested too deeply'}") from None
    value: T = _read_table(table, kind, source, "")
    return value


def _read_table(table: Mapping[str, object], kind: type[Any], source: str, where: str) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in table:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(fields)}"
            raise ConfigError(f"{source}: {where}{key}: unknown key{hint}")
    values: dict[str, object] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _read_value(table[name], hints[name], source, where + name)
            _run_check(field.metadata.get("check"), values[name], source, where + name)
        elif field.default is _REQUIRED and field.default_factory is _REQUIRED:
            raise ConfigError(f"{source}: {where}{name}: missing")
        elif _is_section(hints[name]):
            # An absent table is an empty one, so that a key missing in it is found too.
            values[name] = _read_table({}, hints[name], source, f"{where}{name}.")
    try:
        return kind(**values)
    except Refused as error:
        raise ConfigError(f"{source}: {where or 'the file'}: {error}") from None


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _read_value(value: object, hint: Any, source: str, where: str) -> object:
    if _is_section(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{source}: {where}: must be a table, written [{where}]")
        return _read_table(value, hint, source, where + ".")
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if not isinstance(value, str) or value not in choices:
            raise ConfigError(f"{source}: {where}: must be one of {_list(choices)}")
        return value
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, list):
            written = (
                f"tables, written [[{where}]]" if _is_section(item) else "a list, written [...]"
            )
            raise ConfigError(f"{source}: {where}: must be {written}")
        return tuple(
            _read_value(entry, item, source, f"{where}[{position}]")
            for position, entry in enumerate(value)
        )
    if origin in (typing.Union, types.UnionType):
        # TOML has no null: "T | None" means that the key may be left out.
        hint = next(choice for choice in typing.get_args(hint) if choice is not type(None))
        return _read_value(value, hint, source, where)
    return _read_scalar(value, hint, source, where)


def _read_scalar(value: object, hint: Any, source: str, where: str) -> object:
    if hint is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise ConfigError(f"{source}: {where}: out of range") from None
    if type(value) is not hint:
        raise ConfigError(f"{source}: {where}: must be {_KIND_NAMES[hint]}, not {value!r:.60}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{source}: {where}: must be a finite number")
    return value


def _run_check(check: Check | None, value: object, source: str, where: str) -> None:
    if check is None:
        return
    try:
        check(value)
    except Refused as error:
        raise ConfigError(f"{source}: {where}: {error}") from None


def _list(choices: tuple[Any, ...]) -> str:
    return ", ".join(f'"{choice}"' for choice in choices)


# --- writing -----------------------------------------------------------------------------------


def render(value: Any, *, title: str) -> str:
    """A commented TOML file that ``load`` reads back as ``value``; ``title`` opens it."""
    lines = [f"# {line}".rstrip() for line in title.splitlines()]
    _render_table(value, "", lines)
    return "\n".join(lines) + "\n"


def _render_table(value: Any, where: str, lines: list[str]) -> None:
    sections = []
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        current = getattr(value, field.name)
        if dataclasses.is_dataclass(current) or _item_kind(hints[field.name]):
            sections.append((field, current))
            continue
        lines.append("")
        lines.extend(f"# {line}" for line in field.metadata["help"].splitlines())
        if current is None:
            lines.append(f"# {field.name} =")
        else:
            lines.append(f"{field.name} = {_render_value(current)}")
    for field, current in sections:
        lines.append("")
        lines.extend(f"# {line}" for line in field.metadata["help"].splitlines())
        kind = _item_kind(hints[field.name])
        if kind is None:
            lines.append(f"[{where}{field.name}]")
            _render_table(current, f"{where}{field.name}.", lines)
        elif current:
            for each in current:
                lines.append(f"[[{where}{field.name}]]")
                _render_table(each, f"{where}{field.name}.", lines)
        else:
            lines.append(f"# [[{where}{field.name}]]")
            _render_example(kind, lines)


def _item_kind(hint: Any) -> type[Any] | None:
    """The kind of the tables, if ``hint`` is that of a field made by ``tables``."""
    if typing.get_origin(hint) is tuple and _is_section(item := typing.get_args(hint)[0]):
        return typing.cast(type[Any], item)
    return None


def _render_example(kind: type[Any], lines: list[str]) -> None:
    """One table as a comment, to be filled in."""
    for field in dataclasses.fields(kind):
        lines.extend(f"#   # {line}" for line in field.metadata["help"].splitlines())
        default = "" if field.default is _REQUIRED else f" {_render_value(field.default)}"
        lines.append(f"#   {field.name} ={default}")


def _render_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _render_text(value)
    if isinstance(value, tuple):
        if len(value) < 2:
            return "[" + "".join(_render_value(entry) for entry in value) + "]"
        return "[\n" + "".join(f"    {_render_value(entry)},\n" for entry in value) + "]"
    raise TypeError(f"no TOML for {type(value).__name__}")


def _render_text(text: str) -> str:
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    out = "".join(
        escapes.get(char) or (f"\\u{ord(char):04X}" if ord(char) < 32 or char == "\x7f" else char)
        for char in text
    )
    return f'"{out}"'
