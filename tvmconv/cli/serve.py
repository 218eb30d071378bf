"""`tvmconv serve`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from tvmconv.cli._options import debug_option
from tvmconv.errors import EnvironmentError_, InputError


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65534), default=9091, show_default=True, help="The port."
)
@click.option("--tracker", metavar="H:P", help="A tracker of TVM's to report to.")
@click.option("--key", metavar="K", help="What this machine is called there.")
@click.option(
    "--allow-others",
    is_flag=True,
    help="Listen on an address that other machines reach. They can run any code here.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, 1e6, min_open=True),
    help="How long one session may take; 3600 if not given.",
)
@debug_option
def command(
    host: str,
    port: int,
    tracker: str | None,
    key: str | None,
    allow_others: bool,
    timeout: float | None,
) -> None:
    """Let `tvmconv tune --rpc` and `--tracker` measure on this machine, until Ctrl-C.

    There are no passwords: whoever reaches the server can run any code on this machine.
    """
    from tvmconv.device.serve import (
        DEFAULT_SESSION_S,
        WARNING,
        check_host,
        is_loopback,
        serving,
    )

    if (tracker is None) != (key is None):
        raise InputError("tracker: needs a key (--key), and a key a tracker")
    check_host(host, anyone=allow_others)
    if not is_loopback(host):
        click.echo(f"warning: {host}: {WARNING}", err=True)
    session_s = timeout or DEFAULT_SESSION_S
    with _ending_well(), serving(host, port, tracker, key, session_s) as server:
        click.echo(f"serving on {host}:{port}")
        server.wait()
        raise EnvironmentError_(f"{host}:{port}: the server has ended")


@contextmanager
def _ending_well() -> Iterator[None]:
    """Leave the body, and so remove what was uploaded, where a service manager ends the process."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise click.exceptions.Exit(0)

    before = {n: signal.signal(n, leave) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
