"""The ledger as a table of an export: which columns it has, and what stands in them. Pure."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from quillgate.v1.metering_service_pb2 import LedgerAdjustment, LedgerEntry, ReservationState, UsageSource

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STATES: Final = {number: name.removeprefix("RESERVATION_STATE_").lower() for name, number in ReservationState.items()}
_SOURCES: Final = {
    number: name.removeprefix("USAGE_SOURCE_").lower() if number else "" for name, number in UsageSource.items()
}


class LedgerColumn(NamedTuple):
    """One column; `kind` is `text`, `number`, `flag` or `time`, and None is absent."""

    name: str
    kind: str
    value: Callable[[LedgerEntry], Any]


def _plain(name: str, kind: str) -> LedgerColumn:
    return LedgerColumn(name, kind, lambda entry: getattr(entry, name))


def _adjusted(name: str) -> LedgerColumn:
    """What all adjustments of a row add to one of its columns; add both to get what is charged."""
    return LedgerColumn(
        f"adjusted_{name}", "number", lambda entry: sum(getattr(each, name) for each in entry.adjustments)
    )


def _time(time_us: int) -> datetime | None:
    return _EPOCH + timedelta(microseconds=time_us) if time_us else None


def _cost(entry: LedgerEntry) -> int | None:
    return entry.cost_picodollars if entry.HasField("cost_picodollars") else None


def adjustment_value(adjustment: LedgerAdjustment) -> dict[str, Any]:
    """Returns an adjustment as JSON values, under the contract's names."""
    names = ("source", "counted_messages", "prompt_tokens", "cached_tokens", "completion_tokens")
    return {
        **{name: getattr(adjustment, name) for name in names},
        "cost_picodollars": adjustment.cost_picodollars if adjustment.HasField("cost_picodollars") else None,
        "create_time": adjustment.create_time.ToJsonString(),
        "actor_key_id": adjustment.actor_key_id,
        "note": adjustment.note,
    }


def _adjustments_json(entry: LedgerEntry) -> str:
    """Returns the adjustments with all that they say, as JSON; empty for none."""
    if not entry.adjustments:
        return ""
    return msgspec.json.encode([adjustment_value(each) for each in entry.adjustments]).decode()


COLUMNS: Final = (
    *(_plain(name, "text") for name in ("day", "workspace_id", "request_id")),
    LedgerColumn("state", "text", lambda entry: _STATES[entry.state]),
    *(_plain(name, "text") for name in ("key_id", "endpoint", "model", "upstream", "upstream_request_id")),
    *(_plain(name, "number") for name in ("held_messages", "counted_messages", "overage_messages")),
    *(_plain(name, "number") for name in ("prompt_tokens", "cached_tokens", "completion_tokens")),
    LedgerColumn("usage_source", "text", lambda entry: _SOURCES[entry.usage_source]),
    *(_plain(name, "flag") for name in ("usage_clamped", "byok")),
    LedgerColumn("cost_picodollars", "number", _cost),
    _plain("outcome", "text"),
    LedgerColumn("reserve_time", "time", lambda entry: _time(entry.reserve_time_us)),
    LedgerColumn("settle_time", "time", lambda entry: _time(entry.settle_time_us)),
    *(_adjusted(name) for name in ("counted_messages", "prompt_tokens", "cached_tokens", "completion_tokens")),
    _adjusted("cost_picodollars"),
    LedgerColumn("adjustment_sources", "text", lambda entry: " ".join(each.source for each in entry.adjustments)),
    LedgerColumn("adjustments", "text", _adjustments_json),
)
"""Every format has these columns, in this order; JSON lines have the adjustments as a list."""


def time_text(moment: datetime) -> str:
    """Returns a time in RFC 3339, to the microsecond, in UTC."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
