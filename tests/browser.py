"""A page in headless Chromium, by the DevTools protocol over a pipe; needs no package.

References
----------
Chrome DevTools Protocol, https://chromedevtools.github.io/devtools-protocol/; with
``--remote-debugging-pipe`` messages are JSON, each with a NUL after it, on descriptors 3 and 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
LIMIT_S = 30.0


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One open page, and all that the browser said about it."""

    def __init__(self, requests: int, answers: int) -> None:
        self.requests, self.answers = requests, answers
        self.buffer, self.number, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def _message(self) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT_S
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], deadline - time.monotonic())
            data = os.read(self.answers, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError("Chromium has ended" if ready else "Chromium does not answer")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self.requests, data) :]
        while True:
            message = self._message()
            if message.get("id") != self.number:
                self.events.append(message)
            elif "error" in message:
                raise RuntimeError(f"{method}: {message['error']}")
            else:
                result: dict[str, Any] = message["result"]
                return result

    def open(self, url: str, width: int = 1200, height: int = 900) -> None:
        """Load a page, and return when its scripts have run."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def evaluate(self, expression: str) -> Any:
        """The value of a script's expression, or of the promise that it is."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, selector: str) -> bytes:
        """A PNG of the first element that a selector finds."""
        box = self.evaluate(
            f"(r => ({{x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height}}))"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        clip = {**box, "scale": 1}
        answer = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def complaints(self) -> list[str]:
        """Errors and warnings on the console, uncaught exceptions, and failed requests."""
        self.evaluate("0")  # whatever was said before it has arrived after it
        found = []
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            said = method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning")
            logged = method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning")
            if said or logged or method in ("Runtime.exceptionThrown", "Network.loadingFailed"):
                found.append(json.dumps(what)[:500])
        return found

    def requested(self) -> list[str]:
        """Every address that the page asked for, in order."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]


@contextmanager
def chromium(executable: str) -> Iterator[Page]:
    """Run a browser for one page, and end it with all its processes."""
    asked, asks = os.pipe()
    answers, answered = os.pipe()
    with tempfile.TemporaryDirectory(prefix="tvmconv-chromium-") as profile:
        options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        options += ["--no-sandbox"] * (os.geteuid() == 0)  # Chromium's sandbox refuses root
        options += ["--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        actions: list[Any] = [
            (os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in range(3)
        ]
        # The pipe that it reads was made first, so neither copy hides the other's source.
        actions += [(os.POSIX_SPAWN_DUP2, asked, 3), (os.POSIX_SPAWN_DUP2, answered, 4)]
        process = os.posix_spawn(
            executable, [executable, *options], os.environ, file_actions=actions, setsid=True
        )
        os.close(asked)
        os.close(answered)
        try:
            yield Page(asks, answers)
        finally:
            os.close(asks)
            os.close(answers)
            _end(process)
            _settle(Path(profile))


def _end(process: int) -> None:
    """End the browser's process group, which is its own."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)


def _settle(folder: Path) -> None:
    """Remove what processes that are just ending may still write into a folder."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            folder.mkdir()
            return
        time.sleep(0.02)
