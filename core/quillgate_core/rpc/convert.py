"""Between the core's values and the contract's messages: times, days, keys, workspaces, reservations, receipts."""

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, date, datetime
from typing import Final, get_args

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from quillgate.v1 import key_service_pb2, metering_service_pb2, workspace_service_pb2
from quillgate_core.counting import MAX_TOKENS, Usage
from quillgate_core.errors import InvalidRequest
from quillgate_core.key import Key, KeyLimits
from quillgate_core.key_usage import KeyCount, KeyUsage
from quillgate_core.limits import LimitName, LimitState
from quillgate_core.reservation import DailyCount, Receipt, Reservation
from quillgate_core.workspaces import AtAllowance, Workspace

KEY_LIMITS: Final = tuple(field.name for field in fields(KeyLimits))
"""The limits of a key by name, the same in the core and in the contract."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LIMITS: Final = {name: metering_service_pb2.Limit.Value(f"LIMIT_{name.upper()}") for name in get_args(LimitName)}
_MAX_DURATION_S: Final = 315_576_000_000
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
SOURCES: Final = {
    "": metering_service_pb2.USAGE_SOURCE_UNSPECIFIED,
    "provider": metering_service_pb2.USAGE_SOURCE_PROVIDER,
    "estimate": metering_service_pb2.USAGE_SOURCE_ESTIMATE,
    "caller": metering_service_pb2.USAGE_SOURCE_CALLER,
    "hold": metering_service_pb2.USAGE_SOURCE_HOLD,
}
_AT_ALLOWANCE: Final[Mapping[AtAllowance, "workspace_service_pb2.AtAllowance.ValueType"]] = {
    "refuse": workspace_service_pb2.AT_ALLOWANCE_REFUSE,
    "allow": workspace_service_pb2.AT_ALLOWANCE_ALLOW,
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
    since = time - _EPOCH  # a quarter of FromDatetime's time; each limit of each answer has one
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)


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
        limits=map(from_limit, reservation.limits),
        held_tokens=reservation.held_tokens,
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
        limits=map(from_limit, receipt.limits),
        overage_messages=receipt.overage_messages,
    )


def from_limit(state: LimitState) -> metering_service_pb2.LimitState:
    """Returns how far a limit is used as the contract's."""
    return metering_service_pb2.LimitState(
        limit=_LIMITS[state.limit],
        value=state.value,
        remaining=state.remaining,
        reset_time=to_timestamp(state.reset_time),
    )


def from_key_usage(usage: KeyUsage) -> metering_service_pb2.GetKeyUsageResponse:
    """Returns what a key may use and has used as the contract's."""
    return metering_service_pb2.GetKeyUsageResponse(
        key_id=usage.key.key_id,
        name=usage.key.name,
        workspace_id=usage.key.workspace_id,
        expire_time=to_timestamp(usage.key.expire_time),
        allowed_models=usage.key.allowed_models,
        scopes=usage.key.scopes,
        limits=map(from_limit, usage.limits),
        today=_from_key_count(usage.today),
        month=_from_key_count(usage.month),
        remaining_messages=usage.remaining_messages,
    )


def _from_key_count(count: KeyCount) -> metering_service_pb2.KeyMessageCount:
    return metering_service_pb2.KeyMessageCount(**asdict(count))


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
        limits=key_service_pb2.KeyLimits(**asdict(key.limits)),
    )


def to_key_limits(limits: key_service_pb2.KeyLimits) -> KeyLimits:
    """Returns the contract's limits of a key; an absent one is None."""
    return KeyLimits(**{name: getattr(limits, name) for name in KEY_LIMITS if limits.HasField(name)})  # type: ignore[arg-type]


def from_workspace(workspace: Workspace) -> workspace_service_pb2.Workspace:
    """Returns a workspace as the contract's."""
    return workspace_service_pb2.Workspace(
        workspace_id=workspace.workspace_id,
        name=workspace.name,
        daily_message_allowance=workspace.daily_message_allowance,
        create_time=to_timestamp(workspace.create_time),
        update_time=to_timestamp(workspace.update_time),
        store_responses=workspace.store_responses,
        monthly_message_allowance=workspace.monthly_message_allowance,
        at_allowance=_AT_ALLOWANCE[workspace.at_allowance],
        disable_time=to_timestamp(workspace.disable_time),
    )


def to_at_allowance(value: int) -> AtAllowance:
    """Returns what shall happen at an allowance, "refuse" where nothing is said; raises InvalidRequest."""
    if value == workspace_service_pb2.AT_ALLOWANCE_UNSPECIFIED:
        return "refuse"
    for name, known in _AT_ALLOWANCE.items():
        if value == known:
            return name
    raise InvalidRequest(
        "'at_allowance' is neither to refuse nor to allow.", param="at_allowance", code="invalid_value"
    )


def to_seconds(duration: Duration, *, param: str) -> int:
    """Returns a duration in whole seconds, away from zero; raises InvalidRequest for one that is not a duration."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(seconds) > _MAX_DURATION_S or abs(nanos) > 999_999_999 or seconds * nanos < 0:
        raise InvalidRequest(f"'{param}' is not a duration.", param=param, code="invalid_value")
    return seconds + (nanos > 0) - (nanos < 0)
