"""Measures other gateways beside ours: the same machine, mock provider and load, one core each, one after the other.

    python bench/peers.py [--seconds 3] [--only bare,litellm,portkey,tensorzero]

Quillgate runs as `quillgate serve` runs, with keys, limits and durable metering on PostgreSQL; the others with what
they have without a database. They are installed at the first run, from their packages, into environments of their own.
A ratio says how many times better Quillgate is: below 1 the other one is better.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from calibration import calibrate
from load import UnansweredError, load
from machine import describe, head
from peer_gateways import PEERS_BY_NAME
from request_works import steady, unary
from row import Row, number, ratio
from service import Service, build, mock_provider
from session import WARM_UP_S, Session
from stream_works import SPREAD_S, full_speed, trickle
from table import as_json, keep

OURS = "quillgate"
CONNECTIONS = (1, 16, 64)
STEADY_RATE = 20


def measure(session: Session, target: Service) -> list[Row]:
    """Does the same work on each, and returns the rows without targets."""
    load(target, "--c", "16", seconds=WARM_UP_S)
    works = [partial(unary, session, target, count) for count in CONNECTIONS]
    works.append(partial(steady, session, target, STEADY_RATE))
    works.append(partial(trickle, session, target, "evenly spread", ramp_s=SPREAD_S))
    works.append(partial(full_speed, session, target))
    rows: list[Row] = []
    for work in works:
        try:
            rows += work()
        except UnansweredError as error:
            print(error)
    rows.append(Row("after all of it", "resident MB", target.resident_mb()))
    return [replace(row, target=None) for row in rows]


def compare(found: dict[str, Sequence[Row]]) -> str:
    """Writes a column for each gateway, with the ratio to ours."""
    names = list(found)
    lines = [f"{'work':<42} {'figure':<34}" + "".join(f" {name:>22}" for name in names)]
    values = {name: {(row.work, row.figure): row for row in rows} for name, rows in found.items()}
    places = dict.fromkeys(place for rows in values.values() for place in rows)
    before = ""
    for work, figure in places:
        cells = [_cell(values[OURS].get((work, figure)), values[name].get((work, figure)), name) for name in names]
        lines.append(f"{work if work != before else '':<42} {figure:<34}" + "".join(cells))
        before = work
    return "\n".join(lines)


def _cell(ours: Row | None, other: Row | None, name: str) -> str:
    if other is None:
        return f" {'-':>22}"
    times = ratio(ours, other) if ours is not None and name != OURS else None
    return f" {number(other.value):>11} {'' if times is None else f'({number(times)} x)':>10}"


def main() -> None:
    """Installs, measures, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each load, in seconds")
    parser.add_argument("--only", default=",".join(PEERS_BY_NAME), help="comma-separated")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := [name for name in names if name not in PEERS_BY_NAME]:
        parser.error(f"no such peer: {', '.join(unknown)}")
    chosen = [PEERS_BY_NAME[name] for name in names]
    build()
    machine = describe()
    found: dict[str, Sequence[Row]] = {}
    with mock_provider() as mock:
        session = Session(mock, arguments.seconds)
        calibration = calibrate(mock)
        with session.quillgate() as target:
            found[OURS] = measure(session, target)
        for peer in chosen:
            print(f"{peer.name}: {peer.what}", flush=True)
            with TemporaryDirectory(prefix="quillgate-bench-") as folder, peer.run(mock.url, Path(folder)) as it:
                found[peer.name] = measure(session, it)
    result = {"machine": machine, "calibration": calibration, "seconds": arguments.seconds, "raw": session.raw}
    result |= {"rows": {name: [as_json(row) for row in rows] for name, rows in found.items()}}
    path = keep(result, "peers")
    print(f"\n{head(result)}\n{compare(found)}\nkept as {path.name}")


if __name__ == "__main__":
    main()
