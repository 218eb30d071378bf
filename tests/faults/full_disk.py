"""Measures on a disk that is full for a while; prints what comes of it."""

from __future__ import annotations

import os

from tests.faults.harness import candidate, measuring, relu
from tvmconv.autoschedule.measure import Measurer
from tvmconv.errors import EnvironmentError_


def statuses(measurer: Measurer) -> list[str]:
    kinds = [candidate(number=k) for k in range(2)]
    return [outcome.status for outcome in measurer.measure(relu(), kinds)]


def main() -> None:
    with measuring() as measurer:
        print(*statuses(measurer))
        path = measurer._station().crew.folder / "filled"
        file = os.open(path, os.O_CREAT | os.O_WRONLY)
        try:
            while True:
                os.write(file, bytes(4096))
        except OSError:
            os.close(file)
        try:
            print(*statuses(measurer))
        except EnvironmentError_ as error:
            print(str(error).rpartition(": ")[2])
        path.unlink()
        print(*statuses(measurer))


main()
