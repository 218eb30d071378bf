"""What the compiler made of a network, as text: Relax, scheduled TIR, assembly, the plan in C."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tvmconv.codegen.kernels import build, scheduled
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
        of every kernel; ``"asm"``, its assembly; ``"c"``, the tables of the plan.
    lowered : Lowered
    target : Target

    Raises
    ------
    InputError
        There is no such kind.
    EnvironmentError_
        A file cannot be written.
    """
    writers: dict[str, Callable[[], str]] = {
        "asm": lambda: "".join(_assembly(lowered, target)),
        "c": lambda: plan_source(lowered.plan),
        "relax": lambda: script(lowered.module) + "\n",
        "tir": lambda: "".join(_tir(lowered, target)),
    }
    for kind, path in dumps.items():
        if kind not in writers:
            raise InputError(f"there is no dump {kind!r}{nearest(kind, writers)}")
        with replacing(path) as unfinished:
            unfinished.write_text(writers[kind](), encoding="utf-8")


def _title(lowered: Lowered, symbol: str) -> str:
    """What a kernel is, and which steps call it."""
    spec = lowered.kernels[symbol]
    users = [s.name for s in lowered.plan.steps if getattr(s, "kernel", "") == symbol]
    return f"{symbol}: {spec.op} {spec.attrs_json}, for {', '.join(users)}"


def _tir(lowered: Lowered, target: Target) -> Iterator[str]:
    for symbol, spec in lowered.kernels.items():
        func = scheduled(spec, symbol, target, lowered.choices.get(symbol))
        yield f"# {_title(lowered, symbol)}\n{func.script()}\n\n"


def _assembly(lowered: Lowered, target: Target) -> Iterator[str]:
    for symbol, spec in lowered.kernels.items():
        func = scheduled(spec, symbol, target, lowered.choices.get(symbol))
        text = build(func, symbol, target).inspect_source("asm")
        yield f"# {_title(lowered, symbol)}\n{text}\n"
