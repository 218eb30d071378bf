"""One measurement of one schedule of one workload, and the line of a log that holds it.

A line is canonical JSON, sorted keys and no spaces, with the CRC-32 of the rest of it in front::

    {"crc":"8d3f2a10","cache":"warm","date":…,"workload":…}

Keys that begin the line and end it are found without parsing, so that a log of thousands of records
can be indexed in a few milliseconds.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from tvmconv.target import Target

Status: TypeAlias = Literal[
    "ok", "wrong", "crashed", "timeout", "build-failed", "build-timeout", "out-of-memory"
]
Cache: TypeAlias = Literal["warm", "cold"]
Method: TypeAlias = Literal["measured", "static"]
#: What is never measured twice: workload, target, versions, knobs, cache, method.
Key: TypeAlias = tuple[str, str, tuple[tuple[str, str], ...], tuple[tuple[str, int], ...], str, str]

#: Bytes of a line, at most; a trace has some thousands.
MAX_LINE = 1 << 20
_MAX_TEXT, _MAX_MESSAGE, _MAX_ITEMS = 20_000, 300, 1000
_MAX_US = 1e12  # eleven days
_VECTORS = re.compile(r"[+-](s?sse|avx|fma|f16c|neon|sve|sme|dotprod|fullfp16|bf16|i8mm|v$|zv)")
_DATE = re.compile(r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_TRACE, _VERSIONS = b',"trace":', b',"versions":'
_HEAD, _HEAD_BYTES = re.compile(rb'\{"crc":"([0-9a-f]{8})",'), len('{"crc":"01234567",')


class _Trace:
    """The field ``trace``: as a line has it until somebody asks for it, which few ever do."""

    def __get__(self, record: Record | None, owner: type) -> list[Any]:
        if record is None:
            raise AttributeError("trace")  # the dataclass asks for a default: there is none
        value: list[Any] | bytes = record.__dict__["_trace"]
        if isinstance(value, bytes):
            value = record.__dict__["_trace"] = _read_trace(value)
        return value

    def __set__(self, record: Record, trace: list[Any] | bytes) -> None:
        record.__dict__["_trace"] = trace


def _read_trace(text: bytes) -> list[Any]:
    """A trace of JSON; an empty one, which no kernel can use, if it is malformed."""
    try:
        trace = _DECODER.decode(text.decode())
    except (ValueError, RecursionError):
        return []
    return trace if isinstance(trace, list) else []


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measurement.

    Attributes
    ----------
    workload : str
        ``KernelSpec.text`` of the workload.
    target : str
        See :func:`target_key`.
    versions : mapping
        Version of TVM and of its FFI, as in :data:`tvmconv.versions.PINS`.
    status : str
        ``ok``, or what went wrong.
    knobs : tuple of (str, int)
        Coordinates in the design space of the target's family.
    trace : list
        See :mod:`tvmconv.autoschedule.trace`; empty if there is none.
    times_us : tuple of float
        Time of one run, for each block of runs; empty unless ok.
    cache : str
        Whether the weights were in the cache from one run to the next.
    method : str
        Measured on the target, or computed from the code.
    round : int
        0 for the trial; from 1 on, a measurement in turns with the others of that round, which
        confirms a choice.
    message : str
        One line that says why it is not ok.
    date : str
        ISO 8601, UTC, seconds: ``2025-01-31T12:00:00Z``; or empty.
    """

    workload: str
    target: str
    versions: Mapping[str, str]
    status: Status
    knobs: tuple[tuple[str, int], ...]
    trace: _Trace = _Trace()
    times_us: tuple[float, ...]
    cache: Cache
    method: Method = "measured"
    round: int = 0
    message: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        """Refuse what no reader of a log would take, and shorten the message to one line."""
        _check(self)
        object.__setattr__(self, "message", " ".join(self.message.split())[:_MAX_MESSAGE])

    @property
    def time_us(self) -> float:
        """Median of the fastest half of the blocks: others were slowed by something else."""
        if not self.times_us:
            return math.inf
        fast = sorted(self.times_us)[: -(-len(self.times_us) // 2)]
        return (fast[(len(fast) - 1) // 2] + fast[len(fast) // 2]) / 2

    @property
    def key(self) -> Key:
        """What the record is a measurement of."""
        versions = tuple(sorted(self.versions.items()))
        return (self.workload, self.target, versions, self.knobs, self.cache, self.method)

    def line(self) -> bytes:
        """The record as a line of a log, with the newline."""
        return _sealed({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def parse(cls, line: bytes) -> Record:
        """Read a line of a log.

        Raises
        ------
        ValueError
            If it is not one that :meth:`line` made; the message is one of a few short ones, so
            that they can be counted.
        """
        table = _table(line)
        names = {field.name for field in fields(cls)}
        if not table.keys() <= names:
            raise ValueError("unknown field")
        for name in sorted(names - table.keys()):
            raise ValueError(f"{name} is missing")
        try:
            table["knobs"] = tuple((name, value) for name, value in table["knobs"])
            table["times_us"] = tuple(table["times_us"])
        except (TypeError, ValueError) as error:
            raise ValueError("knobs or times_us is malformed") from error
        return cls(**table)


def target_key(target: Target) -> str:
    """All of a target that decides which code is made and how fast it is, as canonical JSON.

    Of the features only those that concern vectors: which others a hypervisor hides is all one.
    """
    llvm = target.llvm
    device = {} if target.device is None else {"device": asdict(target.device)}
    return _canonical(
        {
            **device,
            "arch": target.arch,
            "channel_block": target.layout.channel_block,
            "cores": target.cores,
            "cpu": llvm.cpu,
            "features": [name for name in llvm.features if _VECTORS.match(name)],
            "opt_level": llvm.opt_level,
            "triple": llvm.triple,
        }
    ).decode()


def intact(line: bytes) -> bool:
    """Whether a line is whole and as :meth:`Record.line` wrote it, by its CRC alone."""
    head = _HEAD.match(line)
    return head is not None and _crc(b"{" + line[_HEAD_BYTES:].rstrip()) == head[1].decode()


def field_text(name: str, value: object) -> bytes:
    """What an intact line holds if, and only if, a field has that value.

    Nothing else looks like it: in a string, a backslash stands before each quote.
    """
    return b',"%s":%s' % (name.encode(), _canonical(value))


def workload_of(line: bytes) -> bytes:
    """The end of an intact line: :func:`field_text` of its workload, which is the last field."""
    return line[line.rfind(b',"workload":') :].rstrip(b"} \r\n")


# --- JSON and its CRC


def _canonical(data: object) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _crc(body: bytes) -> str:
    return f"{zlib.crc32(body):08x}"


def _sealed(table: dict[str, Any]) -> bytes:
    body = _canonical(table)
    return b'{"crc":"%s",%s\n' % (_crc(body).encode(), body[1:])


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _table(line: bytes) -> dict[str, Any]:
    """The fields of a line without the CRC, which is right."""
    if len(line) > MAX_LINE:
        raise ValueError("too long")
    if not line.strip():
        raise ValueError("blank")
    try:
        return _opened(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _opened(line: bytes) -> dict[str, Any]:
    """As :func:`_table`; the trace of an intact line is left as it is."""
    whole = intact(line)
    head, _, rest = line.partition(_TRACE) if whole else (line, b"", b"")
    end = rest.find(_VERSIONS)
    table = _json_object(head + rest[end:] if end > 0 else line)
    given = table.pop("crc", None)
    # Another program may have put the keys in another order.
    if not whole and given != _crc(_canonical(table)):
        raise ValueError("wrong CRC")
    if end > 0:
        table["trace"] = rest[:end]
    return table


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        table = _DECODER.decode(text.decode())
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except ValueError as error:
        raise ValueError("not JSON") from error
    if not isinstance(table, dict):
        raise ValueError("not a record")
    return table


# --- what a record may hold


def _check(record: Record) -> None:
    """Raise ``ValueError`` for a field that is not as the class describes it."""
    ok = record.status == "ok"
    trace = record.__dict__["_trace"]
    valid = {
        "workload": _is_text(record.workload),
        "target": _is_text(record.target),
        "versions": _is_versions(record.versions),
        "status": record.status in get_args(Status),
        "knobs": _is_knobs(record.knobs),
        "trace": isinstance(trace, (list, bytes)) and (bool(trace) or not ok),
        "times_us": _is_times(record.times_us) and bool(record.times_us) == ok,
        "cache": record.cache in get_args(Cache),
        "method": record.method in get_args(Method),
        "round": type(record.round) is int and 0 <= record.round < 1 << 31,
        "message": isinstance(record.message, str),
        "date": isinstance(record.date, str) and bool(_DATE.fullmatch(record.date)),
    }
    for name, good in valid.items():
        if not good:
            raise ValueError(f"{name} is malformed")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT


def _is_versions(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, [*value.keys(), *value.values()]))


def _is_knobs(value: tuple[Any, ...]) -> bool:
    names = {name for name, _ in value if _is_text(name)}
    small = all(type(number) is int and abs(number) < 1 << 31 for _, number in value)
    return len(names) == len(value) <= _MAX_ITEMS and small


def _is_times(value: tuple[Any, ...]) -> bool:
    positive = all(type(time) in (int, float) and 0 < time < _MAX_US for time in value)
    return len(value) <= _MAX_ITEMS and positive
