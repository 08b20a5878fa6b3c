"""Measures all that the service promises of its speed, prints one table with the targets, and keeps the results.

    python bench/table.py [--seconds 3] [--runs 1] [--only unary,streams] [--long]

With several runs the medians count. `--long` adds memory over 200,000 requests, which takes some minutes more. How it
is measured, and what was measured when, is in bench/README.md. Ends with 0 whether the targets are met or not.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calibration import calibrate
from codec import cases, measure_us
from machine import describe, head
from memory_work import memory
from overload_work import overload
from request_works import CONNECTIONS, added_latency, apart, limited, long_prompt, unary
from row import Row, medians, table
from service import BENCH, Service, build, mock_provider
from session import Session
from start_work import cold_start
from stream_works import full_speed, many_open, trickling
from workers_work import can_run, workers

OnTarget = Callable[[Session, Service], Sequence[Row]]

WORKS: dict[str, OnTarget] = {
    "unary": lambda session, target: [row for count in CONNECTIONS for row in unary(session, target, count)],
    "limits": limited,
    "latency": added_latency,
    "streams": lambda session, target: [*trickling(session, target), *full_speed(session, target)],
    "prompt": long_prompt,
    "open": many_open,
}
"""What is measured on one and the same service, in this order."""
ALONE: dict[str, Callable[[Session], Sequence[Row]]] = {
    "overload": lambda session: _fresh(session, overload),
    "workers": workers,
    "start": cold_start,
    "apart": apart,
    "codec": lambda _: codec(),
}
"""What starts services of its own, or none."""
LONG: dict[str, Callable[[Session], Sequence[Row]]] = {"memory": lambda session: _fresh(session, memory)}


def measure(session: Session, chosen: set[str]) -> list[Row]:
    """Does the chosen work once, and returns the rows."""
    rows: list[Row] = []
    if chosen & set(WORKS):
        with session.quillgate() as target:
            for name, work in WORKS.items():
                rows += _done(name, work(session, target)) if name in chosen else ()
    for name, alone in {**ALONE, **LONG}.items():
        if name == "workers" and name in chosen and not can_run():
            print("workers: `quillgate serve` has no --workers here", flush=True)
        elif name in chosen:
            rows += _done(name, alone(session))
    return rows


def codec() -> list[Row]:
    """Measures the codec, in this process."""
    return [Row(f"codec, {case.name}", "CPU us", measure_us(case), case.target_us) for case in cases()]


def _fresh(session: Session, work: OnTarget) -> Sequence[Row]:
    with session.quillgate() as target:
        return work(session, target)


def _done(name: str, rows: Sequence[Row]) -> Sequence[Row]:
    missed = sum(row.met is False for row in rows)
    print(f"{name}: done, {missed} of {sum(row.met is not None for row in rows)} targets missed", flush=True)
    return rows


def keep(result: dict[str, Any], name: str) -> Path:
    """Writes a result beside the others and returns where."""
    results = BENCH / "results"
    results.mkdir(exist_ok=True)
    path = results / f"{name}-{result['machine']['time'].replace(':', '')}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def as_json(row: Row) -> dict[str, Any]:
    """Returns a row for the file of results."""
    return {**vars(row), "met": row.met}


def main() -> None:
    """Measures, prints and keeps."""
    every = [*WORKS, *ALONE, *LONG]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each load, in seconds")
    parser.add_argument("--runs", type=int, default=1, help="how often all is done; the medians count")
    parser.add_argument("--only", default="", help=f"comma-separated, of {', '.join(every)}")
    parser.add_argument("--long", action="store_true", help="also memory over 200,000 requests")
    arguments = parser.parse_args()
    chosen = set(filter(None, arguments.only.split(","))) or {*WORKS, *ALONE}
    chosen |= set(LONG) if arguments.long else set()
    if chosen - set(every):
        parser.error(f"no such work: {', '.join(sorted(chosen - set(every)))}")
    build()
    machine = describe()
    with mock_provider() as mock:
        session = Session(mock, arguments.seconds)
        calibration = calibrate(mock)
        rows = medians([measure(session, chosen) for _ in range(arguments.runs)])
    result = {"machine": machine, "calibration": calibration, "runs": arguments.runs, "seconds": arguments.seconds}
    result |= {"rows": [as_json(row) for row in rows], "raw": session.raw}
    path = keep(result, "table")
    print(f"\n{head(result)}\n{table(rows)}\nkept as {path.relative_to(BENCH.parent)}")


if __name__ == "__main__":
    main()
