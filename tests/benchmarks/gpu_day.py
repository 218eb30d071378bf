"""A day with a GPU in half an hour: verify, tune, compare with cuDNN, and print one table.

    python -m tests.benchmarks.gpu_day --target h100 --minutes 28 --out DIR

Needs this package with its extras ``cuda`` and ``test``, and PyTorch with CUDA for the comparison.
Each step is a process with a deadline of its own, a share of the minutes; one that fails or is late
is noted, and the next goes on. Everything that is found is a line of ``DIR/records.jsonl`` at once;
``DIR/tune_logs`` has the tuning logs, and ``DIR/best.jsonl`` what of them would ship. ``--steps``
chooses some of the steps: what earlier ones have found in DIR is used. ``--dry-run`` does all of it
at a tiny size on the emulated device, on this CPU.

Times of our layers are those of their kernels alone, as the tuner measures them; PyTorch's are of
channels-last layers. Networks begin and end in NCHW in the device's memory. All are replays of CUDA
graphs by the device's clock.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.cuda_layers import layers_of
from tests.benchmarks.limited import limited
from tests.test_cuda_run import PROBLEMS
from tests.test_cuda_schedules import HALVES
from tests.test_cuda_schedules import PROBLEMS as SCHEDULES
from tvmconv.bench.report import geometric_mean
from tvmconv.layers import SIX
from tvmconv.models import light_model, light_models
from tvmconv.target import Target, load_target

#: The steps with their shares of the time, in order.
STEPS = {"device": 0.02, "verify": 0.13, "tune": 0.45, "layers": 0.2, "networks": 0.2}
#: What is tuned, the most wanted first: layers or networks, their precision, the batches, and the
#: share of the step's time.
TUNED = (
    ("layers", "float16", (1, 8), 0.4),
    ("networks", "float16", (1,), 0.3),
    ("layers", "tf32", (1, 8), 0.15),
    ("layers", "float32", (1, 8), 0.1),
    ("networks", "tf32", (1,), 0.05),
)
#: What is stored in float16; float32, of which tensor cores multiply TF32; and float32 to the bit.
PRECISIONS = ("float16", "tf32", "float32")
BATCHES = (1, 8, 64)
#: From this batch on only the six layers of ResNet-50: a reference takes NumPy half a minute each.
_FEW_LAYERS = 64
NETWORKS = ("resnet50", "mobilenet_v2")
#: Layers that are built and measured together.
_TOGETHER = 8
#: The dry run: one small layer and one small network.
TINY_LAYER = "conv2d:{batch}x16x5x5:16x3x3:padding=1:bias=true:activation=relu:dtype={dtype}"
#: Folder for compiled networks.
_COMPILED = "compiled"
_MINUTE = 60.0
#: What is found of one item: records.
Work = Callable[[Any], Iterable[dict[str, Any]]]


@dataclass(frozen=True)
class Day:
    """What the steps share.

    Attributes
    ----------
    target : Target
    out : Path
    seconds : float
        Of this step.
    dry : bool
        Whether the device is the emulated one.
    """

    target: Target
    out: Path
    seconds: float
    dry: bool

    def note(self, kind: str, **facts: Any) -> None:
        """Append a record; it is on the disk before anything else happens."""
        line = json.dumps({"kind": kind, **facts})
        print(line, flush=True)
        with (self.out / "records.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def records(self, kind: str) -> Iterator[dict[str, Any]]:
        """The records of a kind."""
        path = self.out / "records.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            record = json.loads(line)
            if record["kind"] == kind:
                yield record

    def each(self, kind: str, items: Iterable[Any], work: Work) -> None:
        """Note what comes of each item, also its failure, until the step's time is over."""
        begin = time.monotonic()
        for item in items:
            if time.monotonic() - begin > self.seconds:
                self.note("late", step=kind, item=str(item))
                return
            try:
                for facts in work(item):
                    self.note(kind, **facts)
            except Exception as error:  # noqa: BLE001 - the next one may go well
                told = (str(error).strip() or "?").splitlines()[-1]
                self.note(
                    "failed", step=kind, item=str(item), why=f"{type(error).__name__}: {told}"
                )

    @property
    def logs(self) -> Path:
        """Where tuning keeps its logs."""
        return self.out / "tune_logs"

    def images(self) -> dict[str, Any]:
        """How models are compiled here besides the usual."""
        if not self.dry:
            return {}
        from tvmconv.cuda_emulator.emulation import emulated_images

        return {"images": emulated_images}

    def builder(self) -> str:
        """The module that builds candidates."""
        return "tvmconv.cuda_emulator.builder" if self.dry else ""

    def layers(self, batch: int, precision: str) -> list[Any]:
        """The layers that are tuned and compared."""
        dtype = "float32" if precision == "tf32" else precision
        if self.dry:
            return [TINY_LAYER.format(batch=batch, dtype=dtype)]
        found = [layer for name in NETWORKS for layer in layers_of(name, batch, dtype)]
        six = [layer.origin for layer in SIX]
        return [one for one in found if batch < _FEW_LAYERS or one.origin in six]

    def networks(self, batch: int) -> dict[str, Any]:
        """The networks, by name."""
        if self.dry:
            from tests.test_cuda_verify import small_network

            return {"small": small_network()}
        return {name: light_model(name, batch=batch) for name in light_models()}

    def stored(self, precision: str) -> dict[str, Any]:
        """Options of a network's compilation."""
        tf32 = precision == "tf32"
        return {"precision": "float32" if tf32 else precision, "allow_tf32": tf32}

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that are compared."""
        return PRECISIONS[:2] if self.dry else PRECISIONS

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches that are compared."""
        return (1,) if self.dry else BATCHES


# --- steps


def device(day: Day) -> None:
    """Which device, driver and libraries there are."""
    from tvmconv.runtime.cuda import gpu_for

    gpu, _ = gpu_for(day.target)
    day.note("device", name=gpu.name, sm=gpu.sm, cuda=gpu.driver, target=day.target.name)
    try:
        from tests.benchmarks.gpu_torch import Torch

        day.note("torch", **Torch("float32").description)
    except ImportError as error:
        day.note("failed", step="torch", item="", why=f"PyTorch is not there: {error}")


def verify(day: Day) -> None:
    """The problems of the tests, then the networks, on the device against NumPy."""
    from tvmconv.accuracy import check, random_inputs
    from tvmconv.compiler import compile
    from tvmconv.problem import Problem
    from tvmconv.verify import verify as verify_model

    halves = [f"{text}:dtype=float16" for text in HALVES]
    problems = list(dict.fromkeys([*PROBLEMS, *SCHEDULES, *halves]))

    def problem(text: str) -> Iterator[dict[str, Any]]:
        parsed = Problem.parse(text)
        arrays = random_inputs(parsed, 0)
        with compile(text, day.target, tuned=False, **day.images()) as module:
            (got,) = module(arrays)
        report = check(parsed, got, parsed.reference(arrays), parsed.magnitude(arrays))
        yield {"item": text, "ok": report.passed, "ratio": report.ratio, "why": report.message}

    day.each("verify", problems[:1] if day.dry else problems, problem)

    def network(pair: tuple[str, Any]) -> Iterator[dict[str, Any]]:
        name, precision = pair
        model = day.networks(1)[name]
        report = verify_model(model, day.target, emulate=day.dry, **day.stored(precision))
        ratio = max(output.ratio for output in report.outputs)
        yield {"item": f"{name} {precision}", "ok": report.ok, "ratio": ratio, "why": ""}

    kinds = ("float32",) if day.dry else PRECISIONS
    day.each("verify", [(name, kind) for kind in kinds for name in day.networks(1)], network)


def tune(day: Day) -> None:
    """Tune layers and networks, the most wanted first, and write what would ship."""
    from tvmconv.autoschedule.tuner import Tools
    from tvmconv.autoschedule.tuner import tune as tune_all
    from tvmconv.bench.machine import usable_cores
    from tvmconv.cli._logs import look_up, write

    def one(entry: tuple[str, str, tuple[int, ...], float]) -> Iterator[dict[str, Any]]:
        what, precision, batches, share = entry
        if what == "layers":
            sources = [layer for batch in batches for layer in day.layers(batch, precision)]
        else:
            sources = [model for batch in batches for model in day.networks(batch).values()]
        stored = day.stored(precision if what == "networks" or precision == "tf32" else "float32")
        tools = Tools(day.target, usable_cores(), builder=day.builder(), **stored)
        report = tune_all(
            sources,
            day.target,
            time_budget=None if day.dry else share * day.seconds,
            trials=2 if day.dry else None,
            log=day.logs,
            tools=tools,
        )
        gains = [t.untuned_us / t.tuned_us for t in report.tasks if t.tuned_us < float("inf")]
        found = look_up([day.logs], day.target)
        write(day.out / "best.jsonl", [r.line() for entry in found.entries for r in entry.best])
        yield {"item": f"{what} {precision} {batches}", "measured": report.measured,
               "tasks": len(report.tasks), "gain": geometric_mean(gains)}  # fmt: skip

    day.each("tune", TUNED[:2] if day.dry else TUNED, one)


def layers(day: Day) -> None:
    """Each layer beside PyTorch's."""
    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.autoschedule.measure import Measurer
    from tvmconv.autoschedule.tasks import extract
    from tvmconv.bench.machine import usable_cores
    from tvmconv.compiler import open_logs

    chooser = Chooser.of(day.target, open_logs(day.logs, day.target))

    def scheduled(text: str, precision: str) -> tuple[Any, Any]:
        (task,), _ = extract([text], day.target, allow_tf32=precision == "tf32")
        return task.specs[0], chooser.schedule(task.specs[0])

    def some(entry: tuple[str, int, list[str]]) -> Iterator[dict[str, Any]]:
        precision, batch, texts = entry
        pairs = [scheduled(text, precision) for text in texts]
        outcomes = measurer.compare(pairs)
        for text, (_, choice), outcome in zip(texts, pairs, outcomes, strict=True):
            if outcome.status != "ok":
                day.note("failed", step="layers", item=text, why=outcome.message)
                continue
            found = {"item": text, "batch": batch, "precision": precision}
            found["ours_us"] = statistics.median(outcome.times_us)
            found["model_us"] = choice.cycles / day.target.gpu.clock_ghz / 1e3
            yield found | _of_torch(precision, lambda torch, text=text: torch.layer(text))

    groups = [
        (precision, batch, group)
        for batch in day.batches
        for precision in day.precisions
        for group in _groups([getattr(one, "problem", one) for one in day.layers(batch, precision)])
    ]
    with Measurer(day.target, jobs=usable_cores(), builder=day.builder()) as measurer:
        day.each("layer", groups, some)


def _groups(items: list[Any]) -> Iterator[list[Any]]:
    for first in range(0, len(items), _TOGETHER):
        yield items[first : first + _TOGETHER]


def networks(day: Day) -> None:
    """Each network beside PyTorch's; those that follow are compiled meanwhile, by other cores."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from tvmconv.bench.machine import usable_cores
    from tvmconv.frontend import load
    from tvmconv.runtime.loader import load as load_module
    from tvmconv.verify import random_feeds

    names = [*day.networks(1)]
    kinds = [(batch, kind, name) for batch in day.batches for kind in PRECISIONS for name in names]
    kinds = kinds[:1] if day.dry else kinds

    def one(entry: tuple[int, str, str]) -> Iterator[dict[str, Any]]:
        batch, precision, name = entry
        path = compiled[entry].result()
        graph = load(day.networks(batch)[name])
        with load_module(path) as module:
            path.unlink()
            feeds = random_feeds(graph, 0)
            (expected,) = (output.copy() for output in module(feeds))
            runs = 1 if day.dry else max(3, int(0.1 / max(module.replay(3), 1e-6)))
            ours_us = 1e6 * statistics.median(module.replay(runs) for _ in range(5))
            tuned = module.metadata["tuned_kernels"]
        found = {"item": name, "batch": batch, "precision": precision}
        found |= {"ours_us": ours_us, "tuned": tuned}
        (x,) = feeds.values()
        yield found | _of_torch(precision, lambda torch: torch.network(graph, x, expected))

    workers = max(1, min(usable_cores() - 1, len(kinds)))
    with ProcessPoolExecutor(1 if day.dry else workers, get_context("spawn")) as pool:
        compiled = {kind: pool.submit(compile_network, day, kind) for kind in kinds}
        day.each("network", kinds, one)
        pool.shutdown(cancel_futures=True)


def compile_network(day: Day, kind: tuple[int, str, str]) -> Path:
    """Compile a network to a file, in a process of its own."""
    from tvmconv.compiler import compile_to_file

    batch, precision, name = kind
    folder = day.out / _COMPILED
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{precision}-{batch}.so"
    options = {"target": day.target, "log": day.logs, **day.stored(precision), **day.images()}
    return compile_to_file(day.networks(batch)[name], path, **options)


def _of_torch(precision: str, work: Callable[[Any], dict[str, float]]) -> dict[str, Any]:
    """PyTorch's best time, and that of each form, or why there is none."""
    try:
        from tests.benchmarks.gpu_torch import Torch

        forms = work(Torch(precision))
    except ImportError as error:
        return {"torch_failed": f"PyTorch is not there: {error}"}
    except Exception as error:  # noqa: BLE001 - our time is still of use
        return {"torch_failed": f"{type(error).__name__}: {str(error)[:200]}"}
    return {"torch_us": min(forms.values()), "forms": forms}


# --- the table


def table(day: Day) -> None:
    """Print what is known, as one table: times of ours, and of cuDNN over ours."""
    facts = [*day.records("device"), *day.records("torch")]
    console = Console(width=140, markup=False, highlight=False)
    for fact in facts:
        console.print(", ".join(f"{k} {v}" for k, v in fact.items() if k != "kind"))
    checks = list(day.records("verify"))
    wrong = [check["item"] for check in checks if not check["ok"]]
    console.print(f"verified: {len(checks)}, wrong: {len(wrong)} {'; '.join(wrong)}")
    for record in day.records("tune"):
        console.print(", ".join(f"{k} {v}" for k, v in record.items() if k != "kind"))
    shown = Table("what", "batch", "ours µs", "model µs", "cuDNN µs", "cuDNN / ours", "precision")
    rows = [*day.records("layer"), *day.records("network")]
    for kind in ("layer", "network"):
        for batch in BATCHES:
            for precision in PRECISIONS:
                group = [r for r in rows if r["kind"] == kind and r["batch"] == batch]
                _add(shown, [r for r in group if r["precision"] == precision], kind, precision)
    console.print(shown)
    for record in [*day.records("failed"), *day.records("late")]:
        console.print(", ".join(f"{k} {v}" for k, v in record.items()))


def _add(shown: Table, rows: list[dict[str, Any]], kind: str, precision: str) -> None:
    """Add a group's rows and its geometric mean."""
    ratios = []
    for row in rows:
        other = row.get("torch_us")
        ratio = other / row["ours_us"] if other else None
        ratios += [ratio] if ratio else []
        model = f"{row['model_us']:.1f}" if "model_us" in row else ""
        cells = (model, "", "") if not ratio else (model, f"{other:.1f}", f"{ratio:.2f}")
        name = row["item"].partition(":bias")[0]
        shown.add_row(name, str(row["batch"]), f"{row['ours_us']:.1f}", *cells, precision)
    if rows:
        mean = geometric_mean(ratios)
        told = "" if mean is None else f"{mean:.2f}"
        text = f"geometric mean of {len(ratios)} of {len(rows)} {kind}s"
        shown.add_row(text, str(rows[0]["batch"]), "", "", "", told, precision, end_section=True)


# --- the day


def run_step(name: str, options: argparse.Namespace) -> None:
    """Do one step in this process."""
    target, dry = load_target(options.target), options.dry_run
    seconds = _MINUTE * options.minutes
    emulated: AbstractContextManager[None] = nullcontext()
    if dry:
        from tvmconv.cuda_emulator.emulation import emulation, on_this_host

        target = on_this_host(target)
        emulated = emulation(target)
    functions = {"device": device, "verify": verify, "tune": tune, "layers": layers}
    with emulated:
        {**functions, "networks": networks}[name](Day(target, options.out, seconds, dry))


def run_all(steps: list[str], options: argparse.Namespace) -> None:
    """Do steps one after the other, each in a process with a deadline."""
    day = Day(load_target(options.target), options.out, 0.0, options.dry_run)
    whole = sum(STEPS[name] for name in steps)
    for name in steps:
        minutes = options.minutes * STEPS[name] / whole
        command = [sys.executable, "-m", "tests.benchmarks.gpu_day", "--step", name]
        command += ["--target", options.target, *["--dry-run"] * options.dry_run]
        command += ["--out", str(options.out), "--minutes", str(0.9 * minutes)]
        begin = time.monotonic()
        code = limited(command, _MINUTE * minutes)
        if code is None:
            day.note("late", step=name, item="the whole step")
        elif code:
            day.note("failed", step=name, item="", why=f"its process exited with code {code}")
        shutil.rmtree(options.out / _COMPILED, ignore_errors=True)  # what was not measured
        day.note("step", name=name, seconds=round(time.monotonic() - begin, 1))
    table(day)


def main() -> None:
    """Do everything, some steps, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="h100")
    parser.add_argument("--minutes", type=float, default=28.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", default=",".join(STEPS), help="some of %(default)s")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.step:
        run_step(options.step, options)
        return
    steps = [name for name in options.steps.split(",") if name]
    if unknown := [name for name in steps if name not in STEPS]:
        parser.error(f"there is no step {unknown[0]}; there are {', '.join(STEPS)}")
    run_all(steps, options)


if __name__ == "__main__":
    main()
