"""Parts of messages that come from a file: quoted, escaped, short; a message stays one line."""

from __future__ import annotations


def quoted(text: object, limit: int = 80) -> str:
    """Return ``'text'`` with control characters escaped, shortened to ``limit`` characters."""
    shown = repr(str(text))
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"


def value(item: object, limit: int = 60) -> str:
    """Return a Python value's ``repr``, on one line and shortened to ``limit`` characters."""
    shown = " ".join(repr(item).split())
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
