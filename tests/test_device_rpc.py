"""TVM's RPC as a way to other machines: a server, a tracker, boards that are lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.harness import processes
from tvmconv.autoschedule.log import Log
from tvmconv.autoschedule.record import Record
from tvmconv.autoschedule.session import Event
from tvmconv.autoschedule.tasks import Task
from tvmconv.autoschedule.tune_report import TuneReport
from tvmconv.autoschedule.tuner import Tools, tune
from tvmconv.codegen.link import static_triple
from tvmconv.compiler import compile_parts
from tvmconv.device import RunnerError
from tvmconv.device.module import RemoteModule
from tvmconv.device.rpc import parse_address, rpc_runner
from tvmconv.device.serve import WARNING, is_loopback, serving
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.problem import Problem
from tvmconv.target import load_target

PROBLEM = "max_pool2d:1x8x6x6:2x2:stride=2"
X = np.random.default_rng(7).standard_normal((1, 8, 6, 6)).astype(np.float32)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    machine = load_target("host")
    path = tmp_path_factory.mktemp("archive") / "model.a"
    parts = compile_parts(PROBLEM, target=machine)
    parts.write(path, "static", triple=static_triple(machine.zig.triple))
    return path


def run(archive: Path, **access: Any) -> Any:
    with RemoteModule(archive, rpc_runner(**access), threads=1) as module:
        (y,) = module(X)
    return y


@pytest.fixture
def tracker() -> Iterator[str]:
    """A tracker in a process of its own."""
    port = free_port()
    arguments = ["-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, *arguments, "--port-end", str(port + 1), "--silent"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_server(archive: Path) -> None:
    port = free_port()
    with serving("127.0.0.1", port):
        y = run(archive, server=f"127.0.0.1:{port}", timeout_s=60)
        np.testing.assert_array_equal(y, Problem.parse(PROBLEM).reference({"x": X}))
        taken = f"127.0.0.1:{port}: cannot be served: the port is taken"
        with pytest.raises(EnvironmentError_, match=taken), serving("127.0.0.1", port):
            pass
    with pytest.raises(EnvironmentError_, match="cannot be reached: "):
        run(archive, server=f"127.0.0.1:{port}")


def test_what_lies_in_the_current_folder_is_not_run(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``python -m`` would import a ``json.py`` from there."""
    (tmp_path / "json.py").write_text("open('seen', 'w').close()")
    monkeypatch.chdir(tmp_path)
    port = free_port()
    with serving("127.0.0.1", port):
        run(archive, server=f"127.0.0.1:{port}", timeout_s=60)
    assert [path.name for path in tmp_path.iterdir()] == ["json.py"]


def test_programs_end_with_their_server(tmp_path: Path) -> None:
    port, program, note = free_port(), tmp_path / "program", tmp_path / "note"
    program.write_text(f"#!/bin/sh\necho $$ > {note}.part; mv {note}.part {note}; exec sleep 300\n")
    program.chmod(0o755)
    with ThreadPoolExecutor(1) as pool:
        with serving("127.0.0.1", port):
            runner = rpc_runner(server=f"127.0.0.1:{port}", timeout_s=120)
            client = pool.submit(runner.run, program, [], 0)
            while not note.exists():
                assert not client.done()
                time.sleep(0.05)
            number = int(note.read_text())
        with pytest.raises(RunnerError):
            client.result()
    for _ in range(100):
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":  # ended, if nobody has taken notice yet
            return
        time.sleep(0.1)
    os.kill(number, signal.SIGKILL)
    pytest.fail("the program has outlived its server")


def test_a_server_that_has_stopped_is_one_line_in_time(archive: Path) -> None:
    port = free_port()
    with serving("127.0.0.1", port) as server:
        os.killpg(server.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(RunnerError, match=r"did not end within 8 s \(--timeout\)"):
            run(archive, server=f"127.0.0.1:{port}", timeout_s=8)
        assert time.monotonic() - start < 25  # linking the program included


def test_a_client_that_hangs_is_given_up(archive: Path) -> None:
    """One that says nothing, and one that keeps its session."""
    from tvm import rpc

    port = free_port()
    address = ("127.0.0.1", port)
    with serving(*address, session_s=3.0):
        with socket.create_connection(address):
            run(archive, server=f"127.0.0.1:{port}", timeout_s=60)
        session = rpc.connect(*address)
        run(archive, server=f"127.0.0.1:{port}", timeout_s=60)
        with pytest.raises(RuntimeError, match="session has expired"):
            session.get_function("tvm.rpc.server.workpath")


def test_boards_are_found_by_their_key(archive: Path, tracker: str) -> None:
    with pytest.raises(RunnerError, match="the tracker has no board with key 'pi', but none"):
        rpc_runner(tracker=tracker, key="pi", timeout_s=60)
    with serving("127.0.0.1", free_port(), tracker, "pi"):
        time.sleep(1)  # a server reports by itself
        with pytest.raises(RunnerError, match="no board with key 'other', but pi"):
            rpc_runner(tracker=tracker, key="other", timeout_s=60)
        wanted = Problem.parse(PROBLEM).reference({"x": X})
        np.testing.assert_array_equal(run(archive, tracker=tracker, key="pi"), wanted)


#: How long a board is waited for that has stopped; a use takes one or two seconds.
HANGS_S = 20.0


class OneSpace(Tools):
    """Tunes one alternative of each kernel only, and so in few uses of the boards."""

    def extract(self, sources: Sequence[Any], batch: int | None) -> tuple[list[Task], list[str]]:
        tasks, networks = super().extract(sources, batch)
        return [replace(task, specs=task.specs[:1]) for task in tasks], networks


class Fleet:
    """Tunes by a tracker and its boards, and ends boards meanwhile."""

    def __init__(self, tracker: str, log: Path, stack: ExitStack) -> None:
        self._tracker, self._log, self._stack = tracker, log, stack
        self._threads = ThreadPoolExecutor(4)
        stack.callback(self._threads.shutdown)

    def board(self) -> int:
        """Start a board; the number of its process group."""
        server = self._stack.enter_context(serving("127.0.0.1", free_port(), self._tracker, "pi"))
        return server.pid

    def tune(self, trials: int, *doomed: int, how: signal.Signals = signal.SIGKILL) -> TuneReport:
        """Go on tuning, and end boards that measure, after two trials of all that there are."""
        known = len(self.records())
        waiting = [*doomed]

        def watch(event: Event | None = None) -> None:
            if event is None or event.trials >= 2:
                while waiting:
                    self._threads.submit(end_in_a_session, waiting.pop(), how)

        if known:
            watch()
        timeout_s = HANGS_S if how == signal.SIGSTOP else 120.0
        runner = rpc_runner(tracker=self._tracker, key="pi", timeout_s=timeout_s)
        machine = load_target("host").with_threads(1)
        report = tune(PROBLEM, machine, trials=trials, tools=OneSpace(machine, 1, device=runner),
                      log=self._log, runner=runner, progress=watch, shipped=False)  # fmt: skip
        assert not waiting
        (task,) = report.tasks
        assert task.tuned_us <= task.untuned_us
        assert (report.measured, report.known) == (trials - known, known)
        return report

    def records(self) -> list[Record]:
        """What is in the log: nothing twice, all of it whole."""
        loaded = [Log(path).load() for path in self._log.rglob("*.jsonl")]
        records = [record for one in loaded for record in one.records]
        assert not any(one.skipped for one in loaded)
        assert len({(record.key, record.round) for record in records}) == len(records)
        return [record for record in records if record.round == 0]


def end_in_a_session(server: int, how: signal.Signals) -> None:
    """End a board, or stop it, as soon as it has a session."""
    end = time.monotonic() + 100
    while len(processes(server)) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(server, how)


@pytest.mark.slow
def test_boards_are_lost_while_they_tune(tracker: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        fleet = Fleet(tracker, tmp_path, stack)
        killed, stopped = fleet.board(), fleet.board()
        time.sleep(1)  # a server reports by itself
        fleet.tune(4, killed)
        assert len(processes(killed)) == 0
        kept = fleet.board()
        time.sleep(1)
        start = time.monotonic()
        fleet.tune(8, stopped, how=signal.SIGSTOP)
        assert time.monotonic() - start > HANGS_S  # nobody knows before
        assert {record.status for record in fleet.records()} == {"ok"}
        os.killpg(stopped, signal.SIGKILL)
        with pytest.raises(RunnerError, match="the tracker has no board with key 'pi'") as caught:
            fleet.tune(12, kept)
        assert "\n" not in str(caught.value)
        assert len(fleet.records()) >= 8
        fleet.board()
        time.sleep(1)
        fleet.tune(12)
        assert len(fleet.records()) == 12


def test_tuning_by_a_server(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tvmconv", "serve", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == f"serving on 127.0.0.1:{port}\n"
        result = tvmconv("tune", PROBLEM, "--rpc", f"127.0.0.1:{port}", "--trials", "3",
                         "--threads", "1", "--jobs", "1", "--log", tmp_path)  # fmt: skip
        assert result.code == 0, result.err
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
        server.stdout.close()
        with pytest.raises(ConnectionRefusedError):  # nothing is left that listens
            socket.create_connection(("127.0.0.1", port), timeout=5)
    (file,) = tmp_path.glob("*/*.jsonl")
    assert {json.loads(line)["status"] for line in Log(file).lines()} == {"ok"}


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)]
)
def test_a_server_that_is_ended_leaves_nothing(
    how: signal.Signals, code: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tvmconv", "serve", "--port", str(free_port())]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert server.stdout is not None
    assert server.stdout.readline().startswith("serving on ")
    assert len(list(tmp_path.iterdir())) == 1
    server.send_signal(how)
    assert server.wait(30) == code
    server.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_is_one_line(tmp_path: Path) -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "tvmconv", "serve", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("serving on ")
        (child,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        _, errors = server.communicate(timeout=30)
    assert (server.returncode, errors) == (4, f"tvmconv: 127.0.0.1:{port}: the server has ended\n")
    assert list(tmp_path.iterdir()) == []


def test_others_may_come_only_where_that_is_said(
    tvmconv: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(host: str, *_: object) -> Any:
        raise EnvironmentError_(f"{host}: taken")

    monkeypatch.setattr("tvmconv.device.serve.serving", taken)
    assert tvmconv("serve").err == "tvmconv: 127.0.0.1: taken\n"
    result = tvmconv("serve", "--host", "0.0.0.0", "--allow-others")
    warning, error = result.err.splitlines()
    assert warning == f"warning: 0.0.0.0: {WARNING}"
    assert (result.code, error) == (4, "tvmconv: 0.0.0.0: taken")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("serve", "--host", "0.0.0.0"), 2, "whoever reaches this address can run any code"),
        (("serve", "--host", "::"), 2, "--allow-others says that this is wanted"),
        (("serve", "--tracker", "127.0.0.1:9"), 2, "needs a key"),
        (("serve", "--tracker", "here", "--key", "k"), 2, "'here' is not HOST:PORT"),
        (("tune", PROBLEM, "--rpc", "here"), 2, "'here' is not HOST:PORT"),
        (("tune", PROBLEM, "--rpc", "a:1", "--tracker", "b:1"), 2, "either a server or a tracker"),
        (("tune", PROBLEM, "--tracker", "a:1"), 2, "a tracker needs a key"),
        (("tune", PROBLEM, "--key", "k"), 2, "either a server or a tracker"),
        (("tune", PROBLEM, "--rpc", "a:1", "--runner", "env"), 2, "is one way to another machine"),
        (("tune", PROBLEM, "--tracker", "127.0.0.1:1", "--key", "k"), 4, "cannot be reached"),
    ],
)
def test_wrong_arguments(
    tvmconv: Callable[..., Any], arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = tvmconv(*arguments)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert message in result.err


def test_addresses() -> None:
    assert parse_address("board.local:9090", "rpc") == ("board.local", 9090)
    assert parse_address("[::1]:1", "rpc") == ("::1", 1)
    for text in ("", ":1", "a", "a:", "a:0", "a:65536", "a:b", "a:-1", "a b:c:1x"):
        with pytest.raises(InputError):
            parse_address(text, "rpc")
    assert list(map(is_loopback, ("127.3.2.1", "::1", "localhost"))) == [True] * 3
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "board", "")))
