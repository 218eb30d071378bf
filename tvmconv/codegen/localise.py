"""Make all symbols of a relocatable object file local but a few (what ``objcopy`` would do)."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tvmconv.runtime.elf import Machine

_PROGBITS, _SYMTAB, _RELA, _REL, _GROUP, _SHNDX, _ADDRSIG = 1, 2, 4, 9, 17, 18, 0x6FFF4C03
_UNDEFINED, _GLOBAL_BINDING = 0, 1


class _Sections:
    """The section headers of a mapped file; fields can be read and written in place."""

    FIELDS = ("name", "type", "flags", "addr", "offset", "size", "link", "info", "align", "entry")

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.machine = Machine.of(data[:64])
        wide = self.machine.bits == 64
        self.order = self.machine.order
        self.layout = "IIQQQQIIQQ" if wide else "IIIIIIIIII"
        start = 40 if wide else 32
        self.table = struct.unpack_from(self.order + "IQ"[wide], data, start)[0]
        self.count = struct.unpack_from(self.order + "H", data, 60 if wide else 48)[0]
        self.entry = struct.calcsize(self.order + self.layout)

    def get(self, number: int) -> dict[str, int]:
        at = self.table + number * self.entry
        values = struct.unpack_from(self.order + self.layout, self.data, at)
        return dict(zip(self.FIELDS, values, strict=True))

    def put(self, number: int, field: str, value: int) -> None:
        values = {**self.get(number), field: value}
        at = self.table + number * self.entry
        struct.pack_into(self.order + self.layout, self.data, at, *values.values())

    def array(self, number: int, dtype: npt.DTypeLike) -> npt.NDArray[np.void]:
        """A copy of a section's entries."""
        section = self.get(number)
        raw = self.data[section["offset"] : section["offset"] + section["size"]]
        return np.frombuffer(raw, dtype).copy()

    def store(self, number: int, values: npt.NDArray[np.void]) -> None:
        at = self.get(number)["offset"]
        self.data[at : at + values.nbytes] = values.tobytes()


def _symbol_dtype(machine: Machine) -> np.dtype[np.void]:
    o = machine.order
    wide = [("name", o + "u4"), ("info", "u1"), ("other", "u1"), ("section", o + "u2")]
    if machine.bits == 64:
        return np.dtype([*wide, ("value", o + "u8"), ("size", o + "u8")])
    return np.dtype([wide[0], ("value", o + "u4"), ("size", o + "u4"), *wide[1:]])


def localise(path: Path, keep: Collection[str]) -> None:
    """Give every defined symbol local binding, except those named in ``keep``.

    Local symbols come first in a symbol table, so it is reordered, and what refers to symbols by
    number (relocations, groups) is renumbered. The file keeps its size and is edited in place.

    Parameters
    ----------
    path : Path
        A relocatable object file.
    keep : collection of str

    Raises
    ------
    OSError
        The file cannot be mapped.
    ValueError
        It is not a relocatable object of a kind that this understands.
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        sections = _Sections(data)
        kinds = [sections.get(k)["type"] for k in range(sections.count)]
        if kinds.count(_SYMTAB) != 1 or _SHNDX in kinds:
            raise ValueError("not an object file with one plain symbol table")
        table = kinds.index(_SYMTAB)
        new_number = _reorder(sections, table, keep)
        for number, kind in enumerate(kinds):
            if kind in (_REL, _RELA):
                _renumber(sections, number, kind, new_number)
            elif kind == _GROUP:
                old = sections.get(number)["info"]
                sections.put(number, "info", int(new_number[old]))
            elif kind == _ADDRSIG:  # a list of symbol numbers; only identical-code folding reads it
                sections.put(number, "type", _PROGBITS)


def _reorder(sections: _Sections, table: int, keep: Collection[str]) -> npt.NDArray[np.int64]:
    symbols = sections.array(table, _symbol_dtype(sections.machine))
    strings = sections.get(sections.get(table)["link"])
    names = sections.data[strings["offset"] : strings["offset"] + strings["size"]]

    def stays(symbol: np.void) -> bool:
        if symbol["info"] >> 4 < _GLOBAL_BINDING:
            return False
        start = int(symbol["name"])
        name = names[start : names.index(b"\0", start)].decode("utf-8", "replace")
        return symbol["section"] == _UNDEFINED or name in keep

    is_global = np.array([stays(symbol) for symbol in symbols])
    symbols["info"][~is_global] &= 0xF  # binding 0 is local; the type stays
    symbols["other"][~is_global] = 0  # a local symbol has default visibility
    order = np.concatenate([np.flatnonzero(~is_global), np.flatnonzero(is_global)])
    sections.store(table, symbols[order])
    sections.put(table, "info", int(np.count_nonzero(~is_global)))
    new_number = np.empty(len(order), np.int64)
    new_number[order] = np.arange(len(order))
    return new_number


def _renumber(
    sections: _Sections, number: int, kind: int, new_number: npt.NDArray[np.int64]
) -> None:
    wide = sections.machine.bits == 64
    word = sections.order + ("u8" if wide else "u4")
    fields = [("offset", word), ("info", word)] + [("addend", word)] * (kind == _RELA)
    entries = sections.array(number, np.dtype(fields))
    shift = 32 if wide else 8
    kinds = entries["info"] & ((1 << shift) - 1)
    targets = new_number[(entries["info"] >> shift).astype(np.int64)]
    entries["info"] = (targets.astype(entries["info"].dtype) << shift) | kinds
    sections.store(number, entries)
