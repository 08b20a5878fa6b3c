"""Holds the ledger against a provider's own records, request by request, and makes charges true where asked to.

What the chore of `late_truth` does for guesses of the last day, an admin does here for every request of some days, also
for those whose usage the provider reported itself. A request that cannot be asked about now is only counted.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias

from quillgate_core.adjustment import Adjustment, AdjustmentStore
from quillgate_core.counting import Usage, counted_messages, sane
from quillgate_core.errors import InvalidRequest, QuillgateError
from quillgate_core.ledger_entry import EntryStore, LedgerDayStore, LedgerEntry
from quillgate_core.upstream import FoundUsage
from quillgate_core.usage_lookups import UsageLookups

log = logging.getLogger(__name__)

PAGE_ROWS: Final = 100
MAX_LOOK_UPS_AT_ONCE: Final = 4
MAX_LOOK_UPS_PER_S: Final = 20
LOOK_UP_S: Final = 10.0

Blocking: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a blocking call in a thread."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A request whose provider recorded another usage than the ledger has, adjustments included."""

    entry: LedgerEntry
    upstream_usage: Usage
    upstream_messages: int
    is_adjusted: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """Some requests that were compared: how many, how many of them nobody could tell about, and what differs."""

    compared_count: int
    unknown_count: int
    differences: Sequence[Difference]


class LedgerReconciliation:
    """Asks at most 4 questions at once and 20 a second, of `providers`, which are those that keep records."""

    def __init__(
        self,
        entries: EntryStore,
        days: LedgerDayStore,
        adjustments: AdjustmentStore,
        lookups: UsageLookups,
        *,
        providers: Collection[str],
        blocking: Blocking,
        look_ups_per_s: float = MAX_LOOK_UPS_PER_S,
    ) -> None:
        self._entries = entries
        self._days = days
        self._adjustments = adjustments
        self._lookups = lookups
        self._providers = providers
        self._blocking = blocking
        self._places = asyncio.Semaphore(MAX_LOOK_UPS_AT_ONCE)
        self._pause_s = 1 / look_ups_per_s
        self._next_time = 0.0

    async def reconcile(
        self, provider: str, start_day: date | None, end_day: date | None, *, apply: bool
    ) -> AsyncGenerator[Compared, None]:
        """Compare the charged requests of the days, by default yesterday's and today's, a hundred at a time.

        With `apply` what differs is adjusted, by the provider's name as source; where that was heard of the request
        already, by that name, `reconcile` and today's date, so once a day. What was voided is left alone. Raises
        InvalidRequest for a provider that keeps no records, and Overloaded when the ledger cannot be read.
        """
        if provider not in self._providers:
            raise InvalidRequest(
                f"The provider `{provider}` keeps no records that can be asked for.",
                param="upstream",
                code="invalid_value",
            )
        today: date = await self._blocking(self._days.today)
        first, last = start_day or today - timedelta(days=1), end_day or today
        source = f"{provider} reconcile {today}" if apply else ""
        for kept in await self._blocking(self._days.days):
            if first <= kept.day <= last:
                async with aclosing(self._pages(provider, kept.day)) as pages:
                    async for entries in pages:
                        yield await self._compare(entries, source)

    async def _pages(self, provider: str, day: date) -> AsyncGenerator[Sequence[LedgerEntry], None]:
        after = ("", "")
        while True:
            read = partial(self._entries.asked_of, provider, day, after, PAGE_ROWS)
            entries: list[LedgerEntry] = await self._blocking(read)
            if entries:
                yield entries
                after = (entries[-1].workspace_id, entries[-1].request_id)
            if len(entries) < PAGE_ROWS:
                return

    async def _compare(self, entries: Sequence[LedgerEntry], second_source: str) -> Compared:
        """Compare one page at once; one that fails, or is cancelled, leaves no question behind."""
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(self._ask(entry)) for entry in entries]
        compared = [(entry, task.result()) for entry, task in zip(entries, asking, strict=True)]
        differences = [
            await self._difference(entry, found, second_source)
            for entry, found in compared
            if found is not None and _differs(entry, sane(found.usage)[0])
        ]
        return Compared(len(entries), sum(found is None for _, found in compared), differences)

    async def _ask(self, entry: LedgerEntry) -> FoundUsage | None:
        """Ask about one request; None, whatever goes wrong."""
        async with self._places:
            try:
                lookup = self._lookups.of(entry.upstream, entry.workspace_id, byok=entry.byok)
                if lookup is None:
                    return None
                await self._pace()
                async with asyncio.timeout(LOOK_UP_S):
                    return await lookup.look_up(entry.upstream_request_id)
            except (QuillgateError, TimeoutError) as error:
                log.info("%s cannot tell about request %s now: %s", entry.upstream, entry.request_id, error)
            except Exception:
                log.exception("%s could not be asked about request %s", entry.upstream, entry.request_id)
        return None

    async def _pace(self) -> None:
        """Wait for this question's turn, so that no provider refuses the gateway for asking too fast."""
        now = monotonic()
        turn = max(now, self._next_time)
        self._next_time = turn + self._pause_s
        await asyncio.sleep(turn - now)

    async def _difference(self, entry: LedgerEntry, found: FoundUsage, second_source: str) -> Difference:
        usage = sane(found.usage)[0]
        is_adjusted = bool(second_source) and await self._adjust(entry, found, second_source)
        return Difference(entry, usage, counted_messages(usage), is_adjusted)

    async def _adjust(self, entry: LedgerEntry, found: FoundUsage, second_source: str) -> bool:
        """Make the charge true and say whether that changed anything: one that cannot be made so now is only told."""
        heard = {adjustment.source for adjustment in entry.adjustments}
        source = second_source if entry.upstream in heard else entry.upstream
        if source in heard:
            return False
        adjust = partial(
            self._adjustments.adjust,
            entry.workspace_id,
            entry.request_id,
            source=source,
            usage=found.usage,
            cost_picodollars=found.cost_picodollars,
        )
        try:
            added: Adjustment = await self._blocking(adjust)
        except QuillgateError as error:
            log.warning("request %s could not be adjusted: %s", entry.request_id, error.message)
            return False
        return added != Adjustment(0, 0, 0, 0)


def _differs(entry: LedgerEntry, usage: Usage) -> bool:
    """Tell whether the provider's usage, or what it counts, is another than the ledger's. List prices are no matter."""
    charged = entry.charged()
    ledger_tokens = (charged.prompt_tokens, charged.cached_tokens, charged.completion_tokens)
    tokens = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
    return ledger_tokens != tokens or charged.counted_messages != counted_messages(usage)
