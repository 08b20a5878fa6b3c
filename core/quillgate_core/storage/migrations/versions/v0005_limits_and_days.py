"""Limits of workspaces and keys, keys' own daily sums, and a ledger that is partitioned by day."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ZERO: dict[str, Any] = {"server_default": "0", "nullable": False}
_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    _extend_workspaces()
    _extend_keys()
    _extend_days()
    _partition_ledger()
    _create_key_days()
    _create_usage()
    _create_events()


def _extend_workspaces() -> None:
    for column in (
        sa.Column("monthly_message_allowance", sa.BigInteger(), comment="messages per UTC month; null: no limit"),
        sa.Column(
            "at_allowance",
            sa.Text(),
            server_default="refuse",
            nullable=False,
            comment="refuse, or allow and count overage",
        ),
        sa.Column("disable_time", sa.DateTime(timezone=True), comment="null: not disabled"),
    ):
        op.add_column("workspaces", column)
    op.create_check_constraint(
        op.f("ck_workspaces_monthly_allowance_not_negative"), "workspaces", "monthly_message_allowance >= 0"
    )
    op.create_check_constraint(
        op.f("ck_workspaces_at_allowance_known"), "workspaces", "at_allowance IN ('refuse', 'allow')"
    )


def _extend_keys() -> None:
    for name, comment in (
        ("daily_messages", "its limit per UTC day; null, as for all below: no limit"),
        ("monthly_messages", "its limit per UTC month"),
        ("requests_per_minute", "in any 60 seconds"),
        ("tokens_per_minute", "LLM tokens of the requests of any 60 seconds"),
        ("concurrent_requests", "that run at the same time"),
    ):
        op.add_column("keys", sa.Column(name, sa.BigInteger(), comment=comment))
    op.create_check_constraint(
        op.f("ck_keys_limits_not_negative"),
        "keys",
        "least(daily_messages, monthly_messages, requests_per_minute, tokens_per_minute, concurrent_requests) >= 0",
    )


def _extend_days() -> None:
    for name, comment in (
        ("overage_message_count", "those of message_count that were beyond the allowance when charged"),
        ("overrun_message_count", "those of message_count that were beyond what their requests had held"),
    ):
        op.add_column("daily_message_count", sa.Column(name, sa.BigInteger(), comment=comment, **_ZERO))


def _partition_ledger() -> None:
    """Make the ledger anew, partitioned, with a partition for each day that has rows, and move the rows."""
    op.drop_constraint("fk_ledger_adjustments_workspace_id_request_id", "ledger_adjustments", type_="foreignkey")
    op.add_column(
        "ledger_adjustments",
        sa.Column("actor_key_id", sa.Text(), comment="the key of the admin who voided the charge; null: nobody did"),
    )
    op.add_column(
        "ledger_adjustments",
        sa.Column("note", sa.Text(), server_default="", nullable=False, comment="the admin's words"),
    )
    op.create_index("ix_ledger_adjustments_day", "ledger_adjustments", ["day", "workspace_id"])
    op.rename_table("ledger", "ledger_before")
    op.drop_constraint("pk_ledger", "ledger_before", type_="primary")
    for name in ("ix_ledger_open", "ix_ledger_day", "ix_ledger_unsure", "ix_ledger_idempotency_key"):
        op.drop_index(name, "ledger_before")
    _create_ledger()
    _index_ledger()
    op.execute(_MOVE)
    op.drop_table("ledger_before")
    op.execute(_SUM_UP_OVERRUN)


_MOVE = """
DO $$
DECLARE
    made_day date;
    columns text;
BEGIN
    FOR made_day IN SELECT DISTINCT day FROM ledger_before ORDER BY 1 LOOP
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF ledger FOR VALUES FROM (%L) TO (%L)',
            'ledger_' || to_char(made_day, 'YYYYMMDD'), made_day, made_day + 1
        );
    END LOOP;
    SELECT string_agg(quote_ident(attname), ', ') INTO columns
    FROM pg_attribute WHERE attrelid = 'ledger_before'::regclass AND attnum > 0 AND NOT attisdropped;
    EXECUTE format('INSERT INTO ledger (%s) SELECT %s FROM ledger_before', columns, columns);
END
$$
"""


_SUM_UP_OVERRUN = """
UPDATE daily_message_count d SET overrun_message_count = o.messages
FROM (
    SELECT workspace_id, day, sum(greatest(0, counted_messages - held_messages)) AS messages
    FROM ledger WHERE state = 'settled' AND NOT byok GROUP BY 1, 2
) o
WHERE d.workspace_id = o.workspace_id AND d.day = o.day
"""


def _create_ledger() -> None:
    op.create_table(
        "ledger",
        *_identity(),
        *_usage(),
        *_life(),
        sa.CheckConstraint("state IN ('open', 'settled', 'released', 'recovered')", name=op.f("ck_ledger_state_known")),
        sa.CheckConstraint("octet_length(request_hash) = 32", name=op.f("ck_ledger_request_hash_length")),
        sa.PrimaryKeyConstraint("workspace_id", "request_id", "day", name=op.f("pk_ledger")),
        postgresql_partition_by="RANGE (day)",
    )


def _index_ledger() -> None:
    op.create_index("ix_ledger_reserve_time", "ledger", ["reserve_time"])
    op.create_index("ix_ledger_open", "ledger", ["owner"], postgresql_where=sa.text("state = 'open'"))
    op.create_index(
        "ix_ledger_unsure",
        "ledger",
        ["settle_time"],
        postgresql_where=sa.text("upstream_request_id <> '' AND usage_source IN ('estimate', 'hold')"),
    )
    op.create_index(
        "ix_ledger_idempotency_key",
        "ledger",
        ["workspace_id", "idempotency_key", "day"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL AND state <> 'released'"),
    )


def _identity() -> list[sa.Column[Any]]:
    """Whose request it is."""
    return [
        sa.Column(
            "workspace_id", sa.Text(), nullable=False, comment="its daily_message_count row refers to workspaces"
        ),
        sa.Column("request_id", sa.Text(), nullable=False, comment="made by the caller; one per request"),
        sa.Column("day", sa.Date(), nullable=False, comment="the daily_message_count row that this row belongs to"),
        sa.Column(
            "state",
            sa.Text(),
            nullable=False,
            comment="open, settled, released or recovered; the last three are final",
        ),
        sa.Column(
            "key_id", sa.Text(), comment="the key that asked; null: metered by an internal service for its own users"
        ),
        sa.Column(
            "owner", sa.Text(), comment="the core instance that serves it; null: reserved through MeteringService"
        ),
        sa.Column(
            "nonce",
            sa.BigInteger(),
            nullable=False,
            comment="tells a repeated step from another request with the same id",
        ),
        sa.Column("endpoint", sa.Text(), nullable=False, comment="such as chat.completions"),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column(
            "upstream",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="provider that was asked; empty: not known",
        ),
        sa.Column("held_messages", sa.BigInteger(), nullable=False),
    ]


def _usage() -> list[sa.Column[Any]]:
    """What it used."""
    return [
        sa.Column("counted_messages", sa.BigInteger(), **_ZERO),
        sa.Column("prompt_tokens", sa.BigInteger(), **_ZERO),
        sa.Column("cached_tokens", sa.BigInteger(), **_ZERO),
        sa.Column("completion_tokens", sa.BigInteger(), **_ZERO),
        sa.Column(
            "usage_source",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="provider, estimate, caller or hold",
        ),
        sa.Column(
            "usage_clamped",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="the reported usage was insane",
        ),
    ]


def _life() -> list[sa.Column[Any]]:
    """How it ended, and when."""
    return [
        sa.Column("outcome", sa.Text(), server_default="", nullable=False, comment="how the request ended"),
        sa.Column("reserve_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), comment="open rows without owner are recovered after it"),
        sa.Column("settle_time", sa.DateTime(timezone=True)),
        sa.Column("idempotency_key", sa.Text(), comment="the caller's; one row that is not released may have it"),
        sa.Column("request_hash", sa.LargeBinary(), comment="SHA-256 of what was asked, beside an idempotency_key"),
        sa.Column(
            "byok",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="served with the workspace's own provider key: not drawn from the allowance",
        ),
        sa.Column(
            "cost_picodollars", sa.BigInteger(), comment="what the provider charges at list price; null: not known"
        ),
        sa.Column(
            "upstream_request_id",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="the provider's id of the answer, where true usage can be asked for later",
        ),
        sa.Column("held_tokens", sa.BigInteger(), comment="of its key's tokens per minute", **_ZERO),
        sa.Column(
            "overage_messages",
            sa.BigInteger(),
            comment="those of counted_messages that were beyond the workspace's allowance",
            **_ZERO,
        ),
    ]


def _create_key_days() -> None:
    op.create_table(
        "key_daily_message_count",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="as in daily_message_count, whose row locks this one"),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("message_count", sa.BigInteger(), **_ZERO),
        sa.Column("held_messages", sa.BigInteger(), **_ZERO),
        sa.Column("input_tokens", sa.BigInteger(), **_ZERO),
        sa.Column("cached_tokens", sa.BigInteger(), **_ZERO),
        sa.Column("output_tokens", sa.BigInteger(), **_ZERO),
        sa.Column("request_count", sa.BigInteger(), **_ZERO),
        sa.Column(
            "byok_message_count",
            sa.BigInteger(),
            comment="not in message_count; the other columns have both kinds",
            **_ZERO,
        ),
        sa.Column("open_requests", sa.BigInteger(), comment="reservations that are open", **_ZERO),
        sa.Column(
            "request_window",
            sa.ARRAY(sa.BigInteger()),
            comment="of each second: ms since 1970 of its last request, requests, tokens; null: it has no such limit",
        ),
        sa.PrimaryKeyConstraint("key_id", "day", name=op.f("pk_key_daily_message_count")),
        postgresql_with={"fillfactor": "50"},
    )
    op.execute(_SUM_UP_KEYS)


_SUM_UP_KEYS = """
INSERT INTO key_daily_message_count (
    key_id, day, workspace_id, message_count, held_messages, input_tokens, cached_tokens, output_tokens, request_count,
    byok_message_count, open_requests
)
SELECT key_id, day, min(workspace_id), coalesce(sum(counted_messages) FILTER (WHERE NOT byok), 0),
       coalesce(sum(held_messages) FILTER (WHERE NOT byok AND state = 'open'), 0), sum(prompt_tokens),
       sum(cached_tokens), sum(completion_tokens), count(*) FILTER (WHERE state IN ('settled', 'recovered')),
       coalesce(sum(counted_messages) FILTER (WHERE byok), 0), count(*) FILTER (WHERE state = 'open')
FROM (
    SELECT key_id, day, workspace_id, counted_messages, held_messages, prompt_tokens, cached_tokens, completion_tokens,
           byok, state
    FROM ledger WHERE key_id IS NOT NULL
    UNION ALL
    SELECT l.key_id, l.day, l.workspace_id, a.counted_messages, 0, a.prompt_tokens, a.cached_tokens,
           a.completion_tokens, l.byok, 'adjustment'
    FROM ledger_adjustments a JOIN ledger l USING (workspace_id, request_id, day) WHERE l.key_id IS NOT NULL
) entries
GROUP BY 1, 2
"""


def _create_usage() -> None:
    op.create_table(
        "daily_usage",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="a day whose ledger rows were dropped"),
        sa.Column("key_id", sa.Text(), nullable=False, comment="empty: none"),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("upstream", sa.Text(), nullable=False),
        sa.Column("message_count", sa.BigInteger(), nullable=False),
        sa.Column("byok_message_count", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False, comment="of both kinds, as all below"),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("request_count", sa.BigInteger(), nullable=False),
        sa.Column("cost_picodollars", sa.Numeric(30, 0), nullable=False),
        sa.Column("unpriced_request_count", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.workspace_id"], name=op.f("fk_daily_usage_workspace_id")
        ),
        sa.PrimaryKeyConstraint(
            "workspace_id", "day", "key_id", "model", "endpoint", "upstream", name=op.f("pk_daily_usage")
        ),
    )


def _create_events() -> None:
    op.create_table(
        "allowance_events",
        sa.Column("event_id", sa.Text(), nullable=False, comment="evt_ and what makes it one: never made twice"),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False, comment="the UTC day YYYY-MM-DD, or the month YYYY-MM"),
        sa.Column("percent", sa.Integer(), nullable=False, comment="50, 80 or 100"),
        sa.Column("allowance_messages", sa.BigInteger(), nullable=False),
        sa.Column("message_count", sa.BigInteger(), nullable=False, comment="counted when it was noticed"),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("attempt_count", sa.Integer(), **_ZERO),
        sa.Column("next_attempt_time", sa.DateTime(timezone=True), comment="null: delivered, or given up"),
        sa.Column("deliver_time", sa.DateTime(timezone=True), comment="null: not delivered"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.workspace_id"], name=op.f("fk_allowance_events_workspace_id")
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_allowance_events")),
    )
    op.create_index(op.f("ix_allowance_events_workspace_id"), "allowance_events", ["workspace_id"])
    op.create_index(
        "ix_allowance_events_due",
        "allowance_events",
        ["next_attempt_time"],
        postgresql_where=sa.text("next_attempt_time IS NOT NULL"),
    )
