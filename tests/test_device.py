"""Runners: right results by every way to another machine, one line where one fails."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmconv
from tests.faults.harness import eventually
from tvmconv.autoschedule.log import Log
from tvmconv.autoschedule.record import target_key
from tvmconv.autoschedule.space import Candidate
from tvmconv.autoschedule.tasks import extract
from tvmconv.autoschedule.tuner import Tools
from tvmconv.compiler import compile_parts
from tvmconv.cuda_emulator.build import driver
from tvmconv.cuda_emulator.emulation import emulated_images, on_this_host
from tvmconv.device import Runner, RunnerError, wire
from tvmconv.device.connections import CONNECTIONS
from tvmconv.device.module import RemoteModule
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.target import load_target

PROBLEM = "conv2d:1x8x6x6:16x3x3:padding=1:bias=true"
#: Target → the emulator of its processor.
EMULATORS = {"cortex-a72": "qemu-aarch64-static", "cortex-a7": "qemu-arm-static",
             "riscv64": "qemu-riscv64-static"}  # fmt: skip
#: A machine that is reached by ssh or adb: its folders are those of this machine.
FAKES = {
    "ssh": """
while [ "${1#-}" != "$1" ]; do
  case "$1" in -o|-p|-l|-i) shift 2;; *) shift;; esac
done
[ "$1" = pi@board ] || [ "$1" = pi@fe80::1 ] || { echo "unknown host $1" >&2; exit 255; }
shift
echo "ssh $*" >> "$FAKE_LOG"
echo "Welcome to the board"
eval "$FAKE_FAULT"
exec sh -c "$*"
""",
    "scp": """
echo "scp $*" >> "$FAKE_LOG"
while [ "${1#-}" != "$1" ]; do
  case "$1" in -o|-P|-i) shift 2;; *) shift;; esac
done
for last; do :; done
while [ $# -gt 1 ]; do cp "$1" "${last##*:}" || exit 1; shift; done
""",
    "adb": """
[ "$1" = -s ] && shift 2
echo "adb $*" >> "$FAKE_LOG"
case "$1" in
  shell) shift; [ "$1" = -T ] && shift; exec sh -c "$(echo "$*" | sed s,/data/local/tmp,/tmp,)";;
  push) shift; for last; do :; done
    while [ $# -gt 1 ]; do cp "$1" "$last" || exit 1; shift; done; echo pushed;;
  *) exit 2;;
esac
""",
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model for this machine, to be linked to a program."""
    from tvmconv.codegen.link import static_triple

    machine = load_target("host")
    path = tmp_path_factory.mktemp("archive") / "model.a"
    parts = compile_parts(PROBLEM, target=machine, params=arrays(constants=True))
    parts.write(path, "static", triple=static_triple(machine.zig.triple))
    return path


def arrays(*, constants: bool) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    drawn = {"x": (1, 8, 6, 6), "weight": (16, 8, 3, 3), "bias": (16,)}
    found = {k: rng.standard_normal(shape).astype(np.float32) for k, shape in drawn.items()}
    return {k: v for k, v in found.items() if (k != "x") == constants}


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ssh, scp and adb that reach this machine; what they were told is in the log."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in FAKES.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FAKE_FAULT", "")
    return tmp_path / "log"


def script(folder: Path, text: str) -> str:
    """A command that does something before, instead of or after running the program."""
    path = folder / "a runner; $(x).sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"'{path}'"


def test_a_model_runs_by_a_command(archive: Path) -> None:
    with RemoteModule(archive, Runner("nice -n 1"), threads=2) as module:
        x = arrays(constants=False)
        (y,) = module(x)
        expected = tvmconv.Problem.parse(PROBLEM).reference({**x, **arrays(constants=True)})
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
        report = module.measure(x, rounds=3, block_s=0.01, pause_s=0.001, profiles=2)
        assert len(report.blocks_s) == 3
        assert all(0 < seconds < 1 for seconds in report.blocks_s)
        assert report.calls >= 3
        assert [len(times) for times in report.profiles] == [len(module.metadata["steps"])] * 2
        assert report.memory_bytes > 100_000
        assert report.machine[0] == "Linux"
        assert [name for name, _ in module.profile(x)] == [
            step["name"] for step in module.metadata["steps"]
        ]
        with pytest.raises(InputError, match="expected shape"):
            module(np.zeros((1, 8, 6, 7), np.float32))


@pytest.mark.parametrize(
    ("command", "copied"),
    [
        ("ssh pi@board", "scp -q -o BatchMode=yes "),
        ("ssh -qp 22 pi@[fe80::1] -l me nice", "scp -q -o BatchMode=yes -P 22 -o User=me "),
        ("adb shell", "adb push "),
        ("adb -s shell shell -T nice", "adb push "),
    ],
)
def test_other_machines_get_copies_and_are_left_clean(
    archive: Path, fakes: Path, command: str, copied: str
) -> None:
    before = set(Path("/tmp").glob("tvmconv.*"))
    with RemoteModule(archive, Runner(command)) as module:
        (y,) = module(arrays(constants=False))
    assert np.isfinite(y).all()
    log = fakes.read_text()
    assert copied in log
    assert log.count("\n") == 3  # a folder, copies, the run: as many connections
    assert set(Path("/tmp").glob("tvmconv.*")) == before


SSH, SCP = "ssh -o BatchMode=yes ", "scp -q -o BatchMode=yes "


@pytest.mark.parametrize(
    ("command", "shell", "copy", "before"),
    [
        ("ssh -4p22 board", SSH + "-4 -p 22 board", SCP + "-4 -P 22 f board:/d/", ""),
        ("ssh board -p 22 nice -n 1", SSH + "-p 22 board", SCP + "-P 22 f board:/d/", "nice -n 1"),
        ("ssh -- board -p", SSH + "board", SCP + "f board:/d/", "-p"),
        ("ssh me@::1", SSH + "me@::1", SCP + "f me@[::1]:/d/", ""),
        ("ssh [fe80::1%eth0]", SSH + "fe80::1%eth0", SCP + "f [fe80::1%eth0]:/d/", ""),
        ("ssh ssh://me@board:22", SSH + "-p 22 me@board", SCP + "-P 22 f me@board:/d/", ""),
        ("ssh ssh://[::1]/", SSH + "::1", SCP + "f [::1]:/d/", ""),
        ("ssh -tJ a@b:1,c board", SSH + "-t -J a@b:1,c board", SCP + "-J a@b:1,c f board:/d/", ""),
        ("ssh -i 'a key' -Snone h", SSH + "-i 'a key' -S none h",
         SCP + "-i 'a key' -o ControlPath=none f h:/d/", ""),
        ("/opt/ssh h", "/opt/ssh -o BatchMode=yes h", "/opt/" + SCP + "f h:/d/", ""),
        ("adb -s 12 shell -x", "adb -s 12 shell -x", "adb -s 12 push f /d/", ""),
        ("adb -d -H h -P 5 shell env A=b", "adb -d -H h -P 5 shell", "adb -d -H h -P 5 push f /d/",
         "env A=b"),
    ],
)  # fmt: skip
def test_connections(command: str, shell: str, copy: str, before: str) -> None:
    words = shlex.split(command)
    connection = CONNECTIONS[Path(words[0]).name](words, command)
    assert [*connection.shell] == shlex.split(shell)
    assert connection.copy(["f"], "/d") == shlex.split(copy)
    assert [*connection.before] == shlex.split(before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sleep 60", "did not end within 2 s (--timeout)"),
        ("trap '' TERM; sleep 60 & sleep 60", "did not end within 2 s (--timeout)"),
        ("exit 3", "exited with code 3"),
        ("echo first >&2; echo 'no such board' >&2; exit 255", "exited with code 255: no such"),
        ("kill -9 $$", "was ended by SIGKILL"),
        ("exit 0", "printed nothing"),
        ("echo '<html>garbage'", "printed something else than a result: '<html>garbage'"),
        ("head -c 300 /dev/urandom", "printed something else than a result"),
        ("exec yes", "printed more than"),
        ('"$@" | head -c 1000', "its output ends early, after 1000 bytes"),
        ('"$@" | grep -v ^end', "its output ends early"),
        ('"$@" | grep -v ^=', "sent 0 of 2304 bytes of y"),
        ("\"$@\" | sed 's/^=..../=/'", "bytes of y"),
        ('"$@" | grep -v ^output', "0 of 1 lines of its output"),
        ('"$@" | grep -v ^start', "0 of 1 lines of its start"),
        ('p=$1; shift; "$p"', "exited with code 2"),
        ('p=$1; shift; "$p" /nosuch 1 1 1 1 1 1 1', "/nosuch: cannot be read"),
    ],
)
def test_faults_are_one_line_in_time(
    archive: Path, tmp_path: Path, text: str, message: str
) -> None:
    with RemoteModule(archive, Runner(script(tmp_path, text), 2.0)) as module:
        start = time.monotonic()
        with pytest.raises(RunnerError) as caught:
            module(arrays(constants=False))
        assert time.monotonic() - start < 4.5
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("exit 255", "exited with code 255"),
        ("sleep 60", "did not end within 2 s"),
        ("echo /etc/../../x; exit 0", "made no folder, but said"),
        ('mkdir -p "$FAKE_LOG.kept"; echo "$FAKE_LOG.kept"; exit 0', "made no folder, but said"),
        ('case "$*" in *chmod*) exit 255;; esac', "exited with code 255"),
        ('case "$*" in *chmod*) sleep 60;; esac', "did not end within 2 s"),
    ],
)
def test_a_connection_that_fails(
    archive: Path, fakes: Path, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    monkeypatch.setenv("FAKE_FAULT", fault)
    before = set(Path("/tmp").glob("tvmconv.*"))
    with RemoteModule(archive, Runner("ssh pi@board", 2.0)) as module:
        start = time.monotonic()
        with pytest.raises(RunnerError, match="runner 'ssh pi@board': ") as caught:
            module(arrays(constants=False))
        assert time.monotonic() - start < 5.5
    assert message in str(caught.value)
    assert set(Path("/tmp").glob("tvmconv.*")) == before
    kept = fakes.with_name("log.kept")
    assert kept.is_dir() == ("kept" in fault)  # what was not made for this is not removed


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("", 2, "is no command"),
        ("'", 2, "cannot be read"),
        ("/nosuch/qemu -L /x", 4, "/nosuch/qemu: not found"),
        ("-nosuch;", 4, "-nosuch;: not found"),
        ("ssh -p 22", 2, "names no host"),
        ("ssh -- -oProxyCommand=x", 2, "names no host"),
        ("ssh pi@", 2, "names no host"),
        ("ssh -Z board", 2, "option -Z not recognized"),
        ("adb push", 2, "is not `adb shell`"),
    ],
)
def test_commands_that_are_none(
    tvmconv: Callable[..., Any], fakes: Path, command: str, code: int, message: str
) -> None:
    result = tvmconv("verify", PROBLEM, "--runner", command)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert message in result.err


def test_a_model_for_a_gpu_runs_by_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its program loads the driver, here an emulated one, which no static program can."""
    monkeypatch.setenv("TVMCONV_CUDA_DRIVER", str(driver()))
    machine = on_this_host(load_target("cuda"))
    options = {"images": emulated_images, "params": arrays(constants=True)}
    with RemoteModule.compile(PROBLEM, machine, Runner("env"), **options) as module:
        x = arrays(constants=False)
        (y,) = module(x)
        assert len(module.profile(x)) == len(module.metadata["steps"])
    expected = tvmconv.Problem.parse(PROBLEM).reference({**x, **arrays(constants=True)})
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "--target", "cuda", "--runner", "env"), "a GPU is measured on the machine that"),
        (("bench", "--static", "--runner", "env"), "--static runs nothing"),
        (("verify", "--target", "cuda", "--emulate", "--runner", "env"), "not by a runner"),
    ],
)
def test_options_that_exclude_each_other(
    tvmconv: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    result = tvmconv(*arguments, PROBLEM)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err


def test_a_time_is_for_a_runner(tvmconv: Callable[..., Any]) -> None:
    assert tvmconv("verify", PROBLEM, "--timeout", "3").code == 2
    assert tvmconv("verify", PROBLEM, "--runner", "env", "--timeout", "0").code == 2
    assert "against" in tvmconv("bench", PROBLEM, "--runner", "env", "--against", "torch").err


def test_a_wrong_result_is_seen(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    assert tvmconv("verify", PROBLEM, "--runner", "env").code == 0
    spoil = script(tmp_path, "\"$@\" | sed '/^output/{n;s/^=...../=AAAAA/}'")
    result = tvmconv("verify", PROBLEM, "--runner", spoil)
    assert result.code == 1
    assert "WRONG" in result.out


@pytest.mark.parametrize("closed", ["", "exec >&- 2>&-; "], ids=["silent", "closed"])
def test_runs_are_given_up(archive: Path, closed: str) -> None:
    runner = Runner(f"sh -c '{closed}sleep 60'")
    threading.Timer(0.5, runner.abandon).start()
    start = time.monotonic()
    with RemoteModule(archive, runner) as module, pytest.raises(RunnerError):
        module(arrays(constants=False))
    assert time.monotonic() - start < 20


def test_text_that_is_no_output() -> None:
    for text in (b"", b"\n\n", b"end\n", b"tvmconv 2\nend\n"):
        with pytest.raises(wire.BadOutput):
            wire.parse(text)
    with pytest.raises(wire.BadOutput, match="belong to nothing"):
        wire.parse(b"tvmconv 1\n=AAAA\nend\n")
    begin, output, end = wire.parse(b"hello\r\ntvmconv 1\r\nx\r\noutput 0 3\r\n=AQID\r\nend\r\n")
    assert (begin.words, bytes(output.data), end.kind) == (["x"], b"\1\2\3", "end")
    with pytest.raises(wire.BadOutput):
        output.number(7)
    for text in (b"block nan 1", b"block inf 1", b"block x 1"):
        (line, _) = wire.parse(b"tvmconv 1\n" + text + b"\nend\n")
        with pytest.raises(wire.BadOutput, match="without its numbers"):
            line.number(1)


@pytest.mark.parametrize("name", EMULATORS)
@pytest.mark.parametrize(
    "problem",
    [PROBLEM, "depthwise_conv2d:1x8x7x7:8x3x3:stride=2", "max_pool2d:1x8x6x6:2x2:stride=2"],
)
def test_other_processors_under_qemu(tvmconv: Callable[..., Any], name: str, problem: str) -> None:
    if shutil.which(EMULATORS[name]) is None:
        pytest.skip(f"{EMULATORS[name]} is not installed (Debian's qemu-user-static)")
    arguments = ("verify", problem, "--target", name, "--runner", EMULATORS[name], "--json")
    result = tvmconv(*arguments)
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["ok"]


def test_the_wrong_processor_is_one_line(tvmconv: Callable[..., Any]) -> None:
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("qemu-aarch64-static is not installed (Debian's qemu-user-static)")
    result = tvmconv("verify", PROBLEM, "--runner", "qemu-aarch64-static")
    assert (result.code, result.err.count("\n")) == (4, 1)
    assert "Invalid ELF image for this architecture" in result.err


@pytest.mark.parametrize("form", ["shared", "static"])
def test_run_takes_files_of_both_kinds(
    tvmconv: Callable[..., Any], tmp_path: Path, form: str
) -> None:
    file = tmp_path / "-a; file.x"
    assert tvmconv("compile", PROBLEM, "-o", file, "--format", form).code == 0
    arguments = ("run", file, "--seed", "3", "--runner", "env", "--output-dir", tmp_path)
    assert tvmconv(*arguments).code == 0
    got = np.load(tmp_path / "y.npy")
    if form == "shared":
        assert tvmconv(*arguments[:4], *arguments[6:]).code == 0
        np.testing.assert_array_equal(got, np.load(tmp_path / "y.npy"))


def test_bench_times_on_the_device(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    json_file = tmp_path / "bench.json"
    result = tvmconv("bench", PROBLEM, "--runner", "env", "--rounds", "2", "--layers",
                     "--threads", "1", "--json", json_file)  # fmt: skip
    assert (result.code, result.err) == (0, "")
    report = json.loads(json_file.read_text())
    (model,) = report["models"]
    assert len(model["blocks_ms"]) == 2
    assert 0 < model["time_ms"] < 1000
    assert len(model["steps"]) > 0
    assert not report["peak"]["measured"]
    assert "env" in report["machine"]["cpu"]


def test_candidates_are_measured_elsewhere_and_judged_here(tmp_path: Path) -> None:
    machine = load_target("host").with_threads(1)
    (task,), _ = extract([PROBLEM], machine)
    spec = task.specs[0]
    log = tmp_path / "uses"
    device = Runner(script(tmp_path, f'echo use >> "{log}"; exec "$@"'))
    tools = Tools(machine, 1, device=device)
    candidates = tools.candidates(spec)[:3]
    broken = Candidate((("nosuch", 1),), 1.0)
    with tools.open_bench(0) as bench:
        outcomes = list(bench.measure(spec, [*candidates, broken]))
        assert [o.status for o in outcomes] == ["ok"] * 3 + ["build-failed"]
        assert all(0 < t < 1e6 for o in outcomes[:3] for t in o.times_us)
        assert all(len(o.times_us) == 5 and 0 <= o.error_ratio <= 1 for o in outcomes[:3])
        uses = len(log.read_text().split())
        assert uses == 1
        first, second = bench.compare([(spec, c) for c in candidates[:2]], rounds=4)
        assert len(log.read_text().split()) == uses + 1
        assert (first.status, second.status) == ("ok", "ok")
        assert len(first.times_us) == len(second.times_us) == 4


def test_candidates_are_shared_among_machines(tmp_path: Path) -> None:
    machine = load_target("host").with_threads(1)
    (task,), _ = extract([PROBLEM], machine)
    log = tmp_path / "uses"
    text = f'echo "$8" >> "{log}"; exec "$@"'  # the program has six numbers before its files
    device = Runner(script(tmp_path, text), machines=2)
    tools = Tools(machine, 1, device=device)
    spec = task.specs[0]
    with tools.open_bench(0) as bench:
        outcomes = bench.compare([(spec, c) for c in tools.candidates(spec)[:2]], rounds=2)
        assert [o.status for o in outcomes] == ["ok", "ok"]
        assert len(log.read_text().splitlines()) == 1  # in turns: on one machine
        outcomes = list(bench.measure(spec, tools.candidates(spec)[:6]))
    assert [o.status for o in outcomes] == ["ok"] * 6
    _, *first_files = log.read_text().splitlines()
    assert len(first_files) == 2
    assert first_files.count("-") == 1


@pytest.mark.parametrize(
    ("spoil", "status", "message"),
    [
        ("sed '/^check 0/{n;s/^=...../=AAAAA/}'", "wrong", "elements are wrong"),
        ("sed 's/^block \\(.*\\) 1$/block \\1 0/'", "wrong", "changes from call to call"),
        ("sed 's/^check 1.*/died 11/'", "crashed", "was ended by SIGSEGV"),
        ("sed 's/^check 1.*/died 14/'", "timeout", "did not end within"),
        ("sed 's/^check 1.*/failed it is bad/'", "crashed", "it is bad"),
    ],
)
def test_candidates_that_must_not_be_used(
    tmp_path: Path, spoil: str, status: str, message: str
) -> None:
    machine = load_target("host").with_threads(1)
    (task,), _ = extract([PROBLEM], machine)
    device = Runner(script(tmp_path, f'"$@" | {spoil}'))
    tools = Tools(machine, 1, device=device)
    with tools.open_bench(0) as bench:
        (outcome,) = bench.measure(task.specs[0], tools.candidates(task.specs[0])[:1])
    assert outcome.status == status
    assert message in outcome.message


def test_a_candidate_that_hangs_is_the_only_one_lost(tmp_path: Path) -> None:
    """The second one; its file is what the program gets after six numbers and the first one's."""
    machine = load_target("host").with_threads(1)
    (task,), _ = extract([PROBLEM], machine)
    log = tmp_path / "uses"
    text = f'echo "${{8%data}} ${{9%data}}" >> "{log}"; [ "$9" = - ] || sleep 60; exec "$@"'
    tools = Tools(machine, 1, device=Runner(script(tmp_path, text), 3.0))
    candidates = tools.candidates(task.specs[0])[:3]
    with tools.open_bench(0) as bench:
        outcomes = list(bench.measure(task.specs[0], candidates))
    assert [o.status for o in outcomes] == ["ok", "timeout", "ok"]
    assert outcomes[1].message == "did not end within 3 s (--timeout)"
    uses = [tuple(file != "-" for file in line.split()) for line in log.read_text().splitlines()]
    neither, both, first, second = (False, False), (True, True), (True, False), (False, True)
    # All, nobody, half of them, nobody, the first, the second, nobody, the third.
    assert uses == [both, neither, both, neither, first, second, neither, neither]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_it_leaves_nothing(archive: Path, tmp_path: Path, how: signal.Signals) -> None:
    temporary, note = tmp_path / "tmp", tmp_path / "note"
    temporary.mkdir()
    runner = script(tmp_path, f"sleep 300 & echo $! $$ > {note}.part; mv {note}.part {note}; wait")
    run = ["-m", "tvmconv", "run", str(archive), "--seed", "1", "--runner", runner]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, *run], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        while not note.exists():
            assert process.poll() is None
            time.sleep(0.02)
        assert list(temporary.iterdir())
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + how, f"tvmconv: ended by {how.name}\n")
    assert list(temporary.iterdir()) == []
    for number in note.read_text().split():
        assert eventually(lambda number=number: has_ended(int(number)))


def has_ended(number: int) -> bool:
    """Whether there is no such process, or one that only waits to be taken notice of."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("command", "target", "code", "message"),
    [
        ("verify", "rpi4", 2, "is for aarch64, and this machine is x86_64; --runner"),
        ("bench", "rpi2", 2, "is for arm, and this machine is x86_64; --runner"),
        ("tune", "riscv64", 2, "--runner runs it elsewhere, such as qemu-riscv64-static"),
        ("verify", "cuda", 4, "has no CUDA driver (/nosuch.so); --runner"),
        ("verify", "rpi7", 2, "unknown target 'rpi7'; did you mean rpi"),
    ],
)
def test_what_this_machine_cannot_run_is_not_compiled(
    tvmconv: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    target: str,
    code: int,
    message: str,
) -> None:
    def compiled(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is compiled")

    monkeypatch.setattr("tvmconv.compiler.compile_parts", compiled)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("TVMCONV_CUDA_DRIVER", "/nosuch.so")
    result = tvmconv(command, PROBLEM, "--target", target)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert message in result.err


def test_a_board_that_is_lost_leaves_the_log_intact(
    tvmconv: Callable[..., Any], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    text = f'echo x >> {count}; [ $(wc -l < {count}) -gt 2 ] && exit 255; exec "$@"'
    result = tvmconv("tune", PROBLEM, "--runner", script(tmp_path, text), "--trials", "40",
                     "--threads", "1", "--jobs", "1", "--log", tmp_path / "log")  # fmt: skip
    assert result.code == 4
    assert result.err.splitlines()[-1].endswith("exited with code 255")
    (file,) = (tmp_path / "log").glob("*/*.jsonl")
    assert len(list(Log(file).lines())) >= 1
    assert not list((tmp_path / "log").glob("*/.*"))


def test_tuning_under_qemu(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("qemu-aarch64-static is not installed (Debian's qemu-user-static)")
    result = tvmconv("tune", PROBLEM, "--runner", "qemu-aarch64-static", "--target", "cortex-a72",
                     "--trials", "6", "--jobs", "1", "--log", tmp_path,
                     "--json", tmp_path / "report.json")  # fmt: skip
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert all(task["tuned_us"] <= task["untuned_us"] for task in report["tasks"])
    (file,) = tmp_path.glob("cortex-a72/*.jsonl")
    records = [json.loads(line) for line in Log(file).lines()]
    assert len(records) >= 6
    key = target_key(load_target("cortex-a72"))
    assert {record["target"] for record in records} == {key}
    assert any(record["status"] == "ok" for record in records)
    assert {record["status"] for record in records} <= {"ok", "timeout"}
    assert "log: " not in tvmconv("verify", PROBLEM, "--target", "cortex-a72", "--log", tmp_path,
                                  "--runner", "qemu-aarch64-static").err  # fmt: skip


def test_no_program_for_what_is_not_linux() -> None:
    from tvmconv.codegen.link import static_triple

    assert static_triple("arm-linux-gnueabihf.2.17") == "arm-linux-musleabihf"
    assert static_triple("riscv64-linux-musl") == "riscv64-linux-musl"
    for triple in ("aarch64-macos", "x86_64-windows-gnu", "", "-x"):
        with pytest.raises(InputError, match="only for Linux"):
            static_triple(triple)


def test_missing_tools_are_the_environment_s_fault() -> None:
    with pytest.raises(EnvironmentError_, match="nosuch: not found"):
        Runner("nosuch")
