"""Commands that reach another machine, ``ssh`` and ``adb shell``, and copies of files there."""

from __future__ import annotations

import getopt
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmconv.errors import InputError

#: Options of ssh, each with a colon if it takes a value; and those of which scp knows only the
#: name that they have in the configuration.
_SSH_OPTIONS = "1246AaB:b:Cc:D:E:e:F:fGgI:i:J:KkL:l:Mm:NnO:o:P:p:Q:qR:S:sTtVvW:w:XxYy"
_SCP_NAMES = {"-B": "BindInterface", "-b": "BindAddress", "-l": "User", "-m": "MACs",
              "-S": "ControlPath"}  # fmt: skip
_ADB_VALUES = ("-s", "-t", "-H", "-P", "-L")


@dataclass(frozen=True)
class Connection:
    """Another machine.

    Attributes
    ----------
    shell : tuple of str
        Runs a line of its shell, which comes last.
    copy : callable
        ``copy(files, folder)`` is the command that copies files there.
    parent : str
        Where a folder can be made.
    before : tuple of str
        Words that go before a program there.
    """

    shell: tuple[str, ...]
    copy: Callable[[Sequence[str], str], list[str]]
    parent: str
    before: tuple[str, ...]


def _ssh(words: list[str], command: str) -> Connection:
    options, rest = _options(words[1:], command)
    if not rest:
        raise InputError(f"runner: {command!r} names no host")
    host, port = _host(rest[0], command)
    # As ssh itself does, unless "--" has ended them: options may also follow the host.
    ended = words[len(words) - len(rest) - 1] == "--"
    more, before = ([], rest[1:]) if ended else _options(rest[1:], command)
    options = [("-o", "BatchMode=yes"), *options, *more, *port]
    scp_options = [("-q", ""), *filter(None, itertools.starmap(_for_scp, options))]
    scp = str(Path(words[0]).with_name("scp")) if "/" in words[0] else "scp"
    user, at, name = host.rpartition("@")
    place = f"{user}{at}[{name}]" if ":" in name else host

    def copy(files: Sequence[str], folder: str) -> list[str]:
        return [scp, *_words(scp_options), *files, f"{place}:{folder}/"]

    return Connection((words[0], *_words(options), host), copy, "/tmp", tuple(before))


def _options(words: list[str], command: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Options of ssh with their values, and what follows them."""
    try:
        return getopt.getopt(words, _SSH_OPTIONS)
    except getopt.GetoptError as error:
        raise InputError(f"runner: {command!r} cannot be read: {error}") from None


def _words(options: Iterable[tuple[str, str]]) -> list[str]:
    return [word for option in options for word in option if word]


def _host(text: str, command: str) -> tuple[str, list[tuple[str, str]]]:
    """A host as ssh takes it, and the option for its port: of ``ssh://``, or with brackets."""
    port: list[tuple[str, str]] = []
    if text.startswith("ssh://"):
        text, colon, number = text[len("ssh://") :].rstrip("/").rpartition(":")
        if not colon or "]" in number:
            text += colon + number
        else:
            port = [("-p", number)]
    user, at, name = text.rpartition("@")
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if not name or (user or name).startswith("-"):
        raise InputError(f"runner: {command!r} names no host")
    return f"{user}{at}{name}", port


def _for_scp(option: str, value: str) -> tuple[str, str] | None:
    """An option of ssh as scp spells it; None for those that it has no use for."""
    if option in _SCP_NAMES:
        return "-o", f"{_SCP_NAMES[option]}={value}"
    if option == "-p":
        return "-P", value
    return (option, value) if option[1] in "46CcFiJo" else None


def _adb(words: list[str], command: str) -> Connection:
    position = _after_options(words, 1, _ADB_VALUES)
    if words[position : position + 1] != ["shell"]:
        raise InputError(f"runner: {command!r} is not `adb shell`")
    base, end = words[:position], _after_options(words, position + 1, ("-e",))

    def copy(files: Sequence[str], folder: str) -> list[str]:
        return [*base, "push", *files, f"{folder}/"]

    return Connection(tuple(words[:end]), copy, "/data/local/tmp", tuple(words[end:]))


def _after_options(words: list[str], position: int, with_value: Sequence[str]) -> int:
    """Where the options end that begin at a position; some have a word of their own as value."""
    while position < len(words) and words[position].startswith("-"):
        position += 2 if words[position] in with_value else 1
    return position


#: The commands that reach another machine; all others see the files of this one.
CONNECTIONS: dict[str, Callable[[list[str], str], Connection]] = {"ssh": _ssh, "adb": _adb}
