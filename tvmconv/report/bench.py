"""The page of a benchmark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tvmconv.bench.tables import LEVEL, percent, show
from tvmconv.report import figures
from tvmconv.report.figures import FASTER, PALE, SLOWER, Figure, Point, escape
from tvmconv.report.page import Page, Section, Table, Tile

Data = Mapping[str, Any]
Colours = Mapping[str, str]
#: Steps of a network that have a bar of their own.
_STEPS = 40


def bench_page(data: Data) -> Page:
    """Make the page of what ``BenchReport.to_json`` gives."""
    models = list(data["models"])
    title = "tvmconv bench: " + (models[0]["name"] if len(models) == 1 else f"{len(models)} models")
    colours = _colours(models)
    sections = [_comparison(data), _roofline(data, colours), *_time(models, colours)]
    found = [section for section in sections if section is not None]
    return Page(title, data["lines"], _tiles(data), found)


def _colours(models: Sequence[Data]) -> dict[str, str]:
    """A colour for each kind of step, the same in every plot; the longest have their own."""
    totals: dict[str, float] = defaultdict(float)
    for model in models:
        totals[model["work"]["kind"]] += 1e3 * model["time_ms"]
        for step in model["steps"]:
            totals[step["kind"]] += step["time_us"]
    return figures.palette(sorted(filter(None, totals), key=lambda kind: -totals[kind]))


def _label(model: Data) -> str:
    return str(model["origin"] or model["name"])


def _tiles(data: Data) -> list[Tile]:
    models = data["models"]
    ratios = [m["fastest"]["ratio"] for m in models if m["fastest"]]
    tiles = [Tile(str(len(models)), "models and layers")]
    if ratios:
        below = sum(ratio < LEVEL for ratio in ratios)
        tiles += [
            Tile(f"{data['fastest_mean']:.2f}×", "fastest library over ours, geometric mean"),
            Tile(f"{min(ratios):.2f}×", "worst of them"),
            Tile(f"{below} of {len(ratios)}", f"below {LEVEL}×"),
        ]
    if data["large_direct_share"] is not None:
        share = percent(data["large_direct_share"])
        tiles.append(Tile(share, "of the FMA peak, median of large direct convolutions"))
    return [*tiles, Tile(str(sum(m["noisy"] for m in models)), "measured while others worked")]


def _comparison(data: Data) -> Section:
    """Ratios to the libraries: the bar is the fastest one's, dots are all of them."""
    models = sorted(data["models"], key=_advantage)
    names = list(data["geometric_mean"])
    rated = [m for m in models if m["fastest"]]
    figure = _ratios(rated, names) if rated else None
    heads = ["layer", "problem", "ms", "GFLOP/s", "of peak", "of memory", "A/A", *names, "fastest"]
    rows = [_row(model, names) for model in models]
    means = [data["geometric_mean"][name] for name in names]
    last = [*(_times(mean) for mean in means), _times(data["fastest_mean"])]
    rows.append(["geometric mean", "", "", "", "", "", "", *last])
    text = (
        "A library's time over ours: to the right of 1 we are faster. The bar is the fastest "
        "library that computes the same; each mark is one library."
        if rated
        else ""
    )
    return Section("Against other libraries", text, figure, Table(heads, rows, 2))


def _advantage(model: Data) -> float:
    return float(model["fastest"]["ratio"]) if model["fastest"] else float("inf")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}×"


def _row(model: Data, names: Sequence[str]) -> list[str]:
    by_name = {peer["name"]: peer for peer in model["peers"]}
    cells = []
    for name in names:
        peer = by_name.get(name)
        if peer is None or peer["time_ms"] is None:
            cells.append("refused" if peer else "")
        else:
            differs = " (differs)" if peer["problem"] else ""
            cells.append(f"{show(peer['time_ms'])} ms {peer['ratio']:.2f}×{differs}")
    noise = f"{model['noise']['ratio']:.2f}" + (" noisy" if model["noisy"] else "")
    return [
        *(model["origin"], model["name"], show(model["time_ms"]), show(model["gflops"])),
        *(percent(model["share_of_peak"]), percent(model["share_of_bandwidth"]), noise),
        *cells,
        f"{_times(_advantage(model))} {model['fastest']['name']}" if model["fastest"] else "",
    ]


def _ratios(models: Sequence[Data], names: Sequence[str]) -> Figure:
    ratios = [_advantage(m) for m in models]
    texts = [
        f"{_label(m)}: {show(m['time_ms'])} ms; {m['fastest']['name']} {r:.2f}×"
        for m, r in zip(models, ratios, strict=True)
    ]
    colours = [FASTER if ratio >= 1 else SLOWER for ratio in ratios]
    # On a logarithmic axis a bar has to be told where it starts.
    traces = [
        figures.bars([r - 1 for r in ratios], texts, "fastest", colours, base=1, opacity=0.45)
    ]
    for name, colour in figures.palette(names).items():
        traces.append(_marks(models, name, colour))
    line = {"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1}
    layout = figures.bar_layout(
        [_label(m) for m in models],
        "time of the library / time of tvmconv",
        xaxis={"type": "log", "tickvals": [0.25, 0.5, 0.7, 0.95, 1, 1.25, 1.5, 2, 3, 5, 10, 30]},
        legend=figures.ABOVE,
        shapes=[{**line, "line": {"color": figures.INK, "width": 1}}],
    )
    return {"data": traces, "layout": layout}


def _marks(models: Sequence[Data], name: str, colour: str) -> Figure:
    """One library's ratio in every row where it computes the same."""
    xs, ys, texts = [], [], []
    for row, model in enumerate(models):
        for peer in model["peers"]:
            if peer["name"] == name and peer["ratio"] and not peer["problem"]:
                xs.append(peer["ratio"])
                ys.append(row)
                texts.append(escape(f"{_label(model)}: {name} {show(peer['time_ms'])} ms"))
    return {
        "type": "scatter",
        "mode": "markers",
        "x": xs,
        "y": ys,
        "text": texts,
        "name": escape(name),
        "marker": {"color": colour, "size": 7, "line": {"color": "#fff", "width": 1}},
        "hovertemplate": "%{text}, %{x:.2f}×<extra></extra>",
    }


def _roofline(data: Data, colours: Colours) -> Section | None:
    points = []
    for model in data["models"]:
        points += _point(_label(model), model["work"], model["time_ms"] * 1e3)
        for step in model["steps"] if not model["work"]["flops"] else ():
            points += _point(f"{_label(model)}: {step['name']}", step["work"], step["time_us"])
    threads = data["machine"]["threads"]
    peaks = data["peak"]["points"]
    at = next((p for p in peaks if p["threads"] >= threads), peaks[-1])
    figure = figures.roofline(points, colours, at["gflops"], max(at["read_gb_s"], at["triad_gb_s"]))
    if figure is None:
        return None
    text = (
        "Every layer under the machine's measured limits. Above the slope its data lie in caches; "
        "above the roof it does less arithmetic than the direct algorithm that is counted "
        "(diamonds: Winograd). For pools one comparison or addition counts as one FLOP."
    )
    return Section("Roofline", text, figure)


def _point(name: str, work: Data, time_us: float) -> list[Point]:
    if not (work["flops"] and work["bytes"] and time_us > 0):
        return []
    gflops = work["flops"] / time_us / 1e3
    intensity = work["flops"] / work["bytes"]
    return [Point(name, work["kind"], work["algorithm"], intensity, gflops, time_us)]


def _time(models: Sequence[Data], colours: Colours) -> list[Section]:
    """Where the time goes, of the models whose steps were timed."""
    timed = [m for m in models if m["steps"]]
    if not timed:
        return []
    text = "Shares of the time that the steps take, by what they are."
    sections = [Section("Where the time goes, by operator", text, _shares(timed, colours))]
    networks = [m for m in timed if not m["work"]["flops"]]
    return sections + [_steps(model, colours) for model in networks]


def _shares(models: Sequence[Data], colours: Colours) -> Figure:
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(models))
    for row, model in enumerate(models):
        for step in model["steps"]:
            totals[step["kind"]][row] += 100 * step["share"]
    kinds = sorted(totals, key=lambda kind: -sum(totals[kind]))
    traces = []
    for kind in kinds:
        texts = [f"{_label(m)}: {kind} {x:.1f}%" for m, x in zip(models, totals[kind], strict=True)]
        traces.append(figures.bars(totals[kind], texts, kind, colours[kind]))
    layout = figures.bar_layout(
        [_label(m) for m in models],
        "% of the time",
        barmode="stack",
        xaxis={"range": [0, 100]},
        legend=figures.ABOVE,
    )
    return {"data": traces, "layout": layout}


def _steps(model: Data, colours: Colours) -> Section:
    """A network's steps, the longest first; the table has them in the order of execution."""
    steps = sorted(model["steps"], key=lambda s: -s["time_us"])
    longest, rest = steps[:_STEPS], sum(s["time_us"] for s in steps[_STEPS:])
    values = [s["time_us"] for s in longest] + [rest] * (rest > 0)
    labels = [f"{s['name']} ({s['kind']})" for s in longest]
    labels += [f"{len(steps) - _STEPS} more"] * (rest > 0)
    paints = [colours[s["kind"]] for s in longest] + [PALE] * (rest > 0)
    texts = [f"{label}: {value:.1f} µs" for label, value in zip(labels, values, strict=True)]
    figure = {
        "data": [figures.bars(values, texts, "time", paints)],
        "layout": figures.bar_layout(labels, "µs"),
    }
    heads = ("step", "kind", "algorithm", "µs", "share", "MMAC", "GFLOP/s")
    rows = [
        [
            *(s["name"], s["kind"], s["work"]["algorithm"] if s["macs"] else ""),
            *(f"{s['time_us']:.1f}", percent(s["share"])),
            *(show(s["macs"] / 1e6 if s["macs"] else None), show(s["gflops"])),
        ]
        for s in model["steps"]
    ]
    return Section(f"Steps of {_label(model)}", "", figure, Table(heads, rows, 3), folded=True)
