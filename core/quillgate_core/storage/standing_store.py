"""Reads what keys may do now, for requests that are running. It writes nothing and takes no locks."""

from collections.abc import Collection
from datetime import UTC
from typing import Final

from sqlalchemy import Engine, text

from quillgate_core.principal import Principal
from quillgate_core.running import Standing
from quillgate_core.storage.engine import database_errors, single_statements

_HAS_ENDED: Final = "k.revoke_time IS NOT NULL OR coalesce(k.expire_time <= clock_timestamp(), false)"

_CLOSED_LIMIT: Final = """
CASE
    WHEN w.at_allowance = 'refuse' AND w.daily_message_allowance = 0 THEN 'daily_message_allowance'
    WHEN w.at_allowance = 'refuse' AND w.monthly_message_allowance = 0 THEN 'monthly_message_allowance'
    WHEN k.daily_messages = 0 THEN 'key_daily_messages'
    WHEN k.monthly_messages = 0 THEN 'key_monthly_messages'
END
"""

_READ = text(f"""
SELECT key_id, revision, workspace_id, scopes, allowed_models, has_ended, is_disabled, closed_limit,
       CASE
           WHEN closed_limit LIKE '%monthly%'
           THEN date_trunc('month', clock_timestamp(), 'UTC') + interval '1 month'
           WHEN closed_limit IS NOT NULL
           THEN date_trunc('day', clock_timestamp(), 'UTC') + interval '1 day'
       END AS reset_time
FROM (
    SELECT k.key_id, k.revision, k.workspace_id, k.scopes, k.allowed_models, {_HAS_ENDED} AS has_ended,
           w.disable_time IS NOT NULL AS is_disabled, {_CLOSED_LIMIT} AS closed_limit
    FROM keys k JOIN workspaces w ON w.workspace_id = k.workspace_id
    WHERE k.key_id = ANY (:key_ids)
) s
""")  # noqa: S608 - the only things put in are constants


class SqlStandingStore:
    """A StandingStore on an engine; raises Overloaded when the database is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = single_statements(engine)

    def read(self, key_ids: Collection[str]) -> dict[str, Standing]:
        """Return the standing of each key that there is, in one query."""
        with database_errors(), self._engine.connect() as connection:
            rows = connection.execute(_READ, {"key_ids": list(key_ids)}).all()
        return {
            row.key_id: Standing(
                Principal(row.key_id, row.revision, row.workspace_id, frozenset(row.scopes), tuple(row.allowed_models)),
                row.has_ended,
                row.is_disabled,
                row.closed_limit,
                None if row.reset_time is None else row.reset_time.astimezone(UTC),
            )
            for row in rows
        }
