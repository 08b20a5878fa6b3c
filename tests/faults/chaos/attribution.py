"""Finds which rows of the ledger belong to which logical request.

Most say it themselves, by request id or idempotency key. A caller that was cut off before it heard a request id is
found by its key: it asks one thing after the other, so its row was made while it waited.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from faults.chaos.books import Books, Row
from faults.chaos.record import Attempt, Dispatch, Record

CLOCK_S = 0.05
"""How far two readings of the same clock may be apart."""

LATE_S = 3.0
"""How long after its caller went away a request may still be reserved: a little more than a reserve may take."""


@dataclass
class Request:
    """One logical request, from all sides."""

    token: str
    attempts: list[Attempt] = field(default_factory=list)
    dispatches: list[Dispatch] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def charged_rows(self) -> list[Row]:
        """The rows that count."""
        return [row for row in self.rows if row.is_charged]


def attribute(record: Record, books: Books) -> tuple[list[Request], list[Row]]:
    """Returns every request with its rows, and the rows that belong to none."""
    requests: dict[str, Request] = {}
    for attempt in record.attempts:
        requests.setdefault(attempt.token, Request(attempt.token)).attempts.append(attempt)
    for token, dispatches in record.dispatches.items():
        requests.setdefault(token, Request(token)).dispatches.extend(dispatches)
    left = _take_named(requests, books.rows)
    return list(requests.values()), _take_by_key(requests, left)


def _take_named(requests: dict[str, Request], rows: list[Row]) -> list[Row]:
    by_id = {
        (attempt.workspace_id, attempt.request_id): request
        for request in requests.values()
        for attempt in request.attempts
        if attempt.request_id
    }
    left = []
    for row in rows:
        named = by_id.get((row.workspace_id, row.request_id)) or requests.get(row.idempotency_key or "")
        if named is None:
            left.append(row)
        else:
            named.rows.append(row)
    return left


def _take_by_key(requests: dict[str, Request], rows: list[Row]) -> list[Row]:
    """Those that were dispatched choose first, for they say best when they were reserved."""
    by_key: dict[str | None, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.reserve_time):
        by_key[row.key_id].append(row)
    nameless = [
        request
        for request in requests.values()
        if request.attempts and not request.rows and not any(attempt.request_id for attempt in request.attempts)
    ]
    nameless.sort(key=lambda request: (not request.dispatches, request.attempts[0].start_time))
    for request in nameless:
        attempt = request.attempts[0]
        candidates = by_key[attempt.key_id]
        until = request.dispatches[0].time if request.dispatches else attempt.end_time + LATE_S
        fitting = [row for row in candidates if attempt.start_time - CLOCK_S <= row.reserve_time <= until + CLOCK_S]
        if fitting:
            chosen = fitting[-1] if request.dispatches else fitting[0]
            candidates.remove(chosen)
            request.rows.append(chosen)
    return [row for rows in by_key.values() for row in rows]
