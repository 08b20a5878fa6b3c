"""Leases of core processes, and the recovery of open rows that nobody will end any more.

A process that dies leaves its reservations open. Whoever notices that its lease ran out charges their holds: the work
may have been done, and charging less let real work pass the allowance. Recovery takes the same locks in the same order
as the ledger, so any core may run it at any time. It must not touch a row that is not open.
"""

from typing import Final, LiteralString

from sqlalchemy import Engine, text

from quillgate_core import failpoint as places
from quillgate_core.failpoint import Failpoint, no_failpoint
from quillgate_core.storage.daily_lock import lock_days
from quillgate_core.storage.engine import database_errors
from quillgate_core.storage.ledger_statements import DEFAULT_CLOCK

LEASE_S: Final = 30

_RENEW = """
WITH held AS (
    SELECT lease_expire_time > clock_timestamp() AS is_held FROM core_instances WHERE instance_id = :instance_id
)
INSERT INTO core_instances AS i (instance_id, start_time, lease_expire_time)
VALUES (:instance_id, clock_timestamp(), clock_timestamp() + make_interval(secs => :lease_s))
ON CONFLICT (instance_id) DO UPDATE SET lease_expire_time = excluded.lease_expire_time
RETURNING coalesce((SELECT is_held FROM held), false)
"""

_END = text("DELETE FROM core_instances WHERE instance_id = :instance_id")

_FORGET = "DELETE FROM core_instances WHERE lease_expire_time < clock_timestamp() - interval '1 day'"

_IS_ABANDONED: Final = """
l.state = 'open' AND CASE WHEN l.owner IS NULL THEN l.expire_time < clock_timestamp() ELSE NOT EXISTS (
    SELECT FROM core_instances i WHERE i.instance_id = l.owner AND i.lease_expire_time > clock_timestamp()
) END
"""

_FIND = f"""
SELECT l.workspace_id, l.request_id, l.day FROM ledger l
WHERE {_IS_ABANDONED} AND (CAST(:owner AS text) IS NULL OR l.owner = :owner) LIMIT :limit
"""  # noqa: S608 - the only thing put in is a constant

_RECOVER = f"""
WITH gone AS (
    SELECT l.workspace_id, l.request_id, l.day, d.message_count - w.daily_message_allowance + sum(
               CASE WHEN l.byok THEN 0 ELSE l.held_messages END
           ) OVER (PARTITION BY l.workspace_id, l.day ORDER BY l.request_id) AS beyond
    FROM unnest(
        CAST(:workspace_ids AS text[]), CAST(:request_ids AS text[]), CAST(:days AS date[])
    ) AS k(workspace_id, request_id, day)
    JOIN ledger l ON l.workspace_id = k.workspace_id AND l.request_id = k.request_id AND l.day = k.day
    JOIN daily_message_count d ON d.workspace_id = k.workspace_id AND d.day = k.day
    JOIN workspaces w ON w.workspace_id = k.workspace_id
    WHERE {_IS_ABANDONED}
), ended AS (
    UPDATE ledger l
    SET state = 'recovered', counted_messages = l.held_messages, usage_source = 'hold', outcome = 'recovered',
        settle_time = clock_timestamp(),
        overage_messages = CASE WHEN l.byok THEN 0 ELSE least(l.held_messages, greatest(0, g.beyond)) END
    FROM gone g
    WHERE l.workspace_id = g.workspace_id AND l.request_id = g.request_id AND l.day = g.day AND l.state = 'open'
    RETURNING l.workspace_id, l.day, l.held_messages, l.byok, l.key_id, l.overage_messages
), keys AS (
    UPDATE key_daily_message_count k
    SET message_count = k.message_count + e.messages, held_messages = k.held_messages - e.messages,
        byok_message_count = k.byok_message_count + e.byok_messages, request_count = k.request_count + e.requests,
        open_requests = k.open_requests - e.requests
    FROM (
        SELECT key_id, day, coalesce(sum(held_messages) FILTER (WHERE NOT byok), 0) AS messages,
               coalesce(sum(held_messages) FILTER (WHERE byok), 0) AS byok_messages, count(*) AS requests
        FROM ended WHERE key_id IS NOT NULL GROUP BY 1, 2
    ) e
    WHERE k.key_id = e.key_id AND k.day = e.day
)
UPDATE daily_message_count d
SET message_count = d.message_count + e.messages, held_messages = d.held_messages - e.messages,
    request_count = d.request_count + e.requests, byok_message_count = d.byok_message_count + e.byok_messages,
    byok_request_count = d.byok_request_count + e.byok_requests,
    unpriced_request_count = d.unpriced_request_count + e.requests + e.byok_requests,
    overage_message_count = d.overage_message_count + e.overage
FROM (
    SELECT workspace_id, day, coalesce(sum(held_messages) FILTER (WHERE NOT byok), 0) AS messages,
           sum(overage_messages) AS overage, count(*) FILTER (WHERE NOT byok) AS requests,
           coalesce(sum(held_messages) FILTER (WHERE byok), 0) AS byok_messages,
           count(*) FILTER (WHERE byok) AS byok_requests
    FROM ended GROUP BY 1, 2
) e
WHERE d.workspace_id = e.workspace_id AND d.day = e.day
RETURNING e.requests + e.byok_requests
"""  # noqa: S608 - the only thing put in is a constant
"""Charges holds in the order of request ids, each beyond the day's allowance as far as the ones before leave none."""


class SqlLeaseStore:
    """Leases of `lease_s` seconds and recovery in PostgreSQL; tests shorten the lease and replace the SQL `clock`."""

    def __init__(
        self,
        engine: Engine,
        clock: LiteralString = DEFAULT_CLOCK,
        *,
        lease_s: float = LEASE_S,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        self.lease_s = lease_s
        self._engine = engine
        self._failpoint = failpoint
        self._renew = text(_RENEW.replace(DEFAULT_CLOCK, clock))
        self._forget = text(_FORGET.replace(DEFAULT_CLOCK, clock))
        self._find = text(_FIND.replace(DEFAULT_CLOCK, clock))
        self._recover = text(_RECOVER.replace(DEFAULT_CLOCK, clock))

    def renew(self, instance_id: str) -> bool:
        """Make or extend the lease to 30 s from now; False when there was none that still held. Raises Overloaded."""
        parameters = {"instance_id": instance_id, "lease_s": self.lease_s}
        self._failpoint(places.LEASE)
        with database_errors(), self._engine.begin() as connection:
            was_held = bool(connection.execute(self._renew, parameters).scalar_one())
        self._failpoint(places.LEASE_HELD)
        return was_held

    def end(self, instance_id: str) -> None:
        """Give the lease up; ending none is no error. Raises Overloaded."""
        with database_errors(), self._engine.begin() as connection:
            connection.execute(_END, {"instance_id": instance_id})

    def recover(self, limit: int, *, owner: str | None = None) -> int:
        """Charge the holds of up to `limit` abandoned rows, of one `owner` or of all, and return how many.

        An owner that renews its lease only now may still lose rows: it then hears that they are recovered. Raises
        Overloaded.
        """
        self._failpoint(places.RECOVERY)
        with database_errors(), self._engine.begin() as connection:
            connection.execute(self._forget)
            found = connection.execute(self._find, {"limit": limit, "owner": owner}).all()
            if not found:
                return 0
            lock_days(connection, ((workspace_id, day) for workspace_id, _, day in found))
            columns = [[row[index] for row in found] for index in range(3)]
            ids = dict(zip(("workspace_ids", "request_ids", "days"), columns, strict=True))
            recovered: int = sum(connection.execute(self._recover, ids).scalars())
            self._failpoint(places.RECOVERY_WRITTEN)
        self._failpoint(places.RECOVERED)
        return recovered
