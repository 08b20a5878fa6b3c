"""The ledger as an auditor sees it: makes workspaces and keys, reads rows, and checks that the sums agree."""

from datetime import date
from typing import Any

from sqlalchemy import Engine, text

_DISAGREEMENTS = """
SELECT workspace_id, day FROM (
    SELECT workspace_id, day, message_count, held_messages, input_tokens, cached_tokens, output_tokens, request_count
    FROM daily_message_count
) d FULL JOIN (
    SELECT workspace_id, day,
           sum(counted_messages) FILTER (WHERE state <> 'open') AS message_count,
           sum(held_messages) FILTER (WHERE state = 'open') AS held_messages,
           sum(prompt_tokens) AS input_tokens, sum(cached_tokens) AS cached_tokens,
           sum(completion_tokens) AS output_tokens,
           count(*) FILTER (WHERE state IN ('settled', 'recovered')) AS request_count
    FROM ledger GROUP BY 1, 2
) l USING (workspace_id, day)
WHERE (d.message_count, d.held_messages, d.input_tokens, d.cached_tokens, d.output_tokens, d.request_count)
      IS DISTINCT FROM (coalesce(l.message_count, 0), coalesce(l.held_messages, 0), coalesce(l.input_tokens, 0),
                        coalesce(l.cached_tokens, 0), coalesce(l.output_tokens, 0), coalesce(l.request_count, 0))
"""


class Books:
    """One database's metering tables."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, statement: str, **parameters: object) -> None:
        """Run one statement in its own transaction."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), parameters)

    def read(self, query: str, **parameters: object) -> list[Any]:
        """Read all rows of a query."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(query), parameters))

    def add_workspace(self, workspace_id: str = "ws", *, allowance: int | None = None) -> None:
        """Make a workspace."""
        self.run(
            "INSERT INTO workspaces (workspace_id, name, daily_message_allowance) VALUES (:id, :id, :allowance)",
            id=workspace_id,
            allowance=allowance,
        )

    def add_key(self, key_id: str, *, workspace_id: str = "ws", expire_time: str | None = None) -> None:
        """Make a key without a secret, at revision 1; `expire_time` as PostgreSQL reads it."""
        self.run(
            "INSERT INTO keys (key_id, workspace_id, name, scopes, allowed_models, expire_time) "
            "VALUES (:id, :workspace_id, :id, '{inference}', '{}', CAST(:expire_time AS timestamptz))",
            id=key_id,
            workspace_id=workspace_id,
            expire_time=expire_time,
        )

    def row(self, request_id: str, workspace_id: str = "ws") -> Any:
        """The ledger row of a request."""
        query = "SELECT * FROM ledger WHERE workspace_id = :workspace_id AND request_id = :request_id"
        return self.read(query, workspace_id=workspace_id, request_id=request_id)[0]

    def day(self, day: date | None = None, workspace_id: str = "ws") -> Any:
        """The daily row of a day, or the only one there is."""
        query = (
            "SELECT * FROM daily_message_count WHERE workspace_id = :id AND (CAST(:day AS date) IS NULL OR day = :day)"
        )
        (row,) = self.read(query, id=workspace_id, day=day)
        return row

    def states(self) -> dict[str, int]:
        """How many ledger rows are in each state."""
        return {row[0]: row[1] for row in self.read("SELECT state, count(*) FROM ledger GROUP BY 1")}

    def check(self) -> None:
        """Assert that each daily row is exactly the sum of its ledger rows."""
        assert self.read(_DISAGREEMENTS) == []
