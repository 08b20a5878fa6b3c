"""Memory over 200,000 requests of which 30 % hang up at random moments: whatever leaks shows as a slope.

Half of the requests ask for whole answers, half for streams, from 64 connections each. Takes some minutes.
"""

import statistics
from contextlib import ExitStack

from load import Load, LoadFigures, stream_arguments
from row import Row
from service import Service
from session import Session

REQUESTS = 200_000
STEP = 20_000
HANG_UPS = 0.3
CONNECTIONS = 64
LATENCY_MS = 30
CHUNKS, DELAY_MS = 10, 4
STEP_LIMIT_S = 600.0
SETTLED_AFTER = 2
"""Steps that fill caches and pools; the slope is that of the others."""
MAX_SLOPE_MB = 0.5
"""What counts as flat: megabytes per 20,000 requests; ten times that would be 5 MB in 200,000."""


def memory(session: Session, target: Service, requests: int = REQUESTS) -> list[Row]:
    """Measures what is resident after each 20,000 requests."""
    work = f"{requests:,} requests, {HANG_UPS:.0%} hang up"
    resident_mb, hung, failed, postgres_mb = [target.resident_mb()], 0, 0, [target.postgres_mb()]
    reasons: list[str] = []
    for step in range(requests // STEP):
        for found in _one_step(target, step):
            hung += found["hung"]
            failed += found["errors"]
            reasons += [found["first_error"]] if found["errors"] else []
        resident_mb.append(target.resident_mb())
        postgres_mb.append(target.postgres_mb())
        print(f"  after {(step + 1) * STEP:,} requests: resident {resident_mb[-1]:.1f} MB"
              f" + PostgreSQL {postgres_mb[-1]:.1f} MB, {hung:,} hung up", flush=True)  # fmt: skip
    settled = resident_mb[SETTLED_AFTER + 1 :] if len(resident_mb) > SETTLED_AFTER + 2 else resident_mb
    slope = statistics.linear_regression(range(len(settled)), settled).slope
    figures = {"resident_mb": resident_mb, "postgres_mb": postgres_mb, "hung": hung, "errors": failed}
    session.keep(work, {**figures, "first_errors": reasons})
    steps = " ".join(f"{each:.0f}" for each in resident_mb)
    return [
        Row(work, f"slope, MB per {STEP:,}", slope, MAX_SLOPE_MB, note=f"resident MB at each {STEP:,}: {steps}"),
        Row(work, "resident MB at the end", resident_mb[-1], 180),
        Row(work, "share that hung up", hung / requests),
        *([Row(work, "failed requests", failed, 0, note=f"such as: {reasons[0]}")] if failed else []),
    ]


def _one_step(target: Service, step: int) -> list[LoadFigures]:
    """Has 20,000 requests made; which ones hang up, and when, differs from step to step, but not from run to run."""
    hang_up_ms = {False: LATENCY_MS, True: CHUNKS * DELAY_MS}
    with ExitStack() as stack:
        loads = []
        for number, (is_stream, within_ms) in enumerate(hang_up_ms.items()):
            whole = ("--c", str(CONNECTIONS), "--l", str(LATENCY_MS))
            shape = stream_arguments(CONNECTIONS, CHUNKS, DELAY_MS) if is_stream else whole
            leaving = ("--hangup", str(HANG_UPS), "--hangup-ms", str(within_ms), "--seed", str(1 + 2 * step + number))
            limits = ("--total", str(STEP // 2))
            loads.append(stack.enter_context(Load(target, *shape, *limits, *leaving, seconds=STEP_LIMIT_S)))
        return [load.figures() for load in loads]
