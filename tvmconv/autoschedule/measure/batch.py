"""Builds that are linked to one library, or each to its own where one of them spoils that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tvmconv.autoschedule.measure.builder import Build, Builder, Link
from tvmconv.autoschedule.measure.outcome import Rejected
from tvmconv.autoschedule.measure.references import References
from tvmconv.autoschedule.measure.runner import AnyRunner, Kernel, NotLoaded

Result = TypeVar("Result")


class Batch:
    """Builds that have ended. Linking starts at once, and is waited for when a kernel is needed.

    Attributes
    ----------
    builds : sequence of Build
    """

    def __init__(self, builder: Builder, references: References, builds: Sequence[Build]) -> None:
        self._builder, self._references, self.builds = builder, references, builds
        self._libraries: dict[Build, Path] = {}
        self._files: list[Path] = []
        self._links: list[Link] = []
        for build in builds:
            builder.settle(build)
        good = [build for build in builds if build.failure is None]
        if good:
            self._links.append(builder.link(good))

    def run(self, build: Build, action: Callable[[Kernel], Result]) -> Result:
        """Do something with the kernel of a build.

        Raises
        ------
        Rejected
            If there is none, or it fails.
        """
        while self._links:
            self._finish(self._links.pop(0))
        if build.failure is not None:
            raise build.failure
        library = self._libraries[build]
        workload = self._references.wait(build.spec)
        try:
            return action(Kernel(build.symbol, str(library), str(workload)))
        except NotLoaded as error:
            together = [b for b, path in self._libraries.items() if path == library]
            if len(together) == 1:
                raise Rejected(error.status, str(error)) from None
            self._links += map(self._builder.link, ([b] for b in together))
            return self.run(build, action)

    def _finish(self, link: Link) -> None:
        """Wait for a link; where it fails, each build is linked alone."""
        try:
            library = self._builder.linked(link)
        except ValueError as error:
            if len(link.builds) == 1:
                link.builds[0].failure = Rejected("build-failed", str(error))
            else:
                self._links += map(self._builder.link, ([build] for build in link.builds))
            return
        self._files.append(library)
        self._libraries |= dict.fromkeys(link.builds, library)

    def close(self, runner: AnyRunner) -> None:
        """Remove the files, and have the runner forget them."""
        runner.forget(map(str, self._files))
        self._builder.discard(self.builds)
        for library in self._files:
            self._builder.contents.pop(str(library), None)
            library.unlink(missing_ok=True)
