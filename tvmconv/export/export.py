"""Write the folder: compile once, link both libraries, add the texts and a sample."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.export import texts
from tvmconv.runtime.inspect import DEFAULT_PREFIX, inspect_artifact
from tvmconv.target import Target, load_target

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ExportReport:
    """What an export consists of.

    Attributes
    ----------
    folder : Path
    target : str
    files : dict of str to int
        Name and bytes of each file.
    weights_bytes, arena_bytes, peak_memory_bytes : int
        Of the constants, which stay in the file; of the memory between layers; of both.
    """

    folder: Path
    target: str
    files: dict[str, int]
    weights_bytes: int
    arena_bytes: int
    peak_memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**vars(self), "folder": str(self.folder)}


def export_model(
    model: Any,
    folder: str | Path,
    target: str | Path | Target = "host",
    *,
    prefix: str = DEFAULT_PREFIX,
    threads: int | None = None,
    batch: int | None = None,
    params: Mapping[str, Array] | Path | None = None,
    seed: int = 0,
    **options: Any,
) -> ExportReport:
    """Write a folder that a C program can be made of: libraries, header, example, sample.

    Parameters
    ----------
    model : path, ModelProto or problem text
    folder : str or Path
        Appears whole or not at all; it must not exist, or be empty.
    target : Target, name or file
    prefix : str
        What the names of the C interface begin with. Models with different prefixes can be linked
        into one program.
    threads, batch, params, **options
        As for :func:`tvmconv.compiler.compile_parts`.
    seed : int
        Of the sample input.

    Raises
    ------
    InputError
        The model cannot be compiled, or the folder or the prefix cannot be used.
    EnvironmentError_
        A tool is missing, or the system refuses to write.
    """
    from tvmconv.compiler import compile_parts

    texts.check_prefix(prefix)
    place = check_folder(Path(folder))
    machine = load_target(target)
    parts = compile_parts(
        model, target=machine, threads=threads, batch=batch, params=params, **options
    )
    temporary = place.with_name(f".tvmconv-{secrets.token_hex(8)}")
    name = texts.library_name(prefix)
    try:
        temporary.mkdir()
        library = temporary / f"lib{name}.so"
        parts.write(library, prefix=prefix, soname=library.name)
        parts.write(temporary / f"lib{name}.a", "static", prefix=prefix)
        facts = inspect_artifact(library)
        written = {
            f"{prefix}.h": texts.header(prefix),
            "main.c": texts.main_c(prefix, parts.plan.inputs, parts.plan.outputs),
            "CMakeLists.txt": texts.cmake_lists(prefix, gpu=machine.is_gpu),
        }
        for file, text in written.items():
            (temporary / file).write_text(text, encoding="utf-8")
        ports = parts.plan.inputs
        feeds, expected = sample(model, {p.name: (p.shape, p.dtype) for p in ports}, params, seed)
        _write_raw(temporary, "input", feeds)
        _write_raw(temporary, "expected", expected)
        files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        (temporary / "README.md").write_text(texts.readme(prefix, facts, files), encoding="utf-8")
        files["README.md"] = (temporary / "README.md").stat().st_size
        temporary.rename(place)
    except OSError as error:
        raise EnvironmentError_(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sizes = {key: int(facts[f"{key}_bytes"]) for key in ("weights", "arena", "peak_memory")}
    return ExportReport(
        Path(folder), machine.name, files, sizes["weights"], sizes["arena"], sizes["peak_memory"]
    )


def check_folder(folder: Path) -> Path:
    """Find out before long work whether a folder can be made; its path without links.

    Raises
    ------
    InputError
        If there is something in it, or something else of that name.
    EnvironmentError_
        If the system does not let it be made.
    """
    try:
        place = folder.resolve()
        if place.exists():
            if not place.is_dir():
                raise InputError(f"{folder}: is not a directory")
            if any(place.iterdir()):
                raise InputError(f"{folder}: exists and is not empty")
            if place == Path.cwd():
                raise InputError(f"{folder}: is the current directory; name a new one")
        if not place.parent.is_dir():
            raise InputError(f"{folder}: {place.parent} is not a directory")
        probe = place.with_name(f".tvmconv-{secrets.token_hex(8)}")
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise EnvironmentError_(f"{folder}: cannot be written: {error.strerror}") from error
    except InputError:  # a ValueError too
        raise
    except (RuntimeError, ValueError) as error:  # a loop of links; a name with a null
        raise InputError(f"{str(folder)!r}: is no name of a directory: {error}") from error
    return place


def sample(
    model: Any,
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    params: Mapping[str, Array] | Path | None,
    seed: int,
) -> tuple[list[Array], list[Array]]:
    """Random inputs of a model, and NumPy's outputs for them, in the order of its ports."""
    from tvmconv.frontend import is_problem_text

    if isinstance(model, str) and is_problem_text(model):
        feeds, outputs = _sample_of_problem(model, params, seed)
    else:
        feeds, outputs = _sample_of_network(model, inputs, seed)
    arrays = [np.ascontiguousarray(feeds[name], dtype) for name, (_, dtype) in inputs.items()]
    return arrays, outputs


def _sample_of_problem(
    text: str, params: Mapping[str, Array] | Path | None, seed: int
) -> tuple[dict[str, Array], list[Array]]:
    from tvmconv.accuracy import random_inputs
    from tvmconv.frontend.problems import read_params
    from tvmconv.problem import Problem

    problem = Problem.parse(text)
    arrays = {**random_inputs(problem, seed), **read_params(problem, params)}
    return arrays, [problem.reference(arrays).astype(problem.dtype)]


def _sample_of_network(
    model: Any, inputs: Mapping[str, tuple[tuple[int, ...], str]], seed: int
) -> tuple[dict[str, Array], list[Array]]:
    from tvmconv.frontend.read import read_model
    from tvmconv.models import resolve
    from tvmconv.oracle import evaluate_model
    from tvmconv.verify import random_arrays

    named = isinstance(model, (str, os.PathLike))
    proto = read_model(resolve(os.fspath(model)) if named else model)
    feeds = random_arrays(inputs, seed)
    return feeds, evaluate_model(proto, feeds, [output.name for output in proto.graph.output])


def _write_raw(folder: Path, kind: str, arrays: list[Array]) -> None:
    for k, array in enumerate(arrays):
        (folder / f"{kind}_{k}.raw").write_bytes(np.ascontiguousarray(array).tobytes())
