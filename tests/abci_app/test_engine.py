"""Finding and installing the engine. A small script plays Go, which builds a script as engine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from abci_app import engine
from abci_app.engine import (
    ENGINE_MODULE,
    ENGINE_VERSION,
    engine_path,
    engine_version,
    find_engine,
    install_engine,
)
from edgistry.errors import EngineError

GO = """#!/bin/sh
case "$1" in
  env) echo {go_version} ;;
  install)
    echo "$@" >> {calls}
    echo "go: downloading some/module v1.0.0" >&2
    {build}
    printf '#!/bin/sh\\necho {built}\\n' > "$GOBIN/cometbft"
    chmod +x "$GOBIN/cometbft" ;;
esac
"""


class Machine:
    """A home, a cache, and a PATH with a Go on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls = root / "calls"
        (root / "bin").mkdir()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.root),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "PATH": f"{self.root / 'bin'}:/usr/bin:/bin",
        }

    def put_go(
        self, *, go_version: str = "go1.26.1", built: str = ENGINE_VERSION, build: str = ""
    ) -> None:
        go = self.root / "bin" / "go"
        text = GO.format(go_version=go_version, built=built, build=build, calls=self.calls)
        go.write_text(text)
        go.chmod(0o755)

    def builds(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0

    def left_over(self) -> list[str]:
        cache = self.root / "cache"
        found = [each.name for each in cache.rglob("*") if each.is_file()] if cache.exists() else []
        return [name for name in found if name != ".lock"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    def no_wheel(_tell: object, _environment: Mapping[str, str]) -> Path:
        raise EngineError("the wheel is not tried in this test")

    monkeypatch.setattr(engine, "_go_in_environment", no_wheel)
    return Machine(tmp_path)


def quiet(_text: str) -> None:
    pass


def test_scratch_of_a_killed_installer_is_removed_by_the_next(machine: Machine) -> None:
    machine.put_go()
    directory = engine_path(machine.environment).parent
    (directory / ".build-killed" / "go").mkdir(parents=True)
    (directory / ".build-killed" / "go" / "half").write_bytes(b"x")
    path = install_engine(lambda line: None, environment=machine.environment)
    assert sorted(each.name for each in directory.iterdir()) == [".lock", path.name]


def test_the_engine_is_built_once_and_then_found(machine: Machine) -> None:
    machine.put_go()
    path = install_engine(quiet, environment=machine.environment)
    assert path == find_engine(machine.environment)
    assert engine_version(path) == ENGINE_VERSION
    assert machine.calls.read_text().split() == ["install", "-v", ENGINE_MODULE]
    install_engine(quiet, environment=machine.environment)
    assert machine.builds() == 1


def test_an_installed_engine_needs_no_go(machine: Machine) -> None:
    machine.put_go()
    install_engine(quiet, environment=machine.environment)
    (machine.root / "bin" / "go").unlink()
    assert install_engine(quiet, environment=machine.environment).exists()


def test_of_two_installers_one_builds_and_the_other_waits(machine: Machine) -> None:
    machine.put_go(build="sleep 0.5")
    told: list[str] = []
    installers = [
        threading.Thread(
            target=install_engine, args=(told.append,), kwargs={"environment": machine.environment}
        )
        for _ in range(2)
    ]
    for each in installers:
        each.start()
    for each in installers:
        each.join(30)
    assert machine.builds() == 1
    assert any("another installation is under way" in line for line in told)


def test_a_failed_build_says_what_go_said_and_leaves_nothing(machine: Machine) -> None:
    machine.put_go(build="echo 'dial tcp: no route to host' >&2; exit 1")
    with pytest.raises(EngineError, match="no route to host"):
        install_engine(quiet, environment=machine.environment)
    assert machine.left_over() == []


def test_a_failed_build_can_be_tried_again(machine: Machine) -> None:
    machine.put_go(build="exit 1")
    with pytest.raises(EngineError):
        install_engine(quiet, environment=machine.environment)
    machine.put_go()
    assert install_engine(quiet, environment=machine.environment).exists()


def test_an_engine_of_another_version_is_not_kept(machine: Machine) -> None:
    machine.put_go(built="0.34.0")
    with pytest.raises(EngineError, match=r"0\.34\.0 was built"):
        install_engine(quiet, environment=machine.environment)
    assert machine.left_over() == []


def test_a_damaged_engine_is_built_again(machine: Machine) -> None:
    machine.put_go()
    path = install_engine(quiet, environment=machine.environment)
    path.write_text("not a program")
    install_engine(quiet, environment=machine.environment)
    assert engine_version(path) == ENGINE_VERSION


@pytest.mark.parametrize("version", ["go1.22.9", "go1.9"])
def test_an_old_go_is_not_used(machine: Machine, version: str) -> None:
    machine.put_go(go_version=version)
    with pytest.raises(EngineError, match=r"1\.23 or newer is needed"):
        install_engine(quiet, environment=machine.environment)
    assert machine.builds() == 0


def test_without_any_go_every_way_that_was_tried_is_told(machine: Machine) -> None:
    with pytest.raises(EngineError) as caught:
        install_engine(quiet, environment=machine.environment)
    assert "no Go on PATH" in str(caught.value)
    assert "the wheel is not tried" in str(caught.value)


def test_a_missing_engine_is_named_with_its_remedy(machine: Machine) -> None:
    with pytest.raises(EngineError, match="edgistry-node engine install"):
        find_engine(machine.environment)


def test_another_binary_can_be_named_and_is_never_replaced(machine: Machine) -> None:
    own = machine.root / "own"
    own.write_text("#!/bin/sh\necho 0.40.0-rc1\n")
    own.chmod(0o755)
    environment = {**machine.environment, "EDGISTRY_ENGINE": str(own)}
    assert install_engine(quiet, environment=environment) == own
    assert engine_version(own) == "0.40.0-rc1"
    assert machine.builds() == 0


def test_a_named_binary_that_is_missing_is_refused(machine: Machine) -> None:
    environment = {**machine.environment, "EDGISTRY_ENGINE": str(machine.root / "absent")}
    with pytest.raises(EngineError, match="named by EDGISTRY_ENGINE"):
        install_engine(quiet, environment=environment)


def test_the_cache_follows_the_base_directory_specification(machine: Machine) -> None:
    assert engine_path(machine.environment).is_relative_to(machine.root / "cache" / "edgistry")
    relative = engine_path({**machine.environment, "XDG_CACHE_HOME": "relative"})
    assert relative == engine_path({})


def test_a_program_that_is_no_engine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "x").chmod(0o755)
    with pytest.raises(EngineError, match="is no engine: 'hello'"):
        engine_version(tmp_path / "x")
