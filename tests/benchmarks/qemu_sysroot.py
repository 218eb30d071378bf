"""A folder with Debian's AArch64 Python and the libraries to compare with, for QEMU's user mode.

Debian's apt and dpkg fetch and unpack packages of the other architecture, pip its wheels; nothing
is installed on this machine. What apt writes goes into the folder too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmconv.errors import EnvironmentError_
from tvmconv.target import Target

PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "libxnnpack-dev")
WHEELS = ("numpy", "ncnn", "onnxruntime")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17")
_DONE = "complete"


def make_sysroot(folder: Path) -> Path:
    """Fill the folder, unless that is done.

    Raises
    ------
    EnvironmentError_
        A tool is missing or fails.
    """
    root = folder / "root"
    if (folder / _DONE).exists():
        return root
    for name in ("root", "apt", "wheels"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for package in _fetch_packages(folder):
        _call(["dpkg", "-x", str(package), str(root)])
    wheels = folder / "wheels"
    version = _python(root).name.removeprefix("python")
    systems = [word for name in _PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    only = ["--only-binary=:all:", "--no-deps", "--python-version", version, "--dest", str(wheels)]
    _call([sys.executable, "-m", "pip", "download", "--quiet", *systems, *only, *WHEELS])
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as file:
            file.extractall(root / "site")
    (folder / _DONE).touch()
    return root


@dataclass(frozen=True)
class Guest:
    """How the folder's Python is run: by QEMU with these options and variables."""

    python: str
    options: Sequence[str]
    variables: Mapping[str, str]


def guest(root: Path, target: Target) -> Guest:
    """Run Python as the target's processor."""
    _describe_processor(root, target)
    paths = (root / "site", Path(__file__).resolve().parents[2])
    variables = {"PYTHONPATH": ":".join(map(str, paths)), "PYTHONHASHSEED": "0"}
    return Guest(str(_python(root)), ("-L", str(root), "-cpu", target.name), variables)


def _describe_processor(root: Path, target: Target) -> None:
    """Programs that read /proc/cpuinfo see the target's processor, not this machine's."""
    match = target.match
    if match is None:
        raise EnvironmentError_(f"{target.name} is no single processor")
    facts = {
        "processor": "0",
        "Features": "fp asimd crc32",
        "CPU implementer": f"{match.implementer:#x}",
        "CPU architecture": "8",
        "CPU variant": "0x0",
        "CPU part": f"{match.parts[0]:#x}",
        "CPU revision": "1",
    }
    (root / "proc").mkdir(exist_ok=True)
    text = "".join(f"{name}\t: {value}\n" for name, value in facts.items())
    (root / "proc" / "cpuinfo").write_text(text + "\n")


def _fetch_packages(folder: Path) -> list[Path]:
    """Download the packages with all that they need, as if nothing were installed."""
    state, cache = folder / "apt" / "state", folder / "apt" / "cache"
    (state / "lists" / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": 1,
        "Dir::Cache": cache,
        "Dir::State": state,
        "Dir::State::status": state / "status",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    _call(["apt-get", "-qq", *options, "update"])
    install = ["install", "--download-only", "--no-install-recommends", "--yes"]
    _call(["apt-get", "-qq", *options, *install, *PACKAGES])
    return sorted((cache / "archives").glob("*.deb"))


def _python(root: Path) -> Path:
    return next((root / "usr" / "bin").glob("python3.*[0-9]"))


def _call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise EnvironmentError_(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise EnvironmentError_(f"{command[0]}: {done.stderr.strip()[-300:]}")
