"""Who may import whom, what is pure, and which library belongs to whom.

The tables are the architecture; the rest of the file reads the source and compares. Every check
is also run on a made-up module that breaks it, so that a check that sees nothing is noticed.
"""

from __future__ import annotations

import ast
import configparser
import fnmatch
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# --- the tables ---------------------------------------------------------------------------------

PACKAGES = ("edgistry", "abci_app", "device_agent", "client")
SHELLS = ("abci_app", "device_agent", "client")

MAY_IMPORT = {
    # importer: the parts it may import; patterns of module names
    "edgistry": ("edgistry.*",),  # the door: everything it names is loaded when first used
    "edgistry.errors": (),
    "edgistry.codec": ("edgistry.errors",),
    "edgistry.kv": ("edgistry.errors",),
    "edgistry.rights": ("edgistry.errors",),
    "edgistry.adapters.*": ("edgistry.*",),
    "edgistry.*": ("edgistry.*", "!edgistry.adapters.*"),
    "device_agent.micro.*": ("device_agent.micro.*",),
    "device_agent.*": ("device_agent.*", "edgistry", "edgistry.*"),
    "client.*": ("client.*", "edgistry", "edgistry.*"),
    "abci_app.abci_pb2": (),
    "abci_app.metrics": ("edgistry.*",),
    "abci_app.http_server": ("abci_app.http_signed", "abci_app.metrics", "edgistry.*"),
    "abci_app.schema": ("edgistry.*", "!edgistry.adapters.*"),
    "abci_app.*": ("abci_app.*", "edgistry", "edgistry.*"),
}
"""The first pattern that fits the importer counts; ``!`` takes back."""

PURE = (
    # No clock, randomness, operating system, sockets, event loop, logging or files: time, height
    # and randomness come in as arguments. A pure module imports only pure modules.
    "edgistry.*",
    "!edgistry.adapters*",
    "abci_app.admin_api",
    "abci_app.audit_api",
    "abci_app.choices",
    "abci_app.anycast",
    "abci_app.devices",
    "abci_app.pairing",
    "abci_app.pairing_api",
    "abci_app.mirror",
    "abci_app.stand_in",
    "abci_app.told",
    "abci_app.handlers_api",
    "abci_app.forwards_api",
    "abci_app.issuing_api",
    "abci_app.schema",
    "abci_app.merkle",
    "abci_app.nesting",
    "abci_app.sorted_entries",
    "abci_app.block_state",
    "abci_app.registry",
    "abci_app.crowd",
    "abci_app.moves",
    "abci_app.epoch_rules",
    "abci_app.membership",
    "abci_app.turns",
    "abci_app.epochs",
    "abci_app.epoch_store",
    "abci_app.signatures",
    "abci_app.cell_rows",
    "abci_app.discovery",
    "abci_app.change_log",
    "abci_app.profiles",
    "abci_app.fleet",
    "abci_app.entry_records",
    "abci_app.peer_api",
    "abci_app.mailbox",
    "abci_app.mailbox_api",
    "abci_app.mailbox_boxes",
    "abci_app.mailbox_choice",
    "abci_app.mailbox_exchange",
    "abci_app.mailbox_records",
    "abci_app.mailbox_states",
    "abci_app.offload",
    "abci_app.health",
    "device_agent.micro.*",
    "device_agent.duty_cycle",
    "device_agent.energy",
    "device_agent.homes",
    "device_agent.node_time",
    "device_agent.periods",
    "device_agent.queues",
    "device_agent.radio",
    "device_agent.reach",
    "device_agent.rhythm",
    "device_agent.runtime",
    "device_agent.talk",
    "device_agent.tally",
)

CONSENSUS = (
    # What every node must compute alike: no floating point, no hash() or id(), whose values differ
    # between processes. It may compare times and heights, which are whole numbers.
    "edgistry.membership",
    "edgistry.transactions",
    "abci_app.schema",
    "abci_app.merkle",
    "abci_app.nesting",
    "abci_app.block_state",
    "abci_app.registry",
    "abci_app.crowd",
    "abci_app.moves",
    "abci_app.epoch_rules",
    "abci_app.membership",
    "abci_app.turns",
)

IMPURE_IMPORTS = {
    "asyncio", "calendar", "ctypes", "fcntl", "getpass", "glob", "http.client",
    "http.server", "io", "locale", "logging", "mmap", "multiprocessing", "os", "pathlib",
    "platform", "pwd", "random", "secrets", "select", "selectors", "shutil", "signal", "socket",
    "socketserver", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "time", "urllib.request",
    "uuid",
}  # fmt: skip

IMPURE_CALLS = {"open", "print", "input", "breakpoint", "exec", "eval"}

CLOCK_METHODS = {"now", "utcnow", "today"}
"""Of ``datetime``, which pure modules may otherwise use to write times down."""

OWNERS = {
    # top-level module of a library: the only files that may import it
    "msgspec": ("edgistry/codec.py",),
    "h3": ("edgistry/region.py",),
    "plyvel": ("edgistry/adapters/leveldb.py",),
    "plyvel_next": ("edgistry/adapters/leveldb.py",),
    "aiohttp": (
        "edgistry/adapters/http_client.py",
        "edgistry/adapters/http_connection.py",
        "edgistry/adapters/http_server.py",
    ),
    "uvloop": ("edgistry/adapters/http.py",),
    "cryptography": ("edgistry/adapters/crypto.py",),
    "nacl": ("edgistry/adapters/sodium.py",),
    "structlog": ("edgistry/adapters/log.py",),
    "google": ("abci_app/abci_pb2.py",),
    "prometheus_client": ("abci_app/metrics.py",),
    "rich": ("client/output.py",),
    "click": (
        "edgistry/adapters/commands.py",
        "client/*.py",
        "abci_app/cli.py", "abci_app/cli_*.py",
        "device_agent/cli.py", "device_agent/cli_*.py",
    ),
    # Parts of Python that one module is responsible for.
    "ssl": ("edgistry/adapters/tls.py",),
    "tomllib": ("edgistry/adapters/config.py",),
    "pickle": (),
    "marshal": (),
    # A MAC over authority is computed in one place; the other two compare tags in constant time.
    "hmac": ("edgistry/mac.py", "edgistry/capability.py", "edgistry/verifier.py"),
}  # fmt: skip

MICRO_IMPORTS = {"hashlib", "struct"}
"""What device_agent/micro may import: what MicroPython has."""

MAY_REACH = {
    # shell: the extras of setup.cfg whose libraries it may load, directly or through others
    "client": ("explain",),
    "device_agent": ("agent",),
    "abci_app": ("node",),
}

OPTIONAL = {"uvloop"}
"""Used where installed, so no program needs it."""

DISTRIBUTIONS = {
    # names of distributions that differ from the module they install
    "plyvel-next": "plyvel_next",
    "prometheus-client": "prometheus_client",
    "protobuf": "google",
    "pynacl": "nacl",
}

THREADS = {
    # Who may leave a thread behind when cancelled: it touches no store, or is waited for.
    "edgistry/adapters/in_thread.py",
    "edgistry/adapters/durable_woofs.py",
    "edgistry/adapters/faas_spawned.py",
    "abci_app/discover_service.py",
    "abci_app/memberships.py",
    "abci_app/outbox.py",
    "abci_app/regions.py",
    "abci_app/supervisor.py",
}

LOGGERS = {
    "edgistry": "edgistry.",
    "abci_app": "edgistry.node",
    "device_agent": "edgistry.agent",
    "client": "edgistry.client",
}
"""How the names of loggers begin: packages have other names when installed, so never __name__."""


# --- reading the source -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    module: str
    relative: bool
    lazy_or_typing: bool
    """Inside ``if TYPE_CHECKING`` or a function: not executed when the module is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    name: str
    path: str
    tree: ast.Module
    imports: tuple[Import, ...]


def read(name: str, path: str, source: str, *, known: frozenset[str] = frozenset()) -> Module:
    """``known``: names of modules, to tell ``from . import module`` from ``import value``."""
    tree = ast.parse(source, filename=path)
    package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
    imports = tuple(_imports(tree, package, known, deferred=False))
    return Module(name=name, path=path, tree=tree, imports=imports)


def _imports(
    node: ast.AST, package: str, known: frozenset[str], *, deferred: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module=alias.name, relative=False, lazy_or_typing=deferred)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                parts = package.split(".")
                kept = ".".join(parts[: len(parts) - child.level + 1])
                base = f"{kept}.{base}".rstrip(".")
            for alias in child.names:
                inner = f"{base}.{alias.name}"
                yield Import(
                    module=inner if inner in known else base,
                    relative=bool(child.level),
                    lazy_or_typing=deferred,
                )
        else:
            inside = deferred or _is_deferred(child)
            yield from _imports(child, package, known, deferred=inside)


def _is_deferred(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return True
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _all_modules() -> dict[str, Module]:
    paths = {
        _module_name(path): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    known = frozenset(paths)
    return {
        name: read(name, str(path.relative_to(ROOT)), path.read_text("utf-8"), known=known)
        for name, path in paths.items()
    }


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = _all_modules()


def fits(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether ``name`` matches, the last pattern that fits deciding; ``!`` takes back."""
    answer = False
    for pattern in patterns:
        if fnmatch.fnmatchcase(name, pattern.removeprefix("!")):
            answer = not pattern.startswith("!")
    return answer


def is_own(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


# --- the checks: each gives what breaks it ------------------------------------------------------


def wrong_arrows(module: Module) -> list[str]:
    allowed = next(
        (
            found
            for pattern, found in MAY_IMPORT.items()
            if fnmatch.fnmatchcase(module.name, pattern)
        ),
        None,
    )
    if allowed is None:
        # The __init__ of a shell: a docstring and nothing else.
        allowed = ()
    own = {each.module for each in module.imports if is_own(each.module)} - {module.name}
    # Importing from a package's own __init__ is importing the package's module.
    return [f"{module.name} imports {each}" for each in sorted(own) if not fits(each, allowed)]


def absolute_imports_of_the_own_shell(module: Module) -> list[str]:
    """A shell has another name when installed, so only relative imports find it."""
    top = module.name.partition(".")[0]
    return [
        f"{module.name} imports {each.module} absolutely"
        for each in module.imports
        if top in SHELLS and not each.relative and each.module.partition(".")[0] in SHELLS
    ]


def impurities(module: Module) -> list[str]:
    if not fits(module.name, PURE):
        return []
    found = []
    for each in module.imports:
        name = each.module
        if any(name == bad or name.startswith(f"{bad}.") for bad in IMPURE_IMPORTS):
            found.append(f"{module.name} imports {name}")
        if is_own(name) and not fits(name, PURE):
            found.append(f"{module.name} imports {name}, which is not pure")
    for node in ast.walk(module.tree):
        if called := _called_builtin(node, IMPURE_CALLS):
            found.append(f"{module.name}:{called}")
        elif isinstance(node, ast.Attribute) and node.attr in CLOCK_METHODS:
            found.append(f"{module.name}:{node.lineno} reads a clock: .{node.attr}")
    return found


def what_differs_between_nodes(module: Module) -> list[str]:
    if module.name not in CONSENSUS:
        return []
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            found.append(f"{module.name}:{node.lineno} has a floating-point number")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            found.append(f"{module.name}:{node.lineno} divides into floating point")
        elif called := _called_builtin(node, {"hash", "id", "float"}):
            found.append(f"{module.name}:{called}")
    return found


def _called_builtin(node: ast.AST, names: set[str]) -> str:
    """Line and name of the call, if ``node`` calls one of ``names``; else nothing."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
        return f"{node.lineno} calls {node.func.id}()"
    return ""


def borrowed_libraries(module: Module) -> list[str]:
    found = []
    for each in module.imports:
        top = each.module.partition(".")[0]
        if top in OWNERS:
            if not any(fnmatch.fnmatchcase(module.path, owner) for owner in OWNERS[top]):
                found.append(f"{module.path} imports {top}; only {OWNERS[top]} may")
        elif not is_own(top) and top not in sys.stdlib_module_names:
            found.append(f"{module.path} imports {top}, which nobody owns: add it to OWNERS")
    return found


def micro_needs_more_than_micropython_has(module: Module) -> list[str]:
    if not module.name.startswith("device_agent.micro"):
        return []
    return [
        f"{module.path} imports {each.module}"
        for each in module.imports
        if each.module not in MICRO_IMPORTS and not each.module.startswith("device_agent.micro")
    ]


def threads_left_behind(module: Module) -> list[str]:
    if module.path in THREADS:
        return []
    return [
        f"{module.path}:{node.lineno}: use in_thread, or say in THREADS why not"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in ("to_thread", "run_in_executor")
    ]


def unnamed_loggers(module: Module) -> list[str]:
    prefix = LOGGERS[module.name.partition(".")[0]]
    found = []
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or module.name == "edgistry.adapters.log":
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name not in ("getLogger", "get_logger"):
            continue
        argument = node.args[0] if node.args else None
        text = argument.value if isinstance(argument, ast.Constant) else None
        if not isinstance(text, str) or not text.startswith(prefix):
            found.append(f"{module.path}:{node.lineno}: name the logger {prefix}…")
    return found


def asserts(module: Module) -> list[str]:
    """``python -O`` removes them, so nothing may depend on one."""
    return [
        f"{module.path}:{node.lineno} asserts"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assert)
    ]


def missing_docstring(module: Module) -> list[str]:
    if module.name == "abci_app.abci_pb2":
        return []
    return [] if ast.get_docstring(module.tree) else [f"{module.path} has no docstring"]


Check = Callable[[Module], list[str]]

CHECKS: dict[Check, tuple[str, str]] = {
    # check: a module (name, source) that breaks it
    wrong_arrows: ("edgistry.codec", "from .transactions import Kind"),
    absolute_imports_of_the_own_shell: ("client.cli", "from client.output import remark"),
    impurities: ("edgistry.woof", "import time"),
    what_differs_between_nodes: ("abci_app.registry", "half = 1 / 2"),
    borrowed_libraries: ("client.cmd_x", "import msgspec"),
    micro_needs_more_than_micropython_has: ("device_agent.micro.x", "import typing"),
    threads_left_behind: ("abci_app.x", "import asyncio\nasyncio.to_thread(print)"),
    unnamed_loggers: ("abci_app.x", "import logging\nlog = logging.getLogger(__name__)"),
    asserts: ("edgistry.x", "assert True"),
    missing_docstring: ("edgistry.x", "VALUE = 1"),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_source_keeps_the_rule(check: Check) -> None:
    broken = [each for module in MODULES.values() for each in check(module)]
    assert broken == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check_sees_a_module_that_breaks_it(check: Check) -> None:
    name, source = CHECKS[check]
    module = read(name, name.replace(".", "/") + ".py", source, known=frozenset(MODULES))
    assert check(module)


@pytest.mark.parametrize(
    ("name", "source", "check"),
    [
        ("edgistry.woof", "from .adapters import leveldb", wrong_arrows),
        ("edgistry.woof", "import abci_app.schema", wrong_arrows),
        ("edgistry.adapters.x", "from client.output import remark", wrong_arrows),
        ("client.x", "from abci_app import schema", wrong_arrows),
        ("device_agent.x", "import client.cli", wrong_arrows),
        ("abci_app.http_server", "from .application import RegistryApplication", wrong_arrows),
        ("abci_app.schema", "from edgistry.adapters import crypto", wrong_arrows),
        ("edgistry.woof", "def f():\n    from os import path", impurities),
        ("edgistry.woof", "import urllib.request", impurities),
        ("edgistry.woof", "import datetime\nT = datetime.datetime.now()", impurities),
        ("edgistry.woof", "def f(p):\n    return open(p)", impurities),
        ("abci_app.registry", "from .outbox import Outbox", impurities),
        ("abci_app.merkle", "SHARE = 0.5", what_differs_between_nodes),
        ("abci_app.registry", "def f(x):\n    return hash(x)", what_differs_between_nodes),
        ("abci_app.x", "import requests", borrowed_libraries),
        ("abci_app.x", "def f():\n    import plyvel", borrowed_libraries),
        ("client.x", "import hmac", borrowed_libraries),
        ("client.x", "import pickle", borrowed_libraries),
    ],
)
def test_check_sees_the_less_obvious(name: str, source: str, check: Check) -> None:
    module = read(name, name.replace(".", "/") + ".py", source, known=frozenset(MODULES))
    assert check(module)


# --- the whole graph ----------------------------------------------------------------------------


def loaded_by(name: str) -> set[str]:
    """Own modules that loading ``name`` loads at once, its packages included."""
    module = MODULES[name]
    direct = {each.module for each in module.imports if not each.lazy_or_typing}
    packages = {each.rpartition(".")[0] for each in (*direct, name)}
    return {each for each in direct | packages if each in MODULES} - {name}


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of ``graph``, or nothing."""
    finished: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in finished:
            return []
        for target in sorted(graph.get(name, ())):
            if cycle := visit(target, [*path, name]):
                return cycle
        finished.add(name)
        return []

    return next((cycle for name in sorted(graph) if (cycle := visit(name, []))), [])


def test_modules_do_not_import_each_other_in_circles() -> None:
    graph = {
        name: {each.module for each in module.imports if each.module in MODULES} - {name}
        for name, module in MODULES.items()
        if name != "edgistry"
    }
    assert find_cycle(graph) == []


def test_cycle_is_found_where_there_is_one() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def requirements() -> dict[str, set[str]]:
    """Extra ("" for the core) to the top-level modules it installs."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    lists = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        extra: {
            DISTRIBUTIONS.get(name, name)
            for line in text.splitlines()
            if (name := re.split(r"[\s<>=!;\[]", line.strip())[0])
        }
        for extra, text in lists.items()
    }


def libraries_reached_from(shell: str) -> set[str]:
    """Libraries that some command of ``shell`` may load."""
    waiting = [name for name in MODULES if name.partition(".")[0] == shell]
    seen: set[str] = set()
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name == "edgistry":
            continue
        seen.add(name)
        for each in MODULES[name].imports:
            top = each.module.partition(".")[0]
            if is_own(top):
                waiting += [each.module] if each.module in MODULES else []
            elif top not in sys.stdlib_module_names:
                found.add(top)
    return found


@pytest.mark.parametrize("shell", SHELLS)
def test_program_loads_only_what_its_extra_installs(shell: str) -> None:
    installed = requirements()
    allowed = OPTIONAL.union(installed[""], *(installed[extra] for extra in MAY_REACH[shell]))
    assert libraries_reached_from(shell) - allowed == set()


def test_every_library_of_the_core_is_used() -> None:
    used = {top for shell in SHELLS for top in libraries_reached_from(shell)}
    assert requirements()[""] - used == set()


# --- the tables themselves ----------------------------------------------------------------------


def test_modules_that_the_tables_name_exist() -> None:
    named = {name for name in (*PURE, *CONSENSUS, *MAY_IMPORT) if not re.search(r"[*!]", name)}
    assert named - set(MODULES) == set()


def test_files_that_own_a_library_exist_and_import_it() -> None:
    idle = []
    for library, owners in OWNERS.items():
        for owner in owners:
            if "*" in owner or owner.startswith("device_agent/cli"):
                continue
            found = [each for each in MODULES.values() if each.path == owner]
            tops = {each.module.partition(".")[0] for module in found for each in module.imports}
            if library not in tops:
                idle.append(f"{owner} does not import {library}")
    assert idle == []


def test_pure_modules_cover_the_core() -> None:
    pure = {name for name in MODULES if fits(name, PURE)}
    core = {name for name in MODULES if name.startswith("edgistry.")}
    assert {name for name in core if not name.startswith("edgistry.adapters")} <= pure
    assert not any(name.startswith("edgistry.adapters") for name in pure)
