"""Many providers: switches, aliases and discoveries of models, provider keys of workspaces, costs, adjustments."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_catalogue()
    _create_credentials()
    _create_adjustments()
    _extend_days()
    _extend_ledger()


def _create_catalogue() -> None:
    op.create_table(
        "discovered_models",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("upstream_model", sa.Text(), nullable=False, comment="the provider's name for it"),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column(
            "listed",
            postgresql.JSONB(),
            nullable=False,
            comment="what the provider's list says, as upstream.ListedModel",
        ),
        sa.Column(
            "update_time", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("provider", "upstream_model", name=op.f("pk_discovered_models")),
    )
    op.create_table(
        "discoveries",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column(
            "attempt_time",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="when a core last began to read its list",
        ),
        sa.PrimaryKeyConstraint("provider", name=op.f("pk_discoveries")),
    )
    op.create_table(
        "model_aliases",
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column(
            "create_time", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("alias", name=op.f("pk_model_aliases")),
    )
    op.create_table(
        "model_switches",
        sa.Column("model_id", sa.Text(), nullable=False, comment="switched off for everybody"),
        sa.Column(
            "create_time", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_model_switches")),
    )
    op.create_table(
        "shared_revisions",
        sa.Column("name", sa.Text(), nullable=False, comment="catalogue or provider_credentials"),
        sa.Column(
            "revision",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="cores poll it",
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_shared_revisions")),
    )
    op.execute("INSERT INTO shared_revisions (name) VALUES ('catalogue'), ('provider_credentials')")


def _create_credentials() -> None:
    op.create_table(
        "provider_credentials",
        sa.Column("credential_id", sa.Text(), nullable=False, comment="cred_ and 20 base62 characters"),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False, comment="empty: the provider's own"),
        sa.Column("last4", sa.Text(), nullable=False),
        sa.Column(
            "allow_fallback", sa.Boolean(), nullable=False, comment="whether the gateway's own keys may serve instead"
        ),
        sa.Column(
            "ciphertext", sa.LargeBinary(), nullable=False, comment="the key, encrypted with the data key: AES-256-GCM"
        ),
        sa.Column(
            "wrapped_data_key", sa.LargeBinary(), nullable=False, comment="the data key, encrypted with the master key"
        ),
        sa.Column("master_key_id", sa.Text(), nullable=False, comment="which master key wrapped it"),
        sa.Column(
            "create_time", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.workspace_id"], name=op.f("fk_provider_credentials_workspace_id")
        ),
        sa.PrimaryKeyConstraint("credential_id", name=op.f("pk_provider_credentials")),
    )
    op.create_index(
        op.f("ix_provider_credentials_master_key_id"), "provider_credentials", ["master_key_id"], unique=False
    )
    op.create_index(
        "ix_provider_credentials_workspace_id_provider",
        "provider_credentials",
        ["workspace_id", "provider"],
        unique=True,
    )


def _create_adjustments() -> None:
    op.create_table(
        "ledger_adjustments",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column(
            "source", sa.Text(), nullable=False, comment="who knows better, such as openrouter; once for each row"
        ),
        sa.Column("day", sa.Date(), nullable=False, comment="the day of the ledger row"),
        sa.Column(
            "counted_messages",
            sa.BigInteger(),
            nullable=False,
            comment="to add; may be negative, as all below",
        ),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column(
            "cost_picodollars",
            sa.BigInteger(),
            nullable=True,
            comment="to add; null: not known",
        ),
        sa.Column(
            "create_time", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "request_id"],
            ["ledger.workspace_id", "ledger.request_id"],
            name=op.f("fk_ledger_adjustments_workspace_id_request_id"),
        ),
        sa.PrimaryKeyConstraint("workspace_id", "request_id", "source", name=op.f("pk_ledger_adjustments")),
    )


def _extend_days() -> None:
    op.add_column(
        "daily_message_count",
        sa.Column(
            "byok_message_count",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="messages counted with the workspace's own provider keys; in no column above",
        ),
    )
    op.add_column(
        "daily_message_count", sa.Column("byok_input_tokens", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column(
        "daily_message_count", sa.Column("byok_output_tokens", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column(
        "daily_message_count", sa.Column("byok_request_count", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column(
        "daily_message_count",
        sa.Column(
            "cost_picodollars",
            sa.Numeric(precision=30, scale=0),
            server_default="0",
            nullable=False,
            comment="what providers charge at list price, as far as it is known",
        ),
    )
    op.add_column(
        "daily_message_count",
        sa.Column("byok_cost_picodollars", sa.Numeric(precision=30, scale=0), server_default="0", nullable=False),
    )
    op.add_column(
        "daily_message_count",
        sa.Column(
            "unpriced_request_count",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="charged requests of both kinds whose price is not known",
        ),
    )


def _extend_ledger() -> None:
    op.add_column(
        "ledger",
        sa.Column(
            "byok",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="served with the workspace's own provider key: not drawn from the allowance",
        ),
    )
    op.add_column(
        "ledger",
        sa.Column(
            "cost_picodollars",
            sa.BigInteger(),
            nullable=True,
            comment="what the provider charges at list price; null: not known",
        ),
    )
    op.add_column(
        "ledger",
        sa.Column(
            "upstream_request_id",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="the provider's id of the answer, where true usage can be asked for later",
        ),
    )
    op.create_index(
        "ix_ledger_unsure",
        "ledger",
        ["settle_time"],
        unique=False,
        postgresql_where=sa.text("upstream_request_id <> '' AND usage_source IN ('estimate', 'hold')"),
    )
    op.add_column(
        "workspaces",
        sa.Column(
            "credential_revision",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="grows with every change of its provider_credentials",
        ),
    )
