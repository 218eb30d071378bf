"""The texts of an export: header, main.c, CMakeLists.txt, README."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvmconv.codegen.artifact import RUNTIME
from tvmconv.codegen.link import static_triple
from tvmconv.codegen.plan import Port
from tvmconv.codegen.plan_c import c_string
from tvmconv.errors import InputError
from tvmconv.runtime.inspect import DEFAULT_PREFIX, PREFIX

_FOLDER = Path(__file__).resolve().parent
_TOKEN = re.compile(r"@([A-Z_]+)@")
_LIBC_NAMES = """
aio argp argz authdes authdes_pk authnone authunix clnt clntraw clnttcp clntudp clntunix cnd epoll
gai memfd mtx posix_spawn_file_actions posix_spawnattr pthread pthread_attr pthread_barrier
pthread_barrierattr pthread_cond pthread_condattr pthread_key pthread_mutex pthread_mutexattr
pthread_rwlock pthread_rwlockattr pthread_spin sem svc svcfd svcraw svctcp svcudp svcunix svcunixfd
thrd timer timerfd tss xdrmem xdrrec xdrstdio
"""
#: With one of the interface's names after it, each is a function of libc.
_LIBC = frozenset(_LIBC_NAMES.split())
#: ``-l`` with one of these means another library.
_LIBRARIES = frozenset({"anl", "c", "dl", "m", "resolv", "rt", "util"})
#: Of the README: how to try the example where there is no board.
_STATIC = """Without a board,
`qemu-{}-static ./main --check` runs it here, if `main` is built with `-static` or as shown by

```
{}
```"""


def check_prefix(prefix: str) -> None:
    """Refuse a prefix with which no C program could be made.

    Raises
    ------
    InputError
    """
    if not PREFIX.fullmatch(prefix):
        raise InputError(f"prefix: {prefix!r} is not a-z, then up to 62 of a-z, 0-9 and _")
    if prefix in _LIBC or prefix in _LIBRARIES:
        raise InputError(f"prefix: {prefix!r} is a name of the C library")


def library_name(prefix: str) -> str:
    """What stands between ``lib`` and ``.so``."""
    return "model" if prefix == DEFAULT_PREFIX else prefix


def header(prefix: str) -> str:
    """The C header, with everything in it named by the prefix: two of them can be included."""
    text = (RUNTIME / "tvmconv.h").read_text(encoding="utf-8")
    upper = prefix.upper()
    text = re.sub(r"\btvmconv_", f"{prefix}_", text)
    return re.sub(r"\bTVMCONV_", f"{upper}_", text)


def fill(template: str, values: Mapping[str, str]) -> str:
    """A template of this folder with each ``@NAME@`` replaced by its value."""
    text = (_FOLDER / f"{template}.in").read_text(encoding="utf-8")
    return _TOKEN.sub(lambda match: values[match[1]], text)


def main_c(prefix: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    """The example program."""

    def table(ports: Sequence[Port]) -> str:
        rows = (
            (c_string(_plain(port.name)), _shape(port), port.dtype, port.nbytes) for port in ports
        )
        return "\n".join(f'    {{{name}, "{shape}", "{dtype}", {size}u}},'
                         for name, shape, dtype, size in rows)  # fmt: skip

    names = {"PREFIX": prefix, "HEADER": f"{prefix}.h"}
    return fill("main.c", {**names, "INPUTS": table(inputs), "OUTPUTS": table(outputs)})


def cmake_lists(prefix: str, *, gpu: bool = False) -> str:
    """The build description; models for GPUs load the driver: with old C libraries by -ldl."""
    names = {"PREFIX": prefix, "NAME": library_name(prefix)}
    return fill("CMakeLists.txt", {**names, "DL": ";${CMAKE_DL_LIBS}" if gpu else ""})


def readme(prefix: str, facts: Mapping[str, Any], files: Mapping[str, int]) -> str:
    """What to do with the folder, from the artifact's metadata and the sizes of its files."""
    name, triple = library_name(prefix), str(facts["triple"])
    system = triple.partition(".")[0]
    arch = system.partition("-")[0]
    inputs, outputs = (list(map(_port, facts[key])) for key in ("inputs", "outputs"))
    gpu = "images" in facts
    libraries = "-lpthread -lm" + " -ldl" * gpu
    zig = f"python -m ziglang cc -target {{}} -O2 main.c lib{name}.a {libraries} -o main"
    static = "" if gpu else _STATIC.format(arch, zig.format(static_triple(triple)))
    return fill(
        "README.md",
        {
            "PREFIX": prefix,
            "TITLE": _code(str(facts.get("name") or "a model")),
            "TARGET": str(facts["target"]),
            "VERSION": str(facts["tvmconv"]),
            "MACHINE": arch,
            "BUILD": zig.format(triple),
            "STATIC": static or "No static program can\nload the driver.",
            "NEEDS": ", its C library and NVIDIA's driver" if gpu else " and its C library",
            "WHERE": "the GPU gets a copy" if gpu else "they are mapped, not copied",
            "STACKS": " of the GPU's memory" if gpu else ", and the stacks of its threads",
            "COMPILER": f"{system}-gcc",
            "INPUT_FILES": " ".join(f"input_{k}.raw" for k in range(len(inputs))),
            "FILES": "\n".join(
                f"| `{file}` | {size:,} | {_purpose(file, prefix)} |"
                for file, size in files.items()
            ),
            "PORTS": "\n".join(
                f"| `{kind}_{k}.raw` | {_code(p.name)} | {p.dtype} | {_shape(p)} | {p.nbytes:,} |"
                for kind, ports in (("input", inputs), ("expected", outputs))
                for k, p in enumerate(ports)
            ),
            "WEIGHTS": f"{facts['weights_bytes']:,}",
            "ARENA": f"{facts['arena_bytes']:,}",
            "PEAK": f"{facts['peak_memory_bytes']:,}",
            "HEADER": f"`{prefix}.h`",
        },
    )


def _purpose(file: str, prefix: str) -> str:
    name = library_name(prefix)
    known = {
        f"lib{name}.so": "the model: kernels, weights, threads",
        f"lib{name}.a": "the same, to be linked into a program",
        f"{prefix}.h": "its C interface",
        "main.c": "an example",
        "CMakeLists.txt": "builds the example",
    }
    if file in known:
        return known[file]
    return "a sample input" if file.startswith("input") else "the output for it, by NumPy"


def _port(table: Mapping[str, Any]) -> Port:
    return Port(str(table["name"]), tuple(table["shape"]), str(table["dtype"]))


def _shape(port: Port) -> str:
    return "x".join(map(str, port.shape)) or "scalar"


def _plain(text: str) -> str:
    """A name that may be printed, whatever it holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _code(text: str) -> str:
    """A name as code in a table of Markdown."""
    return "`" + _plain(text).replace("`", "'").replace("|", "\\|")[:200] + "`"
