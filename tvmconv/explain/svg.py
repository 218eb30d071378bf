"""Drawing cells, lines and words as SVG that is readable in light and in dark."""

from __future__ import annotations

from xml.etree import ElementTree

#: Pixels from one cell to the next, and the side of a cell.
CELL, SIDE = 26, 24
_MARGIN = 16
_NAMESPACE = "http://www.w3.org/2000/svg"

# Blue, orange and green that people with any colour vision tell apart (Okabe and Ito, 2008).
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1c2430 }
.title { font-size: 15px; font-weight: 600 }
.head { font-weight: 600 }
.small { font-size: 9px; text-anchor: middle }
.index { font-size: 9px; text-anchor: middle; fill: #55606e }
.paper { fill: #ffffff }
.input { fill: #d3e5f4; stroke: #0072b2 }
.padding { fill: none; stroke: #7d8794; stroke-dasharray: 4 3 }
.zero { fill: none; stroke: #0072b2; stroke-dasharray: 1.5 3; stroke-linecap: round }
.tap { fill: #e69f00; fill-opacity: 0.55; stroke: #b35900; stroke-width: 2 }
.window { fill: none; stroke: #b35900; stroke-width: 2.5 }
.before { fill: none; stroke: #b35900; stroke-width: 1.5; stroke-dasharray: 2 4 }
.output { fill: #d4efe4; stroke: #009e73 }
.now { fill: #009e73; stroke: #00684c; stroke-width: 2 }
.ray { stroke: #b35900; stroke-width: 1.2; opacity: 0.7 }
@media (prefers-color-scheme: dark) {
text { fill: #e6eaf0 }
.index { fill: #a9b3bf }
.paper { fill: #14181e }
.input { fill: #163a55; stroke: #56b4e9 }
.padding { stroke: #8a94a1 }
.zero { stroke: #56b4e9 }
.tap { stroke: #ffb74d }
.window, .before, .ray { stroke: #ffb74d }
.output { fill: #0f3d30; stroke: #2fc79a }
.now { fill: #2fc79a; stroke: #a7f0d8 }
}
"""


class Canvas:
    """An SVG picture that grows with what is drawn.

    Parameters
    ----------
    title, description : str
        What a screen reader says.
    """

    def __init__(self, title: str, description: str) -> None:
        self._root = ElementTree.Element(
            "svg", {"xmlns": _NAMESPACE, "role": "img", "aria-labelledby": "title desc"}
        )
        for tag, identity, text in (("title", "title", title), ("desc", "desc", description)):
            ElementTree.SubElement(self._root, tag, {"id": identity}).text = text
        ElementTree.SubElement(self._root, "style").text = _STYLE
        self._paper = ElementTree.SubElement(self._root, "rect", {"class": "paper"})
        self._width = self._height = 0.0

    def _add(self, tag: str, kind: str, right: float, bottom: float, **numbers: float) -> None:
        """Add an element that reaches to ``right`` and ``bottom``."""
        attributes = {key: f"{number:g}" for key, number in numbers.items()}
        self._last = ElementTree.SubElement(self._root, tag, {"class": kind, **attributes})
        self._width, self._height = max(self._width, right), max(self._height, bottom)

    def cell(self, x: float, y: float, kind: str, text: str = "") -> None:
        """A square cell with its corner at x, y."""
        self._add("rect", kind, x + SIDE, y + SIDE, x=x, y=y, width=SIDE, height=SIDE, rx=3)
        if text:
            self.words(x + SIDE / 2, y + SIDE / 2 + 3, text, "small")

    def box(self, x: float, y: float, columns: int, rows: int, kind: str) -> None:
        """An outline around so many cells."""
        width, height = columns * CELL + 1, rows * CELL + 1
        numbers = {"x": x - 1.5, "y": y - 1.5, "width": width, "height": height, "rx": 4}
        self._add("rect", kind, x + width, y + height, **numbers)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._add("line", kind, max(x1, x2), max(y1, y2), x1=x1, y1=y1, x2=x2, y2=y2)

    def words(self, x: float, y: float, text: str, kind: str = "plain") -> None:
        """Text that begins at x, or for small kinds is centred there, with its base at y."""
        wide = 9.0 if kind == "title" else 7.0
        right = x if kind in ("small", "index") else x + wide * len(text)
        self._add("text", kind, right, y + 4, x=x, y=y)
        self._last.text = text

    def xml(self) -> str:
        """The picture; its viewBox holds all that was drawn."""
        width, height = round(self._width) + _MARGIN, round(self._height) + _MARGIN
        self._root.set("viewBox", f"0 0 {width} {height}")
        self._root.set("width", str(width))
        self._root.set("height", str(height))
        self._paper.set("width", str(width))
        self._paper.set("height", str(height))
        return ElementTree.tostring(self._root, encoding="unicode") + "\n"
