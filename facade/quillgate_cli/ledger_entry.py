"""One request of the ledger for people: what happened when, and how its usage became messages."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from quillgate.v1.ledger_service_pb2 import GetLedgerEntryResponse
from quillgate.v1.metering_service_pb2 import LedgerAdjustment, LedgerEntry, ReservationState, UsageSource
from quillgate_cli import output
from quillgate_cli.table import Column

_PICODOLLARS = 10**12
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENDS = {
    ReservationState.RESERVATION_STATE_SETTLED: "settled",
    ReservationState.RESERVATION_STATE_RELEASED: "released",
    ReservationState.RESERVATION_STATE_RECOVERED: "recovered",
}
_SOURCES = {
    UsageSource.USAGE_SOURCE_PROVIDER: "as the provider reported",
    UsageSource.USAGE_SOURCE_ESTIMATE: "an estimate: the provider reported none",
    UsageSource.USAGE_SOURCE_CALLER: "as the caller of MeteringService reported",
    UsageSource.USAGE_SOURCE_HOLD: "not known: the process that served it died",
}


def print_entry(response: GetLedgerEntryResponse) -> None:
    """Prints what the request was, what happened to it, and why it is charged what it is."""
    entry = response.entry
    output.print_fields(_fields(response))
    output.print_line()
    columns = [Column("TIME", whole=True), Column("WHAT", whole=True), Column("MESSAGES", number=True), Column("WHY")]
    output.print_table(columns, _history(entry))
    output.print_line()
    for line in _reasons(response):
        output.print_line(line)


def _fields(response: GetLedgerEntryResponse) -> dict[str, str]:
    entry = response.entry
    fields = {
        "Request": entry.request_id,
        "Workspace": entry.workspace_id,
        "Key": entry.key_id or "none: metered by an internal service",
        "Day": entry.day,
        "Endpoint": entry.endpoint,
        "Model": entry.model or "not known",
        "Upstream": entry.upstream or "not known",
        "Its id there": entry.upstream_request_id,
        "Provider key": "the workspace's own: not drawn from the allowance" if entry.byok else "the gateway's",
        "Charged": f"{output.count(response.charged_messages)} messages",
        "Beyond the allowance": output.count(entry.overage_messages) if entry.overage_messages else "",
        "Cost": _cost(entry),
    }
    return {name: value for name, value in fields.items() if value}


def _cost(entry: LedgerEntry) -> str:
    """What the provider charges in USD, adjustments included."""
    told = [change.cost_picodollars for change in entry.adjustments if change.HasField("cost_picodollars")]
    if entry.HasField("cost_picodollars"):
        told.append(entry.cost_picodollars)
    return f"{Decimal(sum(told)) / _PICODOLLARS:,.6f} USD" if told else "not known"


def _history(entry: LedgerEntry) -> list[list[str]]:
    rows = [[_moment(entry.reserve_time_us), "reserved", "", f"{output.count(entry.held_messages)} held"]]
    if entry.settle_time_us:
        took_s = (entry.settle_time_us - entry.reserve_time_us) / 10**6
        end = _ENDS.get(entry.state, "ended")
        why = f"{entry.outcome or 'no reason told'}, after {took_s:,.3f} s"
        rows.append([_moment(entry.settle_time_us), end, output.count(entry.counted_messages), why])
    rows.extend(map(_adjustment_row, entry.adjustments))
    return rows


def _adjustment_row(change: LedgerAdjustment) -> list[str]:
    if change.actor_key_id:
        what, why = "voided", f"by {change.actor_key_id}: {change.note}"
    else:
        tokens = (change.prompt_tokens, change.cached_tokens, change.completion_tokens)
        told = "{:+,} prompt, {:+,} cached, {:+,} completion tokens".format(*tokens)
        what, why = "adjusted", f"by {change.source}: {told}"
    moment = output.moment(change, "create_time", absent="")
    return [moment, what, f"{change.counted_messages:+,}", why]


def _reasons(response: GetLedgerEntryResponse) -> list[str]:
    """The usage and the formula with its numbers; or why there is none."""
    entry = response.entry
    if not entry.settle_time_us:
        return ["It has not ended: the messages are only held."]
    if entry.state == ReservationState.RESERVATION_STATE_RELEASED:
        return ["It was charged nothing: there was no output."]
    prompt, cached, completion = (
        getattr(entry, name) + sum(getattr(change, name) for change in entry.adjustments)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
    )
    usage = f"Usage: {prompt:,} prompt tokens, {cached:,} of them cached, and {completion:,} completion tokens; "
    source = "as adjusted" if entry.adjustments else _SOURCES.get(entry.usage_source, "from an unknown source")
    clamped = (
        "; the provider reported what made no sense, which was forced into its ranges" if entry.usage_clamped else ""
    )
    return [f"{usage}{source}{clamped}.", *_formula(response, prompt, cached, completion)]


def _formula(response: GetLedgerEntryResponse, prompt: int, cached: int, completion: int) -> list[str]:
    entry, charged = response.entry, output.count(response.charged_messages)
    if response.HasField("count"):
        count = response.count
        discount, effective = output.count(count.cached_discount), output.count(count.effective_input)
        tokens, unit = f"{effective} + {completion:,}", output.count(count.tokens_per_message)
        return [
            f"  discount          floor({cached:,} cached / 2) = {discount}",
            f"  effective input   {prompt:,} prompt - {discount} = {effective}",
            f"  messages          max(1, ceil(({tokens}) / {unit})) = {charged}",
        ]
    if any(change.actor_key_id for change in entry.adjustments):
        return ["  voided by an admin: nothing is charged"]
    if entry.usage_source == UsageSource.USAGE_SOURCE_HOLD and not entry.adjustments:
        return [f"  the {charged} messages that were held are charged, since the work may have been done"]
    return [f"  {charged} messages, counted by something else than tokens, such as the length of the sound"]


def _moment(time_us: int) -> str:
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
