"""A model that runs elsewhere, with the interface of one that is loaded here."""

from __future__ import annotations

import shutil
import statistics
import struct
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from tvmconv.codegen import link
from tvmconv.codegen.artifact import RUNTIME
from tvmconv.codegen.link import static_triple
from tvmconv.device.runner import Runner
from tvmconv.device.wire import BadOutput, Line
from tvmconv.errors import InputError
from tvmconv.runtime.arrays import Port, bind_inputs
from tvmconv.runtime.elf import SHARED_LIBRARY, read_elf
from tvmconv.runtime.inspect import DEFAULT_PREFIX, inspect_artifact
from tvmconv.target import Target, load_target

Array = npt.NDArray[Any]

_SOURCE = Path(__file__).with_name("model.c")
_ALIGNMENT = 64


@dataclass(frozen=True)
class DeviceReport:
    """What a model has done elsewhere.

    Attributes
    ----------
    outputs : list of ndarray
    blocks_s : tuple of float
        Median seconds a run of each block, by the device's monotonic clock.
    calls : int
        Timed runs in all blocks together.
    profiles : tuple of tuple of float
        Seconds of each step, for each profiled run.
    start_s : float
        Seconds that making the instance took.
    memory_bytes : int
        The most memory that the process has used; 0 if the system does not tell.
    machine : tuple of str
        System, release, processor and number of CPUs, as far as the system tells.
    """

    outputs: list[Array]
    blocks_s: tuple[float, ...]
    calls: int
    profiles: tuple[tuple[float, ...], ...]
    start_s: float
    memory_bytes: int
    machine: tuple[str, ...]


class RemoteModule:
    """A program with one model, started anew for each run.

    Parameters
    ----------
    artifact : Path
        A ``.a``, which is linked to a static program, or a ``.so``, for which the device has the C
        library.
    runner : Runner
    threads : int, optional
        As for :func:`tvmconv.load`.

    Attributes
    ----------
    metadata : dict
    inputs, outputs : tuple of Port

    Raises
    ------
    InputError
        The file is no artifact.
    EnvironmentError_
        The program cannot be linked.
    """

    def __init__(self, artifact: Path, runner: Runner, threads: int | None = None) -> None:
        self._runner, self._threads = runner, threads or 0
        self.metadata = inspect_artifact(artifact)
        self.inputs = tuple(map(Port.of, self.metadata["inputs"]))
        self.outputs = tuple(map(Port.of, self.metadata["outputs"]))
        self._folder = Path(tempfile.mkdtemp(prefix="tvmconv-device-"))
        self._end = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        try:
            self._beside = self._link(artifact)
        except BaseException:
            self._end()
            raise

    @classmethod
    def compile(
        cls,
        model: Any,
        target: str | Path | Target,
        runner: Runner,
        *,
        threads: int | None = None,
        **options: Any,
    ) -> RemoteModule:
        """Compile a model to a program that needs nothing of its device, not even a C library.

        For a GPU it needs the C library and the driver, which a static program cannot load.

        Takes what :func:`tvmconv.compiler.compile_parts` takes.
        """
        from tvmconv.compiler import compile_parts

        machine = load_target(target)
        triple = "" if machine.is_gpu else static_triple(machine.zig.triple)
        parts = compile_parts(model, target=machine, threads=threads, **options)
        with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
            path = Path(folder) / ("model.a" if triple else "model.so")
            parts.write(path, "static" if triple else "shared", triple=triple)
            return cls(path, runner, threads)

    def _link(self, artifact: Path) -> list[Path]:
        """Make the program; the files that it needs beside it."""
        with artifact.open("rb") as file:
            shared = next(read_elf(file)).kind == SHARED_LIBRARY
        triple = str(self.metadata.get("triple", ""))
        if not shared:
            triple = static_triple(triple)
        flags = link.rename_flags(str(self.metadata.get("prefix", DEFAULT_PREFIX)))
        objects = link.compile_sources([_SOURCE], self._folder, RUNTIME, triple, flags)
        library = self._folder / (_soname(artifact) if shared else "model.a")
        if not shared:
            library.symlink_to(artifact.resolve())
        else:
            shutil.copyfile(artifact, library)
        # A bare name: what has no name of its own is looked for by what it is called here.
        program = self._folder / "program"
        link.link_program(
            [*objects, Path(library.name)], program, triple, "the program", static=not shared
        )
        if not shared:
            library.unlink()
        return [library] if shared else []

    def __call__(self, *inputs: Any) -> list[Array]:
        """Run the model; arrays as :class:`tvmconv.Module` takes them.

        Raises
        ------
        InputError
            The arrays are not those of the inputs.
        RunnerError
            It cannot be run.
        """
        return self.measure(*inputs).outputs

    def profile(self, *inputs: Any) -> list[tuple[str, float]]:
        """Run the model and time its steps on the device; name and seconds of each."""
        (times,) = self.measure(*inputs, profiles=1).profiles
        names = [step["name"] for step in self.metadata["steps"]]
        return list(zip(names, times, strict=True))

    def measure(
        self,
        *inputs: Any,
        rounds: int = 0,
        block_s: float = 0.0,
        pause_s: float = 0.0,
        profiles: int = 0,
    ) -> DeviceReport:
        """Run the model, then time it: all in one use of the runner.

        Parameters
        ----------
        *inputs : array, or one mapping of str to array
        rounds : int
            Blocks of runs.
        block_s, pause_s : float
            How long a block takes at least, and the pause before it.
        profiles : int
            Runs of which each step is timed.

        Raises
        ------
        InputError, RunnerError
            As a call.
        """
        if not self._end.alive:
            raise InputError("the module is closed")
        data = self._folder / "inputs"
        _write_data(data, bind_inputs(self.inputs, inputs), self.outputs)
        steps = len(self.metadata["steps"])
        numbers = [self._runner.timeout_s, self._threads, rounds, block_s, pause_s, profiles, steps]
        sizes = [port.nbytes for port in self.outputs]
        lines = self._runner.run(
            self._folder / "program",
            [data, *map(str, numbers)],
            sum(sizes) + 16 * steps * profiles,
            self._beside,
        )
        try:
            return self._report(lines, rounds, profiles)
        except BadOutput as error:
            raise self._runner.failed(str(error)) from None

    def _report(self, lines: Sequence[Line], rounds: int, profiles: int) -> DeviceReport:
        """Make a report of what was printed, all of which must be there."""
        of = {kind: [line for line in lines if line.kind == kind] for kind in
              ("error", "output", "block", "profile", "start", "memory", "machine")}  # fmt: skip
        if of["error"]:
            raise BadOutput(of["error"][0].text[:300])
        for kind, count in (("output", len(self.outputs)), ("block", rounds),
                            ("profile", profiles), ("start", 1)):  # fmt: skip
            if len(of[kind]) != count:
                raise BadOutput(f"sent {len(of[kind])} of {count} lines of its {kind}")
        outputs = []
        for port, line in zip(self.outputs, of["output"], strict=True):
            if len(line.data) != port.nbytes:
                raise BadOutput(f"sent {len(line.data)} of {port.nbytes} bytes of {port.name}")
            outputs.append(np.frombuffer(line.data, port.numpy_dtype).reshape(port.shape))
        steps = len(self.metadata["steps"])
        return DeviceReport(
            outputs,
            tuple(line.number(1) for line in of["block"]),
            int(sum(line.number(2) for line in of["block"])),
            tuple(tuple(line.number(1 + k) for k in range(steps)) for line in of["profile"]),
            of["start"][0].number(1),
            int(sum(line.number(1) for line in of["memory"])) * 1024,
            tuple(of["machine"][0].words[1:]) if of["machine"] else (),
        )

    def close(self) -> None:
        """Remove the program."""
        self._end()

    def __enter__(self) -> RemoteModule:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def median_profile(report: DeviceReport) -> list[float]:
    """The median seconds of each step."""
    return [statistics.median(times) for times in zip(*report.profiles, strict=True)]


def _soname(library: Path) -> str:
    """The name under which a program looks for a library."""
    try:
        with library.open("rb") as file:
            dynamic = ELFFile(file).get_section_by_name(".dynamic")
            tags = dynamic.iter_tags("DT_SONAME") if dynamic is not None else ()
            name = next((str(tag.soname) for tag in tags), "model.so")
    except (ELFError, OSError) as error:
        raise InputError(f"{library}: is no shared library: {error}") from None
    if not name.replace(".", "").replace("_", "").isalnum() or name.startswith("."):
        raise InputError(f"{library}: is called {name!r} by itself")
    return name


def _write_data(path: Path, arrays: Sequence[Array], outputs: Sequence[Port]) -> None:
    """Write the file that the program reads."""
    sizes = [array.nbytes for array in arrays] + [port.nbytes for port in outputs]
    header = struct.pack(f"<{2 + len(sizes)}Q", len(arrays), len(outputs), *sizes)
    with path.open("wb") as file:
        for part in (header, *arrays):
            data = part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes()
            file.write(data + bytes(-len(data) % _ALIGNMENT))
