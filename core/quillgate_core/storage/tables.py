"""The tables, as SQLAlchemy Core sees them. Migrations create them; a test holds the two against each other.

A workspace owns keys, ledger rows and daily rows. A key owns one secret, or two while a rotation overlaps. Every
request is one `ledger` row; `daily_message_count` is the sum of a workspace's rows of one UTC day and the row that is
locked to check the allowance. `key_daily_message_count` is the same for a key; it changes only under the lock of its
workspace's row of that day. A workspace's responses are kept for the retention time, each in a row of its own. A row
that ended is never changed: what is learnt later is a row of `ledger_adjustments`, and is in the sums as well.

The ledger is partitioned by day: `ledger_days.py` makes partitions, and drops those that were exported. What a dropped
day was made of stays in `daily_usage`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_NOW = text("clock_timestamp()")

workspaces = Table(
    "workspaces",
    metadata,
    Column("workspace_id", Text, primary_key=True, comment="ws_ and 20 base62 characters"),
    Column("name", Text, nullable=False),
    Column("daily_message_allowance", BigInteger, comment="messages per UTC day; null: no limit"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("store_responses", Boolean, nullable=False, server_default="true", comment="whether responses may be kept"),
    Column(
        "credential_revision",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="grows with every change of its provider_credentials",
    ),
    Column("monthly_message_allowance", BigInteger, comment="messages per UTC month; null: no limit"),
    Column("at_allowance", Text, nullable=False, server_default="refuse", comment="refuse, or allow and count overage"),
    Column("disable_time", DateTime(timezone=True), comment="null: not disabled"),
    CheckConstraint("daily_message_allowance >= 0", name="allowance_not_negative"),
    CheckConstraint("monthly_message_allowance >= 0", name="monthly_allowance_not_negative"),
    CheckConstraint("at_allowance IN ('refuse', 'allow')", name="at_allowance_known"),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", Text, primary_key=True, comment="key_ and 20 base62 characters"),
    Column("workspace_id", Text, ForeignKey("workspaces.workspace_id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("allowed_models", ARRAY(Text), nullable=False, comment="empty: every model"),
    Column("revision", BigInteger, nullable=False, server_default="1", comment="grows with every change of the key"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("expire_time", DateTime(timezone=True), comment="null: never"),
    Column("revoke_time", DateTime(timezone=True), comment="null: not revoked; final once set"),
    Column("last_used_time", DateTime(timezone=True), comment="written lazily, so up to a minute late"),
    Column("daily_messages", BigInteger, comment="its limit per UTC day; null, as for all below: no limit"),
    Column("monthly_messages", BigInteger, comment="its limit per UTC month"),
    Column("requests_per_minute", BigInteger, comment="in any 60 seconds"),
    Column("tokens_per_minute", BigInteger, comment="LLM tokens of the requests of any 60 seconds"),
    Column("concurrent_requests", BigInteger, comment="that run at the same time"),
    CheckConstraint(
        "least(daily_messages, monthly_messages, requests_per_minute, tokens_per_minute, concurrent_requests) >= 0",
        name="limits_not_negative",
    ),
)

key_secrets = Table(
    "key_secrets",
    metadata,
    Column("digest", LargeBinary, primary_key=True, comment="HMAC-SHA-256 of the secret under the pepper, 32 bytes"),
    Column("key_id", Text, ForeignKey("keys.key_id"), nullable=False, index=True),
    Column("last4", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("expire_time", DateTime(timezone=True), comment="set by a rotation: when this secret stops working"),
    CheckConstraint("octet_length(digest) = 32", name="digest_length"),
)

core_instances = Table(
    "core_instances",
    metadata,
    Column("instance_id", Text, primary_key=True, comment="one per core process, made at its start"),
    Column("start_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("lease_expire_time", DateTime(timezone=True), nullable=False, comment="renewed while the process lives"),
)

daily_message_count = Table(
    "daily_message_count",
    metadata,
    Column("workspace_id", Text, ForeignKey("workspaces.workspace_id"), primary_key=True),
    Column("day", Date, primary_key=True, comment="UTC date of the reservations, by the database clock"),
    Column(
        "message_count", BigInteger, nullable=False, server_default="0", comment="counted messages of ended requests"
    ),
    Column("held_messages", BigInteger, nullable=False, server_default="0", comment="holds of open reservations"),
    Column("input_tokens", BigInteger, nullable=False, server_default="0", comment="prompt tokens, cached included"),
    Column("cached_tokens", BigInteger, nullable=False, server_default="0", comment="prompt tokens read from a cache"),
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("request_count", BigInteger, nullable=False, server_default="0", comment="ended requests that were charged"),
    Column(
        "byok_message_count",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="messages counted with the workspace's own provider keys; in no column above",
    ),
    Column("byok_input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("byok_output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("byok_request_count", BigInteger, nullable=False, server_default="0"),
    Column(
        "cost_picodollars",
        Numeric(30, 0),
        nullable=False,
        server_default="0",
        comment="what providers charge at list price, as far as it is known",
    ),
    Column("byok_cost_picodollars", Numeric(30, 0), nullable=False, server_default="0"),
    Column(
        "unpriced_request_count",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="charged requests of both kinds whose price is not known",
    ),
    Column(
        "overage_message_count",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="those of message_count that were beyond the allowance when charged",
    ),
    Column(
        "overrun_message_count",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="those of message_count that were beyond what their requests had held",
    ),
    CheckConstraint("held_messages >= 0", name="held_not_negative"),
    postgresql_with={"fillfactor": "50"},
)

key_daily_message_count = Table(
    "key_daily_message_count",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("day", Date, primary_key=True, comment="as in daily_message_count, whose row locks this one"),
    Column("workspace_id", Text, nullable=False),
    Column("message_count", BigInteger, nullable=False, server_default="0"),
    Column("held_messages", BigInteger, nullable=False, server_default="0"),
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cached_tokens", BigInteger, nullable=False, server_default="0"),
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("request_count", BigInteger, nullable=False, server_default="0"),
    Column(
        "byok_message_count",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="not in message_count; the other columns have both kinds",
    ),
    Column("open_requests", BigInteger, nullable=False, server_default="0", comment="reservations that are open"),
    Column(
        "request_window",
        ARRAY(BigInteger),
        comment="of each second: ms since 1970 of its last request, requests, tokens; null: it has no such limit",
    ),
    postgresql_with={"fillfactor": "50"},
)

ledger = Table(
    "ledger",
    metadata,
    Column("workspace_id", Text, primary_key=True, comment="its daily_message_count row refers to workspaces"),
    Column("request_id", Text, primary_key=True, comment="made by the caller; one per request"),
    Column("day", Date, primary_key=True, comment="the daily_message_count row that this row belongs to"),
    Column("state", Text, nullable=False, comment="open, settled, released or recovered; the last three are final"),
    Column("key_id", Text, comment="the key that asked; null: metered by an internal service for its own users"),
    Column("owner", Text, comment="the core instance that serves it; null: reserved through MeteringService"),
    Column("nonce", BigInteger, nullable=False, comment="tells a repeated step from another request with the same id"),
    Column("endpoint", Text, nullable=False, comment="such as chat.completions"),
    Column("model", Text, nullable=False),
    Column("upstream", Text, nullable=False, server_default="", comment="provider that was asked; empty: not known"),
    Column("held_messages", BigInteger, nullable=False),
    Column("counted_messages", BigInteger, nullable=False, server_default="0"),
    Column("prompt_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cached_tokens", BigInteger, nullable=False, server_default="0"),
    Column("completion_tokens", BigInteger, nullable=False, server_default="0"),
    Column("usage_source", Text, nullable=False, server_default="", comment="provider, estimate, caller or hold"),
    Column("usage_clamped", Boolean, nullable=False, server_default="false", comment="the reported usage was insane"),
    Column("outcome", Text, nullable=False, server_default="", comment="how the request ended"),
    Column("reserve_time", DateTime(timezone=True), nullable=False),
    Column("expire_time", DateTime(timezone=True), comment="open rows without owner are recovered after it"),
    Column("settle_time", DateTime(timezone=True)),
    Column("idempotency_key", Text, comment="the caller's; one row that is not released may have it"),
    Column("request_hash", LargeBinary, comment="SHA-256 of what was asked, beside an idempotency_key"),
    Column(
        "byok",
        Boolean,
        nullable=False,
        server_default="false",
        comment="served with the workspace's own provider key: not drawn from the allowance",
    ),
    Column("cost_picodollars", BigInteger, comment="what the provider charges at list price; null: not known"),
    Column(
        "upstream_request_id",
        Text,
        nullable=False,
        server_default="",
        comment="the provider's id of the answer, where true usage can be asked for later",
    ),
    Column("held_tokens", BigInteger, nullable=False, server_default="0", comment="of its key's tokens per minute"),
    Column(
        "overage_messages",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="those of counted_messages that were beyond the workspace's allowance",
    ),
    CheckConstraint("state IN ('open', 'settled', 'released', 'recovered')", name="state_known"),
    Index("ix_ledger_reserve_time", "reserve_time"),
    Index("ix_ledger_open", "owner", postgresql_where=text("state = 'open'")),
    CheckConstraint("octet_length(request_hash) = 32", name="request_hash_length"),
    Index(
        "ix_ledger_unsure",
        "settle_time",
        postgresql_where=text("upstream_request_id <> '' AND usage_source IN ('estimate', 'hold')"),
    ),
    Index(
        "ix_ledger_idempotency_key",
        "workspace_id",
        "idempotency_key",
        "day",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL AND state <> 'released'"),
    ),
    postgresql_partition_by="RANGE (day)",
)

responses = Table(
    "responses",
    metadata,
    Column("workspace_id", Text, ForeignKey("workspaces.workspace_id"), primary_key=True),
    Column("response_id", Text, primary_key=True, comment="resp_ and letters or digits"),
    Column("response", LargeBinary, nullable=False, comment="quillgate.v1.Response"),
    Column("items", LargeBinary, nullable=False, comment="quillgate.v1.ResponseItemList: the conversation before it"),
    Column("own_input_from", Integer, nullable=False, comment="position in items of this turn's first item"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("expire_time", DateTime(timezone=True), nullable=False, index=True, comment="not shown from then on"),
    CheckConstraint("own_input_from >= 0", name="own_input_from_not_negative"),
)

ledger_adjustments = Table(
    "ledger_adjustments",
    metadata,
    Column("workspace_id", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("source", Text, primary_key=True, comment="who knows better, such as openrouter; once for each row"),
    Column("day", Date, nullable=False, comment="the day of the ledger row"),
    Column("counted_messages", BigInteger, nullable=False, comment="to add; may be negative, as all below"),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost_picodollars", BigInteger, comment="to add; null: not known"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("actor_key_id", Text, comment="the key of the admin who voided the charge; null: nobody did"),
    Column("note", Text, nullable=False, server_default="", comment="the admin's words"),
    Index("ix_ledger_adjustments_day", "day", "workspace_id"),
)

daily_usage = Table(
    "daily_usage",
    metadata,
    Column("workspace_id", Text, ForeignKey("workspaces.workspace_id"), primary_key=True),
    Column("day", Date, primary_key=True, comment="a day whose ledger rows were dropped"),
    Column("key_id", Text, primary_key=True, comment="empty: none"),
    Column("model", Text, primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("upstream", Text, primary_key=True),
    Column("message_count", BigInteger, nullable=False),
    Column("byok_message_count", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False, comment="of both kinds, as all below"),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("request_count", BigInteger, nullable=False),
    Column("cost_picodollars", Numeric(30, 0), nullable=False),
    Column("unpriced_request_count", BigInteger, nullable=False),
)

allowance_events = Table(
    "allowance_events",
    metadata,
    Column("event_id", Text, primary_key=True, comment="evt_ and what makes it one: never made twice"),
    Column("workspace_id", Text, ForeignKey("workspaces.workspace_id"), nullable=False, index=True),
    Column("period", Text, nullable=False, comment="the UTC day YYYY-MM-DD, or the month YYYY-MM"),
    Column("percent", Integer, nullable=False, comment="50, 80 or 100"),
    Column("allowance_messages", BigInteger, nullable=False),
    Column("message_count", BigInteger, nullable=False, comment="counted when it was noticed"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("attempt_count", Integer, nullable=False, server_default="0"),
    Column("next_attempt_time", DateTime(timezone=True), comment="null: delivered, or given up"),
    Column("deliver_time", DateTime(timezone=True), comment="null: not delivered"),
    Index(
        "ix_allowance_events_due",
        "next_attempt_time",
        postgresql_where=text("next_attempt_time IS NOT NULL"),
    ),
)

provider_credentials = Table(
    "provider_credentials",
    metadata,
    Column("credential_id", Text, primary_key=True, comment="cred_ and 20 base62 characters"),
    Column("workspace_id", Text, ForeignKey("workspaces.workspace_id"), nullable=False),
    Column("provider", Text, nullable=False),
    Column("base_url", Text, nullable=False, comment="empty: the provider's own"),
    Column("last4", Text, nullable=False),
    Column("allow_fallback", Boolean, nullable=False, comment="whether the gateway's own keys may serve instead"),
    Column("ciphertext", LargeBinary, nullable=False, comment="the key, encrypted with the data key: AES-256-GCM"),
    Column("wrapped_data_key", LargeBinary, nullable=False, comment="the data key, encrypted with the master key"),
    Column("master_key_id", Text, nullable=False, index=True, comment="which master key wrapped it"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Index("ix_provider_credentials_workspace_id_provider", "workspace_id", "provider", unique=True),
)

model_switches = Table(
    "model_switches",
    metadata,
    Column("model_id", Text, primary_key=True, comment="switched off for everybody"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
)

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("model_id", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
)

discovered_models = Table(
    "discovered_models",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("upstream_model", Text, primary_key=True, comment="the provider's name for it"),
    Column("model_id", Text, nullable=False),
    Column("listed", JSONB, nullable=False, comment="what the provider's list says, as upstream.ListedModel"),
    Column("update_time", DateTime(timezone=True), nullable=False, server_default=_NOW),
)

discoveries = Table(
    "discoveries",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("attempt_time", DateTime(timezone=True), nullable=False, comment="when a core last began to read its list"),
)

shared_revisions = Table(
    "shared_revisions",
    metadata,
    Column("name", Text, primary_key=True, comment="catalogue or provider_credentials"),
    Column("revision", BigInteger, nullable=False, server_default="0", comment="cores poll it"),
)
