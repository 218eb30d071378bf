"""The command line: one file a command, found by name when it is asked for.

Neither this module nor a command's imports TVM, ONNX or NumPy when it is imported: ``--help`` and
wrong arguments answer at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import TextIO

import click

from tvmconv.cli._options import State, debug_option
from tvmconv.errors import TvmconvError, signal_name
from tvmconv.versions import VERSION

#: In the order of the help; each is the module of that name.
COMMANDS = (
    "compile",
    "export",
    "run",
    "verify",
    "bench",
    "tune",
    "explain",
    "inspect",
    "log",
    "serve",
    "targets",
    "ops",
    "demo",
)

#: Exit codes that no TvmconvError stands for.
_ENVIRONMENT, _USAGE, _INTERRUPTED = 4, 2, 130
#: What ends the command line, in good order; a shell adds 128 to its number.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Commands(click.Group):
    """The group of all commands; imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"tvmconv.cli.{cmd_name}").command
        command.name = cmd_name
        return command


@click.command(
    "tvmconv",
    cls=_Commands,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 verification failed, 2 bad input, 4 environment (missing tool, "
    "unreachable board, disk full), 130 interrupted, 143 terminated.",
)
@click.version_option(VERSION, prog_name="tvmconv", message="%(prog)s %(version)s")
@debug_option
def _tvmconv() -> None:
    """Compile convolutional networks to fast native code that runs without a framework.

    A MODEL is an ONNX file, a PROBLEM is one convolution such as
    conv2d:1x64x56x56:64x3x3:padding=1.
    """


def main(argv: Sequence[str] | None = None, command: click.Command = _tvmconv) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments without the program's name; None for those of the process.
    command : click.Command
        Another program than ``tvmconv``.

    Returns
    -------
    int
        The exit code: 0 ok, 1 verification failed, 2 bad input, 4 environment, 130 interrupted,
        143 terminated.
    """
    state = State()
    for stream in (sys.stdout, sys.stderr):
        # A model's names can hold characters that the terminal's encoding lacks.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    signals: list[int] = []
    try:
        with _noting_signals(signals):
            code = _invoke(command, sys.argv[1:] if argv is None else list(argv), state)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - nothing is above this
        if state.debug:
            traceback.print_exc()
        # Through TVM's own code an interrupt comes out as another exception.
        code, message = describe_failure(KeyboardInterrupt() if signals else error)
        if signals and signals[0] != signal.SIGINT:
            code, message = 128 + signals[0], f"tvmconv: ended by {signal_name(signals[0])}"
        if isinstance(error, OSError):
            _discard(sys.stdout)
        if message:
            with suppress(OSError):  # the terminal may be gone
                print(one_line(message), file=sys.stderr)
    return code


@contextmanager
def _noting_signals(signals: list[int]) -> Iterator[None]:
    """Have whatever ends this process raise an interrupt in the body, and note which it was.

    What is to be ignored, as ``nohup`` has it, is ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        signal.default_int_handler(number, frame)

    heeded = [n for n in _ENDING if signal.getsignal(n) != signal.SIG_IGN or n == signal.SIGINT]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _invoke(command: click.Command, arguments: list[str], state: State) -> int:
    try:
        with command.make_context(command.name, arguments, obj=state) as context:
            command.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return 0


def describe_failure(error: BaseException) -> tuple[int, str]:
    """Give the exit code and the one line that stand for an exception."""
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "tvmconv"
        return _USAGE, f"{path}: {error.format_message().rstrip('.')} (see {path} --help)"
    if isinstance(error, click.ClickException):
        return _USAGE, f"tvmconv: {error.format_message()}"
    if isinstance(error, TvmconvError):
        return error.exit_code, f"tvmconv: {error}"
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return _INTERRUPTED, "tvmconv: interrupted"
    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
        return _ENVIRONMENT, ""
    if isinstance(error, MemoryError):
        return _ENVIRONMENT, "tvmconv: out of memory"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _ENVIRONMENT, f"tvmconv: {where}{error.strerror or error}"
    kind = type(error).__name__
    text = str(error).strip().partition("\n")[0][:200]
    return _ENVIRONMENT, f"tvmconv: internal error: {kind}: {text} (--debug shows where)"


def one_line(text: str) -> str:
    """Put a message on one line, with what a terminal would obey made visible."""
    spaced = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in spaced)


def _discard(stream: TextIO) -> None:
    """Stop the interpreter from writing again, at exit, what could not be written."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream without one, as in tests
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
