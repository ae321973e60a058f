"""What no type may look like that untrusted bytes are decoded into.

msgspec (0.23) keeps the length of a tuple behind the limits of a number, text or bytes. In a union
of both it takes a limit for the length, and reads memory that is not the type's: the process ends,
now or with the next garbage collection. Such a type has to be written without limits, and checked
after it was read. So nothing here has msgspec look at a type: that alone is enough.
"""

from __future__ import annotations

import importlib
import pkgutil
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from edgistry.codec import Document, Meta, Wire

_PACKAGES = ("edgistry", "abci_app", "device_agent", "client")
_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")
_UNIONS = (Union, types.UnionType)
_Small = Annotated[int, Meta(ge=0)]


def every_module() -> Iterator[str]:
    for package in map(importlib.import_module, _PACKAGES):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.startswith("device_agent.micro"):  # for another Python
                yield found.name


def kinds(base: type) -> Iterator[type]:
    found: list[type] = base.__subclasses__()
    for kind in found:
        yield kind
        yield from kinds(kind)


def has_limits(hint: Any) -> bool:
    metas = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Meta)]
    return any(getattr(each, name) is not None for each in metas for name in _LIMITS)


def members(hint: Any, limited: bool = False) -> Iterator[tuple[Any, bool]]:
    """What ``hint`` may be, without annotations, and whether that has limits."""
    if get_origin(hint) is Annotated:
        yield from members(hint.__origin__, limited or has_limits(hint))
    elif get_origin(hint) in _UNIONS:
        for each in get_args(hint):
            yield from members(each, limited)
    else:
        yield hint, limited


def is_mixed(hint: Any) -> bool:
    """Whether there is a tuple of a certain length in ``hint`` beside what has limits."""
    parts = list(members(hint))
    origins = [(get_origin(each), get_args(each), limited) for each, limited in parts]
    has_tuple = any(origin is tuple and ... not in inner for origin, inner, _ in origins)
    if has_tuple and any(limited and not inner for _, inner, limited in origins):
        return True
    return any(is_mixed(inner) for _, each, _ in origins for inner in each)


@pytest.mark.parametrize(
    "hint",
    [
        tuple[float, float] | _Small,
        _Small | None | tuple[float, float],
        tuple[tuple[float, float] | _Small, ...],
        dict[str, tuple[int] | Annotated[str, Meta(max_length=3)]],
        Annotated[tuple[float, float] | int, Meta(ge=0)],
    ],
    ids=str,
)
def test_mixed_type_is_seen(hint: Any) -> None:
    assert is_mixed(hint)


@pytest.mark.parametrize(
    "hint",
    [
        tuple[float, float] | int | str | None,
        _Small | str,
        tuple[_Small, ...] | _Small,
        tuple[_Small, _Small] | None,
        Annotated[str | tuple[float, float] | None, Meta(description="a place")],
        Annotated[tuple[_Small, ...], Meta(max_length=3)],
    ],
    ids=str,
)
def test_other_types_are_not_taken_for_one(hint: Any) -> None:
    assert not is_mixed(hint)


def test_no_type_mixes_a_tuple_of_a_certain_length_with_what_has_limits() -> None:
    for name in every_module():
        importlib.import_module(name)
    hints = {
        f"{kind.__module__}.{kind.__qualname__}.{name}": hint
        for base in (Wire, Document)
        for kind in kinds(base)
        if kind.__module__.partition(".")[0] in _PACKAGES
        for name, hint in get_type_hints(kind, include_extras=True).items()
    }
    assert len(hints) > 500
    assert [name for name, hint in hints.items() if is_mixed(hint)] == []
