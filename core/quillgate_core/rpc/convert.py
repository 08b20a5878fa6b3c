"""Between the core's values and the contract's messages: times, days, keys, workspaces, reservations, receipts."""

import re
from datetime import UTC, date, datetime
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from quillgate.v1 import key_service_pb2, metering_service_pb2, workspace_service_pb2
from quillgate_core.counting import MAX_TOKENS, Usage
from quillgate_core.errors import InvalidRequest
from quillgate_core.key import Key
from quillgate_core.reservation import DailyCount, Receipt, Reservation
from quillgate_core.workspaces import Workspace

_MAX_DURATION_S: Final = 315_576_000_000
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
SOURCES: Final = {
    "": metering_service_pb2.USAGE_SOURCE_UNSPECIFIED,
    "provider": metering_service_pb2.USAGE_SOURCE_PROVIDER,
    "estimate": metering_service_pb2.USAGE_SOURCE_ESTIMATE,
    "caller": metering_service_pb2.USAGE_SOURCE_CALLER,
    "hold": metering_service_pb2.USAGE_SOURCE_HOLD,
}
STATES: Final = {
    "open": metering_service_pb2.RESERVATION_STATE_OPEN,
    "settled": metering_service_pb2.RESERVATION_STATE_SETTLED,
    "released": metering_service_pb2.RESERVATION_STATE_RELEASED,
    "recovered": metering_service_pb2.RESERVATION_STATE_RECOVERED,
}


def to_timestamp(time: datetime | None) -> Timestamp | None:
    """Returns a time as the contract's, absent for None."""
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time.astimezone(UTC))
    return stamp


def to_time(stamp: Timestamp, *, param: str) -> datetime:
    """Returns the contract's time in UTC; raises InvalidRequest for one outside the years 1 to 9999."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"'{param}' is not a time.", param=param, code="invalid_value") from None


def to_day(text: str, *, param: str) -> date | None:
    """Returns a YYYY-MM-DD day, None for an empty one; raises InvalidRequest."""
    if not text:
        return None
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise InvalidRequest(f"'{param}' must be a day, YYYY-MM-DD.", param=param, code="invalid_value")


def to_usage(usage: metering_service_pb2.TokenUsage, *, param: str) -> Usage:
    """Returns a caller's usage; raises InvalidRequest outside its ranges: a caller knows what it used."""
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        if not 0 <= getattr(usage, name) <= MAX_TOKENS:
            raise InvalidRequest(
                f"'{param}.{name}' must be 0 to {MAX_TOKENS}.", param=f"{param}.{name}", code="invalid_value"
            )
    if usage.cached_tokens > usage.prompt_tokens:
        raise InvalidRequest(
            f"'{param}.cached_tokens' is more than the prompt tokens, which include them.",
            param=f"{param}.cached_tokens",
            code="invalid_value",
        )
    return Usage(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)


def from_usage(usage: Usage) -> metering_service_pb2.TokenUsage:
    """Returns a usage as the contract's."""
    return metering_service_pb2.TokenUsage(
        prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens, completion_tokens=usage.completion_tokens
    )


def from_reservation(reservation: Reservation) -> metering_service_pb2.Reservation:
    """Returns a reservation as the contract's."""
    return metering_service_pb2.Reservation(
        request_id=reservation.request_id,
        workspace_id=reservation.workspace_id,
        day=reservation.day.isoformat(),
        held_messages=reservation.held_messages,
        state=STATES[reservation.state],
        remaining_messages=reservation.remaining_messages,
        daily_message_allowance=reservation.allowance_messages,
    )


def from_receipt(receipt: Receipt) -> metering_service_pb2.Receipt:
    """Returns a receipt as the contract's."""
    return metering_service_pb2.Receipt(
        request_id=receipt.request_id,
        workspace_id=receipt.workspace_id,
        day=receipt.day.isoformat(),
        counted_messages=receipt.counted_messages,
        usage=from_usage(receipt.usage),
        usage_source=SOURCES[receipt.usage_source],
        remaining_messages=receipt.remaining_messages,
        pending=receipt.is_pending,
        daily_message_allowance=receipt.allowance_messages,
        byok=receipt.byok,
        cost_picodollars=receipt.cost_picodollars,
    )


def from_daily(row: DailyCount) -> metering_service_pb2.DailyMessageCount:
    """Returns a daily row as the contract's."""
    return metering_service_pb2.DailyMessageCount(
        workspace_id=row.workspace_id,
        day=row.day.isoformat(),
        message_count=row.message_count,
        held_messages=row.held_messages,
        input_tokens=row.input_tokens,
        cached_tokens=row.cached_tokens,
        output_tokens=row.output_tokens,
        request_count=row.request_count,
        byok_message_count=row.byok_message_count,
        byok_input_tokens=row.byok_input_tokens,
        byok_output_tokens=row.byok_output_tokens,
        byok_request_count=row.byok_request_count,
        cost_picodollars=row.cost_picodollars,
        byok_cost_picodollars=row.byok_cost_picodollars,
        unpriced_request_count=row.unpriced_request_count,
        overage_message_count=row.overage_message_count,
        overrun_message_count=row.overrun_message_count,
    )


def from_key(key: Key) -> key_service_pb2.Key:
    """Returns a key as the contract's."""
    return key_service_pb2.Key(
        key_id=key.key_id,
        workspace_id=key.workspace_id,
        name=key.name,
        last4=key.last4,
        scopes=key.scopes,
        allowed_models=key.allowed_models,
        create_time=to_timestamp(key.create_time),
        expire_time=to_timestamp(key.expire_time),
        last_used_time=to_timestamp(key.last_used_time),
        revoke_time=to_timestamp(key.revoke_time),
    )


def from_workspace(workspace: Workspace) -> workspace_service_pb2.Workspace:
    """Returns a workspace as the contract's."""
    return workspace_service_pb2.Workspace(
        workspace_id=workspace.workspace_id,
        name=workspace.name,
        daily_message_allowance=workspace.daily_message_allowance,
        create_time=to_timestamp(workspace.create_time),
        update_time=to_timestamp(workspace.update_time),
        store_responses=workspace.store_responses,
    )


def to_seconds(duration: Duration, *, param: str) -> int:
    """Returns a duration in whole seconds, away from zero; raises InvalidRequest for one that is not a duration."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(seconds) > _MAX_DURATION_S or abs(nanos) > 999_999_999 or seconds * nanos < 0:
        raise InvalidRequest(f"'{param}' is not a duration.", param=param, code="invalid_value")
    return seconds + (nanos > 0) - (nanos < 0)
