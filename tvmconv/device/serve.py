"""A server by which others run programs on this machine: TVM's RPC server, and who may reach it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvmconv.device.process import end_with_parent, python
from tvmconv.device.rpc import parse_address, register
from tvmconv.errors import EnvironmentError_, InputError

#: How long one session may take.
DEFAULT_SESSION_S = 3600.0
_READY = "ready"
_START_S = 120.0
#: How long a client may take to say who it is.
_GREETING_S = 10
WARNING = "whoever reaches this address can run any code on this machine"


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(host: str, *, anyone: bool) -> None:
    """Refuse an address that others reach, unless that is wanted.

    Raises
    ------
    InputError
    """
    if not anyone and not is_loopback(host):
        raise InputError(f"host: {host}: {WARNING}; --allow-others says that this is wanted")


@contextmanager
def serving(
    host: str,
    port: int,
    tracker: str | None = None,
    key: str | None = None,
    session_s: float = DEFAULT_SESSION_S,
) -> Iterator[subprocess.Popen[str]]:
    """Serve while the block runs, in a process of its own, which is yielded.

    Parameters
    ----------
    host : str
        The address to listen on, see :func:`check_host`.
    port : int
    tracker, key : str, optional
        ``host:port`` of a tracker to report to, and what to be called there.
    session_s : float
        How long one session may take. A client that hangs would keep all others out.

    Raises
    ------
    InputError
        The tracker's address is none.
    EnvironmentError_
        The port is taken, or the address is not this machine's.
    """
    address = parse_address(tracker, "tracker") if tracker else None
    description = {"host": host, "port": port, "tracker": address, "key": key or ""}
    with tempfile.TemporaryDirectory(prefix="tvmconv-serve-") as folder:
        process = subprocess.Popen(
            [*python("tvmconv.device.serve"), json.dumps({**description, "session_s": session_s})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for its owner alone
            env={**os.environ, "TMPDIR": folder},  # where what is uploaded lies
        )
        try:
            told = _first_line(process)
            if told != _READY:
                raise EnvironmentError_(f"{host}:{port}: cannot be served: {told or 'it ended'}")
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _first_line(process: subprocess.Popen[str]) -> str:
    """What a server says of its start."""
    if process.stdout is None:
        return ""
    if not select.select([process.stdout], [], [], _START_S)[0]:
        return f"it did not start within {_START_S:g} s"
    return process.stdout.readline().strip()


def _bounded(serve: Callable[..., None], session_s: float) -> Callable[..., None]:
    """TVM's function that serves one session, so that none harms those that follow."""
    home = Path.cwd()

    def session(
        connection: socket.socket, address: Any, options: dict[str, Any], libraries: Any
    ) -> None:
        _limit_silence(connection, 0)
        limit = min(session_s, options.get("timeout", session_s))
        try:
            serve(connection, address, {**options, "timeout": limit}, libraries)
        except RuntimeError as error:
            _tell(error)
            connection.close()
        finally:
            os.chdir(home)

    return session


def _tied(serve: Callable[..., None]) -> Callable[..., None]:
    """TVM's function that is the process of a session, so that it ends with the server."""

    def session(*arguments: Any) -> None:
        end_with_parent()
        serve(*arguments)

    return session


def _tell(error: BaseException | None) -> None:
    print(f"tvmconv: {error}", file=sys.stderr, flush=True)


def _limit_silence(connection: socket.socket, seconds: int) -> None:
    """Let reading from a socket, and those that it accepts, fail after some time; 0 is never."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, 0))


def main() -> None:
    """Be the server: a session after the other, for as long as the owner lives."""
    from tvm.rpc import server

    description = json.loads(sys.argv[1])
    host, port = description["host"], description["port"]
    tracker = tuple(description["tracker"]) if description["tracker"] else None
    server._serving = _bounded(server._serving, description["session_s"])
    server._serve_loop = _tied(server._serve_loop)
    threading.excepthook = lambda failed: _tell(failed.exc_value)
    register()
    ready = False
    while True:
        try:
            state = server.PopenRPCServerState(
                host, port, port + 1, tracker_addr=tracker, key=description["key"], silent=True
            )
        except (OSError, ValueError) as error:
            print(getattr(error, "strerror", None) or "the port is taken", flush=True)
            os._exit(EnvironmentError_.exit_code)
        _limit_silence(state.sock, _GREETING_S)
        if not ready:
            print(_READY, flush=True)
            ready = True
        state.thread.join()  # it ends where the tracker has been away for long
        state.sock.close()


if __name__ == "__main__":
    main()
