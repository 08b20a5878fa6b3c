"""The ledger's statements as they are on one day: addressed to the partitions that can hold the rows they want.

A statement on `ledger` itself makes the server lock and look at every partition that is kept, for each batch. Nearly
all steps are about today, or yesterday around midnight.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import LiteralString

from quillgate_core.reservation import Release, Settle, Step
from quillgate_core.storage import ledger_sql as sql
from quillgate_core.storage.ledger_days import REMEMBER_DAYS, partition, source

DEFAULT_CLOCK = "clock_timestamp()"


@dataclass(frozen=True, slots=True)
class Reads:
    """The statements that read rows, all from the same partitions."""

    rows: bytes
    claims: bytes
    days: bytes


class LedgerStatements:
    """The statements of `today`, given the days that have a partition, today's among them.

    A later day than today has one where the clock was set back.
    """

    def __init__(self, today: date, kept_days: Iterable[date], clock: LiteralString) -> None:
        self.today = today
        self.yesterday = today - timedelta(days=1)
        self.month = today.replace(day=1)
        self._first_remembered = today - timedelta(days=REMEMBER_DAYS)
        kept = [day for day in kept_days if day >= self._first_remembered]
        self.recent = _reads(source(day for day in kept if day >= self.yesterday))
        self.remembered = _reads(source(kept))
        self.every = _reads("ledger")
        self.read_workspaces = sql.READ_WORKSPACES.replace(DEFAULT_CLOCK, clock).encode()
        self.read_keys = sql.READ_KEYS.replace(DEFAULT_CLOCK, clock).encode()
        self._writes: dict[str, bytes] = {}

    def reads(self, steps: Iterable[Step], *, trusts_days: bool) -> Reads:
        """Return the narrowest statements that find every row that the steps may be about.

        A core's own requests were reserved a moment ago, or their ends say when. Others repeat a step as long as it is
        remembered.
        """
        if not trusts_days:
            return self.every
        found = self.recent
        for step in steps:
            if isinstance(step, Settle | Release) and step.day is not None:
                if step.day < self._first_remembered:
                    return self.every
                found = found if step.day >= self.yesterday else self.remembered
            elif isinstance(step, Settle | Release) or step.owner is None:
                found = self.remembered
        return found

    def write(self, days: Sequence[date]) -> bytes:
        """Return the statement that writes a batch whose stored rows are of these days."""
        table = partition(days[0]) if len(days) == 1 else "ledger" if days else partition(self.today)
        found = self._writes.get(table)
        if found is None:
            text = sql.WRITE.replace("{today}", partition(self.today)).replace("{day}", table)
            found = self._writes[table] = text.encode()
        return found


def _reads(rows: str) -> Reads:
    return Reads(*(text.replace("{rows}", rows).encode() for text in (sql.READ_ROWS, sql.READ_CLAIMS, sql.FIND_DAYS)))
