"""Workspaces, keys and their secrets, the ledger, daily counts and core instances: what the service started with."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_workspaces()
    _create_keys()
    _create_core_instances()
    _create_daily_message_count()
    _create_ledger()


def _time(name: str, *, required: bool = False, now: bool = False, comment: str | None = None) -> "sa.Column[object]":
    default = sa.text("clock_timestamp()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not required, comment=comment)


def _count(name: str, *, default: str | None = "0", comment: str | None = None) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), server_default=default, nullable=False, comment=comment)


def _text(
    name: str, *, required: bool = True, default: str | None = None, comment: str | None = None
) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), server_default=default, nullable=not required, comment=comment)


def _create_workspaces() -> None:
    op.create_table(
        "workspaces",
        _text("workspace_id", comment="ws_ and 20 base62 characters"),
        _text("name"),
        sa.Column("daily_message_allowance", sa.BigInteger(), comment="messages per UTC day; null: no limit"),
        _time("create_time", required=True, now=True),
        _time("update_time", required=True, now=True),
        sa.CheckConstraint("daily_message_allowance >= 0", name=op.f("ck_workspaces_allowance_not_negative")),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_workspaces")),
    )


def _create_keys() -> None:
    op.create_table(
        "keys",
        _text("key_id", comment="key_ and 20 base62 characters"),
        _text("workspace_id"),
        _text("name"),
        sa.Column("scopes", ARRAY(sa.Text()), nullable=False),
        sa.Column("allowed_models", ARRAY(sa.Text()), nullable=False, comment="empty: every model"),
        _count("revision", default="1", comment="grows with every change of the key"),
        _time("create_time", required=True, now=True),
        _time("expire_time", comment="null: never"),
        _time("revoke_time", comment="null: not revoked; final once set"),
        _time("last_used_time", comment="written lazily, so up to a minute late"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.workspace_id"], name=op.f("fk_keys_workspace_id")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_keys")),
    )
    op.create_index(op.f("ix_keys_workspace_id"), "keys", ["workspace_id"])
    op.create_table(
        "key_secrets",
        sa.Column(
            "digest",
            sa.LargeBinary(),
            nullable=False,
            comment="HMAC-SHA-256 of the secret under the pepper, 32 bytes",
        ),
        _text("key_id"),
        _text("last4"),
        _time("create_time", required=True, now=True),
        _time("expire_time", comment="set by a rotation: when this secret stops working"),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("ck_key_secrets_digest_length")),
        sa.ForeignKeyConstraint(["key_id"], ["keys.key_id"], name=op.f("fk_key_secrets_key_id")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_key_secrets")),
    )
    op.create_index(op.f("ix_key_secrets_key_id"), "key_secrets", ["key_id"])


def _create_core_instances() -> None:
    op.create_table(
        "core_instances",
        _text("instance_id", comment="one per core process, made at its start"),
        _time("start_time", required=True, now=True),
        _time("lease_expire_time", required=True, comment="renewed while the process lives"),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_core_instances")),
    )


def _create_daily_message_count() -> None:
    workspace = sa.ForeignKeyConstraint(
        ["workspace_id"], ["workspaces.workspace_id"], name=op.f("fk_daily_message_count_workspace_id")
    )
    op.create_table(
        "daily_message_count",
        _text("workspace_id"),
        sa.Column("day", sa.Date(), nullable=False, comment="UTC date of the reservations, by the database clock"),
        _count("message_count", comment="counted messages of ended requests"),
        _count("held_messages", comment="holds of open reservations"),
        _count("input_tokens", comment="prompt tokens, cached included"),
        _count("cached_tokens", comment="prompt tokens read from a cache"),
        _count("output_tokens"),
        _count("request_count", comment="ended requests that were charged"),
        sa.CheckConstraint("held_messages >= 0", name=op.f("ck_daily_message_count_held_not_negative")),
        workspace,
        sa.PrimaryKeyConstraint("workspace_id", "day", name=op.f("pk_daily_message_count")),
        postgresql_with={"fillfactor": "50"},
    )


def _create_ledger() -> None:
    states = "state IN ('open', 'settled', 'released', 'recovered')"
    op.create_table(
        "ledger",
        _text("workspace_id"),
        _text("request_id", comment="made by the caller; one per request"),
        sa.Column("day", sa.Date(), nullable=False, comment="the daily_message_count row that this row belongs to"),
        _text("state", comment="open, settled, released or recovered; the last three are final"),
        _text(
            "key_id",
            required=False,
            comment="the key that asked; null: metered by an internal service for its own users",
        ),
        _text(
            "owner",
            required=False,
            comment="the core instance that serves it; null: reserved through MeteringService",
        ),
        _count("nonce", default=None, comment="tells a repeated step from another request with the same id"),
        _text("endpoint", comment="such as chat.completions"),
        _text("model"),
        _text("upstream", default="", comment="provider that was asked; empty: not known"),
        _count("held_messages", default=None),
        _count("counted_messages"),
        _count("prompt_tokens"),
        _count("cached_tokens"),
        _count("completion_tokens"),
        _text("usage_source", default="", comment="provider, estimate, caller or hold"),
        sa.Column(
            "usage_clamped",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="the reported usage was insane",
        ),
        _text("outcome", default="", comment="how the request ended"),
        _time("reserve_time", required=True),
        _time("expire_time", comment="open rows without owner are recovered after it"),
        _time("settle_time"),
        sa.CheckConstraint(states, name=op.f("ck_ledger_state_known")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.workspace_id"], name=op.f("fk_ledger_workspace_id")),
        sa.PrimaryKeyConstraint("workspace_id", "request_id", name=op.f("pk_ledger")),
    )
    op.create_index("ix_ledger_day", "ledger", ["workspace_id", "day"])
    op.create_index("ix_ledger_open", "ledger", ["owner"], postgresql_where=sa.text("state = 'open'"))
