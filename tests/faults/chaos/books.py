"""The database's side, read behind the service's back: rows, adjustments, days, and how full a day ever was."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg
from faults.chaos.record import Tokens

PAUSE_S = 0.1
CHARGED = frozenset({"settled", "recovered"})


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ledger."""

    workspace_id: str
    request_id: str
    day: date
    state: str
    key_id: str | None
    idempotency_key: str | None
    outcome: str
    usage_source: str
    held_messages: int
    counted_messages: int
    tokens: Tokens
    reserve_time: float
    settle_time: float | None

    @property
    def is_charged(self) -> bool:
        """Whether it counts on its day."""
        return self.state in CHARGED


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A correction of a row that ended."""

    workspace_id: str
    request_id: str
    day: date
    key_id: str | None
    counted_messages: int
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Day:
    """A row of `daily_message_count`, or of `key_daily_message_count`."""

    account: str
    """The workspace, or the key."""
    day: date
    message_count: int
    held_messages: int
    tokens: Tokens
    request_count: int


@dataclass
class Books:
    """All of it; `allowances` are messages a day, by workspace or key, for those that have a limit."""

    rows: list[Row] = field(default_factory=list)
    adjustments: list[Adjustment] = field(default_factory=list)
    days: list[Day] = field(default_factory=list)
    allowances: dict[str, int] = field(default_factory=dict)


_ROWS = """
SELECT workspace_id, request_id, day, state, key_id, idempotency_key, outcome, usage_source, held_messages,
       counted_messages, prompt_tokens, cached_tokens, completion_tokens, extract(epoch FROM reserve_time)::float8,
       extract(epoch FROM settle_time)::float8
FROM ledger
"""
_ADJUSTMENTS = """
SELECT workspace_id, request_id, a.day, l.key_id, a.counted_messages, a.prompt_tokens, a.cached_tokens,
       a.completion_tokens
FROM ledger_adjustments a JOIN ledger l USING (workspace_id, request_id)
"""
_DAYS = """
SELECT workspace_id, day, message_count, held_messages, input_tokens, cached_tokens, output_tokens, request_count
FROM daily_message_count
UNION ALL
SELECT key_id, day, message_count, held_messages, input_tokens, cached_tokens, output_tokens, request_count
FROM key_daily_message_count
"""
_LIMITED = """
SELECT workspace_id, daily_message_allowance FROM workspaces WHERE daily_message_allowance IS NOT NULL
UNION ALL
SELECT key_id, daily_messages FROM keys WHERE daily_messages IS NOT NULL
"""
_WATCHED = """
SELECT workspace_id, day, message_count + held_messages - daily_message_allowance, held_messages
FROM daily_message_count JOIN workspaces USING (workspace_id)
WHERE held_messages > 0 OR message_count > daily_message_allowance
UNION ALL
SELECT key_id, day, message_count + held_messages - daily_messages, 0
FROM key_daily_message_count JOIN keys USING (key_id)
WHERE message_count + held_messages > daily_messages
"""


async def read_books(database_url: str) -> Books:
    """Read everything in one snapshot."""
    connection = await psycopg.AsyncConnection.connect(database_url)
    async with connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)

        async def read(query: Any) -> list[tuple[Any, ...]]:
            return await (await connection.execute(query)).fetchall()

        return Books(
            rows=[Row(*row[:10], Tokens(*row[10:13]), *row[13:]) for row in await read(_ROWS)],
            adjustments=[Adjustment(*row[:5], Tokens(*row[5:])) for row in await read(_ADJUSTMENTS)],
            days=[Day(*row[:4], Tokens(*row[4:7]), row[7]) for row in await read(_DAYS)],
            allowances=dict(await read(_LIMITED)),
        )


@dataclass
class Watcher:
    """Looks at each workspace's and key's day ten times a second, through restarts; `excesses` is the worst of each."""

    database_url: str
    excesses: dict[tuple[str, date], int] = field(default_factory=dict)
    held_messages: int = 0
    looks: int = 0

    async def run(self) -> None:
        """Look for ever."""
        while True:
            with suppress(psycopg.Error, OSError):
                connection = await psycopg.AsyncConnection.connect(self.database_url, autocommit=True)
                async with connection:
                    while True:
                        await self._look(connection)
                        await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(PAUSE_S)

    async def _look(self, connection: "psycopg.AsyncConnection[tuple[Any, ...]]") -> None:
        found = await (await connection.execute(_WATCHED)).fetchall()
        for account, day, excess, _ in found:
            if excess is not None and excess > self.excesses.get((account, day), 0):
                self.excesses[account, day] = excess
        self.held_messages = sum(row[3] for row in found)
        self.looks += 1
