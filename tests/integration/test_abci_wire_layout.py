"""Our ABCI messages have the layout of the engine's own published definitions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc_tools  # type: ignore[import-untyped]
import pytest
from google.protobuf import descriptor_pb2

from abci_app import abci_pb2 as pb

from .tools import engine_protocol

NOT_OURS = {("PublicKey", "mldsa65"), ("TxResult", None)}
"""What the engine has and we leave out: a key type our chains do not admit, and a storage type."""

Layout = dict[str, dict[str, tuple[Any, ...]]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The engine's descriptors, its own ABCI package first."""
    result = tmp_path_factory.mktemp("protocol") / "descriptors"
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    imports = [f"-I{folder}" for folder in [*engine_protocol(), well_known]]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *imports, "--include_imports",
         f"--descriptor_set_out={result}", "tendermint/abci/types.proto"],
        check=True,
    )  # fmt: skip
    files = descriptor_pb2.FileDescriptorSet.FromString(result.read_bytes()).file
    return sorted(files, key=lambda file: file.package != "tendermint.abci")


def base(name: str) -> str:
    return name.rpartition(".")[2]


def messages(files: list[Any]) -> Iterator[tuple[str, Any]]:
    for file in files:
        for message in file.message_type:
            yield message.name, message


def layout(files: list[Any]) -> Layout:
    """Message → field → what decides its bytes. Of two messages of one name, the first."""
    found: Layout = {}
    for name, message in messages(files):
        found.setdefault(
            name,
            {
                field.name: (
                    field.number,
                    field.type,
                    field.label,
                    base(field.type_name),
                    field.HasField("oneof_index"),
                )
                for field in message.field
            },
        )
    return found


def enumerations(files: list[Any]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for file in files:
        for enum in file.enum_type:
            found.setdefault(enum.name, {value.name: value.number for value in enum.value})
    for name, message in messages(files):
        for enum in message.enum_type:
            values = {value.name: value.number for value in enum.value}
            found.setdefault(f"{name}.{enum.name}", values)
    return found


@pytest.fixture(scope="module")
def ours() -> list[Any]:
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    return [file]


@pytest.mark.engine
def test_every_message_of_ours_has_the_published_layout(
    ours: list[Any], published: list[Any]
) -> None:
    theirs = layout(published)
    for name, fields in layout(ours).items():
        expected = {
            field: shape for field, shape in theirs[name].items() if (name, field) not in NOT_OURS
        }
        assert fields == expected, name


@pytest.mark.engine
def test_every_message_of_the_published_protocol_is_ours(
    ours: list[Any], published: list[Any]
) -> None:
    theirs = {name for name, _ in messages(published[:1]) if (name, None) not in NOT_OURS}
    assert published[0].package == "tendermint.abci"
    assert theirs <= set(layout(ours))


@pytest.mark.engine
def test_every_enumeration_of_ours_has_the_published_values(
    ours: list[Any], published: list[Any]
) -> None:
    theirs = enumerations(published)
    found = enumerations(ours)
    assert len(found) == 7
    for name, values in found.items():
        assert values == theirs[name], name
