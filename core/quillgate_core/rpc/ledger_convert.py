"""Between what auditors read of the ledger and the contract's messages."""

from datetime import UTC, datetime, timedelta
from typing import Final

from quillgate.v1 import ledger_service_pb2, metering_service_pb2
from quillgate_core.counting import TOKENS_PER_MESSAGE, Count
from quillgate_core.ledger_entry import CheckedDay, LedgerDay, LedgerEntry, RecordedAdjustment
from quillgate_core.ledger_reconciliation import Compared, Difference
from quillgate_core.rpc.convert import SOURCES, STATES, from_usage, to_timestamp

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_entry(entry: LedgerEntry) -> metering_service_pb2.LedgerEntry:
    """Returns a request as the contract's."""
    return metering_service_pb2.LedgerEntry(
        workspace_id=entry.workspace_id,
        request_id=entry.request_id,
        day=entry.day.isoformat(),
        state=STATES[entry.state],
        key_id=entry.key_id,
        endpoint=entry.endpoint,
        model=entry.model,
        upstream=entry.upstream,
        upstream_request_id=entry.upstream_request_id,
        held_messages=entry.held_messages,
        counted_messages=entry.charge.counted_messages,
        prompt_tokens=entry.charge.prompt_tokens,
        cached_tokens=entry.charge.cached_tokens,
        completion_tokens=entry.charge.completion_tokens,
        usage_source=SOURCES[entry.usage_source],
        usage_clamped=entry.usage_clamped,
        byok=entry.byok,
        cost_picodollars=entry.charge.cost_picodollars,
        overage_messages=entry.overage_messages,
        outcome=entry.outcome,
        reserve_time_us=_microseconds(entry.reserve_time),
        settle_time_us=_microseconds(entry.settle_time),
        adjustments=map(_from_adjustment, entry.adjustments),
    )


def from_count(count: Count) -> metering_service_pb2.QuoteMessagesResponse:
    """Returns the steps of a count as the contract's."""
    return metering_service_pb2.QuoteMessagesResponse(
        cached_discount=count.cached_discount,
        effective_input=count.effective_input,
        counted_messages=count.counted_messages,
        tokens_per_message=TOKENS_PER_MESSAGE,
    )


def from_checked(checked: CheckedDay) -> ledger_service_pb2.VerifyLedgerResponse:
    """Returns what a day's comparison found as the contract's."""
    return ledger_service_pb2.VerifyLedgerResponse(
        day=checked.day.isoformat(),
        workspace_count=checked.workspace_count,
        row_count=checked.row_count,
        discrepancies=[
            ledger_service_pb2.LedgerDiscrepancy(
                workspace_id=found.workspace_id,
                key_id=found.key_id,
                column=found.column,
                daily_value=found.daily_value,
                ledger_value=found.ledger_value,
            )
            for found in checked.discrepancies
        ],
    )


def from_compared(compared: Compared) -> ledger_service_pb2.ReconcileLedgerResponse:
    """Returns what was compared with a provider's records as the contract's."""
    return ledger_service_pb2.ReconcileLedgerResponse(
        compared_count=compared.compared_count,
        unknown_count=compared.unknown_count,
        differences=map(_from_difference, compared.differences),
    )


def from_ledger_day(day: LedgerDay) -> ledger_service_pb2.LedgerDay:
    """Returns a day whose rows are kept as the contract's."""
    return ledger_service_pb2.LedgerDay(
        day=day.day.isoformat(), size_bytes=day.size_bytes, estimated_row_count=day.estimated_row_count
    )


def _from_adjustment(adjustment: RecordedAdjustment) -> metering_service_pb2.LedgerAdjustment:
    return metering_service_pb2.LedgerAdjustment(
        source=adjustment.source,
        counted_messages=adjustment.added.counted_messages,
        prompt_tokens=adjustment.added.prompt_tokens,
        cached_tokens=adjustment.added.cached_tokens,
        completion_tokens=adjustment.added.completion_tokens,
        cost_picodollars=adjustment.added.cost_picodollars,
        create_time=to_timestamp(adjustment.create_time),
        actor_key_id=adjustment.actor_key_id,
        note=adjustment.note,
    )


def _from_difference(difference: Difference) -> ledger_service_pb2.LedgerDifference:
    entry = difference.entry
    return ledger_service_pb2.LedgerDifference(
        workspace_id=entry.workspace_id,
        request_id=entry.request_id,
        upstream_request_id=entry.upstream_request_id,
        ledger_usage=from_usage(entry.usage()),
        upstream_usage=from_usage(difference.upstream_usage),
        ledger_messages=entry.charged().counted_messages,
        upstream_messages=difference.upstream_messages,
        adjusted=difference.is_adjusted,
    )


def _microseconds(moment: datetime | None) -> int:
    return 0 if moment is None else (moment - _EPOCH) // timedelta(microseconds=1)
