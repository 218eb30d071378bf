"""The page of a tuning run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tvmconv.autoschedule.tune_report import DONE
from tvmconv.bench.tables import percent, show
from tvmconv.kernel import KernelSpec
from tvmconv.problem import FLOP_PER_MAC, Problem
from tvmconv.report import figures
from tvmconv.report.figures import FASTER, PALE, Figure, Point, escape, finite
from tvmconv.report.page import Page, Section, Table, Tile

Data = Mapping[str, Any]
#: Tasks with a bar of their own, and tasks whose curves have a colour.
_BARS, _CURVES = 40, 7


def tune_page(data: Data) -> Page:
    """Make the page of what ``TuneReport.to_json`` gives."""
    networks = [network["name"] for network in data["networks"]]
    title = "tvmconv tune: " + (networks[0] if len(networks) == 1 else f"{len(networks)} models")
    sections = [_networks(data), _progress(data), _curves(data), _tasks(data), _roofline(data)]
    found = [section for section in sections if section is not None]
    lines = [
        f"target {data['target']}, {data['threads']} threads, log {data['log']}",
        f"{data['measured']} candidates {DONE[data['method']]} in {data['seconds']:.0f} s,"
        f" {data['known']} known before, {data['compared']} tasks' leaders compared in turns;"
        f" ended by {data['stopped']}",
    ]
    skipped = [task for task in data["tasks"] if task["skipped"]]
    lines += [f"skipped: {task['name']}: {task['skipped']}" for task in skipped]
    lines += _counted("lines of logs not used", data["skipped"])
    return Page(title, lines, _tiles(data), [*found, _failures(data)])


def _counted(what: str, counts: Mapping[str, int]) -> list[str]:
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return [f"{what}: {listed}"] if listed else []


def _tiles(data: Data) -> list[Tile]:
    before = sum(finite(n["untuned_us"]) or 0.0 for n in data["networks"])
    after = sum(finite(n["tuned_us"]) or 0.0 for n in data["networks"])
    tiles = [Tile(f"{before / after:.2f}×", "faster, sum of all kernels")] if after else []
    shares = [t for t in data["tasks"] if finite(t["share_of_peak"])]
    work = sum(t["macs"] * t["count"] for t in shares)
    time = sum(t["tuned_us"] * t["count"] for t in shares)
    if time and data["peak_gflops"]:
        share = FLOP_PER_MAC * work / time / 1e3 / data["peak_gflops"]
        tiles.append(Tile(percent(share), "of the FMA peak, all convolutions together"))
    tiles.append(Tile(str(len(data["tasks"])), "tasks"))
    tiles.append(Tile(str(data["measured"]), f"candidates {DONE[data['method']]}"))
    return [*tiles, Tile(f"{data['seconds']:.0f} s", "of tuning")]


def _networks(data: Data) -> Section:
    """Each network's kernels, untuned and tuned."""
    networks = data["networks"]
    names = [n["name"] for n in networks]
    traces = []
    for key, name, colour in (("untuned_us", "untuned", PALE), ("tuned_us", "tuned", FASTER)):
        values = [(finite(n[key]) or 0.0) / 1e3 for n in networks]
        texts = [f"{n}: {name} {show(v)} ms" for n, v in zip(names, values, strict=True)]
        traces.append(figures.bars(values, texts, name, colour))
    layout = figures.bar_layout(
        names, "ms, sum of the kernels", barmode="group", legend=figures.ABOVE
    )
    rows = [
        [n["name"], str(n["tasks"]), *map(_us, (n["untuned_us"], n["tuned_us"])), _gain(n)]
        for n in networks
    ]
    table = Table(("network", "tasks", "untuned µs", "tuned µs", "gain"), rows)
    return Section("Networks", "", {"data": traces, "layout": layout}, table)


def _us(time: float | None) -> str:
    return "" if finite(time) is None else f"{time:.1f}"


def _gain(times: Data) -> str:
    before, after = finite(times["untuned_us"]), finite(times["tuned_us"])
    return f"{before / after:.2f}×" if before and after else ""


def _progress(data: Data) -> Section | None:
    """The time of all tasks together over the time spent, with every improvement as a step."""
    tasks = [t for t in data["tasks"] if finite(t["untuned_us"])]
    best = {k: t["untuned_us"] for k, t in enumerate(tasks)}
    total = sum(t["count"] * t["untuned_us"] for t in tasks)
    events = sorted(
        (point["seconds"], k, point["best_us"])
        for k, task in enumerate(tasks)
        for point in task["curve"]
        if finite(point["best_us"])
    )
    if not events:
        return None
    xs, ys = [0.0], [total / 1e3]
    for seconds, k, found in events:
        if found < best[k]:
            total -= tasks[k]["count"] * (best[k] - found)
            best[k] = found
            xs.append(seconds)
            ys.append(total / 1e3)
    xs.append(max(events[-1][0], xs[-1]))
    ys.append(ys[-1])
    line = {"color": FASTER, "width": 2, "shape": "hv"}
    trace = {"type": "scatter", "mode": "lines", "x": xs, "y": ys, "line": line}
    layout = figures.layout(320, "seconds of tuning", "ms", yaxis={"rangemode": "tozero"})
    text = "Time of all kernels together, with the best schedules known at each moment."
    return Section("Tuning curve", text, {"data": [trace], "layout": layout})


def _curves(data: Data) -> Section | None:
    """Each task's best time so far, as a speed-up over its untuned schedule."""
    traces: list[Figure] = []
    for rank, task in enumerate(data["tasks"]):
        untuned = finite(task["untuned_us"])
        points = [p for p in task["curve"] if finite(p["best_us"])]
        if not untuned or not points:
            continue
        coloured = rank < _CURVES
        line = {"width": 2 if coloured else 1, "shape": "hv"}
        line["color"] = figures.COLOURS[rank] if coloured else PALE
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [p["trial"] for p in points],
                "y": [untuned / p["best_us"] for p in points],
                "name": figures.short(task["name"]),
                "line": line,
                "showlegend": coloured,
                "text": escape(task["name"]),
                "hovertemplate": "%{text}<br>%{y:.2f}× after %{x}<extra></extra>",
            }
        )
    if not traces:
        return None
    # The pale ones first, so that the others lie on them.
    traces.sort(key=lambda trace: bool(trace["showlegend"]))
    below = {"orientation": "h", "y": -0.22, "yanchor": "top", "traceorder": "reversed"}
    layout = figures.layout(
        460, "trials of the task", "untuned time / best so far", legend=below, showlegend=True
    )
    text = "The tasks that take most of the time are coloured."
    return Section("Tuning curves by task", text, {"data": traces, "layout": layout})


def _tasks(data: Data) -> Section:
    """Where the time goes: each task's share, before and after."""
    tasks = data["tasks"]
    timed = [t for t in tasks if finite(t["tuned_us"]) and finite(t["untuned_us"])]
    timed = sorted(timed, key=lambda t: -t["count"] * t["tuned_us"])[:_BARS]
    traces = []
    for key, name, colour in (("untuned_us", "untuned", PALE), ("tuned_us", "tuned", FASTER)):
        values = [t["count"] * t[key] / 1e3 for t in timed]
        texts = [f"{t['name']}: {t['count']} × {_us(t[key])} µs {name}" for t in timed]
        traces.append(
            figures.bars(values, texts, name, colour, width=0.8 if key[0] == "u" else 0.4)
        )
    names = [t["name"] for t in timed]
    layout = figures.bar_layout(
        names, "ms in all networks together", barmode="overlay", legend=figures.ABOVE
    )
    figure = {"data": traces, "layout": layout} if timed else None
    heads = ("task", "algorithm", "count", "untuned µs", "tuned µs", "gain", "of peak", "trials")
    rows = [
        [
            *(t["name"], t["algorithm"] + _remark(t)),
            *(str(t["count"]), _us(t["untuned_us"]), _us(t["tuned_us"]), _gain(t)),
            *(percent(finite(t["share_of_peak"])), str(t["trials"])),
        ]
        for t in tasks
    ]
    return Section("Where the time goes", "", figure, Table(heads, rows, 2))


def _remark(task: Data) -> str:
    """What a task's algorithm was not chosen by."""
    if task["confirmed"]:
        return ""
    return " (skipped)" if task["skipped"] else " (not compared)"


def _roofline(data: Data) -> Section | None:
    points = [point for task in data["tasks"] for point in _point(task)]
    colours = figures.palette(point.kind for point in points)
    limits = (data["peak_gflops"], finite(data["bandwidth_gb_s"]))
    figure = figures.roofline(points, colours, *limits)
    if figure is None:
        return None
    text = (
        "Every tuned kernel under the machine's measured limits; above the roof it does less "
        "arithmetic than the direct algorithm that is counted (diamonds: Winograd)."
    )
    return Section("Roofline", text, figure)


def _point(task: Data) -> list[Point]:
    """A task in the roofline, if it computes a problem."""
    time_us = finite(task["tuned_us"])
    spec = KernelSpec.parse(task["arms"][0]["workload"])
    if not time_us or "problem" not in spec.attrs:
        return []
    problem = Problem.parse(spec.attrs["problem"])
    gflops = problem.flops / time_us / 1e3
    kind = (spec.op, task["algorithm"])
    return [Point(task["name"], *kind, problem.intensity, gflops, time_us)]


def _failures(data: Data) -> Section:
    """How trials ended."""
    total: Counter[str] = Counter()
    for task in data["tasks"]:
        total.update(task["statuses"])
    rows = [[status, str(count)] for status, count in total.most_common()]
    text = "Only a candidate whose output was compared with the reference can be chosen."
    return Section("How trials ended", text, table=Table(("status", "trials"), rows))
