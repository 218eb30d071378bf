"""One line of a log: what it holds, and what is no line."""

from __future__ import annotations

import json
import math
import zlib
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.log_records import TARGET, TRACE, changed, forged, record, table, workload
from tvmconv.autoschedule.record import (
    MAX_LINE,
    Record,
    field_text,
    intact,
    target_key,
    workload_of,
)
from tvmconv.target import targets

LINE = record().line()


def test_round_trip() -> None:
    for original in (
        record(),
        record(round=3, method="static", cache="cold", knobs=(), times_us=(0.5,)),
        record(status="wrong", message="é\n\x00 \ud800 \u2028"),
        record(workload='a","workload":"b', target="\\\\"),
    ):
        line = original.line()
        assert Record.parse(line) == original
        assert Record.parse(line).line() == line
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        assert line.isascii()


def test_the_crc_is_that_of_the_canonical_json_of_the_rest() -> None:
    canonical = json.dumps(table(LINE), sort_keys=True, separators=(",", ":")).encode()
    assert json.loads(LINE)["crc"] == f"{zlib.crc32(canonical):08x}"


def test_another_program_may_write_the_json_in_another_way() -> None:
    fields = json.loads(LINE)
    shuffled = json.dumps(dict(sorted(fields.items(), reverse=True)), indent=None).encode()
    assert not intact(shuffled)
    assert Record.parse(shuffled) == record()
    fields["times_us"][0] = 1.0
    with pytest.raises(ValueError, match=r"^wrong CRC$"):
        Record.parse(json.dumps(fields).encode())


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" \n"])
def test_the_end_of_the_line_does_not_matter(end: bytes) -> None:
    line = LINE.strip() + end
    assert intact(line)
    assert Record.parse(line) == record()
    assert workload_of(line) == field_text("workload", workload())


def test_every_damaged_byte_is_noticed() -> None:
    for position in range(len(LINE) - 1):
        damaged = bytearray(LINE)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(ValueError, match=r"^(wrong CRC|not UTF-8|not JSON|not a record)$"):
            Record.parse(bytes(damaged))


def test_every_truncated_line_is_noticed() -> None:
    for length in range(1, len(LINE) - 1):
        with pytest.raises(ValueError, match=r"^not JSON$"):
            Record.parse(LINE[:length])


DEEP = b"[" * 100_000 + b"]" * 100_000
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "blank"),
    "blank": (b" \t\r\n", "blank"),
    "null": (b"null\n", "not a record"),
    "list": (b"[]\n", "not a record"),
    "number": (b"17\n", "not a record"),
    "NaN": (b"NaN\n", "not JSON"),
    "NUL bytes": (b"\0" * 4096, "not JSON"),
    "Latin-1": (LINE.replace(b"conv2d", b"conv\xe9d"), "not UTF-8"),
    "deep": (DEEP, "nested too deeply"),
    "deep field": (b'{"a":' + DEEP + b"}", "nested too deeply"),
    "deep in a sealed line": (forged({"a": 0}).replace(b"0", DEEP), "nested too deeply"),
    "long": (b'{"a":"' + b"x" * MAX_LINE + b'"}', "too long"),
    "long integer": (b'{"a":' + b"1" * 10_000 + b"}", "not JSON"),
    "no CRC": (json.dumps(table(LINE)).encode(), "wrong CRC"),
    "CRC of another type": (json.dumps({**table(LINE), "crc": [1]}).encode(), "wrong CRC"),
    "sealed nothing": (forged({"a": 1}), "unknown field"),
    "unknown field": (changed(extra=1), "unknown field"),
    "time NaN": (LINE.replace(b"[10.0,", b"[NaN,"), "not JSON"),
    "time Infinity": (LINE.replace(b"[10.0,", b"[Infinity,"), "not JSON"),
    "time 0": (changed(times_us=[0]), "times_us is malformed"),
    "time < 0": (changed(times_us=[1.0, -1.0]), "times_us is malformed"),
    "time huge": (changed(times_us=[10**400]), "times_us is malformed"),
    "time true": (changed(times_us=[True]), "times_us is malformed"),
    "time text": (changed(times_us=["1"]), "times_us is malformed"),
    "times number": (changed(times_us=1), "knobs or times_us is malformed"),
    "no time": (changed(times_us=[]), "times_us is malformed"),
    "too many times": (changed(times_us=[1.0] * 1001), "times_us is malformed"),
    "wrong with a time": (changed(status="wrong"), "times_us is malformed"),
    "knobs number": (changed(knobs=1), "knobs or times_us is malformed"),
    "knobs short": (changed(knobs=[["a"]]), "knobs or times_us is malformed"),
    "knobs mapping": (changed(knobs={"ab": 1}), "knobs is malformed"),
    "knob float": (changed(knobs=[["a", 1.0]]), "knobs is malformed"),
    "knob true": (changed(knobs=[["a", True]]), "knobs is malformed"),
    "knob huge": (changed(knobs=[["a", 1 << 40]]), "knobs is malformed"),
    "knob list": (changed(knobs=[[[], 1]]), "knobs is malformed"),
    "knob twice": (changed(knobs=[["a", 1], ["a", 2]]), "knobs is malformed"),
    "status": (changed(status="fine"), "status is malformed"),
    "status list": (changed(status=[]), "status is malformed"),
    "cache": (changed(cache="hot"), "cache is malformed"),
    "method": (changed(method=None), "method is malformed"),
    "round float": (changed(round=1.0), "round is malformed"),
    "round < 0": (changed(round=-1), "round is malformed"),
    "message": (changed(message=None), "message is malformed"),
    "date": (changed(date="yesterday"), "date is malformed"),
    "date number": (changed(date=20250131), "date is malformed"),
    "workload": (changed(workload=["conv"]), "workload is malformed"),
    "workload empty": (changed(workload=""), "workload is malformed"),
    "workload long": (changed(workload="x" * 20_001), "workload is malformed"),
    "target": (changed(target={"arch": "x86_64"}), "target is malformed"),
    "versions": (changed(versions=["0.27"]), "versions is malformed"),
    "versions values": (changed(versions={"apache-tvm": 27}), "versions is malformed"),
    **{
        f"without {name}": (
            forged({key: value for key, value in table(LINE).items() if key != name}),
            f"{name} is missing",
        )
        for name in table(LINE)
    },
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_record_is_refused_with_a_reason_to_count(name: str) -> None:
    line, reason = BAD[name]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        Record.parse(line)
    assert str(caught.value) == reason


@given(st.binary())
def test_any_bytes_are_a_record_or_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any
        Record.parse(line)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(SCALARS, st.lists), st.sampled_from(sorted(table(LINE))))
def test_any_value_of_a_field_is_a_record_or_a_value_error(value: Any, name: str) -> None:
    for line in (changed(**{name: value}), json.dumps({**json.loads(LINE), name: value}).encode()):
        with suppress(ValueError):
            parsed = Record.parse(line)
            assert isinstance(parsed.trace, list)
            assert parsed.time_us > 0
            assert hash(parsed.key)


@pytest.mark.parametrize("trace", [b'{"a":1}', b"[NaN]", b"[[[", DEEP])
def test_a_trace_that_is_none_is_empty(trace: bytes) -> None:
    text = json.dumps(table(LINE)["trace"], separators=(",", ":")).encode()
    body = b"{" + LINE[len('{"crc":"01234567",') :].strip().replace(text, trace)
    line = b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body[1:])
    assert Record.parse(line).trace == []


def test_a_trace_is_what_it_was() -> None:
    parsed = Record.parse(LINE)
    assert parsed.trace == TRACE
    assert parsed.trace is parsed.trace
    assert replace(parsed, round=1).trace == TRACE


def test_a_record_that_no_reader_would_take_cannot_be_made() -> None:
    for changes in (
        {"times_us": (math.nan,)},
        {"times_us": (math.inf,)},
        {"times_us": ()},
        {"trace": []},
        {"status": "fine"},
        {"knobs": (("a", 1), ("a", 2))},
    ):
        with pytest.raises(ValueError, match="is malformed"):
            record(**changes)
    with pytest.raises(TypeError):
        Record(workload="x")  # type: ignore[call-arg]


def test_a_message_becomes_one_short_line() -> None:
    assert record(status="wrong", message=" a\r\nb \n" + "c" * 999).message == "a b " + "c" * 296


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((3.0,), 3.0),
        ((3.0, 2.0), 2.0),
        ((3.0, 2.0, 9.0), 2.5),
        ((5.0, 1.0, 3.0, 100.0), 2.0),
        ((7.0, 1.0, 2.0, 3.0, 900.0), 2.0),
    ],
)
def test_time_is_the_median_of_the_fastest_half(times: tuple[float, ...], expected: float) -> None:
    assert record(times_us=times).time_us == expected


def test_what_failed_takes_for_ever() -> None:
    assert record(status="timeout").time_us == math.inf


def test_the_key_says_what_is_measured() -> None:
    first = record()
    assert first.key == record(round=2, times_us=(1.0,), date="").key
    for changes in (
        {"workload": workload(32)},
        {"target": target_key(targets()["znver4"])},
        {"versions": {"apache-tvm": "0.28"}},
        {"knobs": ()},
        {"cache": "cold"},
    ):
        assert record(**changes).key != first.key


def test_the_target_key_has_what_decides_code_and_time() -> None:
    llvm = TARGET.llvm
    for same in (
        replace(TARGET, aliases=(), description="other", match=None, frequency_ghz=1.0),
        replace(TARGET, name="other"),
        replace(TARGET, llvm=replace(llvm, features=(*llvm.features, "-pku", "-rdseed"))),
    ):
        assert target_key(same) == target_key(TARGET)
    for other in (
        replace(TARGET, cores=2),
        replace(TARGET, llvm=replace(llvm, features=("-avx2",))),
        replace(TARGET, llvm=replace(llvm, opt_level=2)),
        replace(TARGET, llvm=replace(llvm, cpu="znver2")),
    ):
        assert target_key(other) != target_key(TARGET)


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_field_is_found_without_parsing(text: str, other: str) -> None:
    line = record(workload=text, target=other).line()
    assert field_text("workload", text) in line
    assert field_text("target", other) in line
    assert workload_of(line) == field_text("workload", text)
    assert (field_text("workload", other) in line) == (text == other)
    assert (field_text("target", text) in line) == (text == other)
