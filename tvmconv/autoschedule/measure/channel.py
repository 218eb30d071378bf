"""Messages between the processes: JSON objects over a socket that keeps them apart."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

_LARGEST_BYTES = 1 << 16


class Garbage(ValueError):
    """What came is no message."""


class Channel:
    """One end of a connection; it ends when all copies of the other end are closed."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    @classmethod
    def of(cls, descriptor: int) -> Channel:
        """The end that another process has left open under a number."""
        os.set_inheritable(descriptor, False)
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """The number of the open file; -1 if it is closed."""
        return self._end.fileno()

    def send(self, message: Mapping[str, Any], descriptor: int | None = None) -> bool:
        """Send a message, perhaps with an open file; whether there is someone to receive it."""
        data = [json.dumps(message).encode()]
        try:
            socket.send_fds(self._end, data, [] if descriptor is None else [descriptor])
        except OSError:
            return False
        return True

    def receive(self) -> tuple[dict[str, Any], int | None] | None:
        """Wait for a message and the file that comes with it; None at the end of the connection.

        Raises
        ------
        Garbage
            If what comes is no JSON object.
        """
        try:
            data, files, flags, _ = socket.recv_fds(self._end, _LARGEST_BYTES, 1)
        except OSError:
            return None
        if not data:
            return None
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or flags & socket.MSG_TRUNC:
            raise Garbage(f"{len(data)} bytes that are no message: {data[:40]!r}")
        return message, files[0] if files else None

    def close(self) -> None:
        """Close this end."""
        self._end.close()
