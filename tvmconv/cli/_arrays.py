"""Arrays in and out of files, with every check before a byte of data is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.files import replacing
from tvmconv.names import nearest
from tvmconv.runtime.arrays import Port

Array = npt.NDArray[Any]

#: What NumPy raises for files that are no arrays; its parser of old headers adds Python's own.
_UNREADABLE = (
    EOFError,
    OSError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TokenError,
    TypeError,
    ValueError,
)


def load_inputs(
    source: str, specs: Sequence[Mapping[str, Any]], files: Mapping[str, Path], seed: int | None
) -> dict[str, Array]:
    """Load the array of each input, or draw it at random.

    Parameters
    ----------
    source : str
        The compiled file, for messages.
    specs : sequence of mapping
        ``name``, ``shape`` and ``dtype`` of each input.
    files : mapping of str to Path
        The .npy file for some inputs.
    seed : int or None
        Seed for those without a file; None if each needs one.

    Raises
    ------
    InputError
        If an input has no file, a name is unknown, or a file does not hold what the input takes.
    """
    names = [spec["name"] for spec in specs]
    for name in files:
        if name not in names:
            hint = nearest(name, names) or f"; it has {_listed(specs)}"
            raise InputError(f"{source}: no input is named {name!r}{hint}")
    missing = [spec for spec in specs if spec["name"] not in files]
    if missing and seed is None:
        raise InputError(f"{source}: needs --input NAME=x.npy (or --seed) for {_listed(missing)}")
    rng = np.random.default_rng(seed)
    return {
        spec["name"]: load_npy(files[spec["name"]], spec)
        if spec["name"] in files
        else random_array(rng, tuple(spec["shape"]), Port.of(spec).numpy_dtype)
        for spec in specs
    }


def _listed(specs: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{spec['name']} ({spec['dtype']} {'x'.join(map(str, spec['shape']))})" for spec in specs
    )


def load_npy(path: Path, spec: Mapping[str, Any]) -> Array:
    """Load a .npy file whose shape and dtype are those of an input.

    The file is mapped first, so a header that promises more than the file has, or another shape,
    costs no memory. Pickled objects are refused.

    Raises
    ------
    InputError
        If the file cannot be read, is no .npy, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _UNREADABLE as error:
        raise InputError(f"{path}: not a .npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{path}: an .npz archive, not a .npy file")
    expected = tuple(spec["shape"]), Port.of(spec).numpy_dtype
    if (array.shape, array.dtype) != expected:
        raise InputError(
            f"{path}: holds {array.dtype} {array.shape}, "
            f"but input {spec['name']!r} takes {expected[1]} {expected[0]}"
        )
    return np.array(array, order="C")


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Draw normally distributed numbers, or small integers for an integer type."""
    if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)


def summary(name: str, array: Array) -> dict[str, Any]:
    """Describe an output by what one looks at first."""
    numbers = array.astype(np.float64)
    statistics = (
        {key: float(getattr(numbers, key)()) for key in ("min", "mean", "max")}
        if array.size
        else {}
    )
    shape = "x".join(map(str, array.shape))
    return {"output": name, "dtype": str(array.dtype), "shape": shape, **statistics}


def file_names(names: Sequence[str]) -> list[str]:
    """Make names of tensors, which can hold slashes, into distinct names of files."""
    taken: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:100] or "output"
        unique, count = plain, 1
        while unique.lower() in map(str.lower, taken):
            count += 1
            unique = f"{plain}_{count}"
        taken.append(unique)
    return [f"{name}.npy" for name in taken]


def save_outputs(folder: Path, names: Sequence[str], arrays: Sequence[Array]) -> list[Path]:
    """Write each output to its own .npy file and return the paths."""
    paths = [folder / name for name in file_names(names)]
    for path, array in zip(paths, arrays, strict=True):
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    return paths
