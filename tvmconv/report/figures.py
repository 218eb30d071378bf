"""Plots as Plotly's data. All text in them is escaped, since Plotly reads some of HTML's tags."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figure = dict[str, Any]

#: Colours that people with any colour vision tell apart (Okabe and Ito, Color Universal Design,
#: 2008), the darkest last.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8d8d00", "#55606e")
FASTER, SLOWER, INK, PALE = "#0072b2", "#d55e00", "#1c2430", "#c3cad3"
#: The legend of a plot of several traces.
ABOVE = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
#: Height of a bar and of what is around the bars, in pixels.
_BAR, _FRAME = 19, 110


@dataclass(frozen=True)
class Point:
    """A layer in the roofline.

    Attributes
    ----------
    name, kind, algorithm : str
    intensity : float
        FLOP a byte of compulsory traffic.
    gflops : float
        10⁹ FLOP/s.
    time_us : float
    """

    name: str
    kind: str
    algorithm: str
    intensity: float
    gflops: float
    time_us: float


def escape(text: str) -> str:
    """Make Plotly show a text as it is."""
    return html.escape(str(text), quote=False)


def short(text: str, width: int = 56) -> str:
    """Cut a text for an axis, and escape it."""
    return escape(text if len(text) <= width else text[: width - 1] + "…")


def finite(value: object) -> float | None:
    """A number that can be drawn, or None."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None


def palette(kinds: Iterable[str]) -> dict[str, str]:
    """Give every kind a colour, the first ones their own; the rest share the last."""
    known = dict.fromkeys(kinds)
    return {kind: COLOURS[min(k, len(COLOURS) - 1)] for k, kind in enumerate(known)}


def layout(height: int, x: str, y: str, **more: Any) -> Figure:
    """What all plots look like."""
    axis = {"gridcolor": "#e6e9ee", "linecolor": PALE, "zeroline": False, "automargin": True}
    base: Figure = {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 36, "b": 50},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "hovermode": "closest",
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "title": {"text": y}},
    }
    for key, value in more.items():
        merge = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        base[key] = {**base[key], **value} if merge else value
    return base


def bar_layout(labels: Sequence[str], x: str, **more: Any) -> Figure:
    """A layout of horizontal bars at 0, 1, 2 …, from top to bottom, with these labels."""
    ticks = {
        "tickvals": list(range(len(labels))),
        "ticktext": [short(label) for label in labels],
        "range": [len(labels) - 0.4, -0.6],
        "showgrid": False,
    }
    found = layout(max(_FRAME + _BAR * len(labels), 200), x, "", **more)
    del found["yaxis"]["gridcolor"]
    found["yaxis"].update(ticks)
    return found


def roofline(
    points: Sequence[Point], colours: Mapping[str, str], peak: float, bandwidth: float | None
) -> Figure | None:
    """Speed over arithmetic intensity, under what the machine can do.

    Parameters
    ----------
    points : sequence of Point
    colours : mapping
        Of each kind.
    peak : float
        10⁹ FLOP/s.
    bandwidth : float or None
        10⁹ bytes/s; with None the roof is flat.
    """
    if not points or peak <= 0:
        return None
    xs = [p.intensity for p in points]
    ys = [p.gflops for p in points]
    low, high = min(*xs, 1.0) / 2, max(*xs, peak / bandwidth if bandwidth else 1.0) * 3
    corner = [peak / bandwidth] if bandwidth else []
    roof = [low, *(x for x in corner if low < x < high), high]
    limit = [min(peak, bandwidth * x) if bandwidth else peak for x in roof]
    memory = f", {bandwidth:.0f} GB/s" if bandwidth else ""
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": roof,
            "y": limit,
            "name": f"measured: {peak:.0f} GFLOP/s{memory}",
            "line": {"color": INK, "width": 2},
            "hoverinfo": "skip",
        }
    ]
    for kind in dict.fromkeys(p.kind for p in points):
        traces.append(_cloud(kind, colours[kind], [p for p in points if p.kind == kind]))
    bounds = [math.log10(min(*ys, *limit) / 1.6), math.log10(max(*ys, peak) * 1.6)]
    return {
        "data": traces,
        "layout": layout(
            520,
            "FLOP a byte (each input and output once)",
            "GFLOP/s",
            xaxis={"type": "log", "range": [math.log10(low), math.log10(high)]},
            yaxis={"type": "log", "range": bounds},
            legend=ABOVE,
        ),
    }


def _cloud(kind: str, colour: str, points: Sequence[Point]) -> Figure:
    """The points of one kind; a diamond is a convolution that is not computed directly."""
    texts = [
        f"{escape(p.name)}<br>{p.time_us:.1f} µs, {escape(p.algorithm)}" for p in points
    ]  # fmt: skip
    symbols = ["circle" if p.algorithm == "direct" else "diamond" for p in points]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [p.intensity for p in points],
        "y": [p.gflops for p in points],
        "text": texts,
        "name": escape(kind),
        "marker": {"color": colour, "size": 9, "symbol": symbols, "opacity": 0.8},
        "hovertemplate": "%{text}<br>%{y:.1f} GFLOP/s at %{x:.2f} FLOP a byte<extra></extra>",
    }


def bars(
    values: Sequence[float], texts: Sequence[str], name: str, colour: str | list[str], **more: Any
) -> Figure:
    """Horizontal bars at 0, 1, 2 …, with a text each for the pointer."""
    return {
        "type": "bar",
        "orientation": "h",
        "x": list(values),
        "y": list(range(len(values))),
        "text": [escape(text) for text in texts],
        "textposition": "none",
        "name": escape(name),
        "marker": {"color": colour},
        "hovertemplate": "%{text}<extra></extra>",
        **more,
    }
