"""Reads single requests of the ledger with what was learnt of them, over all days. It writes nothing."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from typing import Any, Final

from sqlalchemy import Connection, Engine, text

from quillgate_core.adjustment import VOID, Adjustment
from quillgate_core.ledger_entry import LedgerEntry, RecordedAdjustment
from quillgate_core.storage.engine import database_errors

PAGE_TIMEOUT_MS: Final = 120_000
"""For a page of a day of many rows, few of which were asked of the provider."""

_COLUMNS: Final = """
l.workspace_id, l.request_id, l.day, l.state, coalesce(l.key_id, '') AS key_id, l.endpoint, l.model, l.upstream,
l.upstream_request_id, l.held_messages, l.counted_messages, l.prompt_tokens, l.cached_tokens, l.completion_tokens,
l.cost_picodollars, l.usage_source, l.usage_clamped, l.byok, l.overage_messages, l.outcome, l.reserve_time,
l.settle_time
"""

_ENTRY: Final = text(f"""
SELECT {_COLUMNS} FROM ledger l
WHERE l.workspace_id = :workspace_id AND l.request_id = :request_id ORDER BY l.day DESC LIMIT 1
""")  # noqa: S608 - only constants are put in

ENTRY_ANYWHERE: Final = text(f"""
SELECT l.* FROM workspaces w CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM ledger l
    WHERE l.workspace_id = w.workspace_id AND l.request_id = :request_id ORDER BY l.day DESC LIMIT 1
) l
ORDER BY l.reserve_time DESC LIMIT 1
""")  # noqa: S608
"""Workspace by workspace, so that the primary key is used: no index begins with the request's id."""

_ASKED_OF: Final = text(f"""
SELECT {_COLUMNS} FROM ledger l
WHERE l.day = :day AND (l.workspace_id, l.request_id) > (:after_workspace_id, :after_request_id)
  AND l.upstream = :upstream AND l.upstream_request_id <> '' AND l.state IN ('settled', 'recovered')
  AND NOT EXISTS (
    SELECT FROM ledger_adjustments a
    WHERE a.workspace_id = l.workspace_id AND a.request_id = l.request_id AND a.source = '{VOID}'
  )
ORDER BY l.workspace_id, l.request_id LIMIT :limit
""")  # noqa: S608

_ADJUSTMENTS: Final = text("""
SELECT a.workspace_id, a.request_id, a.source, a.counted_messages, a.prompt_tokens, a.cached_tokens,
       a.completion_tokens, a.cost_picodollars, a.create_time, coalesce(a.actor_key_id, '') AS actor_key_id, a.note
FROM unnest(CAST(:workspace_ids AS text[]), CAST(:request_ids AS text[])) AS k(workspace_id, request_id)
JOIN ledger_adjustments a ON a.workspace_id = k.workspace_id AND a.request_id = k.request_id
ORDER BY a.create_time, a.source
""")

_PAGE_TIMEOUT: Final = text(f"SET LOCAL statement_timeout = {PAGE_TIMEOUT_MS}")


class SqlEntryStore:
    """EntryStore in PostgreSQL; a request and its adjustments are read in one snapshot."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def entry(self, request_id: str, workspace_id: str) -> LedgerEntry | None:
        """Return a workspace's request, the newest where an id was used again after it was forgotten.

        None without one. Raises Overloaded.
        """
        with database_errors(), self._engine.begin() as connection:
            parameters = {"workspace_id": workspace_id, "request_id": request_id}
            found = _entries(connection, connection.execute(_ENTRY, parameters).all())
        return found[0] if found else None

    def entry_anywhere(self, request_id: str) -> LedgerEntry | None:
        """Return the newest request of that id in all workspaces, None without one. Raises Overloaded."""
        with database_errors(), self._engine.begin() as connection:
            found = _entries(connection, connection.execute(ENTRY_ANYWHERE, {"request_id": request_id}).all())
        return found[0] if found else None

    def asked_of(self, upstream: str, day: date, after: tuple[str, str], limit: int) -> list[LedgerEntry]:
        """Return charged requests of a day whose answer the provider has an id for, by workspace and request id.

        Those that were voided are left out, since nothing changes them. `after` is the workspace and request id to go
        on behind, two empty ones for the beginning. Raises Overloaded, also when it takes longer than two minutes.
        """
        parameters = {
            "upstream": upstream,
            "day": day,
            "after_workspace_id": after[0],
            "after_request_id": after[1],
            "limit": limit,
        }
        with database_errors(), self._engine.begin() as connection:
            connection.execute(_PAGE_TIMEOUT)
            return _entries(connection, connection.execute(_ASKED_OF, parameters).all())


def _entries(connection: Connection, rows: Sequence[Any]) -> list[LedgerEntry]:
    if not rows:
        return []
    keys = {
        "workspace_ids": [row.workspace_id for row in rows],
        "request_ids": [row.request_id for row in rows],
    }
    adjustments: defaultdict[tuple[str, str], list[RecordedAdjustment]] = defaultdict(list)
    for row in connection.execute(_ADJUSTMENTS, keys):
        recorded = RecordedAdjustment(row.source, _amounts(row), row.create_time, row.actor_key_id, row.note)
        adjustments[row.workspace_id, row.request_id].append(recorded)
    return [_entry(row, adjustments[row.workspace_id, row.request_id]) for row in rows]


def _entry(row: Any, adjustments: Sequence[RecordedAdjustment]) -> LedgerEntry:
    return LedgerEntry(
        workspace_id=row.workspace_id,
        request_id=row.request_id,
        day=row.day,
        state=row.state,
        key_id=row.key_id,
        endpoint=row.endpoint,
        model=row.model,
        upstream=row.upstream,
        upstream_request_id=row.upstream_request_id,
        held_messages=row.held_messages,
        charge=_amounts(row),
        usage_source=row.usage_source,
        usage_clamped=row.usage_clamped,
        byok=row.byok,
        overage_messages=row.overage_messages,
        outcome=row.outcome,
        reserve_time=row.reserve_time,
        settle_time=row.settle_time,
        adjustments=tuple(adjustments),
    )


def _amounts(row: Any) -> Adjustment:
    return Adjustment(
        row.counted_messages, row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.cost_picodollars
    )
