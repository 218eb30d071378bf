"""The package's version, and the check that the installed TVM is the one it was made for."""

from __future__ import annotations

from functools import cache

from tvmconv.errors import EnvironmentError_

VERSION = "0.1.0"

#: The only tested pair. Other versions of apache-tvm-ffi make TVM segfault, so nothing but an exact
#: match will do; pyproject.toml has the same pins, and a test compares them.
PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}


def installed_versions() -> dict[str, str | None]:
    """Look up the installed version of each pinned package, None for one that is missing.

    Reads metadata only, so it cannot crash where importing the wrong TVM does.
    """
    import importlib.metadata  # 20 ms that `--version` need not spend

    found: dict[str, str | None] = {}
    for package in PINS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


@cache
def require_tvm() -> None:
    """Refuse to go on unless the pinned TVM is installed; call it before the first ``import tvm``.

    Raises
    ------
    EnvironmentError_
        If a package is missing or has another version; the message names the command that installs
        the pinned ones.
    """
    wrong = [
        f"{package} {version}" if version else f"{package} is missing"
        for package, version in installed_versions().items()
        if version != PINS[package]
    ]
    if wrong:
        pins = " ".join(f"{package}=={version}" for package, version in PINS.items())
        raise EnvironmentError_(f"{', '.join(wrong)}; only one pair works: pip install {pins}")
