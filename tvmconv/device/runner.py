"""A command that runs programs elsewhere: ``qemu-aarch64-static``, ``ssh pi@board``, ``adb shell``.

The command gets a program and its arguments at its end. Where that is another machine, the files
are copied there first, into a new folder that is removed afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tvmconv.device import process, wire
from tvmconv.device.connections import CONNECTIONS, Connection
from tvmconv.device.process import Finished
from tvmconv.device.wire import Line
from tvmconv.errors import EnvironmentError_, InputError, signal_name

DEFAULT_TIMEOUT_S = 120.0
#: How long removing the folder on a machine may take that has just failed.
_CLEAN_UP_S = 2.0
#: A folder that mktemp has made, and so one that may be removed.
_FOLDER = re.compile(r"/[A-Za-z0-9._/-]+/tvmconv\.[A-Za-z0-9]{6}")
_NOTE_BYTES = 1 << 16
#: What shells say of a program that is for another processor: some take it for a script.
_NOT_ITS_KIND = re.compile(r"exec format error|cannot execute|syntax error|not executable", re.I)


class RunnerError(EnvironmentError_):
    """The command, the machine behind it, or the connection has failed."""


class RunnerOverrun(RunnerError):
    """One use of it did not end in time."""


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
            named = os.sep in words[0] and Path(words[0]).is_file()
            why = "is not executable" if named else "not found"
            raise EnvironmentError_(f"runner: {words[0]}: {why}")
        self.command, self.timeout_s, self.machines = command, timeout_s, machines
        self._words, self._abandoned = words, threading.Event()
        connect = CONNECTIONS.get(Path(words[0]).name)
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
            if _NOT_ITS_KIND.search(told):
                told += " (as if the program were for another kind of machine)"
            raise self.failed(f"{'was ended by' if done.code < 0 else 'exited with'} {how}{told}")
        return done
