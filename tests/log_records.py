"""Records for the tests of logs, and lines that somebody else could have written."""

from __future__ import annotations

import json
import zlib
from typing import Any

from tvmconv.autoschedule.record import Record, target_key
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.target import Target, targets
from tvmconv.versions import PINS

TARGET: Target = targets()["znver3"]
TRACE = [
    [
        ["GetSBlock", [], ["root", "main"], ["b0"]],
        ["GetChildBlocks", ["b0"], [], ["b1"]],
        ["GetLoops", ["b1"], [], ["l2", "l3"]],
        ["Split", ["l2", "None", 4], [True, False], ["l4", "l5"]],
        ["Parallel", ["l4"], [], []],
    ],
    [],
]


def workload(channels: int = 16) -> str:
    """Text of a workload that exists."""
    problem = f"conv2d:1x16x8x8:{channels}x1x1"
    attrs = canonical_json({"problem": problem, "program": []})
    layouts = Layout((1, 16, 8, 8), 16), Layout((1, channels, 8, 8), 16)
    return KernelSpec("conv", attrs, layouts[:1], layouts[1]).text


def record(number: int = 0, **changes: Any) -> Record:
    """An ok record of a numbered candidate."""
    fields: dict[str, Any] = {
        "workload": workload(),
        "target": target_key(TARGET),
        "versions": PINS,
        "status": "ok",
        "knobs": (("size0", number), ("order0", 1)),
        "trace": TRACE,
        "times_us": (10.0, 11.5, 10.25),
        "cache": "warm",
        "date": "2025-01-31T12:00:00Z",
    }
    if changes.get("status", "ok") != "ok":
        fields.update(times_us=(), trace=[], message="why")
    return Record(**{**fields, **changes})


def table(line: bytes) -> dict[str, Any]:
    """The fields of a line without its CRC."""
    fields: dict[str, Any] = json.loads(line)
    del fields["crc"]
    return fields


def forged(fields: Any) -> bytes:
    """A line of any JSON object with the CRC that belongs to it."""
    body = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body[1:])


def changed(**changes: Any) -> bytes:
    """The line of a record with other fields, and the CRC that belongs to it."""
    return forged({**table(record().line()), **changes})
