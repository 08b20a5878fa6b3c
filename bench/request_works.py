"""Work in whole answers: at several connections, at steady rates, with a long prompt, with core and facade apart."""

from row import Row
from service import Service, with_key
from session import Session, cpu_ms, postgres_cpu_ms

CONNECTIONS = (1, 16, 64, 256)
RATES = {20: 8.0, 100: 5.0}
"""Requests a second, and for how many seconds, so that a 99th percentile says something."""


MUCH = "1000000000"
EVERY_LIMIT = (
    *("--daily-messages", MUCH, "--monthly-messages", MUCH),
    *("--requests-per-minute", MUCH, "--tokens-per-minute", MUCH, "--concurrent-requests", MUCH),
)


def limited(session: Session, target: Service) -> list[Row]:
    """Measures closed loops with a key that has every limit there is, none of which is reached."""
    holder = with_key(target, *EVERY_LIMIT)
    return [row for count in (16, 64) for row in unary(session, holder, count, whose=", every limit")]


def unary(session: Session, target: Service, connections: int, *, whose: str = "") -> list[Row]:
    """Measures a closed loop."""
    work = f"unary, {connections} connection{'s' * (connections > 1)}{whose}"
    found = session.load(work, target, "--c", str(connections))
    is_aim = connections in (16, 64)
    return [
        Row(work, "CPU ms per request", cpu_ms(found), 0.30 if is_aim else None),
        Row(work, "PostgreSQL's CPU ms per request", postgres_cpu_ms(found), 0.10 if is_aim else None),
        Row(work, "requests/s", found["rps"], 3_000 if is_aim else None, at_least=True),
        Row(work, "latency ms, median", found["lat"]["p50"]),
        Row(work, "latency ms, 99th percentile", found["lat"]["p99"]),
        *_failures(work, found),
    ]


def added_latency(session: Session, target: Service) -> list[Row]:
    """Measures what the service adds to the mock's own latency: one request at a time, and at steady rates."""
    arguments = ("--c", "1")
    rows = _added(session, target, "added latency, 1 connection", *arguments, seconds=session.seconds, aims=(2.0, 5.0))
    return rows + [row for rate in RATES for row in steady(session, target, rate)]


def steady(session: Session, target: Service, rate: int) -> list[Row]:
    """Measures the added latency at so many requests a second, each counted from when it was due."""
    work = f"added latency, steady {rate} requests/s"
    return _added(session, target, work, "--rate", str(rate), seconds=RATES[rate], aims=(2.5, 8.0))


def _added(
    session: Session, target: Service, work: str, *arguments: str, seconds: float, aims: tuple[float, float]
) -> list[Row]:
    direct = session.load(f"{work}: mock alone", session.mock, *arguments, seconds=seconds / 2)
    found = session.load(work, target, *arguments, seconds=seconds)
    return [
        Row(work, f"ms, {name}", found["lat"][percentile] - direct["lat"][percentile], aim)
        for name, percentile, aim in (("median", "p50", aims[0]), ("99th percentile", "p99", aims[1]))
    ]


def long_prompt(session: Session, target: Service) -> list[Row]:
    """Measures conversations of 200 messages and 400 kB."""
    work = "400 kB prompt of 200 messages"
    found = session.load(work, target, "--c", "4", "--messages", "200", "--message-bytes", "1960")
    return [Row(work, "CPU ms per request", cpu_ms(found), 6.0), *_failures(work, found)]


def apart(session: Session) -> list[Row]:
    """Measures core and facade in two processes on one core, over a Unix socket."""
    rows = []
    with session.quillgate(apart=True) as target:
        for connections in (16, 64):
            work = f"apart over a Unix socket, {connections} connections"
            found = session.load(work, target, "--c", str(connections))
            rows.append(Row(work, "CPU ms per request, both", cpu_ms(found), 1.0))
            rows.append(Row(work, "requests/s", found["rps"]))
    return rows


def _failures(work: str, found: dict[str, int]) -> list[Row]:
    """A row that is only there when it should not be."""
    return [Row(work, "failed requests", found["errors"], 0)] if found["errors"] else []
