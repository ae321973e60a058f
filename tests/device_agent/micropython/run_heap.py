# mypy: ignore-errors
"""MicroPython script: bytes allocated by each step of verifying ``heap.json``'s requests.

The collector is off while a step runs, so the figure is everything that the step ever allocated:
no heap that large can be exceeded, whenever the collector runs.
"""

import binascii
import gc
import json

before = gc.mem_alloc()
import capability as micro  # noqa: E402

gc.collect()
module = gc.mem_alloc() - before


def allocated(step):
    step()  # the first call may fill caches of the interpreter
    gc.collect()
    gc.disable()
    before = gc.mem_alloc()
    step()
    after = gc.mem_alloc()
    gc.enable()
    return after - before


def measured(case):
    key = binascii.unhexlify(case["key"])
    verifier = micro.Verifier(key, case["epoch"])
    message = binascii.unhexlify(case["encoded"])
    checked = verifier.check(message, case["now"])
    public = checked.chains[0].public
    return {
        "name": case["name"],
        "module": module,
        "chain": allocated(lambda: micro.Chain(public).state(key)),
        "request": allocated(lambda: verifier.check(message, case["now"])),
        "reply": allocated(lambda: micro.reply(checked, 0)),
    }


with open("heap.json") as file:  # noqa: PTH123 (pathlib is not for microcontrollers)
    for case in json.load(file):
        print(json.dumps(measured(case)))
