"""The OpenAPI 3.1 description of the node's HTTP API, built from ``edgistry.routes``.

Rules kept here: pure, and no second description: schemas come from the types that the server and
the client really use. OpenAPI 3.1 schemas are JSON Schema 2020-12, which is what they come in.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from .api import (
    ENVELOPE_CONTENT_TYPE,
    JSON_CONTENT_TYPE,
    PROBLEM_CONTENT_TYPE,
    Problem,
    ReadyAnswer,
)
from .codec import Document, json_schemas
from .errors import Refused
from .event_stream import EVENT_CONTENT_TYPE
from .routes import COMMON_REFUSALS, OPERATIONS, Operation, Parameter

_REFERENCE = "#/components/schemas/{name}"


def openapi_document(version: str, operations: Sequence[Operation] = OPERATIONS) -> dict[str, Any]:
    """The description as JSON values; ``version`` is that of the node program."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Edgistry node",
            "version": version,
            "summary": "Find services of sleeping devices by place and type.",
            "description": (
                "Whoever can reach a node may read the registry: every node answers from its own "
                "last committed block, and answers carry its height and time. WooFs are for who "
                "holds a capability; handles of services are for who signs. Areas are matched "
                "against the centre of a service's published H3 cell. Errors are RFC 9457 problem "
                "documents."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(operations),
        "components": {"schemas": _schemas(operations)},
    }


def _paths(operations: Sequence[Operation]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return paths


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": _responses(operation),
    }
    if operation.parameters:
        described["parameters"] = [_parameter(each) for each in operation.parameters]
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.is_required,
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _responses(operation: Operation) -> dict[str, Any]:
    """By status: the answer, then what may be refused, with the codes that it may carry."""
    responses = {"200": _answer(operation.answer), "500": _problem(500, ["internal"])}
    codes: dict[int, list[str]] = {}
    refusals: tuple[type[Refused], ...] = (*COMMON_REFUSALS, *operation.refusals)
    for refusal in refusals:
        codes.setdefault(refusal.http_status, []).append(refusal.code)
    for status, names in codes.items():
        responses[str(status)] = _problem(status, names)
    for status, kind in operation.other_answers:
        # Two documents with one status are told apart by their content type.
        problem = responses.get(str(status), {"content": {}})
        answer = _answer(kind)
        responses[str(status)] = {**answer, **problem, "content": answer["content"]}
        responses[str(status)]["content"] |= problem["content"]
    return dict(sorted(responses.items()))


def _answer(kind: type[Document] | str | tuple[str, ...]) -> dict[str, Any]:
    return {"description": "The answer.", "content": _content(kind)}


def _content(kind: type[Document] | str | tuple[str, ...]) -> dict[str, Any]:
    if isinstance(kind, tuple):
        return {each: content for one in kind for each, content in _content(one).items()}
    if not isinstance(kind, str):
        return {JSON_CONTENT_TYPE: {"schema": _reference(kind)}}
    if kind in (ENVELOPE_CONTENT_TYPE, EVENT_CONTENT_TYPE):
        return {kind: {}}  # bytes or events, which JSON Schema does not describe
    form = "object" if kind == JSON_CONTENT_TYPE else "string"
    return {kind: {"schema": {"type": form}}}


def _problem(status: int, codes: Sequence[str]) -> dict[str, Any]:
    names = ", ".join(f"`{code}`" for code in codes)
    described: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}; code {names}.",
        "content": {PROBLEM_CONTENT_TYPE: {"schema": _reference(Problem)}},
    }
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        seconds = {"type": "integer"}
        described["headers"] = {
            "Retry-After": {"description": "Seconds to wait, where known.", "schema": seconds}
        }
    return described


def _reference(kind: type[Document]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    kinds: dict[str, type[Document]] = {"Problem": Problem, "ReadyAnswer": ReadyAnswer}
    for operation in operations:
        for kind in (operation.answer, operation.body):
            if kind is not None and not isinstance(kind, str | tuple):
                kinds[kind.__name__] = kind
    _, components = json_schemas(kinds.values(), ref_template=_REFERENCE)
    for schema in components.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return dict(sorted(components.items()))
