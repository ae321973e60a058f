"""Examining and repairing a node's two databases, each by the law it obeys.

Rules kept here:

* ``queues.ldb`` is this node's own: what is whole in it is salvaged, what is lost is named.
* ``registry.ldb`` of a node with an engine is put aside when it is damaged: the engine replays
  its blocks, and the app hash proves that nothing was lost. A solo node has no other copy, so its
  registry is salvaged, and taken only if it still has the hash that its head says.
* Damaged files are kept. Whole databases are not touched.

Not handled here: who holds the directory (``directory.hold``, the caller), and the salvage itself
(``edgistry.adapters.level_repair``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgistry.adapters.level_repair import find_damage, move_aside
from edgistry.adapters.level_repair import repair as repair_database
from edgistry.adapters.leveldb import repairing_path
from edgistry.codec import Document
from edgistry.kv import KeyValue
from edgistry.woof_audit import lost_elements

from .config import EngineKind
from .directory import NodeDirectory
from .ledger import Ledger

MAX_LOST_LINES = 1000
"""Ranges of lost elements that are named; more are as good as everything."""


class LostRange(Document):
    """Elements of a WooF that were lost."""

    woof: str
    first: int
    last: int


class DatabaseReport(Document):
    """What was found, and what was done."""

    path: str
    state: str
    """``missing``, ``whole``, ``damaged``, ``repaired``, or ``aside``: the engine makes it anew."""
    damage: str | None = None
    entries: int | None = None
    """How many a repaired database has."""
    kept: str | None = None
    """Where the damaged files are."""
    remarks: tuple[str, ...] = ()
    """What LevelDB left out, in its words."""
    lost: tuple[LostRange, ...] = ()


class RepairReport(Document):
    """Both databases."""

    databases: tuple[DatabaseReport, ...]

    @property
    def is_damaged(self) -> bool:
        """Whether something is still damaged."""
        return any(each.state == "damaged" for each in self.databases)


Tell = Callable[[str], None]


def examine(directory: NodeDirectory, *, tell: Tell) -> RepairReport:
    """What is wrong; nothing is changed.

    Raises:
        DatabaseLockedError, DirectoryError: it cannot be looked at.
    """
    return RepairReport(
        databases=tuple(_examined(path, look, tell) for path, look in _databases(directory).items())
    )


def repair(directory: NodeDirectory, engine: EngineKind, *, tell: Tell) -> RepairReport:
    """Repair what is damaged.

    Raises:
        CorruptDatabaseError: one cannot be repaired; it is as it was.
        DatabaseLockedError, DirectoryError, StorageError: it cannot be done here and now.
    """
    reports = []
    for path, look in _databases(directory).items():
        report = _examined(path, look, tell)
        damage = report.damage
        if damage is not None:
            tell(f"{path.name}: {damage}")
            if path == directory.registry_db and engine == "cometbft":
                report = _put_aside(path, damage)
            else:
                report = _repaired(path, damage, look)
        reports.append(report)
    return RepairReport(databases=tuple(reports))


def _databases(directory: NodeDirectory) -> dict[Path, Callable[[KeyValue], None]]:
    return {directory.registry_db: _look_at_registry, directory.queues_db: _look_at_queues}


def _look_at_registry(store: KeyValue) -> None:
    Ledger(store)


def _look_at_queues(_store: KeyValue) -> None:
    """Each of its tables checks what it reads; lost elements are named apart."""


def _examined(path: Path, look: Callable[[KeyValue], None], tell: Tell) -> DatabaseReport:
    if not path.exists() and not repairing_path(path).exists():
        return DatabaseReport(path=str(path), state="missing")
    tell(f"reading all of {path} ...")
    lost: list[LostRange] = []

    def look_closer(store: KeyValue) -> None:
        look(store)
        lost.extend(_lost(store))

    damage = find_damage(path, look_closer)
    return DatabaseReport(
        path=str(path),
        state="whole" if damage is None else "damaged",
        damage=damage,
        lost=tuple(lost),
    )


def _repaired(path: Path, damage: str, look: Callable[[KeyValue], None]) -> DatabaseReport:
    lost: list[LostRange] = []

    def look_closer(store: KeyValue) -> None:
        look(store)
        lost[:] = _lost(store)

    done = repair_database(path, damage, look_closer)
    return DatabaseReport(
        path=str(path),
        state="repaired",
        damage=damage,
        entries=done.entries,
        kept=str(done.kept),
        remarks=done.remarks,
        lost=tuple(lost),
    )


def _put_aside(path: Path, damage: str) -> DatabaseReport:
    kept = [move_aside(each) for each in (repairing_path(path), path) if each.exists()]
    return DatabaseReport(path=str(path), state="aside", damage=damage, kept=str(kept[-1]))


def _lost(store: KeyValue) -> list[LostRange]:
    found = []
    for each in lost_elements(store):
        found.append(LostRange(woof=each.woof, first=each.first, last=each.last))
        if len(found) == MAX_LOST_LINES:
            break
    return found
