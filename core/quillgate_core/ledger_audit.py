"""Audits the ledger and keeps it: shows a request, checks days, voids charges, and drops days that were exported.

It changes nothing but what an admin asks for by name. It must not know SQL or gRPC, nor judge who may ask.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import date
from functools import partial
from typing import Any, Final, TypeAlias

from quillgate_core.errors import InvalidRequest, ReservationNotFound
from quillgate_core.ledger_entry import CheckedDay, EntryStore, LedgerDay, LedgerDayStore, LedgerEntry, VoidStore
from quillgate_core.names import check_name

MAX_ID_CHARACTERS: Final = 128

Blocking: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a blocking call in a thread."""


class LedgerAudit:
    """What an auditor and an admin do with the ledger; the plain methods block and belong to a thread."""

    def __init__(self, entries: EntryStore, days: LedgerDayStore, voids: VoidStore, *, blocking: Blocking) -> None:
        self._entries = entries
        self._days = days
        self._voids = voids
        self._blocking = blocking
        self._checking = asyncio.Lock()

    def entry(self, request_id: str, workspace_id: str, *, anywhere: bool = False) -> LedgerEntry:
        """Return a workspace's request; `anywhere` looks in every other one after it.

        Raises InvalidRequest, ReservationNotFound and Overloaded.
        """
        _check_id(request_id)
        entry = self._entries.entry(request_id, workspace_id)
        if entry is None and anywhere:
            entry = self._entries.entry_anywhere(request_id)
        if entry is None:
            raise ReservationNotFound(request_id)
        return entry

    def void(self, request_id: str, workspace_id: str, *, actor_key_id: str, note: str) -> LedgerEntry:
        """Make the charge of a request nothing, for good, and return it as it is then; a repetition changes nothing.

        Raises InvalidRequest for a note that is not 1 to 200 characters on one line, ReservationNotFound, also for a
        request that was not charged, and Overloaded.
        """
        _check_id(request_id)
        check_name(note, param="note")
        self._voids.void(workspace_id, request_id, actor_key_id=actor_key_id, note=note)
        return self.entry(request_id, workspace_id)

    async def verify(
        self, workspace_id: str, start_day: date | None, end_day: date | None
    ) -> AsyncGenerator[CheckedDay, None]:
        """Compare the sums of each day with its rows, oldest first; an empty workspace is all of them.

        Without days, from the first whose rows are kept to today; days whose rows were dropped are left out. One day is
        checked at a time in the whole process: a large one keeps the database busy. Raises Overloaded.
        """
        today: date = await self._blocking(self._days.today)
        kept: list[LedgerDay] = await self._blocking(self._days.days)
        for day in (ledger_day.day for ledger_day in kept):
            if (start_day or day) <= day <= (end_day or today):
                async with self._checking:
                    checked: CheckedDay = await self._blocking(partial(self._days.check, day, workspace_id))
                yield checked

    def days(self) -> list[LedgerDay]:
        """Return the days whose rows are kept, oldest first; raises Overloaded."""
        return self._days.days()

    async def drop(self, day: date, row_count: int) -> int:
        """Drop the rows of a day, `row_count` of which were exported, and return how many were dropped.

        Their sums and their breakdown stay. Raises LedgerDayKept and Overloaded; 0 when they are gone already.
        """
        async with self._checking:
            dropped: int = await self._blocking(partial(self._days.drop, day, row_count))
        return dropped


def _check_id(request_id: str) -> None:
    if not 1 <= len(request_id) <= MAX_ID_CHARACTERS or "\x00" in request_id:
        raise InvalidRequest(f"request_id must have 1 to {MAX_ID_CHARACTERS} characters.", param="request_id")
