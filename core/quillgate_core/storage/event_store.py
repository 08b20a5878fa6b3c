"""The events of allowances that were reached, in PostgreSQL: made once, given to one replica at a time.

The primary key says what makes an event one: workspace, period and percentage. So an allowance that is raised, and
reached anew, makes no second event in the same period. Nothing here locks a row that a request needs.
"""

from typing import Final, LiteralString

from sqlalchemy import Engine, text

from quillgate_core.allowance_event import AllowanceEvent
from quillgate_core.storage.engine import database_errors
from quillgate_core.storage.ledger_statements import DEFAULT_CLOCK

CLAIM_S: Final = 60
"""How long an event that was claimed and never heard of again is left alone."""

MAX_AGE_S: Final = 86_400
"""How long after it was made an event is tried."""

LATE_S: Final = 3_600
"""How long after midnight a period that has ended is still looked at: requests that began in it may end later."""

_NOTICE_LOCK_ID: Final = 0x51476576656E7473
"""Whoever holds it looks for new events; nobody waits for it."""

NOTICE_TIMEOUT_S: Final = 30
"""How long a look may take, with very many workspaces; it holds up nobody."""

_TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:id)")

_NOTICE: Final = f"""
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
days AS MATERIALIZED (
    SELECT DISTINCT (d.moment AT TIME ZONE 'UTC')::date AS day
    FROM clock, unnest(ARRAY[now, now - interval '{LATE_S} seconds']) d(moment)
),
active AS MATERIALIZED (
    SELECT d.workspace_id, d.day, d.message_count
    FROM days JOIN daily_message_count d ON d.day = days.day AND d.message_count > 0
),
used AS (
    SELECT w.workspace_id, to_char(a.day, 'YYYY-MM-DD') AS period, w.daily_message_allowance AS allowance,
           a.message_count::numeric AS message_count
    FROM active a JOIN workspaces w ON w.workspace_id = a.workspace_id AND w.daily_message_allowance > 0
    UNION ALL
    SELECT w.workspace_id, to_char(a.first, 'YYYY-MM'), w.monthly_message_allowance, s.message_count
    FROM (SELECT DISTINCT workspace_id, date_trunc('month', day)::date AS first FROM active) a
    JOIN workspaces w ON w.workspace_id = a.workspace_id AND w.monthly_message_allowance > 0
    CROSS JOIN LATERAL (
        SELECT sum(d.message_count) AS message_count FROM daily_message_count d
        WHERE d.workspace_id = a.workspace_id AND d.day >= a.first AND d.day < (a.first + interval '1 month')::date
    ) s
),
reached AS (
    SELECT 'evt_' || u.workspace_id || '_' || u.period || '_' || percent AS event_id, u.*, percent
    FROM used u CROSS JOIN unnest(ARRAY[50, 80, 100]) percent
    WHERE u.message_count * 100 >= u.allowance::numeric * percent
)
INSERT INTO allowance_events (
    event_id, workspace_id, period, percent, allowance_messages, message_count, create_time, next_attempt_time
)
SELECT r.event_id, r.workspace_id, r.period, r.percent, r.allowance, r.message_count, now, now
FROM reached r, clock
WHERE NOT EXISTS (SELECT FROM allowance_events e WHERE e.event_id = r.event_id)
ORDER BY r.percent, r.event_id LIMIT :limit
ON CONFLICT (event_id) DO NOTHING
"""  # noqa: S608 - the only thing put in is a constant

"""Months are summed for workspaces that have counted something today: the look costs what today's workspaces cost."""

_CLAIM: Final = f"""
WITH due AS (
    SELECT e.event_id FROM allowance_events e
    WHERE e.next_attempt_time <= (SELECT clock_timestamp()) AND NOT EXISTS (
        SELECT FROM allowance_events b
        WHERE b.workspace_id = e.workspace_id AND b.period = e.period AND b.percent < e.percent
          AND b.attempt_count = 0 AND b.next_attempt_time IS NOT NULL
    )
    ORDER BY e.next_attempt_time, e.percent LIMIT :limit
    FOR UPDATE OF e SKIP LOCKED
)
UPDATE allowance_events e
SET next_attempt_time = clock_timestamp() + interval '{CLAIM_S} seconds'
FROM due, workspaces w
WHERE e.event_id = due.event_id AND w.workspace_id = e.workspace_id
RETURNING e.event_id, e.workspace_id, w.name, e.period, e.percent, e.allowance_messages, e.message_count, e.create_time,
          e.attempt_count
"""  # noqa: S608 - the only thing put in is a constant

"""An event waits until those of lower percentages were tried once. An attempt counts when its end is known."""

_MARK_DELIVERED: Final = """
UPDATE allowance_events
SET attempt_count = attempt_count + 1, deliver_time = clock_timestamp(), next_attempt_time = NULL
WHERE event_id = :event_id AND deliver_time IS NULL
"""

_PUT_OFF: Final = f"""
UPDATE allowance_events
SET attempt_count = attempt_count + 1,
    next_attempt_time = CASE
        WHEN clock_timestamp() + make_interval(secs => :pause_s) <= create_time + interval '{MAX_AGE_S} seconds'
        THEN clock_timestamp() + make_interval(secs => :pause_s)
    END
WHERE event_id = :event_id AND next_attempt_time IS NOT NULL
RETURNING next_attempt_time IS NOT NULL
"""  # noqa: S608 - the only thing put in is a constant

_GIVE_UP: Final = text("""
UPDATE allowance_events SET attempt_count = attempt_count + 1, next_attempt_time = NULL
WHERE event_id = :event_id AND next_attempt_time IS NOT NULL
""")


class SqlEventStore:
    """EventStore in PostgreSQL; `clock` is the SQL expression of the time, for tests to replace."""

    def __init__(self, engine: Engine, clock: LiteralString = DEFAULT_CLOCK) -> None:
        self._engine = engine
        self._notice = text(_NOTICE.replace(DEFAULT_CLOCK, clock))
        self._claim = text(_CLAIM.replace(DEFAULT_CLOCK, clock))
        self._mark_delivered = text(_MARK_DELIVERED.replace(DEFAULT_CLOCK, clock))
        self._put_off = text(_PUT_OFF.replace(DEFAULT_CLOCK, clock))

    def notice(self, limit: int) -> int:
        """Make up to `limit` missing events of allowances that are used to 50, 80 or 100 %, and return how many.

        One replica looks at a time, the others return 0 at once. Counted messages count, not those that are held. An
        allowance of 0 is never reached. Raises Overloaded.
        """
        with database_errors(), self._engine.begin() as connection:
            connection.execute(text(f"SET LOCAL statement_timeout = '{NOTICE_TIMEOUT_S}s'"))
            if not connection.execute(_TRY_LOCK, {"id": _NOTICE_LOCK_ID}).scalar_one():
                return 0
            return connection.execute(self._notice, {"limit": limit}).rowcount

    def claim(self, limit: int) -> list[AllowanceEvent]:
        """Return up to `limit` events that are due, and keep them from everybody for 60 s; raises Overloaded.

        None that was never tried is returned before those of lower percentages, of the same period, were tried.
        """
        with database_errors(), self._engine.begin() as connection:
            rows = [AllowanceEvent(*row) for row in connection.execute(self._claim, {"limit": limit})]
        return sorted(rows, key=lambda event: (event.percent, event.event_id))

    def mark_delivered(self, event_id: str) -> None:
        """Note that it was delivered; raises Overloaded."""
        with database_errors(), self._engine.begin() as connection:
            connection.execute(self._mark_delivered, {"event_id": event_id})

    def put_off(self, event_id: str, pause_s: float) -> bool:
        """Note a failed attempt and try again after the pause; False when that is more than a day after its making.

        Changes nothing for one that was delivered meanwhile. Raises Overloaded.
        """
        with database_errors(), self._engine.begin() as connection:
            parameters = {"event_id": event_id, "pause_s": pause_s}
            return connection.execute(self._put_off, parameters).scalar_one_or_none() is not False

    def give_up(self, event_id: str) -> None:
        """Never try it again; raises Overloaded."""
        with database_errors(), self._engine.begin() as connection:
            connection.execute(_GIVE_UP, {"event_id": event_id})
