"""Pictures of problems: well-formed, whole, with the cells that the arithmetic says."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.browser import chromium, find_chromium
from tvmconv.errors import InputError
from tvmconv.explain import explain
from tvmconv.explain.drawing import frames
from tvmconv.explain.problem import ProblemExplanation
from tvmconv.problem import Problem

SVG = "{http://www.w3.org/2000/svg}"
PROBLEMS = [
    "conv1d:1x2x9:4x3:padding=2,0:dilation=2",
    "conv2d:1x3x7x6:8x3x2:stride=2,1:padding=1,0",
    "conv2d:1x64x56x56:64x3x3:padding=12:dilation=12",
    "conv3d:1x3x4x6x6:8x3x3x3:padding=1",
    "depthwise_conv2d:1x4x30x30:4x11x11:stride=4",
    "max_pool2d:1x2x5x5:3x3:stride=2:ceil_mode=true",
    "global_avg_pool2d:1x2x7x7",
    "conv2d:1x1x1x1:1x1x1",
    "conv2d:1x1x7x6:1x3x2:padding=1:dilation=2:flipped=true",
]


def svg_of(text: str, **options: object) -> str:
    found = explain(text, "znver5", **options)
    assert isinstance(found, ProblemExplanation)
    return found.svg()


@pytest.mark.parametrize("text", PROBLEMS)
def test_picture(text: str) -> None:
    xml = svg_of(text)
    root = ElementTree.fromstring(xml)
    assert root.tag == f"{SVG}svg"
    left, top, width, height = map(float, (root.get("viewBox") or "").split())
    assert (left, top) == (0, 0)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert text in (title.text or "")
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert "prefers-color-scheme: dark" in xml
    for element in root.iter(f"{SVG}rect"):
        if element.get("class") != "paper":
            x, y = float(element.get("x", "nan")), float(element.get("y", "nan"))
            assert 0 <= x <= x + float(element.get("width", "nan")) <= width
            assert 0 <= y <= y + float(element.get("height", "nan")) <= height
    for element in root.iter(f"{SVG}text"):
        assert 0 < float(element.get("x", "nan")) < width
        assert 0 < float(element.get("y", "nan")) < height


@pytest.mark.parametrize("text", PROBLEMS)
def test_every_frame_has_its_taps_and_its_output(text: str) -> None:
    found = explain(text, "znver5")
    assert isinstance(found, ProblemExplanation)
    assert found.axes is not None
    places = frames(found.axes, found.at[2:])
    kinds = Counter(e.get("class") for e in ElementTree.fromstring(found.svg()).iter())
    taps = int(np.prod([axis.taps for axis in found.axes]))
    assert kinds["tap"] == taps * len(places) + 1  # and one in the legend
    assert kinds["now"] == len(places) + 1
    assert kinds["head"] == len(places)


def test_a_small_picture_by_hand() -> None:
    """3×3 with padding 1 at stride 2: two outputs along each axis, so four frames."""
    root = ElementTree.fromstring(svg_of("conv2d:1x1x3x3:1x3x3:stride=2:padding=1"))
    kinds = Counter(element.get("class") for element in root.iter())
    assert kinds["input"] == 4 * 9 + 1
    assert kinds["padding"] == 4 * (25 - 9) + 1
    assert kinds["output"] == 4 * 3
    heads = [e.text for e in root.iter(f"{SVG}text") if e.get("class") == "head"]
    assert heads == [
        "output (0, 0): the window begins at (−1, −1)",
        "output (0, 1): the window begins at (−1, 1)",
        "output (1, 0): the window begins at (1, −1)",
        "output (1, 1): the window begins at (1, 1)",
    ]


def test_a_chosen_output_is_drawn() -> None:
    assert "output (50, 51): the window begins at (50, 51)" in svg_of(
        "conv2d:1x1x60x60:1x3x3", at=(50, 51)
    )


def test_depths_are_named() -> None:
    xml = svg_of("conv3d:1x1x4x4x4:1x2x2x2:padding=1")
    for words in ("depth −1 (padding)", "depth 0 (input)", "output depth 0", "one slice for each"):
        assert words in xml


def test_text_is_escaped() -> None:
    problem = Problem.parse("conv1d:1x1x9:1x3")
    object.__setattr__(problem, "text", "<script>&")  # no problem's text has such
    found = explain(problem, "znver5")
    assert isinstance(found, ProblemExplanation)
    assert "&lt;script&gt;&amp;" in found.svg()
    ElementTree.fromstring(found.svg())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dense:1x8:4", "there is no window to draw"),
        ("global_avg_pool2d:1x2x100x7", "a window of 100 along an axis is too large to draw"),
    ],
)
def test_what_cannot_be_drawn(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        svg_of(text)


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium")
def test_picture_in_a_browser(tmp_path: Path) -> None:
    executable = find_chromium()
    assert executable is not None
    file = tmp_path / "p.svg"
    file.write_text(svg_of("conv2d:1x3x7x7:8x3x3:stride=2:padding=1"), encoding="utf-8")
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    with chromium(executable) as page:
        page.open(file.as_uri())
        light = page.screenshot("svg")
        page.call("Emulation.setEmulatedMedia", features=[dark])
        night = page.screenshot("svg")
        assert page.complaints() == []
    for png, paper in ((light, (255, 255, 255)), (night, (20, 24, 30))):
        image = Image.open(io.BytesIO(png)).convert("RGB")
        assert image.getpixel((3, 3)) == paper
        assert len(image.getcolors(1 << 20) or ()) > 20
