"""The rows of the ledger's tables as a batch handles them, and how a charged row adds to its day. Pure.

Members are columns, so that a list of rows encodes to the parameter of one statement.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import msgspec

from quillgate_core.counting import Usage
from quillgate_core.reservation import ReservationState, UsageSource

TEXT_LIMIT: Final = 200


@dataclass(frozen=True, slots=True)
class Claim:
    """Which row has an idempotency key, and the state it had when the transaction read it."""

    workspace_id: str
    idempotency_key: str
    request_id: str
    state: ReservationState
    request_hash: bytes


class LedgerRow(msgspec.Struct):
    """A row of `ledger`; members are columns, so that a list of rows encodes to the parameter of one statement."""

    workspace_id: str
    request_id: str
    day: date
    state: ReservationState
    owner: str | None
    nonce: int
    held_messages: int
    counted_messages: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    usage_source: UsageSource = ""
    byok: bool = False
    cost_picodollars: int | None = None
    key_id: str | None = None
    held_tokens: int = 0
    overage_messages: int = 0
    reserve_s: int = 0
    """The second of its reservation, since 1970; read, never written."""
    endpoint: str = ""
    model: str = ""
    upstream: str = ""
    upstream_request_id: str = ""
    usage_clamped: bool = False
    outcome: str = ""
    expire_time: datetime | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    is_stored: bool = False


class DailyRow(msgspec.Struct):
    """A locked row of `daily_message_count`: what is used of the allowance, and the changes to add to its columns.

    `used_messages` are those counted and those held, `all_messages` those counted, both with the changes.
    """

    workspace_id: str
    day: date
    used_messages: int
    all_messages: int
    message_count: int = 0
    held_messages: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    request_count: int = 0
    byok_message_count: int = 0
    byok_input_tokens: int = 0
    byok_output_tokens: int = 0
    byok_request_count: int = 0
    cost_picodollars: int = 0
    byok_cost_picodollars: int = 0
    unpriced_request_count: int = 0
    overage_message_count: int = 0
    overrun_message_count: int = 0
    is_changed: bool = False


def add_charge(daily_row: DailyRow, row: LedgerRow, usage: Usage) -> None:
    """Add a charged row to its day: what an own provider key served is counted apart."""
    if row.byok:
        daily_row.byok_message_count += row.counted_messages
        daily_row.byok_input_tokens += usage.prompt_tokens
        daily_row.byok_output_tokens += usage.completion_tokens
        daily_row.byok_request_count += 1
        daily_row.byok_cost_picodollars += row.cost_picodollars or 0
    else:
        daily_row.message_count += row.counted_messages
        daily_row.used_messages += row.counted_messages
        daily_row.all_messages += row.counted_messages
        daily_row.overrun_message_count += max(0, row.counted_messages - row.held_messages)
        daily_row.input_tokens += usage.prompt_tokens
        daily_row.cached_tokens += usage.cached_tokens
        daily_row.output_tokens += usage.completion_tokens
        daily_row.request_count += 1
        daily_row.cost_picodollars += row.cost_picodollars or 0
    daily_row.unpriced_request_count += row.cost_picodollars is None


def plain_text(text: str) -> str:
    """Make a text safe to store: at most 200 characters, none of them a control character, NUL or a surrogate."""
    if len(text) <= TEXT_LIMIT and text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "?" for letter in text[:TEXT_LIMIT])
