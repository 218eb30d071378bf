"""What gets installed: every file of the package, from a wheel, from an sdist, in place."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tvmconv import versions
from tvmconv.errors import EnvironmentError_
from tvmconv.versions import PINS, VERSION, require_tvm

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Folder in the repository → folder when installed.
INSTALLED = {
    "tvmconv": "tvmconv",
    "schedules": "tvmconv/schedules",
    "targets": "tvmconv/targets",
    "tune_logs": "tvmconv/tune_logs",
}
MADE_BY_COMPILING = {".a", ".o", ".pyc", ".so"}
ROOT = Path(__file__).parent.parent


def package_files() -> Iterator[tuple[Path, str]]:
    """Each file that belongs to the package, and its name when installed."""
    for source, installed in INSTALLED.items():
        for path in sorted((ROOT / source).rglob("*")):
            if path.is_file() and path.suffix not in MADE_BY_COMPILING:
                yield path, f"{installed}/{path.relative_to(ROOT / source).as_posix()}"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_every_package_is_listed(project: dict[str, Any]) -> None:
    folders = {name.rpartition("/")[0] for path, name in package_files() if path.suffix == ".py"}
    assert sorted(folders) == sorted(
        name.replace(".", "/") for name in project["tool"]["setuptools"]["packages"]
    )
    assert {f"{folder}/__init__.py" for folder in folders} <= {name for _, name in package_files()}


def test_pins_are_those_of_the_project(project: dict[str, Any]) -> None:
    requirements = project["project"]["dependencies"]
    assert {f"{name}=={version}" for name, version in PINS.items()} <= set(requirements)


def python(*arguments: str, cwd: Path) -> str:
    process = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr + process.stdout
    return process.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the project, so that building leaves nothing behind in it."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in INSTALLED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def wheel(copy: Path) -> Path:
    """Build an sdist from the project, and a wheel from that sdist alone."""
    python("-m", "build", "--no-isolation", "--skip-dependency-check", cwd=copy)
    assert (copy / f"dist/tvmconv-{VERSION}.tar.gz").is_file()
    return copy / f"dist/tvmconv-{VERSION}-py3-none-any.whl"


#: Run with -I -S: nothing of this environment, in which the package is installed already.
USE = """
import pathlib, sys
import tvmconv.schedules, tvmconv.targets, tvmconv.tune_logs
from tvmconv.versions import VERSION
folder = pathlib.Path(tvmconv.targets.__path__[0])
print(VERSION, len(list(folder.glob("*.toml"))), folder)
"""


def test_wheel_has_every_file(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        licenses = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert packed == {name for _, name in package_files()}
    assert len(licenses) == 1
    for path, name in package_files():
        assert (tmp_path / name).read_bytes() == path.read_bytes()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}){USE}"
    version, count, folder = python("-I", "-S", "-c", code, cwd=tmp_path).split()
    assert (version, int(count)) == (VERSION, len(list((ROOT / "targets").glob("*.toml"))))
    assert Path(folder) == tmp_path / "tvmconv" / "targets"


def test_editable_install_uses_the_project(copy: Path, tmp_path: Path) -> None:
    build = f"import setuptools.build_meta as b; b.build_editable({str(tmp_path)!r})"
    python("-W", "ignore", "-c", build, cwd=copy)
    (file,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(file) as archive:
        archive.extractall(site)
    code = f"import site; site.addsitedir({str(site)!r}){USE}"
    version, _, folder = python("-I", "-S", "-c", code, cwd=tmp_path).split()
    assert version == VERSION
    assert Path(folder) == copy / "targets"


def test_command_is_installed(project: dict[str, Any]) -> None:
    module, _, function = project["project"]["scripts"]["tvmconv"].partition(":")
    from tvmconv import cli

    assert (module, getattr(cli, function)) == (cli.__name__, cli.main)


def pretend(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_pinned_versions_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, PINS)
    require_tvm.__wrapped__()


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ({**PINS, "apache-tvm-ffi": "0.1.15.post2"}, "apache-tvm-ffi 0.1.15.post2; "),
        ({**PINS, "apache-tvm": "0.26.0"}, "apache-tvm 0.26.0; "),
        ({}, "apache-tvm is missing, apache-tvm-ffi is missing; "),
    ],
    ids=["ffi", "tvm", "none"],
)
def test_other_versions_are_refused_with_the_pins(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], found: str
) -> None:
    pretend(monkeypatch, installed)
    with pytest.raises(EnvironmentError_) as caught:
        require_tvm.__wrapped__()
    assert str(caught.value).startswith(found)
    for name, version in versions.PINS.items():
        assert f"{name}=={version}" in str(caught.value)


def test_wrong_tvm_is_never_imported(tmp_path: Path) -> None:
    code = (
        "import importlib.metadata as m, sys; m.version = lambda name: '0.1.15.post2'\n"
        "from tvmconv.cli import main\n"
        f"code = main(['compile', 'conv2d:1x3x8x8:4x3x3', '-o', {str(tmp_path / 'x.so')!r}])\n"
        "print(code, 'tvm' in sys.modules, 'tvm_ffi' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "4 False False\n"
    assert "pip install apache-tvm==" in process.stderr
    assert process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
