"""What the compiler made of a network, as text: Relax, scheduled TIR, assembly, the plan in C."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tvmconv.codegen.kernels import build, device_kernel, scheduled
from tvmconv.codegen.plan_c import plan_source
from tvmconv.errors import InputError
from tvmconv.files import replacing
from tvmconv.graph.lower import Lowered
from tvmconv.graph.relax import script
from tvmconv.names import nearest
from tvmconv.target import Target


def write_dumps(dumps: Mapping[str, Path], lowered: Lowered, target: Target) -> None:
    """Write the files that ``compile --dump`` asks for, each whole or not at all.

    Parameters
    ----------
    dumps : mapping of str to Path
        By kind: ``"relax"``, the module after the graph passes; ``"tir"``, the scheduled function
        of every kernel; ``"asm"``, its assembly; ``"c"``, the tables of the plan; for a GPU,
        instead of the latter two, ``"cuda"``, the source of all kernels, and ``"ptx"``.
    lowered : Lowered
    target : Target

    Raises
    ------
    InputError
        There is no such kind, or the target has none of it.
    EnvironmentError_
        A file cannot be written.
    """
    writers: dict[str, Callable[[], str]] = {
        "asm": lambda: "".join(_assembly(lowered, target)),
        "c": lambda: plan_source(lowered.plan),
        "cuda": lambda: _cuda(lowered, target),
        "ptx": lambda: _ptx(lowered, target),
        "relax": lambda: script(lowered.module) + "\n",
        "tir": lambda: "".join(_tir(lowered, target)),
    }
    for kind, path in dumps.items():
        if kind not in writers:
            raise InputError(f"there is no dump {kind!r}{nearest(kind, writers)}")
        check_dump(kind, target)
        with replacing(path) as unfinished:
            unfinished.write_text(writers[kind](), encoding="utf-8")


#: What only CPUs, or only GPUs, have.
_OF_CPUS, _OF_GPUS = ("asm", "c"), ("cuda", "ptx")


def check_dump(kind: str, target: Target) -> None:
    """Raise InputError if a target has nothing of a kind to dump."""
    if kind in (_OF_CPUS if target.is_gpu else _OF_GPUS):
        known = ", ".join(("relax", "tir", *(_OF_GPUS if target.is_gpu else _OF_CPUS)))
        raise InputError(f"{target.name}: there is no dump {kind!r} for this target; try {known}")


def _title(lowered: Lowered, symbol: str) -> str:
    """What a kernel is, and which steps call it: text that does not end a line of comment."""
    spec = lowered.kernels[symbol]
    users = [s.name for s in lowered.plan.steps if getattr(s, "kernel", "") == symbol]
    text = f"{symbol}: {spec.op} {spec.attrs_json}, for {', '.join(users)}"
    return "".join(c if c.isprintable() and c != "\\" else "?" for c in text)


def _tir(lowered: Lowered, target: Target) -> Iterator[str]:
    for symbol, spec in lowered.kernels.items():
        func = scheduled(spec, symbol, target, lowered.choices.get(symbol))
        yield f"# {_title(lowered, symbol)}\n{func.script()}\n\n"


def _assembly(lowered: Lowered, target: Target) -> Iterator[str]:
    for symbol, spec in lowered.kernels.items():
        func = scheduled(spec, symbol, target, lowered.choices.get(symbol))
        text = build(func, symbol, target).inspect_source("asm")
        yield f"# {_title(lowered, symbol)}\n{text}\n"


def _cuda(lowered: Lowered, target: Target) -> str:
    from tvmconv.codegen.cuda.build import network_source
    from tvmconv.codegen.cuda.plan import device_plan

    kernels = {
        symbol: device_kernel(spec, symbol, target, lowered.choices.get(symbol))
        for symbol, spec in lowered.kernels.items()
    }
    titles = "".join(f"// {_title(lowered, symbol)}\n" for symbol in kernels)
    return titles + network_source(device_plan(lowered.plan, kernels), kernels)


def _ptx(lowered: Lowered, target: Target) -> str:
    from tvmconv.codegen.cuda.nvrtc import compiler

    return compiler().ptx(_cuda(lowered, target), target.gpu.sm).code.decode()
