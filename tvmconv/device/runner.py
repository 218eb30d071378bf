"""A command that runs programs elsewhere: ``qemu-aarch64-static``, ``ssh pi@board``, ``adb shell``.

The command gets a program and its arguments at its end. Where that is another machine, the files
are copied there first, into a new folder that is removed afterwards.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmconv.device import process, wire
from tvmconv.device.process import Finished, signal_name
from tvmconv.device.wire import Line
from tvmconv.errors import EnvironmentError_, InputError

DEFAULT_TIMEOUT_S = 120.0
#: How long removing the folder on a machine may take that has just failed.
_CLEAN_UP_S = 2.0
#: A folder that mktemp has made, and so one that may be removed.
_FOLDER = re.compile(r"/[A-Za-z0-9._/-]+/tvmconv\.[A-Za-z0-9]{6}")
_NOTE_BYTES = 1 << 16
#: Options of ssh that take a value, as the next word if it is not in the same.
_SSH_VALUES = "BbcDEeFIiJLlmOoPpQRSWw"
_ADB_VALUES = ("-s", "-t", "-H", "-P", "-L")


class RunnerError(EnvironmentError_):
    """The command, the machine behind it, or the connection has failed."""


class RunnerOverrun(RunnerError):
    """One use of it did not end in time."""


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
    options, scp_options = ["-o", "BatchMode=yes"], ["-q", "-o", "BatchMode=yes"]
    position = 1
    while position < len(words) and words[position].startswith("-"):
        word = words[position]
        own = [word]
        if word[1:2] in _SSH_VALUES and len(word) == 2:
            position += 1
            own += words[position : position + 1]
        options += own
        scp_options += _for_scp(own)
        position += 1
    if position >= len(words):
        raise InputError(f"runner: {command!r} names no host")
    host = words[position]
    scp = str(Path(words[0]).with_name("scp")) if "/" in words[0] else "scp"

    def copy(files: Sequence[str], folder: str) -> list[str]:
        return [scp, *scp_options, *files, f"{host}:{folder}/"]

    shell = (words[0], *options, host)
    return Connection(shell, copy, "/tmp", tuple(words[position + 1 :]))


def _for_scp(own: list[str]) -> list[str]:
    """An option of ssh as scp spells it; nothing for those that it has no use for."""
    letter, value = own[0][1:2], (own[0][2:] or "".join(own[1:]))
    if letter == "p":
        return ["-P", value]
    if letter == "l":
        return ["-o", f"User={value}"]
    if letter in "cFiJo":
        return [f"-{letter}", value]
    return own if letter in "46C" else []


def _adb(words: list[str], command: str) -> Connection:
    position = 1
    while position < len(words) and words[position].startswith("-"):
        position += 2 if words[position] in _ADB_VALUES else 1
    if words[position : position + 1] != ["shell"]:
        raise InputError(f"runner: {command!r} is not `adb shell`")
    base = words[:position]

    def copy(files: Sequence[str], folder: str) -> list[str]:
        return [*base, "push", *files, f"{folder}/"]

    return Connection((*base, "shell"), copy, "/data/local/tmp", tuple(words[position + 1 :]))


#: The commands that reach another machine; all others see the files of this one.
_CONNECTIONS: dict[str, Callable[[list[str], str], Connection]] = {"ssh": _ssh, "adb": _adb}


class Runner:
    """Runs programs by a command.

    Parameters
    ----------
    command : str
        As in a shell: words, with quotes where one has a space.
    timeout_s : float
        How long one use of it may take, copying included.
    words : sequence of str, optional
        The words, if ``command`` is only what it is called.
    machines : int
        How many programs can run at a time, each on a machine of its own.

    Raises
    ------
    InputError
        The command or the time is none.
    EnvironmentError_
        There is no such program.
    """

    def __init__(
        self,
        command: str,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        words: Sequence[str] | None = None,
        machines: int = 1,
    ) -> None:
        try:
            words = shlex.split(command) if words is None else list(words)
        except ValueError as error:
            raise InputError(f"runner: {command!r} cannot be read: {error}") from None
        if not words or "\0" in command:
            raise InputError(f"runner: {command!r} is no command")
        if not 0 < timeout_s < threading.TIMEOUT_MAX:
            raise InputError(f"timeout: {timeout_s:g} is no number of seconds")
        if shutil.which(words[0]) is None:
            raise EnvironmentError_(f"runner: {words[0]}: not found")
        self.command, self.timeout_s, self.machines = command, timeout_s, machines
        self._words, self._abandoned = words, threading.Event()
        connect = _CONNECTIONS.get(Path(words[0]).name)
        self._connection = connect(words, command) if connect else None

    def run(
        self,
        program: Path,
        arguments: Sequence[str | Path],
        data_bytes: int,
        beside: Sequence[Path] = (),
    ) -> list[Line]:
        """Run a program and read what it prints.

        Parameters
        ----------
        program : Path
        arguments : sequence of str or Path
            Paths are files of this machine, which the program gets as files of its own.
        data_bytes : int
            How much data it will send.
        beside : sequence of Path
            Other files of the program's folder that it needs.

        Raises
        ------
        RunnerError
            One line: it cannot be started, fails, does not end in time
            (:class:`RunnerOverrun`), or prints something else.
        """
        deadline = time.monotonic() + self.timeout_s
        limit = wire.output_limit(data_bytes)
        try:
            if self._connection is None:
                command = [*self._words, str(program), *map(str, arguments)]
                done = self._execute(command, deadline, limit)
            else:
                files = [program, *beside, *(a for a in arguments if isinstance(a, Path))]
                done = self._remote(self._connection, files, arguments, deadline, limit)
            return wire.parse(done.output)
        except wire.BadOutput as error:
            raise self.failed(str(error)) from None

    def abandon(self) -> None:
        """End what runs, in whatever thread, and everything that is run later."""
        self._abandoned.set()

    def failed(self, why: str) -> RunnerError:
        """The error that says that this runner is at fault, and why."""
        return RunnerError(self._told(why))

    def _told(self, why: str) -> str:
        return f"runner {self.command!r}: {why}"

    def _remote(
        self,
        connection: Connection,
        files: Sequence[Path],
        arguments: Sequence[str | Path],
        deadline: float,
        limit: int,
    ) -> Finished:
        """Copy files, and run the first of them."""
        made = f"mktemp -d {connection.parent}/tvmconv.XXXXXX"
        done = self._execute([*connection.shell, made], deadline, _NOTE_BYTES)
        lines = done.output.decode("utf-8", "replace").split()
        if not lines or not _FOLDER.fullmatch(lines[-1]) or ".." in lines[-1]:
            raise self.failed(f"made no folder, but said {' '.join(lines)[:80]!r}")
        folder, finished = lines[-1], False
        try:
            distinct = {path.name: path for path in files}
            copy = connection.copy(list(map(str, distinct.values())), folder)
            self._execute(copy, deadline, _NOTE_BYTES)
            program, *rest = files[0].name, *arguments
            words = [f"{folder}/{word.name}" if isinstance(word, Path) else word for word in rest]
            command = shlex.join([*connection.before, f"{folder}/{program}", *words])
            clean = shlex.join(["rm", "-rf", folder])
            line = f"chmod 755 {folder}/{program}; {command}; code=$?; {clean}; exit $code"
            done = self._execute([*connection.shell, line], deadline, limit)
            finished = True
        finally:
            if not finished:
                self._clean_up([*connection.shell, f"rm -rf {folder}"])
        return done

    def _clean_up(self, command: Sequence[str]) -> None:
        """Remove the folder there, if that machine still answers."""
        with contextlib.suppress(process.Overdue, process.TooMuch, OSError):
            process.execute(command, time.monotonic() + _CLEAN_UP_S, _NOTE_BYTES)

    def _execute(self, command: Sequence[str], deadline: float, limit: int) -> Finished:
        """Run a command of this machine, which must succeed."""
        try:
            done = process.execute(command, deadline, limit, self._abandoned)
        except process.Overdue:
            if self._abandoned.is_set():
                raise self.failed("was given up") from None
            late = self._told(f"did not end within {self.timeout_s:g} s (--timeout)")
            raise RunnerOverrun(late) from None
        except process.TooMuch:
            raise self.failed(f"printed more than {limit} bytes") from None
        except OSError as error:
            raise self.failed(f"cannot be started: {error.strerror}") from None
        if done.code:
            how = signal_name(-done.code) if done.code < 0 else f"code {done.code}"
            told = f": {done.last_error}" if done.last_error else ""
            raise self.failed(f"{'was ended by' if done.code < 0 else 'exited with'} {how}{told}")
        return done
