"""A server by which others run programs on this machine: TVM's RPC server, and who may reach it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tvmconv.device.process import python
from tvmconv.device.rpc import parse_address, register
from tvmconv.errors import EnvironmentError_, InputError

_READY = "ready"
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
    host: str, port: int, tracker: str | None = None, key: str | None = None
) -> Iterator[int]:
    """Serve while the block runs, in a process of its own; yields its number.

    Parameters
    ----------
    host : str
        The address to listen on, see :func:`check_host`.
    port : int
    tracker, key : str, optional
        ``host:port`` of a tracker to report to, and what to be called there.

    Raises
    ------
    InputError
        The tracker's address is none.
    EnvironmentError_
        The port is taken, or the address is not this machine's.
    """
    address = parse_address(tracker, "tracker") if tracker else None
    description = json.dumps({"host": host, "port": port, "tracker": address, "key": key or ""})
    with tempfile.TemporaryDirectory(prefix="tvmconv-serve-") as folder:
        process = subprocess.Popen(
            [*python("tvmconv.device.serve"), description],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for its owner alone
            env={**os.environ, "TMPDIR": folder},  # where what is uploaded lies
        )
        try:
            told = process.stdout.readline().strip() if process.stdout else ""
            if told != _READY:
                raise EnvironmentError_(f"{host}:{port}: cannot be served: {told or 'it ended'}")
            yield process.pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def main() -> None:
    """Be the server: a session after the other, for as long as the owner lives."""
    from tvm.rpc.server import PopenRPCServerState

    description = json.loads(sys.argv[1])
    host, port = description["host"], description["port"]
    tracker = tuple(description["tracker"]) if description["tracker"] else None
    register()
    told = False
    while True:
        try:
            state = PopenRPCServerState(
                host, port, port + 1, tracker_addr=tracker, key=description["key"], silent=True
            )
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or "the port is taken"
            print(text, flush=True)
            os._exit(EnvironmentError_.exit_code)
        if not told:
            print(_READY, flush=True)
            told = True
        state.thread.join()  # it ends with a session that has ended badly
        state.sock.close()


if __name__ == "__main__":
    main()
