"""Write an ELF object file around raw bytes.

The weights become an object file directly, because an assembler would copy them (and zig would
keep the copy in its cache, without noticing when the bytes behind an ``.incbin`` change).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tvmconv.runtime.elf import Machine

_PROGBITS, _SYMTAB, _STRTAB = 1, 2, 3
_ALLOC, _X86_64_LARGE = 2, 0x10000000
_X86_64 = 62


@dataclass(frozen=True)
class Blob:
    """Bytes that become one section with a symbol at its start.

    Attributes
    ----------
    section, symbol : str
    data : bytes-like or Path
        A file's content is copied without passing through memory.
    large : bool
        Place the section where it does not stand between code and data (x86-64).
    """

    section: str
    symbol: str
    data: memoryview | bytes | Path
    large: bool = False

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        if isinstance(self.data, Path):
            return self.data.stat().st_size
        return memoryview(self.data).nbytes

    def write(self, file: BinaryIO) -> None:
        """Append the bytes to a file."""
        if isinstance(self.data, Path):
            with self.data.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 24)
        else:
            file.write(self.data)


def _strings(names: Sequence[str]) -> tuple[bytes, list[int]]:
    """A string table and where each name starts in it."""
    table, starts = b"\0", []
    for name in names:
        starts.append(len(table))
        table += name.encode() + b"\0"
    return table, starts


def write_data_object(path: Path, machine: Machine, blobs: Sequence[Blob], align: int = 64) -> None:
    """Write a relocatable object file whose read-only sections hold the blobs.

    Parameters
    ----------
    path : Path
    machine : Machine
    blobs : sequence of Blob
    align : int
        Alignment of each section, in bytes.

    Raises
    ------
    OSError
        A file cannot be read or written.
    """
    wide = machine.bits == 64
    header_bytes = 64 if wide else 52
    names = [blob.section for blob in blobs] + [".symtab", ".strtab", ".note.GNU-stack"]
    section_names, name_at = _strings(names)
    symbol_names, symbol_at = _strings([blob.symbol for blob in blobs])
    symbols = machine.pack("IBBHPP" if wide else "IPPBBH", 0, 0, 0, 0, 0, 0)
    sections: list[tuple[int, ...]] = [(0,) * 10]
    position = -(-header_bytes // align) * align
    for number, blob in enumerate(blobs):
        size, info = blob.nbytes, (1 << 4) | 1  # global, object
        large = _X86_64_LARGE if blob.large and machine.number == _X86_64 else 0
        fields = (name_at[number], _PROGBITS, _ALLOC | large, 0, position, size, 0, 0, align, 0)
        sections.append(fields)
        at = symbol_at[number]
        if wide:
            symbols += machine.pack("IBBHPP", at, info, 0, number + 1, 0, size)
        else:
            symbols += machine.pack("IPPBBH", at, 0, size, info, 0, number + 1)
        position = -(-(position + size) // align) * align
    tail = symbols + symbol_names + section_names
    count, entry = len(blobs), 24 if wide else 16
    ends = (position + len(symbols), position + len(symbols) + len(symbol_names))
    # The string table of the sections' names is the last one; .symtab links to the one before.
    table = (name_at[count], _SYMTAB, 0, 0, position, len(symbols), count + 2, 1, 8, entry)
    sections.append(table)
    strings = (name_at[count + 1], _STRTAB, 0, 0)
    sections.append((*strings, ends[0], len(symbol_names), 0, 0, 1, 0))
    sections.append((*strings, ends[1], len(section_names), 0, 0, 1, 0))
    sections.append((name_at[count + 2], _PROGBITS, 0, 0, ends[1], 0, 0, 0, 1, 0))
    tail += b"\0" * (-(position + len(tail)) % 8)
    with path.open("wb") as file:
        file.write(_header(machine, position + len(tail), len(sections), count + 3))
        for blob in blobs:
            file.write(b"\0" * (-file.tell() % align))
            blob.write(file)
        file.write(b"\0" * (position - file.tell()) + tail)
        for section in sections:
            file.write(machine.pack("IIPPPPIIPP", *section))


def _header(machine: Machine, sections_at: int, sections: int, names: int) -> bytes:
    wide = machine.bits == 64
    ident = b"\x7fELF" + bytes((1 + wide, 1 if machine.order == "<" else 2, 1)) + b"\0" * 9
    sizes = (64 if wide else 52, 0, 0, 64 if wide else 40, sections, names)
    fields = (1, machine.number, 1, 0, 0, sections_at, machine.flags, *sizes)
    return ident + machine.pack("HHIPPPIHHHHHH", *fields)
