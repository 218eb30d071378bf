"""Arguments, exit codes and messages of the command line, without compiling anything."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

import tvmconv.compiler
from tvmconv.cli import COMMANDS, describe_failure, main, one_line
from tvmconv.cli._output import print_table, progress_bar, to_json
from tvmconv.errors import EnvironmentError_, InputError, VerificationError
from tvmconv.target import targets
from tvmconv.versions import VERSION

PROBLEM = "conv2d:1x3x8x8:4x3x3"
OTHER_COMMANDS = [("targets", "show"), ("targets", "detect")]


@pytest.mark.parametrize("command", [(), *((c,) for c in COMMANDS), *OTHER_COMMANDS], ids="-".join)
def test_help(
    tvmconv: Callable[..., Any], snapshot: Callable[[str, str], None], command: tuple[str, ...]
) -> None:
    result = tvmconv(*command, "--help")
    assert (result.code, result.err) == (0, "")
    snapshot("-".join(("help", *command)), result.out)


def test_version(tvmconv: Callable[..., Any]) -> None:
    assert tvmconv("--version").out == f"tvmconv {VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "tvmconv: Missing command"),
        (("frob",), 2, "tvmconv: No such command 'frob'"),
        (("--frob",), 2, "tvmconv: No such option"),
        (("compile",), 2, "tvmconv compile: Missing argument 'MODEL.onnx|PROBLEM'"),
        (("compile", PROBLEM), 2, "tvmconv compile: Missing option '-o' / '--output'"),
        (("compile", "nosuch.onnx", "-o", "x.so"), 2, "tvmconv: nosuch.onnx: no such file"),
        (("compile", "a/b:c", "-o", "x.so"), 2, "tvmconv: a/b:c: no such file"),
        (("compile", "no\nsuch", "-o", "x.so"), 2, "tvmconv: no such: no such file"),
        (("compile", "n" * 300, "-o", "x.so"), 2, f"tvmconv: {'n' * 300}: no such file"),
        (("compile", "", "-o", "x.so"), 2, "tvmconv: the name of the model or problem is empty"),
        (("compile", ".", "-o", "x.so"), 2, "tvmconv: .: is a directory"),
        (("compile", os.devnull, "-o", "x.so"), 2, "tvmconv: /dev/null: is not a regular file"),
        (("compile", "cnv2d:1x3x8x8:4x3x3", "-o", "x.so"), 2, "unknown operator 'cnv2d'"),
        (("compile", f"{PROBLEM}:dilation=0", "-o", "x.so"), 2, "dilation"),
        (("compile", PROBLEM, "-o", "."), 2, "tvmconv: .: is a directory"),
        (("compile", PROBLEM, "-o", "nosuch/x.so"), 2, "nosuch/x.so: nosuch is not a directory"),
        (("compile", PROBLEM, "-o", os.devnull), 2, "/dev/null: is not a regular file"),
        (("compile", PROBLEM, "-o", "/proc/x.so"), 4, "/proc/x.so: cannot be written: "),
        (("compile", PROBLEM, "-o", "x.so", "--target", "znver33"), 2, "did you mean znver3"),
        (("compile", PROBLEM, "-o", "x.so", "--target", "./n.toml"), 2, "n.toml: No such file"),
        (("compile", PROBLEM, "-o", "x.so", "--threads", "0"), 2, "'--threads': 0 is not in the"),
        (("compile", PROBLEM, "-o", "x.so", "--threads", "9999"), 2, "'--threads': 9999 is not"),
        (("compile", PROBLEM, "-o", "x.so", "--batch", "-1"), 2, "'--batch': -1 is not in the"),
        (("compile", PROBLEM, "-o", "x.so", "--format", "exe"), 2, "'exe' is not one of 'shared'"),
        (("compile", PROBLEM, "-o", "x.so", "--dump", "sass"), 2, "'sass' is not one of 'asm'"),
        (("compile", PROBLEM, "-o", "x.so", "--params", "nosuch"), 2, "'nosuch' does not exist"),
        (("verify", "nosuch.onnx"), 2, "tvmconv: nosuch.onnx: no such file"),
        (("bench",), 2, "tvmconv bench: Missing argument"),
        (("bench", PROBLEM, "nosuch.onnx"), 2, "tvmconv: nosuch.onnx: no such file"),
        (("bench", PROBLEM, "--json", "nosuch/f.json"), 2, "nosuch is not a directory"),
        (("bench", PROBLEM, "--rounds", "0"), 2, "'--rounds': 0 is not in the range"),
        (("run", "x.so", "--input", "x.npy"), 2, "'--input': 'x.npy' is not NAME=FILE.npy"),
        (("run", "x.so", "--input", "=x.npy"), 2, "'=x.npy' is not NAME=FILE.npy"),
        (("run", "x.so", "--input", "x=1", "--input", "x=2"), 2, "'x' is given twice"),
        (("run", "x.so", "--seed", "-1"), 2, "'--seed': -1 is not in the range"),
        (("targets", "show"), 2, "tvmconv targets show: Missing argument 'NAME'"),
        (("targets", "show", "zen33"), 2, "did you mean zen3"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_wrong_arguments(
    tvmconv: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tvmconv(*arguments)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert result.err.endswith("\n")
    assert list(tmp_path.iterdir()) == []


def test_output_may_not_replace_the_model(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"a model")
    result = tvmconv("compile", model, "-o", tmp_path / "." / "model.onnx")
    assert result.code == 2
    assert "would replace the model" in result.err
    assert model.read_bytes() == b"a model"


def failing(error: BaseException) -> Callable[..., Path]:
    def compile_to_file(*_: Any, **__: Any) -> Path:
        raise error

    return compile_to_file


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("m.onnx: node 'a': pads"), 2, "tvmconv: m.onnx: node 'a': pads"),
        (VerificationError("differs"), 1, "tvmconv: differs"),
        (EnvironmentError_("zig is missing"), 4, "tvmconv: zig is missing"),
        (KeyboardInterrupt(), 130, "tvmconv: interrupted"),
        (click.Abort(), 130, "tvmconv: interrupted"),
        (MemoryError(), 4, "tvmconv: out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 4, "tvmconv: No space left on device"),
        (PermissionError(errno.EACCES, "Denied", "/x"), 4, "tvmconv: /x: Denied"),
        (
            ZeroDivisionError("division\nby zero"),
            4,
            "tvmconv: internal error: ZeroDivisionError: division (--debug shows where)",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_failure_has_its_code_and_one_line(
    tvmconv: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    monkeypatch.setattr(sys.modules["tvmconv.compiler"], "compile_to_file", failing(error))
    arguments = ("compile", PROBLEM, "-o", tmp_path / "x.so")
    result = tvmconv(*arguments)
    assert (result.code, result.out, result.err) == (code, "", line + "\n")
    debugged = tvmconv(*arguments, "--debug")
    assert debugged.code == code
    assert debugged.err.startswith("Traceback")
    assert debugged.err.endswith(line + "\n")
    assert tvmconv("--debug", *arguments).err.startswith("Traceback")


def test_a_message_cannot_steer_the_terminal() -> None:
    assert one_line("a\x1b[2J\r\nb\t\u202ec é") == "a\\x1b[2J b \\u202ec é"


def test_broken_pipe_is_silent() -> None:
    assert describe_failure(BrokenPipeError()) == (4, "")


def test_compile_hands_over_its_options(
    tvmconv: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def compile_to_file(model: Any, output: Path, **options: Any) -> Path:
        seen.update(options, model=model, output=output)
        output.write_bytes(b"x" * 2_000_000)
        return output

    monkeypatch.setattr(sys.modules["tvmconv.compiler"], "compile_to_file", compile_to_file)
    params = tmp_path / "w.npz"
    params.touch()
    output = tmp_path / "x.so"
    result = tvmconv(
        *("compile", PROBLEM, "-o", output, "--target", "zen3", "--threads", 3),
        *("--format", "static", "--dump", "asm", "--dump", "c", "--batch", 2, "--params", params),
        *("--untuned", "--exact", "--split-separable", "--precision", "float16"),
    )
    assert result.err == ""
    assert result.out.startswith(f"{output}: 2.0 MB for znver3, compiled in ")
    assert seen == {
        "model": PROBLEM,
        "output": output,
        "target": targets()["znver3"],
        "threads": 3,
        "format": "static",
        "batch": 2,
        "params": params,
        "dump": {"asm": tmp_path / "x.s", "c": tmp_path / "x.plan.c"},
        "log": None,
        "tuned": False,
        "precision": "float16",
        "exact": True,
        "allow_tf32": False,
        "split_separable": True,
        "progress": None,
        "images": None,
    }


class Report(SimpleNamespace):
    """As much of a report as the command line asks for."""

    failures = ()
    fault = "a fault"

    def to_json(self) -> dict[str, Any]:
        return {"worst": float("nan"), "ok": getattr(self, "ok", True)}

    def table(self) -> str:
        return "a table"

    def lines(self) -> list[str]:
        return ["a line"]

    def tables(self) -> list[str]:
        return ["a table"]


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_verify(
    tvmconv: Callable[..., Any], stub: Callable[..., None], ok: bool, code: int
) -> None:
    seen: dict[str, Any] = {}

    def verify(model: Any, **options: Any) -> Report:
        seen.update(options, model=model)
        return Report(ok=ok)

    stub("tvmconv.verify", verify=verify)
    result = tvmconv("verify", PROBLEM, "--bisect", "--target", "avx2")
    assert (result.code, result.out) == (code, "a table\n")
    assert ("a fault" in result.err) == (not ok)
    assert seen["model"] == PROBLEM
    assert seen["bisect"] is True
    assert seen["target"].name == "x86-64-v3"
    result = tvmconv("verify", PROBLEM, "--json")
    assert (result.code, json.loads(result.out)) == (code, {"worst": None, "ok": ok})


def test_bench(tvmconv: Callable[..., Any], stub: Callable[..., None], tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def bench_models(models: Any, **options: Any) -> Report:
        seen.update(options, models=models)
        return Report(disagreements=[])

    stub("tvmconv.bench", bench_models=bench_models)
    file = tmp_path / "f.json"
    result = tvmconv("bench", PROBLEM, "--against", "b, a,b", "--json", file, "--layers")
    assert (result.code, result.out, result.err) == (0, "a line\na table\n", "")
    assert json.loads(file.read_text()) == {"worst": None, "ok": True}
    assert list(tmp_path.iterdir()) == [file]
    assert (seen["models"], seen["against"], seen["layers"]) == ([PROBLEM], ("b", "a"), True)
    result = tvmconv("bench", PROBLEM, "--json", "-")
    assert json.loads(result.out) == {"worst": None, "ok": True}


def test_bench_of_different_outputs_fails(
    tvmconv: Callable[..., Any], stub: Callable[..., None]
) -> None:
    report = Report(disagreements=["m: peer: differs"])
    stub("tvmconv.bench", bench_models=lambda *_, **__: report)
    result = tvmconv("bench", PROBLEM)
    assert (result.code, result.err) == (1, "tvmconv: m: peer: differs\n")


def test_demo(tvmconv: Callable[..., Any], stub: Callable[..., None], tmp_path: Path) -> None:
    seen: list[Any] = []
    stub("tvmconv.demo", run_demo=lambda folder, threads: seen.append((folder, threads)))
    folder = tmp_path / "a" / "b"
    assert tvmconv("demo", "--output-dir", folder, "--threads", 2).code == 0
    assert seen == [(folder, 2)]
    assert folder.is_dir()


def test_inspect(tvmconv: Callable[..., Any], stub: Callable[..., None]) -> None:
    facts = {
        "target": "znver3",
        "peak_bytes": 1024,
        "inputs": [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}],
        "versions": {"tvm": "0.27"},
    }
    stub("tvmconv.runtime.inspect", inspect_artifact=lambda path: facts)
    assert tvmconv("inspect", "x.so").out == (
        "target: znver3\n"
        "peak_bytes: 1024\n"
        "inputs:\n"
        "name  shape    dtype\n"
        "x     1 3 8 8  float32\n"
        "versions:\n"
        "  tvm: 0.27\n"
    )
    assert json.loads(tvmconv("inspect", "x.so", "--json").out) == facts


def test_targets(tvmconv: Callable[..., Any]) -> None:
    listed = tvmconv("targets").out.splitlines()
    assert [line.split()[0] for line in listed] == ["target", *targets()]
    assert [t["name"] for t in json.loads(tvmconv("targets", "--json").out)] == list(targets())


def test_targets_show(tvmconv: Callable[..., Any], repository: Path, tmp_path: Path) -> None:
    file = repository / "targets" / "znver3.toml"
    assert tvmconv("targets", "show", "milan").out == file.read_text(encoding="utf-8")
    assert json.loads(tvmconv("targets", "show", "zen3", "--json").out)["cores"] == 8
    copy = tmp_path / "my.toml"
    copy.write_text(file.read_text(encoding="utf-8").replace("cores = 8 ", "cores = 5 "))
    assert "\ncores = 5\n" in tvmconv("targets", "show", copy).out


def test_targets_detect(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "this.toml"
    file.write_text(tvmconv("targets", "detect").out)
    detected = json.loads(tvmconv("targets", "detect", "--json").out)
    assert json.loads(tvmconv("targets", "show", file, "--json").out) == detected
    assert json.loads(tvmconv("targets", "show", "host", "--json").out) == detected


def test_ops(tvmconv: Callable[..., Any]) -> None:
    listed = tvmconv("ops").out
    records = {record["name"]: record for record in json.loads(tvmconv("ops", "--json").out)}
    assert [line.split()[0] for line in listed.splitlines()] == ["operator", *records]
    assert records["conv"]["onnx"] == ["Conv"]
    assert records["conv"]["ranks"] == [1, 2, 3]
    assert records["conv"]["problem"] is True
    assert records["relu"]["problem"] is False


def test_table_without_a_terminal_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "n"), [("a[b]:c:", 1.0), ("x" * 100, 22.5)])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{'name':100}     n", f"{'a[b]:c:':100}     1", f"{'x' * 100}  22.5"]


def test_json_has_no_nan() -> None:
    data = {"a": [1.5, float("inf"), (float("nan"), 2)]}
    assert json.loads(to_json(data)) == {"a": [1.5, None, [None, 2]]}


def test_progress_is_drawn_only_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_bar() as progress:
        assert progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar() as progress:
        assert progress is not None
        progress("compiling [kernels]", 1, 2)
        progress("a phase of unknown length", 0, 0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "unknown length" in captured.err


def test_main_takes_the_arguments_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tvmconv", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"tvmconv {VERSION}\n"


def python(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (("--help",), {"tvm", "onnx", "numpy", "rich"}),
        (("compile", "--help"), {"tvm", "onnx", "numpy", "rich"}),
        (("compile", "nosuch.onnx"), {"tvm", "onnx", "numpy", "rich"}),
        (("compile", "nosuch.onnx", "-o", "x.so"), {"tvm", "onnx", "numpy", "rich"}),
        (("bench", "nosuch.onnx", "--against", "torch"), {"tvm", "onnx", "numpy", "torch"}),
        (("compile", "conv2d:1x3x8x8:4x3x3:stride=0", "-o", "x.so"), {"tvm", "onnx"}),
        (("run", "nosuch.so"), {"tvm", "onnx"}),
        (("inspect", "nosuch.so"), {"tvm", "onnx"}),
        (("targets",), {"tvm", "onnx", "numpy"}),
        (("targets", "detect"), {"tvm", "onnx", "numpy"}),
        (("ops",), {"tvm", "onnx"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_answers_without_importing(arguments: tuple[str, ...], heavy: set[str]) -> None:
    log = python("-X", "importtime", "-m", "tvmconv", *arguments).stderr
    lines = [line for line in log.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "tvmconv" in imported
    assert imported & heavy == set()


def test_package_imports_nothing_heavy() -> None:
    code = "import sys, tvmconv; print([m for m in ('tvm', 'onnx', 'numpy') if m in sys.modules])"
    assert python("-c", code).stdout == "[]\n"


def test_interrupt_ends_with_130(tmp_path: Path) -> None:
    code = (
        "import sys, time; import tvmconv.compiler; from tvmconv.cli import main\n"
        "def slow(*_, **__): print('started', flush=True); time.sleep(60)\n"
        "sys.modules['tvmconv.compiler'].compile_to_file = slow\n"
        f"sys.exit(main(['compile', '{PROBLEM}', '-o', 'x.so']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "tvmconv: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_closed_pipe_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "tvmconv", "targets"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (4, b"")


def test_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        process = subprocess.run(
            [sys.executable, "-m", "tvmconv", "targets"], stdout=full, stderr=subprocess.PIPE
        )
    assert (process.returncode, process.stderr) == (4, b"tvmconv: No space left on device\n")


def test_text_that_the_terminal_cannot_show() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = python("-m", "tvmconv", "ops", env=environment)
    assert (process.returncode, process.stderr) == (0, "")
    code = "import sys; from tvmconv.cli import main; sys.exit(main(sys.argv[1:]))"
    process = python("-c", code, "targets", "show", b"\xff\xc3\xa9", env=environment)
    assert process.returncode == 2
    assert process.stderr.startswith(r"tvmconv: unknown target '\udcff\xe9'")


def test_table_on_a_poor_terminal_is_drawn() -> None:
    code = (
        "from tvmconv.cli import main; from tvmconv.cli._output import show; import sys\n"
        "from rich.table import Table; t = Table(title='é∫'); t.add_column('µs')\n"
        "main(['--version']); show(t)"
    )
    process = python("-c", code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (process.returncode, process.stderr) == (0, "")


def test_public_names() -> None:
    import tvmconv as package

    assert set(package._PUBLIC) | {"__version__"} == set(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    assert package.Target is tvmconv.target.Target
    with pytest.raises(AttributeError, match="nosuch"):
        _ = package.nosuch
