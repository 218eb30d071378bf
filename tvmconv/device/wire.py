"""What the programs that run elsewhere print (``wire.h``), read with distrust."""

from __future__ import annotations

import binascii
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

_BEGIN, _END = b"tvmconv 1", b"end"
#: Bytes of text for a byte of data, at most: base64, and the ends of lines.
_TEXT_PER_BYTE = 1.5
#: And for everything else that is printed: greetings of a login shell, times, names.
_OTHER_BYTES = 1 << 20


class BadOutput(ValueError):
    """What was printed is not a program's output, or not all of it; the message says which."""


@dataclass
class Line:
    """One line of output.

    Attributes
    ----------
    words : list of str
        The first says what it is.
    data : bytearray
        The data that came after it.
    """

    words: list[str]
    data: bytearray = field(default_factory=bytearray)

    @property
    def kind(self) -> str:
        """The first word."""
        return self.words[0]

    @property
    def text(self) -> str:
        """The words after the first."""
        return " ".join(self.words[1:])

    def number(self, position: int) -> float:
        """A word as a finite number.

        Raises
        ------
        BadOutput
        """
        try:
            number = float(self.words[position])
        except (IndexError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise BadOutput(f"printed a line without its numbers: {self.text[:80]!r}")
        return number


def output_limit(data_bytes: int) -> int:
    """Bytes that a program with so much data to send may print."""
    return int(data_bytes * _TEXT_PER_BYTE) + _OTHER_BYTES


def parse(output: bytes) -> list[Line]:
    """Split output into lines; what comes before the first that is the program's is skipped.

    Raises
    ------
    BadOutput
        It is no program's output, or ends early.
    """
    rows = [row.strip() for row in output.split(b"\n")]
    if _BEGIN not in rows:
        told = next((row for row in rows if row), b"")
        if not told:
            raise BadOutput("printed nothing")
        raise BadOutput(f"printed something else than a result: {_shown(told)}")
    found = list(_lines(rows[rows.index(_BEGIN) + 1 :]))
    if not found or found[-1].words != [_END.decode()]:
        raise BadOutput(f"its output ends early, after {len(output)} bytes")
    return found


def _lines(rows: list[bytes]) -> Iterator[Line]:
    """The lines up to the end, each with its data."""
    current: Line | None = None
    for row in rows:
        if row.startswith(b"="):
            if current is None:
                raise BadOutput("printed data that belong to nothing")
            try:
                current.data += binascii.a2b_base64(row[1:], strict_mode=True)
            except TypeError:  # Python 3.10 has no strict mode
                current.data += binascii.a2b_base64(row[1:])
            except binascii.Error:
                pass  # a line that was cut: what is missing is missed by whoever needs the data
            continue
        if current is not None:
            yield current
            current = None
        if row:
            current = Line(row.decode("utf-8", "replace").split())
            if row == _END:
                break
    if current is not None:
        yield current


def _shown(row: bytes) -> str:
    return repr(row[:60].decode("utf-8", "replace"))
