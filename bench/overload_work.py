"""Overload: three times as many requests a second as the service can answer, for some seconds.

Goodput is what is still answered, beside the peak of a closed loop just before. A refusal's latency is counted from
when its request was sent. The load and PostgreSQL share a core, as always; where that core is full, the rate that was
asked for is not reached, and the table says which was.
"""

import time

from load import Load, LoadFigures
from row import Row
from service import Service
from session import Session

FACTOR = 3
PEAK_CONNECTIONS = 64
PEAK_S = 3.0
OVERLOAD_S = 8.0
MAX_CONNECTIONS = 4_000
MAX_GROWTH_MB = 20.0
"""What counts as flat memory while requests are refused."""


def overload(session: Session, target: Service) -> list[Row]:
    """Measures goodput, refusals and memory at three times the peak."""
    work = f"overload, {FACTOR} x the peak"
    peak = session.load(f"{work}: peak", target, "--c", str(PEAK_CONNECTIONS), seconds=PEAK_S)["rps"]
    before_mb = most_mb = target.resident_mb()
    arguments = ("--rate", str(round(FACTOR * peak)), "--maxconn", str(MAX_CONNECTIONS), "--drain", "10")
    mock_cpu_s = session.mock.cpu_s()
    with Load(target, *arguments, seconds=OVERLOAD_S) as running:
        while running.is_running():
            time.sleep(0.2)
            most_mb = max(most_mb, target.resident_mb())
        found = running.figures()
    session.keep(work, {**found, "peak": peak, "before_mb": before_mb, "most_mb": most_mb})
    refused = sum(found["status"].values())
    busy = found["status"].get("503", 0)
    mock_cpu_s = session.mock.cpu_s() - mock_cpu_s
    load_share = (found["lg_cpu_s"] + mock_cpu_s + found["postgres_cpu_s"]) / found["wall"]
    note = f"peak {peak:,.0f}/s; {found['rate']:,.0f}/s came; the load's core was {load_share:.0%} busy"
    lost = found["errors"] - refused + found["unfinished"] + found["queued"]
    return [
        Row(work, "goodput, share of the peak", found["rps"] / peak, 0.9, at_least=True),
        Row(work, "answers/s", found["rps"], note=note),
        Row(work, "answers' ms, median", found["svc"]["p50"]),
        Row(work, "answers' ms, 99th percentile", found["svc"]["p99"]),
        Row(work, "refusals, share of requests", refused / max(found["started"], 1)),
        *_refusals(work, found, refused, busy),
        Row(work, "neither answered nor refused", lost, 0),
        Row(work, "MB more than before, at most", most_mb - before_mb, MAX_GROWTH_MB),
    ]


def _refusals(work: str, found: LoadFigures, refused: int, busy: int) -> list[Row]:
    if not refused:
        return []
    return [
        Row(work, "refusals' ms, median", found["rej_svc"]["p50"]),
        Row(work, "refusals' ms, 99th percentile", found["rej_svc"]["p99"], 20.0),
        Row(work, "503 with retry-after, share", min(busy, found["retry_after"]) / refused, 1.0, at_least=True),
    ]
