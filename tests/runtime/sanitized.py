"""Programs of the C runtime, with models, under a compiler's sanitizers.

They need a C compiler that brings the sanitizers' libraries; zig does not. Kernels that TVM has
generated are not instrumented: of them a sanitizer sees what they ask of the runtime.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tvmconv.codegen.artifact import PREFIXED, RUNTIME, SOURCES
from tvmconv.codegen.elf import Blob, write_data_object
from tvmconv.codegen.link import abi_symbols, rename_flags
from tvmconv.codegen.localise import localise
from tvmconv.codegen.plan import Plan
from tvmconv.codegen.plan_c import METADATA_SYMBOL, WEIGHTS_SYMBOL, plan_source
from tvmconv.runtime.elf import Machine

HERE = Path(__file__).parent
SANITIZERS = ("address,undefined", "thread")


def find_compiler(folder: Path) -> str | None:
    """A C compiler with which the sanitizers work; None if there is none."""
    (folder / "main.c").write_text("int main(void) { return 0; }\n")
    for name in ("gcc", "clang"):
        found = shutil.which(name)
        if found is not None and all(_builds(found, sanitizer, folder) for sanitizer in SANITIZERS):
            return found
    return None


def _builds(compiler: str, sanitizer: str, folder: Path) -> bool:
    command = [compiler, f"-fsanitize={sanitizer}", "main.c", "-o", "main"]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode == 0


@dataclass(frozen=True)
class Model:
    """A model of a program.

    Attributes
    ----------
    prefix : str
        Of the functions of its interface.
    plan : Plan
    objects : sequence of bytes
        Kernels that are compiled already.
    sources : sequence of Path
        Kernels in C.
    weights : bytes
    fails : str
        What each run says, if none can succeed.
    """

    prefix: str
    plan: Plan
    objects: Sequence[bytes] = ()
    sources: Sequence[Path] = ()
    weights: bytes = bytes(64)
    fails: str = ""

    @property
    def row(self) -> str:
        """What models.h has of it."""
        inputs, outputs = (
            [port.nbytes for port in p] for p in (self.plan.inputs, self.plan.outputs)
        )
        fails = f'"{self.fails}"' if self.fails else "NULL"
        sizes = ", ".join(map(str, [*inputs, *outputs]))
        return f"{{FUNCTIONS({self.prefix}), {fails}, {len(inputs)}, {len(outputs)}, {{{sizes}}}}}"


def build(
    compiler: str,
    folder: Path,
    models: Sequence[Model],
    sanitizer: str,
    options: Sequence[str] = (),
) -> Path:
    """Link ``load.c`` with models, all but their generated kernels instrumented."""
    rows = ",\n  ".join(model.row for model in models)
    declared = "\n".join(f"DECLARE({model.prefix})" for model in models)
    (folder / "models.h").write_text(f"{declared}\nstatic model models[] = {{\n  {rows}}};\n")
    flags = ["-std=gnu11", "-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    command = (compiler, *flags, *options, f"-I{RUNTIME}")
    parts = [HERE / "load.c", *(_join(command, folder, model) for model in models)]
    program = folder / "load"
    subprocess.run([*command, f"-I{folder}", *parts, "-o", program, "-lpthread", "-lm"], check=True)
    return program


def _join(command: tuple[str, ...], folder: Path, model: Model) -> Path:
    """One object of a model, with no symbols but its interface's, as a static library has."""
    place = folder / model.prefix
    place.mkdir(exist_ok=True)
    (place / "plan.c").write_text(plan_source(model.plan))
    objects = [_compiled(command, path) for path in (place / "plan.c", *model.sources)]
    for name in SOURCES:
        renamed = rename_flags(model.prefix) if name in PREFIXED else ()
        objects.append(_compiled((*command, *renamed), RUNTIME / f"{name}.c"))
    blobs = [Blob(".tvmconv.meta", METADATA_SYMBOL, b"{}\0")]
    blobs.append(Blob(".tvmconv.weights", WEIGHTS_SYMBOL, model.weights, large=True))
    write_data_object(place / "data.o", Machine.of(objects[0][:64]), blobs)
    parts = [place / "data.o"]
    for number, content in enumerate([*objects, *model.objects]):
        parts.append(place / f"{number}.o")
        parts[-1].write_bytes(content)
    joined = folder / f"{model.prefix}.o"
    subprocess.run([command[0], "-r", "-nostdlib", *parts, "-o", joined], check=True)
    localise(joined, abi_symbols(model.prefix))
    return joined


@cache
def _compiled(command: tuple[str, ...], source: Path) -> bytes:
    """An object file; the models of all programs share those of the runtime."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "source.o"
        subprocess.run([*command, "-c", source, "-o", output], check=True)
        return output.read_bytes()


class MemoryLayout(Exception):
    """This kernel lays out memory in a way that ThreadSanitizer cannot take."""


def run(program: Path, *arguments: int | str | Path, limit_s: float = 120) -> None:
    """Run a program, which must end with nothing to complain of.

    Raises
    ------
    MemoryLayout
    """
    command = [str(program), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    if "unexpected memory mapping" in result.stderr:
        raise MemoryLayout
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout == "wrong: 0\n"
