"""Frozen dataclasses from tables that people write: every key and type checked, none ignored."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypeVar, get_args, get_type_hints

from tvmconv.names import nearest

Record = TypeVar("Record")


def require(condition: bool, key: str, why: str) -> None:
    """Raise ``ValueError("key: why")`` unless the condition holds.

    For ``__post_init__`` of a record; whoever reads the file adds its name.
    """
    if not condition:
        raise ValueError(f"{key}: {why}")


def from_table(cls: type[Record], table: Any, prefix: str = "") -> Record:
    """Build a dataclass, and those in its fields, from a table.

    Parameters
    ----------
    cls : type
        A dataclass whose fields are ``str``, ``int``, ``float``, ``bool``, homogeneous tuples of
        these, dataclasses, or one of them or None.
    table : dict
        Parsed TOML or JSON.
    prefix : str
        What stands before a key in messages.

    Raises
    ------
    ValueError
        If a key is missing, unknown or has a value of another type, or the dataclass refuses it;
        the message begins with the key.
    """
    require(isinstance(table, dict), prefix.rstrip("."), "must be a table")
    kinds = get_type_hints(cls)
    for key in table:
        require(key in kinds, f"{prefix}{key}", f"unknown key{nearest(str(key), kinds)}")
    for spec in dataclasses.fields(cls):  # type: ignore[arg-type]
        given = spec.name in table or spec.default is not dataclasses.MISSING
        require(given, f"{prefix}{spec.name}", "is missing")
    return cls(**{key: _value(value, kinds[key], prefix + key) for key, value in table.items()})


def _value(value: Any, kind: Any, key: str) -> Any:
    """Check one value against a field's type and convert it."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return from_table(kind, value, f"{key}.")
    arguments = get_args(kind)
    if type(None) in arguments:
        return _value(value, arguments[0], key)
    if arguments:
        return _items(value, arguments, key)
    ok = isinstance(value, kind) or (kind is float and isinstance(value, int))
    # A bool is an int to Python, but `cores = true` is a mistake.
    ok = ok and (kind is bool or not isinstance(value, bool))
    require(ok, key, f"{value!r} is not of type {kind.__name__}")
    return kind(value)


def _items(value: Any, kinds: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    """Check a list against the arguments of a homogeneous tuple type: (T, ...) or (T, T)."""
    require(isinstance(value, (list, tuple)), key, f"{value!r} is not a list")
    count = len(value) if kinds[-1] is Ellipsis else len(kinds)
    require(len(value) == count, key, f"{value!r} has not {count} items")
    return tuple(_value(item, kinds[0], key) for item in value)


def to_toml(table: dict[str, Any]) -> str:
    """Write a table of strings, numbers, booleans, lists of these and one level of sub-tables."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]"]
            lines += [f"{name} = {_toml_value(item)}" for name, item in value.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's too, but for DEL in a string.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
