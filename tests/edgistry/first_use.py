"""Types that many threads read for the first time at the same moment; run as a program."""

from __future__ import annotations

import sys
import threading
import types

from edgistry.codec import decode, decode_json, encode, encode_json

SOURCE = """
from __future__ import annotations
from edgistry.codec import Wire

class Leaf(Wire):
    number: int
    numbers: tuple[int, ...]
    text: str

class Branch(Wire):
    leaf: Leaf
    leaves: tuple[Leaf, ...]

class Tree(Wire):
    branch: Branch
    branches: tuple[Branch, ...]
"""
ROUNDS = 200
THREADS = 4


def main() -> None:
    """Exit code 0 if every thread has read every type."""
    sys.setswitchinterval(1e-6)
    done = 0
    for number in range(ROUNDS):
        module = types.ModuleType(f"made_up_{number}")
        sys.modules[module.__name__] = module
        exec(SOURCE, module.__dict__)
        done += _read_at_once(module)
    sys.exit(done != ROUNDS * THREADS)


def _read_at_once(module: types.ModuleType) -> int:
    leaf = module.Leaf(number=1, numbers=(2,), text="three")
    branch = module.Branch(leaf=leaf, leaves=(leaf, leaf))
    tree = module.Tree(branch=branch, branches=(branch,))
    barrier = threading.Barrier(THREADS)
    found: list[bool] = []

    def read(turn: int) -> None:
        barrier.wait()
        if turn % 2:
            found.append(decode(encode(tree), module.Tree, limit=1000) == tree)
        else:
            found.append(decode_json(encode_json(branch), module.Branch, limit=1000) == branch)

    threads = [threading.Thread(target=read, args=(turn,)) for turn in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(found)


if __name__ == "__main__":
    main()
