"""The wheel: it holds what the checkout holds, under names that collide with nobody's."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

INSTALLED_AS = {
    # folder in the checkout: package in the wheel
    "edgistry": "edgistry",
    "abci_app": "edgistry_abci_app",
    "device_agent": "edgistry_device_agent",
    "client": "edgistry_client",
}

NOT_INSTALLED = {".proto"}
"""Sources of generated modules."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because a build leaves files beside the sources."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in INSTALLED_AS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "-w", str(target), str(checkout)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr
    (found,) = target.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``pip install`` would put into site-packages."""
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def files_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def entry_points(installed: Path) -> dict[str, str]:
    (path,) = installed.glob("*.dist-info/entry_points.txt")
    config = configparser.ConfigParser()
    config.read(path, "utf-8")
    return dict(config["console_scripts"])


def run_installed(installed: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` where only ``installed`` and the libraries can be imported, not the checkout."""
    prelude = f"import sys; sys.path.insert(0, {str(installed)!r})"
    return subprocess.run(
        [sys.executable, "-P", "-c", f"{prelude}; {code}", *arguments],
        cwd=installed.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_wheel_holds_exactly_the_files_of_the_checkout(wheel: Path) -> None:
    expected = {
        str(Path(package) / path.relative_to(ROOT / folder))
        for folder, package in INSTALLED_AS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in NOT_INSTALLED
    }
    assert files_in(wheel) == expected


def test_wheel_installs_no_common_top_level_name(wheel: Path) -> None:
    assert {name.partition("/")[0] for name in files_in(wheel)} == set(INSTALLED_AS.values())


def test_every_entry_point_leads_to_a_function(installed: Path) -> None:
    found = entry_points(installed)
    assert {"edgistry", "edgistry-agent", "edgistry-node"} <= set(found)
    code = ["import pkgutil"]
    code += [f"assert callable(pkgutil.resolve_name({target!r}))" for target in found.values()]
    result = run_installed(installed, "; ".join(code))
    assert result.returncode == 0, result.stderr


def test_installed_programs_know_their_version(installed: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    lines = metadata.read_text("utf-8").splitlines()
    (version,) = (line.split()[1] for line in lines if line.startswith("Version: "))
    for program in ("edgistry", "edgistry-agent", "edgistry-node"):
        module = entry_points(installed)[program].partition(":")[0]
        result = run_installed(installed, f"from {module} import main; main()", "--version")
        assert result.returncode == 0, result.stderr
        assert version in result.stdout


def test_installed_package_exports_what_applications_need(installed: Path) -> None:
    code = "from edgistry import *; import edgistry; print(edgistry.__file__, NodeClient.__name__)"
    result = run_installed(installed, code)
    assert result.returncode == 0, result.stderr
    assert str(installed) in result.stdout


def test_package_is_typed_for_its_users(wheel: Path) -> None:
    assert "edgistry/py.typed" in files_in(wheel)
