# mypy: ignore-errors
"""MicroPython script: the outcome of every case in ``cases.json``, one JSON line each."""

import json

import capability as micro
import outcomes

with open("cases.json") as file:  # noqa: PTH123 (pathlib is not for microcontrollers)
    for case in json.load(file):
        print(json.dumps(outcomes.of_case(micro, case)))
