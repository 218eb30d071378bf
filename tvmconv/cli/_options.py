"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tvmconv.errors import InputError
from tvmconv.target import LIBCS

if TYPE_CHECKING:
    from tvmconv.device import Runner

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Decorator = Callable[[_Function], _Function]

MAX_THREADS = 1024


@dataclass
class State:
    """What the top level has to know of a command's options."""

    debug: bool = False


def _set_debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(State).debug = True


def _pairs(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, Path]:
    """Split each NAME=FILE at its last ``=``: names of tensors may have one, or be odd."""
    files: dict[str, Path] = {}
    for value in values:
        name, equals, file = value.rpartition("=")
        if not equals or not name or not file:
            raise click.BadParameter(f"{value!r} is not NAME=FILE.npy")
        if name in files:
            raise click.BadParameter(f"{name!r} is given twice")
        files[name] = Path(file)
    return files


debug_option: _Decorator[Any] = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_set_debug,
    help="Show a traceback with an error.",
)
json_option: _Decorator[Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of a table."
)
target_option: _Decorator[Any] = click.option(
    "--target",
    metavar="T",
    default="host",
    show_default=True,
    help="A name from `tvmconv targets`, `host` to detect, or the path of a .toml file.",
)


def output_option(metavar: str, what: str) -> _Decorator[Any]:
    """The option for what a command writes."""
    return click.option(
        "-o",
        "--output",
        metavar=metavar,
        required=True,
        type=click.Path(path_type=Path),
        help=what,
    )


libc_option: _Decorator[Any] = click.option(
    "--libc",
    type=click.Choice(LIBCS),
    help="The C library of the system that runs it; the target's if not given.",
)
threads_option: _Decorator[Any] = click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, MAX_THREADS),
    help="Threads to run with; the target's cores if not given.",
)
batch_option: _Decorator[Any] = click.option(
    "--batch",
    metavar="N",
    type=click.IntRange(1),
    help="Size of the batch for a model that leaves it open.",
)
params_option: _Decorator[Any] = click.option(
    "--params",
    metavar="FILE.npz",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For a PROBLEM: arrays `weight` and `bias`, which become constants.",
)
input_option: _Decorator[Any] = click.option(
    "--input",
    "inputs",
    metavar="NAME=x.npy",
    multiple=True,
    callback=_pairs,
    help="The array for one input; repeat it for each.",
)
log_option: _Decorator[Any] = click.option(
    "--log",
    metavar="DIR",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder of a tuning log to use besides the usual ones; can be repeated.",
)
untuned_option: _Decorator[Any] = click.option(
    "--untuned", is_flag=True, help="Use no tuning log, not even the shipped ones."
)
precision_option: _Decorator[Any] = click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="What a model's activations and weights are stored in; sums are float32.",
)
tf32_option: _Decorator[Any] = click.option(
    "--allow-tf32",
    is_flag=True,
    help="For a GPU: let tensor cores round float32 to TF32, 10 bits after the point, to multiply.",
)
exact_option: _Decorator[Any] = click.option(
    "--exact",
    is_flag=True,
    help="Compute convolutions directly, never on transformed tiles, which round more.",
)


@dataclass(frozen=True)
class BuildOptions:
    """How a model or problem is compiled."""

    threads: int | None
    log: tuple[Path, ...]
    untuned: bool
    exact: bool
    batch: int | None
    params: Path | None

    def arguments(self) -> dict[str, Any]:
        """These options as the package's functions take them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["tuned"] = not values.pop("untuned")
        return values


def build_options(command: _Function) -> Callable[..., Any]:
    """Give a command the options of :class:`BuildOptions`, as its argument ``build``."""

    @functools.wraps(command)
    def collecting(**values: Any) -> Any:
        names = [field.name for field in fields(BuildOptions)]
        build = BuildOptions(**{name: values.pop(name) for name in names})
        return command(**values, build=build)

    made: Callable[..., Any] = collecting
    for option in (
        params_option, batch_option, exact_option, untuned_option, log_option, threads_option
    ):  # fmt: skip
        made = option(made)
    return made


runner_option: _Decorator[Any] = click.option(
    "--runner",
    metavar="CMD",
    help='Run elsewhere, by a command that gets a program: "qemu-aarch64-static", "ssh pi@board",'
    ' "adb shell".',
)
timeout_option: _Decorator[Any] = click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, 1e6, min_open=True),
    help="How long one use of the runner may take; 120 if not given.",
)


def make_runner(command: str | None, timeout: float | None) -> Runner | None:
    """The runner of these options; None without one.

    Raises
    ------
    InputError
        The command is none, or there is a time without one.
    EnvironmentError_
        It is not to be found.
    """
    if command is None:
        if timeout is not None:
            raise InputError("timeout: is for a runner, and there is none (--runner)")
        return None
    from tvmconv.device import DEFAULT_TIMEOUT_S, Runner

    return Runner(command, timeout or DEFAULT_TIMEOUT_S)


def model_source(text: str) -> str | Path:
    """Tell a MODEL from a PROBLEM, and refuse what is neither, without reading the model.

    Parameters
    ----------
    text : str
        The command-line argument.

    Returns
    -------
    Path or str
        A file that exists, the name of a light network, or the text of a valid problem.

    Raises
    ------
    InputError
        If there is no such file and the text is no problem.
    """
    if not text:
        raise InputError("the name of the model or problem is empty")
    path = Path(text)
    if path.name == text and text.startswith("light_") and not path.exists():
        from tvmconv.models import resolve

        if Path(resolve(text)).is_file():
            return path  # one of the onnx package's networks: whoever loads it resolves the name
    try:
        if path.is_file():
            return path
        exists = path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be searched
        exists, reason = False, error.strerror
    else:
        reason = "is a directory" if path.is_dir() else "is not a regular file"
    if exists:
        raise InputError(f"{text}: {reason}")
    if ":" in text and "/" not in text and path.suffix != ".onnx":
        from tvmconv.problem import Problem

        Problem.parse(text)
        return text
    raise InputError(f"{text}: no such file")
