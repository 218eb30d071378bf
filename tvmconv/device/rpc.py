"""Programs by TVM's RPC: the client, which is a program of its own, and what a server needs.

TVM's calls can wait for ever for a machine that has stopped; a client in a process of its own can
be ended when its time is over. ``python -m tvmconv.device.rpc ACCESS PROGRAM ARGUMENTS`` uploads
the program and those of its arguments that are files, and prints what it printed there.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvmconv.device import process
from tvmconv.device.runner import DEFAULT_TIMEOUT_S, Runner
from tvmconv.errors import EnvironmentError_, InputError

#: What a server has, besides TVM's own functions, to run a program that was uploaded to it.
FUNCTION = "tvmconv.device.execute"
_ADDRESS = re.compile(r"(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})")
_LIMIT_BYTES = 1 << 31
#: How often another board is tried when one is lost, and the pause before.
_ATTEMPTS, _PAUSE_S = 5, 0.5


def parse_address(text: str, what: str) -> tuple[str, int]:
    """Split ``host:port``.

    Raises
    ------
    InputError
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 1 << 16:
        raise InputError(f"{what}: {text!r} is not HOST:PORT")
    return match[1] or match[2], int(match[3])


def rpc_runner(
    *,
    server: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Runner:
    """A runner that uses one server, or whichever board of a tracker is free.

    Parameters
    ----------
    server, tracker : str, optional
        ``host:port`` of one of them.
    key : str, optional
        What the boards are called at the tracker.
    timeout_s : float
        As for :class:`~tvmconv.device.Runner`.

    Raises
    ------
    InputError
        An address is none, or both or neither are given, or a tracker without a key.
    EnvironmentError_
        Nobody answers there.
    """
    if (server is None) == (tracker is None):
        raise InputError("rpc: needs either a server or a tracker")
    if (tracker is None) != (key is None):
        raise InputError("rpc: a tracker needs a key, and a key a tracker")
    what = "rpc" if tracker is None else "tracker"
    address = parse_address(server or tracker or "", what)
    try:
        socket.create_connection(address, timeout=min(timeout_s, 10.0)).close()
    except OSError as error:
        told = error.strerror or error
        raise EnvironmentError_(f"{what}: {server or tracker}: cannot be reached: {told}") from None
    access = json.dumps({"address": address, "key": key, "timeout_s": timeout_s})
    words = [*process.python("tvmconv.device.rpc"), access]
    label = f"{what} {server or tracker}{f' {key}' if key else ''}"
    return Runner(label, timeout_s, words, _machines(words, label, timeout_s) if key else 1)


def _machines(words: Sequence[str], label: str, timeout_s: float) -> int:
    """How many boards a tracker has."""
    runner = Runner(label, timeout_s, words)
    try:
        done = process.execute(words, time.monotonic() + timeout_s, 1 << 16)
    except process.Overdue:
        raise runner.failed(f"did not answer within {timeout_s:g} s (--timeout)") from None
    except process.TooMuch:
        raise runner.failed("sent no number of boards") from None
    if done.code or not done.output.strip().isdigit():
        raise runner.failed(done.last_error or "sent no number of boards")
    return int(done.output)


def execute(program: str, timeout_s: float, arguments: str) -> bytearray:
    """Run an uploaded program; called on the server, in the process of a session.

    Nothing of it outlives the session.

    Parameters
    ----------
    program : str
        Its name among the uploaded files.
    timeout_s : float
    arguments : str
        As a JSON list; those that begin with ``@`` are names of uploaded files.

    Returns
    -------
    bytearray
        A line of JSON, ``code`` and ``error``, then the program's output.
    """
    import tvm_ffi

    place = tvm_ffi.get_global_func("tvm.rpc.server.workpath")
    path = Path(place(program))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    words = [place(word[1:]) if word.startswith("@") else word for word in json.loads(arguments)]
    try:
        deadline = time.monotonic() + timeout_s
        done = process.execute([str(path), *words], deadline, _LIMIT_BYTES, tied=True)
        told = {"code": done.code, "error": done.last_error}
    except OSError as error:
        done, told = None, {"code": 126, "error": str(error.strerror)}
    except (process.Overdue, process.TooMuch):
        done, told = None, {"code": 124, "error": f"the program did not end in {timeout_s:g} s"}
    return bytearray(json.dumps(told).encode() + b"\n" + (done.output if done else b""))


def register() -> None:
    """Give TVM's server the function, and let it end with whoever has started it.

    Called in the process that becomes the server.
    """
    import tvm_ffi

    process.end_with_parent()
    tvm_ffi.register_global_func(FUNCTION, execute, override=True)


def _connect(address: tuple[str, int], key: str | None, timeout_s: float) -> Any:
    """A session with a server, or with a free board of a tracker."""
    from tvm import rpc

    if key is None:
        return rpc.connect(*address, session_timeout=timeout_s)
    tracker = rpc.connect_tracker(*address)
    _count(tracker, key)
    return tracker.request(key, session_timeout=timeout_s)


def _count(tracker: Any, key: str) -> int:
    """How many boards of a key there are.

    Raises
    ------
    InputError
        There is none.
    """
    boards = [entry["key"].removeprefix("server:") for entry in tracker.summary()["server_info"]]
    if key not in boards:
        there = ", ".join(sorted(set(boards))) or "none at all"
        raise InputError(f"the tracker has no board with key {key!r}, but {there}")
    return boards.count(key)


def _run(session: Any, program: str, arguments: Sequence[str], timeout_s: float) -> bytes:
    """Upload files and run the program; the server's answer."""
    files = [program, *(word for word in arguments if word.startswith("/"))]
    for file in dict.fromkeys(files):
        session.upload(file)
    words = [f"@{Path(word).name}" if word.startswith("/") else word for word in arguments]
    call = session.get_function(FUNCTION)
    return bytes(call(Path(program).name, timeout_s, json.dumps(words)))


def _print_machines(address: tuple[str, int], key: str) -> int:
    """Print how many boards a tracker has; returns the exit code."""
    from tvm import rpc

    print(_count(rpc.connect_tracker(*address), key))
    return 0


def _answer(
    address: tuple[str, int], key: str | None, timeout_s: float, words: Sequence[str]
) -> bytes:
    """The answer of the first board that gives one."""
    program, *arguments = words
    for attempt in range(_ATTEMPTS):
        try:
            return _run(_connect(address, key, timeout_s), program, arguments, timeout_s)
        except (RuntimeError, OSError, AttributeError) as error:  # TVM's are RuntimeErrors
            if key is None or attempt == _ATTEMPTS - 1:
                raise
            print(f"lost a board: {_line(error)}", file=sys.stderr)
            time.sleep(_PAUSE_S)
    raise RuntimeError("no board")


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def main() -> int:
    """Run one program by RPC, or without one print how many boards there are; the exit code."""
    process.end_with_parent()
    access, *words = json.loads(sys.argv[1]), *sys.argv[2:]
    address = (str(access["address"][0]), int(access["address"][1]))
    try:
        if not words:
            return _print_machines(address, access["key"])
        answer = _answer(address, access["key"], float(access["timeout_s"]), words)
    except (RuntimeError, OSError, ValueError, AttributeError) as error:
        print(_line(error), file=sys.stderr)
        return EnvironmentError_.exit_code
    head, _, output = answer.partition(b"\n")
    told = json.loads(head)
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    if told["code"]:
        print(told["error"] or f"the program ended with code {told['code']}", file=sys.stderr)
    return int(told["code"]) & 0xFF


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # TVM's threads may wait for a machine that is gone
