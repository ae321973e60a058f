"""The published vectors, by the microcontroller verifier, on CPython and on MicroPython.

What the vectors ask for is written down once; each interpreter gets the same cases, and its
outcomes are compared with the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agent.micro import capability as micro

from . import micropython
from .micropython import outcomes

FILE = Path(__file__).parents[1] / "vectors" / "capability.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text())
CAPABILITIES = {each["name"]: each for each in VECTORS["capabilities"]}
VERIFIER = VECTORS["verifier"]
REFUSED_CHAINS = [each for each in VECTORS["refused"] if each["kind"] == "capability"]
REFUSED_ENVELOPES = [each for each in VECTORS["refused"] if each["kind"] == "envelope"]

Runner = Callable[[list[dict[str, Any]]], list[Any]]


def on_cpython(cases: list[dict[str, Any]]) -> list[Any]:
    return [outcomes.of_case(micro, case) for case in cases]


@pytest.fixture(params=["CPython", "MicroPython"], scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Gives the outcomes of cases on one interpreter; the same cases are run once."""
    known: dict[str, list[Any]] = {}
    if request.param == "MicroPython":
        micropython.require_micropython()

    def outcomes_of(cases: list[dict[str, Any]]) -> list[Any]:
        key = json.dumps(cases)
        if key not in known:
            if request.param == "CPython":
                known[key] = on_cpython(cases)
            else:
                directory = tmp_path_factory.mktemp("micropython")
                known[key] = micropython.outcomes_of(cases, directory)
        return known[key]

    return outcomes_of


def session(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """All of ``steps`` to the verifier of the vectors, in order."""
    return {"what": "session", "steps": steps, **VERIFIER}


def accepted_steps() -> list[dict[str, Any]]:
    steps = []
    for envelope in VECTORS["envelopes"]:
        replies = [each for each in VECTORS["replies"] if each["envelope"] == envelope["name"]]
        steps.append({"encoded": envelope["encoded"], "replies": replies})
    return steps


def test_there_is_something_to_test() -> None:
    assert len(VECTORS["capabilities"]) >= 10
    assert len(VECTORS["envelopes"]) >= 10
    assert len(VECTORS["refused"]) >= 40


def test_capabilities_parse_and_their_states_and_ids_follow(run: Runner) -> None:
    names = ("public", "secret", "issuer_epoch")
    cases = [
        {"what": "chain"} | {name: each[name] for name in names} for each in CAPABILITIES.values()
    ]
    for each, outcome in zip(CAPABILITIES.values(), run(cases), strict=True):
        found = {name: outcome.get(name) for name in ("serial", "states", "ids")}
        assert found == {name: each[name] for name in found}, each["name"]


def test_envelopes_are_accepted_and_mean_what_they_say(run: Runner) -> None:
    (found,) = run([session(accepted_steps())])
    for envelope, outcome in zip(VECTORS["envelopes"], found, strict=True):
        fields = {name: outcome.get(name) for name in envelope if name in outcome}
        assert fields == {name: envelope[name] for name in fields}, (envelope["name"], outcome)
        assert len(fields) == 10
        publics = [CAPABILITIES[name]["public"] for name in envelope["capabilities"]]
        assert outcome["publics"] == publics


def test_the_tags_of_replies_follow(run: Runner) -> None:
    steps = accepted_steps()
    (found,) = run([session(steps)])
    compared = 0
    for step, outcome in zip(steps, found, strict=True):
        assert outcome["rtags"] == [reply["rtag"] for reply in step["replies"]]
        compared += len(step["replies"])
    assert compared == len(VECTORS["replies"])


def test_flattened_capabilities_follow(run: Runner) -> None:
    (found,) = run([session(accepted_steps())])
    of_envelope = dict(zip([each["name"] for each in VECTORS["envelopes"]], found, strict=True))
    chains = [
        {"what": "chain", "public": each["public"], **VERIFIER} for each in VECTORS["flattened"]
    ]
    for each, chain in zip(VECTORS["flattened"], run(chains), strict=True):
        outcome = of_envelope[each["envelope"]]
        made = outcome["minted"] or outcome["flat"]
        assert made == each["flat"], each
        assert made.startswith(each["public"])
        assert chain["states"] == [each["state"]]


def test_refused_capabilities_are_refused_for_the_reason(run: Runner) -> None:
    cases = [{"what": "chain", "public": each["bytes"]} for each in REFUSED_CHAINS]
    for each, outcome in zip(REFUSED_CHAINS, run(cases), strict=True):
        assert (outcome.get("reason"), outcome.get("status")) == (each["reason"], 1), each["name"]


def test_refused_envelopes_are_refused_for_the_reason(run: Runner) -> None:
    before = accepted_steps()
    steps = [*before, *({"encoded": each["bytes"]} for each in REFUSED_ENVELOPES)]
    (found,) = run([session(steps)])
    for each, outcome in zip(REFUSED_ENVELOPES, found[len(before) :], strict=True):
        assert outcome.get("reason") == each["reason"], (each["name"], outcome)
        assert outcome["authentic"] == (outcome["status"] != micro.REFUSED)
