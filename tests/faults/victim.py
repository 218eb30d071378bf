"""Measures without end, for a test that ends it; prints its folder and its session first."""

from __future__ import annotations

from tests.faults.harness import candidate, measuring, relu


def main() -> None:
    with measuring() as measurer:
        crew = measurer._station().crew
        print(crew.folder, crew.pid, flush=True)
        kinds = [candidate(number=k) for k in range(3)] * 1000
        for outcome in measurer.measure(relu(), kinds):
            print(outcome.status, flush=True)


main()
