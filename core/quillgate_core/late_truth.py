"""Asks providers afterwards what requests used whose usage is a guess, and has their charges made true.

A client that hangs up, or a core that dies, leaves an estimate or a hold in the ledger. Some providers keep a record
of every answer; it appears seconds later, or never. Nothing here may fail a request or stop the chore: what cannot be
learnt now is asked again later, and after a day no more. Cores that ask at once are harmless.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias

from quillgate_core.adjustment import AdjustmentStore, UnsureRow
from quillgate_core.errors import QuillgateError
from quillgate_core.own_keys import OwnKeys
from quillgate_core.upstream import Account, FoundUsage
from quillgate_core.usage_lookups import UsageLookups

log = logging.getLogger(__name__)

MAX_ROWS: Final = 1_000
MAX_LOOK_UPS: Final = 20
MAX_LOOK_UPS_AT_ONCE: Final = 4
LOOK_UP_S: Final = 10.0
FIRST_PAUSE_S: Final = 10.0
MAX_PAUSE_S: Final = 600.0

Blocking: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a blocking call in a thread."""

_RowKey: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Pause:
    """When a row may be asked about again, by the monotonic clock, and how long to wait if that is in vain too."""

    end_time: float
    next_s: float


class LateTruth:
    """The chore, once a process; a round follows the one before.

    `providers` are those that keep records, `accounts` the gateway's own, which may lack some of them.
    """

    def __init__(
        self,
        store: AdjustmentStore,
        accounts: Mapping[str, Account],
        own_keys: OwnKeys,
        *,
        providers: Collection[str],
        blocking: Blocking,
        clock: Callable[[], float] = monotonic,
        look_up_s: float = LOOK_UP_S,
    ) -> None:
        self._store = store
        self._lookups = UsageLookups(accounts, own_keys)
        self._providers = sorted(providers)
        self._blocking = blocking
        self._clock = clock
        self._look_up_s = look_up_s
        self._pauses: dict[_RowKey, _Pause] = {}

    async def learn(self) -> int:
        """Asks about up to 20 rows, those that have waited longest first, and returns how many charges were made true.

        Raises Overloaded when the rows cannot be read.
        """
        if not self._providers:
            return 0
        rows: list[UnsureRow] = await self._blocking(partial(self._store.unsure, self._providers, MAX_ROWS))
        found = {_key(row) for row in rows}
        self._pauses = {key: pause for key, pause in self._pauses.items() if key in found}
        at_once = asyncio.Semaphore(MAX_LOOK_UPS_AT_ONCE)

        async def settle(row: UnsureRow) -> bool:
            async with at_once:
                return await self._settle(row)

        return sum(await asyncio.gather(*(settle(row) for row in self._due(rows))))

    def _due(self, rows: list[UnsureRow]) -> list[UnsureRow]:
        """Returns the rows to ask about now: new ones as they come, the others when their pause has ended."""
        now = self._clock()
        new = [row for row in reversed(rows) if _key(row) not in self._pauses]
        again = [row for row in rows if _key(row) in self._pauses and self._pauses[_key(row)].end_time <= now]
        again.sort(key=lambda row: self._pauses[_key(row)].end_time)
        # Half for each, so that neither a crowd of hang-ups nor records that never appear keep out the other.
        spare = max(0, MAX_LOOK_UPS // 2 - len(again))
        chosen = new[: MAX_LOOK_UPS // 2 + spare]
        return chosen + again[: MAX_LOOK_UPS - len(chosen)]

    async def _settle(self, row: UnsureRow) -> bool:
        """Asks about one row; whatever goes wrong only puts it off."""
        try:
            found = await self._look_up(row)
            if found is not None:
                await self._adjust(row, found)
                self._pauses.pop(_key(row), None)
                return True
        except (QuillgateError, TimeoutError) as error:
            log.info("the usage of request %s cannot be learnt now: %s", row.request_id, error)
        except Exception:
            log.exception("the usage of request %s could not be learnt", row.request_id)
        self._put_off(row)
        return False

    async def _look_up(self, row: UnsureRow) -> FoundUsage | None:
        lookup = self._lookups.of(row.provider, row.workspace_id, byok=row.byok)
        if lookup is None:
            return None
        async with asyncio.timeout(self._look_up_s):
            return await lookup.look_up(row.upstream_request_id)

    async def _adjust(self, row: UnsureRow, found: FoundUsage) -> None:
        added = await self._blocking(
            partial(
                self._store.adjust,
                row.workspace_id,
                row.request_id,
                source=row.provider,
                usage=found.usage,
                cost_picodollars=found.cost_picodollars,
            )
        )
        log.info("request %s: %+d messages, as %s tells now", row.request_id, added.counted_messages, row.provider)

    def _put_off(self, row: UnsureRow) -> None:
        before = self._pauses.get(_key(row))
        pause_s = FIRST_PAUSE_S if before is None else before.next_s
        self._pauses[_key(row)] = _Pause(self._clock() + pause_s, min(MAX_PAUSE_S, 2 * pause_s))


def _key(row: UnsureRow) -> _RowKey:
    return (row.workspace_id, row.request_id)
