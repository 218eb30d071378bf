"""Read ELF files, as far as an artifact needs it, trusting nothing that they say of themselves."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_ARCHIVE, _MEMBER_BYTES = b"!<arch>\n", 60
_NO_BITS = 8
_MAX_NAMES_BYTES = 1 << 20
_MACHINES = {3: "x86", 8: "mips", 21: "ppc64", 40: "arm", 62: "x86-64", 183: "aarch64"}
_MACHINES |= {243: "riscv", 258: "loongarch"}

SHARED_LIBRARY = 3


class MalformedFile(ValueError):
    """A file is not what it should be; the message says in what way."""


@dataclass(frozen=True)
class Machine:
    """What an ELF header says of the machine: everything two objects must agree on to be linked."""

    bits: int
    order: str
    number: int
    flags: int

    @classmethod
    def of(cls, header: bytes) -> Machine:
        """Read it from the first 64 bytes of an ELF file.

        Raises
        ------
        MalformedFile
            The bytes are not an ELF header.
        """
        if len(header) < 64 or header[:4] != b"\x7fELF":
            raise MalformedFile("is not an ELF file")
        if header[4] not in (1, 2) or header[5] not in (1, 2):
            raise MalformedFile("has a malformed ELF header")
        bits, order = 32 * header[4], "<" if header[5] == 1 else ">"
        number = struct.unpack_from(order + "H", header, 18)[0]
        flags = struct.unpack_from(order + "I", header, 36 if bits == 32 else 48)[0]
        return cls(bits, order, number, flags)

    @property
    def name(self) -> str:
        """Such as ``x86-64``; with the width where the name leaves it open."""
        name = _MACHINES.get(self.number, f"ELF machine {self.number}")
        return name if name[-2:] == "64" or name in ("x86", "arm") else f"{name}{self.bits}"

    def unpack(self, layout: str, data: bytes, offset: int = 0) -> tuple[int, ...]:
        """Unpack fields; ``P`` in the layout is an address of this machine's width."""
        return struct.unpack_from(self.order + layout.replace("P", self.word), data, offset)

    def pack(self, layout: str, *values: int) -> bytes:
        """Pack fields; ``P`` as in :meth:`unpack`."""
        return struct.pack(self.order + layout.replace("P", self.word), *values)

    @property
    def word(self) -> str:
        """The struct code of an address."""
        return "Q" if self.bits == 64 else "I"


@dataclass(frozen=True)
class ElfFile:
    """One ELF file, or one member of an archive.

    Attributes
    ----------
    machine : Machine
    kind : int
        1 is an object file, 3 a shared library.
    sections : dict of str to (int, int)
        Position in the file and size in bytes of each section, both inside the file.
    """

    machine: Machine
    kind: int
    sections: dict[str, tuple[int, int]]


def _read(file: BinaryIO, start: int, offset: int, size: int, end: int) -> bytes:
    if offset < 0 or size < 0 or offset + size > end - start:
        raise MalformedFile("is truncated or malformed: it refers to bytes past its end")
    file.seek(start + offset)
    data = file.read(size)
    if len(data) != size:
        raise MalformedFile("is truncated")
    return data


def _members(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Start and end of each member of an archive; of the whole file if it is none."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(_ARCHIVE)) != _ARCHIVE:
        yield 0, end
        return
    position = len(_ARCHIVE)
    while position < end:
        header = _read(file, 0, position, _MEMBER_BYTES, end)
        digits = header[48:58].strip()
        if not digits.isdigit() or header[58:] != b"`\n":
            raise MalformedFile("is a malformed archive")
        start = position + _MEMBER_BYTES
        yield start, min(start + int(digits), end)
        position = start + int(digits) + int(digits) % 2


def _parse(file: BinaryIO, start: int, end: int) -> ElfFile:
    header = _read(file, start, 0, 64, end)
    machine = Machine.of(header)
    wide = machine.bits == 64
    (kind,) = machine.unpack("H", header, 16)
    at, entry = (40, 64) if wide else (32, 40)
    (table,) = machine.unpack("P", header, at)
    size, count, names_index = machine.unpack("HHH", header, 58 if wide else 46)
    if size != entry or not 0 < count < 0xFF00 or names_index >= count:
        raise MalformedFile("is truncated or malformed: it has no section table")
    raw = _read(file, start, table, entry * count, end)
    headers = [machine.unpack("IIPPPPIIPP", raw, entry * k) for k in range(count)]
    if headers[names_index][5] > _MAX_NAMES_BYTES:
        raise MalformedFile("is malformed: its table of names is too long")
    names_at, names_bytes = headers[names_index][4:6]
    names = _read(file, start, names_at, names_bytes, end)
    sections: dict[str, tuple[int, int]] = {}
    for name_at, section_kind, _, _, offset, length, *_ in headers:
        name = names[name_at:].partition(b"\0")[0].decode("ascii", "replace")
        if section_kind == _NO_BITS:
            continue
        if offset + length > end - start:
            raise MalformedFile("is truncated: a section ends past the end of the file")
        sections.setdefault(name, (start + offset, length))
    return ElfFile(machine, kind, sections)


def read_elf(file: BinaryIO) -> Iterator[ElfFile]:
    """Parse an ELF file, or the ELF files in an archive.

    Raises
    ------
    MalformedFile
        It is neither, or is truncated.
    OSError
        It cannot be read.
    """
    archive = False
    for start, end in _members(file):
        archive = archive or start > 0
        file.seek(start)
        if not archive or file.read(4) == b"\x7fELF":  # archives hold indices as well
            yield _parse(file, start, end)


def read_section(file: BinaryIO, elf: ElfFile, name: str, limit: int) -> bytes | None:
    """The bytes of a section, or None if there is none of that name.

    Raises
    ------
    MalformedFile
        It has more than ``limit`` bytes.
    OSError
        It cannot be read.
    """
    if name not in elf.sections:
        return None
    start, size = elf.sections[name]
    if size > limit:
        raise MalformedFile(f"is malformed: section {name} has {size} bytes")
    file.seek(start)
    return file.read(size)
