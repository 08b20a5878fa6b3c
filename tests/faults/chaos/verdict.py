"""Compares the books with what the provider did and what callers saw, request by request, and names every difference.

lost      work or a charge that the books do not know, or know otherwise than the caller was told
doubled   a request that was charged or answered twice, or a charge that nobody asked for
over      messages by which a workspace's day passed its allowance, or a key's day its limit
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

from faults.chaos.attribution import CLOCK_S, Request, attribute
from faults.chaos.books import Adjustment, Books, Day, Row
from faults.chaos.record import Attempt, Dispatch, Record, Tokens


@dataclass
class Verdict:
    """What was found; empty lists and no `over` are what is hoped for."""

    dispatched: int
    recovered: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    over: int = 0
    excesses: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled or over."""
        return not (self.lost or self.doubled or self.over)

    def __str__(self) -> str:
        return (
            f"dispatched {self.dispatched} lost {len(self.lost)} doubled {len(self.doubled)} over {self.over} "
            f"recovered {self.recovered}"
        )


def judge(record: Record, books: Books, seen_excesses: dict[tuple[str, date], int]) -> Verdict:
    """Returns what the comparison finds; `seen_excesses` are messages over at any moment, by account and day."""
    verdict = Verdict(record.dispatched, sum(row.state == "recovered" for row in books.rows))
    corrections: dict[tuple[str, str], list[Adjustment]] = defaultdict(list)
    for adjustment in books.adjustments:
        corrections[adjustment.workspace_id, adjustment.request_id].append(adjustment)
    requests, strangers = attribute(record, books)
    for request in requests:
        verdict.lost += [_story(problem, request) for problem in _losses(request, corrections)]
        verdict.doubled += [_story(problem, request) for problem in _doubles(request)]
    verdict.doubled += [f"a charge that nobody asked for: {row}" for row in strangers if row.is_charged]
    verdict.doubled += _repeated_ids(books.rows)
    verdict.lost += [f"never ended: {row}" for row in books.rows if row.state == "open"]
    for day, sums in _unequal_days(books):
        (verdict.doubled if _counts_more(day, sums) else verdict.lost).append(f"the day is {day}, its rows are {sums}")
    excesses = _excesses(requests, books)
    for key, excess in seen_excesses.items():
        excesses[key] = max(excess, excesses.get(key, 0))
    verdict.over = sum(excesses.values())
    verdict.excesses = [f"{account} on {day}: {excess} over" for (account, day), excess in excesses.items()]
    return verdict


def _losses(request: Request, corrections: dict[tuple[str, str], list[Adjustment]]) -> Iterator[str]:
    for dispatch in request.dispatches:
        row = _row_of(dispatch, request.rows)
        if row is None:
            yield "the provider was asked without a reservation"
        elif dispatch.is_whole and not row.is_charged and row.state != "open":
            yield "the provider answered whole, and nothing was charged"
        elif dispatch.is_whole and dispatch.reported and row.outcome == "complete" and row.tokens != dispatch.reported:
            yield "the usage in the ledger is not what the provider reported"
    for attempt in request.attempts:
        if attempt.is_done:
            problem = _unlike_shown(attempt, request.rows, corrections)
            if problem:
                yield problem


def _row_of(dispatch: Dispatch, rows: list[Row]) -> Row | None:
    """Returns the row that was open when the provider was asked."""
    for row in rows:
        ended = float("inf") if row.settle_time is None else row.settle_time
        if row.reserve_time <= dispatch.time + CLOCK_S and dispatch.time <= ended + CLOCK_S:
            return row
    return None


def _unlike_shown(
    attempt: Attempt, rows: list[Row], corrections: dict[tuple[str, str], list[Adjustment]]
) -> str | None:
    found = [row for row in rows if row.request_id == attempt.request_id]
    if not found:
        return "the caller saw the end, and there is no row"
    row, own = found[0], corrections[found[0].workspace_id, found[0].request_id]
    if row.state != "settled" and not (row.state == "recovered" and own):
        return f"the caller saw the end, and the row is {row.state}"
    total = _sum(row.tokens, *(correction.tokens for correction in own))
    counted_messages = row.counted_messages + sum(correction.counted_messages for correction in own)
    if attempt.shown is not None and total != attempt.shown:
        return f"the caller was shown {attempt.shown}, and the ledger has {total}"
    if counted_messages != total.messages():
        return f"{total} count {total.messages()} messages, not {counted_messages}"
    return None


def _doubles(request: Request) -> Iterator[str]:
    if len(request.charged_rows) > 1:
        yield "charged twice"
    if sum(dispatch.is_whole for dispatch in request.dispatches) > 1:
        yield "answered twice"


def _repeated_ids(rows: list[Row]) -> list[str]:
    counts = Counter(row.request_id for row in rows)
    return [f"{count} rows have the request id {request_id}" for request_id, count in counts.items() if count > 1]


def _unequal_days(books: Books) -> Iterator[tuple[Day, Day]]:
    """Yields days that are not the sums of their rows, with the sums."""
    days = {(day.account, day.day): day for day in books.days}
    sums = {key: Day(*key, 0, 0, Tokens(), 0) for key in days}
    entries = [(account, entry) for entry in (*books.rows, *books.adjustments) for account in _accounts(entry)]
    for account, entry in entries:
        key = (account, entry.day)
        before = sums.get(key, Day(*key, 0, 0, Tokens(), 0))
        is_row = isinstance(entry, Row)
        sums[key] = Day(
            *key,
            before.message_count + entry.counted_messages,
            before.held_messages + (entry.held_messages if is_row and entry.state == "open" else 0),
            _sum(before.tokens, entry.tokens),
            before.request_count + (is_row and entry.is_charged),
        )
    for key, total in sums.items():
        day = days.get(key, Day(*key, 0, 0, Tokens(), 0))
        if day != total:
            yield day, total


def _accounts(entry: Row | Adjustment) -> Iterator[str]:
    yield entry.workspace_id
    if entry.key_id is not None:
        yield entry.key_id


def _sum(*tokens: Tokens) -> Tokens:
    return Tokens(*(sum(column) for column in zip(*tokens, strict=True)))


def _counts_more(day: Day, sums: Day) -> bool:
    return (day.message_count, day.request_count) > (sums.message_count, sums.request_count)


def _excesses(requests: list[Request], books: Books) -> dict[tuple[str, date], int]:
    """Returns by how much the books, and the provider's true usage, pass each allowance."""
    true_messages: Counter[tuple[str, date]] = Counter()
    for request in requests:
        for dispatch in request.dispatches:
            row = _row_of(dispatch, request.rows)
            if row is not None and dispatch.billed is not None:
                for account in _accounts(row):
                    true_messages[account, row.day] += dispatch.billed.messages()
    used = {(day.account, day.day): day.message_count + day.held_messages for day in books.days}
    found = {}
    for key in used.keys() | true_messages.keys():
        allowance = books.allowances.get(key[0])
        if allowance is not None and (excess := max(used.get(key, 0), true_messages[key]) - allowance) > 0:
            found[key] = excess
    return found


def _story(problem: str, request: Request) -> str:
    lines = [f"{problem}: {request.token}"]
    lines += [f"    caller    {attempt}" for attempt in request.attempts]
    lines += [f"    provider  {dispatch}" for dispatch in request.dispatches]
    lines += [f"    ledger    {row}" for row in request.rows]
    return "\n".join(lines)
