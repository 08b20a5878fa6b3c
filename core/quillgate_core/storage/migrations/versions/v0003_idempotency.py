"""Idempotency keys: which ledger row has one, so that a repeated request is neither sent nor charged again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    key = sa.Column("idempotency_key", sa.Text(), comment="the caller's; one row that is not released may have it")
    op.add_column("ledger", key)
    request_hash = sa.Column(
        "request_hash", sa.LargeBinary(), comment="SHA-256 of what was asked, beside an idempotency_key"
    )
    op.add_column("ledger", request_hash)
    op.create_check_constraint(op.f("ck_ledger_request_hash_length"), "ledger", "octet_length(request_hash) = 32")
    op.create_index(
        "ix_ledger_idempotency_key",
        "ledger",
        ["workspace_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL AND state <> 'released'"),
    )
