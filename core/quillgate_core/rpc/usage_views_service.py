"""The two RPCs of MeteringService that read much: translates between the contract and `UsageViews`.

They run in the threads that everything shares, so few of them do at once; the others wait for a place.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from quillgate.v1 import metering_service_pb2 as pb
from quillgate_core.errors import InvalidRequest
from quillgate_core.principal import PLATFORM_ADMIN, USAGE_READ, Principal
from quillgate_core.rpc.capacity import Capacity
from quillgate_core.rpc.convert import SOURCES, STATES, to_day, to_timestamp
from quillgate_core.usage_views import (
    ExportAdjustment,
    ExportPage,
    ExportRow,
    UsageDimension,
    UsageGroup,
    UsageViews,
)

BREAKDOWNS: Final = 2
BREAKDOWN_WAIT_S: Final = 5.0
EXPORT_PLACES: Final = 3
EXPORT_WAIT_S: Final = 30.0
PAGE_ROWS: Final = 4_000
"""Rows that are read at once: an export has two pages in memory, about 10 MB each."""
MESSAGE_ROWS: Final = 2_000
"""Rows in a message: half a mebibyte of usual rows, and below every client's default limit with the longest names."""

_DIMENSIONS: Final[dict[int, UsageDimension]] = {
    pb.USAGE_DIMENSION_KEY: "key",
    pb.USAGE_DIMENSION_MODEL: "model",
    pb.USAGE_DIMENSION_ENDPOINT: "endpoint",
    pb.USAGE_DIMENSION_UPSTREAM: "upstream",
    pb.USAGE_DIMENSION_DAY: "day",
}


class UsageViewsService:
    """Serves both for a principal; `blocking` runs a call in a thread."""

    def __init__(self, views: UsageViews, blocking: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._views = views
        self._blocking = blocking
        self._breakdowns = Capacity(BREAKDOWNS, wait_s=BREAKDOWN_WAIT_S)
        self._places = Capacity(EXPORT_PLACES, wait_s=EXPORT_WAIT_S)

    async def breakdown(
        self, principal: Principal, request: pb.ListUsageBreakdownRequest
    ) -> pb.ListUsageBreakdownResponse:
        """Lists groups."""
        principal.require(USAGE_READ)
        read = partial(
            self._views.breakdown,
            principal.workspace(request.workspace_id),
            start_day=to_day(request.start_day, param="start_day"),
            end_day=to_day(request.end_day, param="end_day"),
            dimensions=[_dimension(number) for number in request.dimensions],
            limit=request.limit,
        )
        async with self._breakdowns:
            groups, truncated = await self._blocking(read)
        return pb.ListUsageBreakdownResponse(rows=map(_from_group, groups), truncated=truncated)

    async def export(
        self, principal: Principal, request: pb.ExportLedgerRequest
    ) -> AsyncIterator[pb.ExportLedgerResponse]:
        """Streams rows. While a page is being sent the next one is read, and no more: a slow reader slows us down."""
        workspace_id = _exported(principal, request)
        place, end_day = await self._blocking(
            partial(
                self._views.export_range,
                workspace_id,
                start_day=to_day(request.start_day, param="start_day"),
                end_day=to_day(request.end_day, param="end_day"),
                cursor=request.cursor,
            )
        )
        read = partial(self._views.export_page, workspace_id=workspace_id, end_day=end_day, limit=PAGE_ROWS)
        reading = asyncio.create_task(self._in_place(partial(read, place)))
        try:
            while (page := await reading) is not None:
                reading = asyncio.create_task(self._in_place(partial(read, page.place(page.rows[-1]))))
                for start in range(0, len(page.rows), MESSAGE_ROWS):
                    yield await self._in_place(partial(_message, page, page.rows[start : start + MESSAGE_ROWS]))
        finally:
            reading.cancel()  # also of a page that failed: nobody is left to be told of it

    async def _in_place(self, work: Callable[[], Any]) -> Any:
        """Runs a part of an export in a thread, when one of the few places for these is free."""
        async with self._places:
            return await self._blocking(work)


def _exported(principal: Principal, request: pb.ExportLedgerRequest) -> str | None:
    """Returns the workspace to export, None for all."""
    principal.require(USAGE_READ)
    if not request.all_workspaces:
        return principal.workspace(request.workspace_id)
    principal.require(PLATFORM_ADMIN)
    if request.workspace_id:
        raise InvalidRequest(
            "'workspace_id' and 'all_workspaces' exclude each other.", param="workspace_id", code="invalid_value"
        )
    return None


def _dimension(number: int) -> UsageDimension:
    if number not in _DIMENSIONS:
        raise InvalidRequest("'dimensions' has one that is not known.", param="dimensions", code="invalid_value")
    return _DIMENSIONS[number]


def _from_group(group: UsageGroup) -> pb.UsageBreakdown:
    return pb.UsageBreakdown(
        key_id=group.key_id,
        key_name=group.key_name,
        model=group.model,
        endpoint=group.endpoint,
        upstream=group.upstream,
        day="" if group.day is None else group.day.isoformat(),
        message_count=group.message_count,
        byok_message_count=group.byok_message_count,
        input_tokens=group.input_tokens,
        cached_tokens=group.cached_tokens,
        output_tokens=group.output_tokens,
        request_count=group.request_count,
        cost_picodollars=group.cost_picodollars,
        unpriced_request_count=group.unpriced_request_count,
    )


def _message(page: ExportPage, rows: Sequence[ExportRow]) -> pb.ExportLedgerResponse:
    response = pb.ExportLedgerResponse(cursor=page.place(rows[-1]).cursor())
    _add_entries(response, page.day.isoformat(), rows)
    if page.adjustments:
        for entry in response.entries:
            for adjustment in page.adjustments.get((entry.workspace_id, entry.request_id), ()):
                entry.adjustments.append(_from_adjustment(adjustment))
    return response


def _add_entries(response: pb.ExportLedgerResponse, day: str, rows: Sequence[ExportRow]) -> None:
    """Adds the rows as the contract's. The hottest loop of an export: rows are made in place, not copied."""
    add, states, sources = response.entries.add, STATES, SOURCES
    for (
        workspace_id,
        request_id,
        state,
        key_id,
        endpoint,
        model,
        upstream,
        upstream_request_id,
        held_messages,
        counted_messages,
        prompt_tokens,
        cached_tokens,
        completion_tokens,
        usage_source,
        usage_clamped,
        byok,
        cost_picodollars,
        overage_messages,
        outcome,
        reserve_time_us,
        settle_time_us,
    ) in rows:
        add(
            workspace_id=workspace_id,
            request_id=request_id,
            day=day,
            state=states[state],
            key_id=key_id,
            endpoint=endpoint,
            model=model,
            upstream=upstream,
            upstream_request_id=upstream_request_id,
            held_messages=held_messages,
            counted_messages=counted_messages,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=completion_tokens,
            usage_source=sources[usage_source],
            usage_clamped=usage_clamped,
            byok=byok,
            cost_picodollars=cost_picodollars,
            overage_messages=overage_messages,
            outcome=outcome,
            reserve_time_us=reserve_time_us,
            settle_time_us=settle_time_us,
        )


def _from_adjustment(adjustment: ExportAdjustment) -> pb.LedgerAdjustment:
    return pb.LedgerAdjustment(
        source=adjustment.source,
        counted_messages=adjustment.counted_messages,
        prompt_tokens=adjustment.prompt_tokens,
        cached_tokens=adjustment.cached_tokens,
        completion_tokens=adjustment.completion_tokens,
        cost_picodollars=adjustment.cost_picodollars,
        create_time=to_timestamp(adjustment.create_time),
        actor_key_id=adjustment.actor_key_id,
        note=adjustment.note,
    )
