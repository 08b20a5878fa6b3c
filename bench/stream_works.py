"""Work in streams: trickling in lock step, trickling evenly spread, at full speed, and a thousand open at once."""

import time

from load import Load, LoadFigures, stream_arguments
from row import Row
from service import Service
from session import Session, cpu_us_per_chunk

STREAMS, CHUNKS, DELAY_MS = 200, 50, 20
SPREAD_S = 1.02
"""Over which time the streams begin: a stream's second, and a little, or their chunks would come in four bursts of 50
that are 5 ms apart."""
OPEN_STREAMS = 1_000
OPEN_FOR_S = 6.0


def trickling(session: Session, target: Service) -> list[Row]:
    """Measures 200 streams of 50 chunks, 20 ms apart, spread evenly over a stream's second and all in lock step.

    Evenly spread, 200 streams begin each second and 10 chunks come each millisecond. In lock step all 200 requests
    arrive at one instant, again and again: their first chunk waits for the queue of the other 199.
    """
    return [
        *trickle(session, target, "evenly spread", ramp_s=SPREAD_S),
        *trickle(session, target, "in lock step", ramp_s=0),
    ]


def full_speed(session: Session, target: Service) -> list[Row]:
    """Measures 32 streams of 100 chunks that come as fast as they are read."""
    work = "32 streams x 100 chunks at full speed"
    found = session.load(work, target, *stream_arguments(32, 100, 0))
    return [
        Row(work, "chunks/s", found["chunks_s"], 70_000, at_least=True),
        Row(work, "CPU us per chunk", cpu_us_per_chunk(found)),
        *_failures(work, found),
    ]


def many_open(session: Session, target: Service) -> list[Row]:
    """Measures what is resident while a thousand streams are open."""
    work = f"{OPEN_STREAMS:,} open streams"
    delay_ms = 200
    shape = stream_arguments(OPEN_STREAMS, int(OPEN_FOR_S * 1_000 / delay_ms), delay_ms, ramp_s=OPEN_FOR_S / 2)
    idle_mb, peak_mb, peak_postgres_mb = target.resident_mb(), 0.0, 0.0
    with Load(target, *shape, seconds=0.1) as running:
        while running.is_running():
            time.sleep(0.2)
            peak_mb = max(peak_mb, target.resident_mb())
        peak_postgres_mb = target.postgres_mb()
        found = running.figures()
    session.keep(work, {**found, "idle_mb": idle_mb, "peak_mb": peak_mb})
    return [
        Row(work, "resident MB, at most", peak_mb, 180),
        Row(work, "resident MB before", idle_mb),
        Row(work, "PostgreSQL MB after", peak_postgres_mb),
        *_failures(work, found),
    ]


def trickle(session: Session, target: Service, how: str, *, ramp_s: float) -> list[Row]:
    """Measures 200 streams that begin over `ramp_s`; with 0 in lock step."""
    work = f"{STREAMS} streams x {CHUNKS} chunks, {how}"
    shape = stream_arguments(STREAMS, CHUNKS, DELAY_MS, ramp_s=ramp_s)
    direct = session.load(f"{work}: mock alone", session.mock, *shape, seconds=2)
    found = session.load(work, target, *shape)
    is_aim = ramp_s > 0
    return [
        Row(work, "CPU us per chunk", cpu_us_per_chunk(found), 45),
        Row(work, "added to first chunk ms, median", _added(found, direct, "ttft", "p50"), 5.0 if is_aim else None),
        Row(work, "added chunk delay ms, 99th percentile", _added(found, direct, "lag", "p99"), 5.0),
        *_failures(work, found),
    ]


def _added(found: LoadFigures, direct: LoadFigures, figure: str, percentile: str) -> float:
    return float(found[figure][percentile] - direct[figure][percentile])


def _failures(work: str, found: LoadFigures) -> list[Row]:
    """A row that is only there when it should not be."""
    return [Row(work, "failed streams", found["errors"], 0)] if found["errors"] else []
