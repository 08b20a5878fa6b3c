"""MeteringService: translates between the contract and `Metering`, for services that call models themselves.

Rows that it makes have no owner, and it can touch no others: nobody can settle a completion of the gateway with a
usage of their own choice.
"""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final

from quillgate.v1 import metering_service_pb2 as pb
from quillgate.v1.metering_service_pb2_grpc import MeteringServiceServicer
from quillgate_core.counting import TOKENS_PER_MESSAGE, Usage, counted_messages, explain
from quillgate_core.errors import InvalidRequest
from quillgate_core.key_usage import KeyUsages
from quillgate_core.metering import MAX_LIFETIME_S, Metering
from quillgate_core.principal import INFERENCE, USAGE_READ
from quillgate_core.reservation import LIFETIME_S, Record, Release, Reserve, Settle
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.convert import (
    from_daily,
    from_key_usage,
    from_receipt,
    from_reservation,
    to_day,
    to_seconds,
    to_timestamp,
    to_usage,
)
from quillgate_core.rpc.usage_views_service import UsageViewsService

ENDPOINT: Final = "metering"
MAX_DAYS: Final = 3_660
_MODEL = re.compile(r"[!-~]{0,200}")


class MeteringService(MeteringServiceServicer):
    """Serves the metering RPCs."""

    def __init__(
        self, metering: Metering, key_usages: KeyUsages, views: UsageViewsService, call: CurrentCall = current_call
    ) -> None:
        self._metering = metering
        self._key_usages = key_usages
        self._views = views
        self._call = call

    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse:  # noqa: N802
        """Sets messages aside."""
        principal = self._call().principal
        workspace_id = self._workspace(request.workspace_id)
        is_own = workspace_id == principal.workspace_id
        usage = _usage(request, "max_usage")
        hold, tokens = counted_messages(usage), usage.prompt_tokens + usage.completion_tokens
        reservation = await self._metering.reserve(
            Reserve(
                workspace_id=workspace_id,
                request_id=request.request_id,
                hold_messages=hold,
                min_hold_messages=hold,
                hold_tokens=tokens,
                min_hold_tokens=tokens,
                # The ledger admits a key to its own workspace only; an admin's was authenticated afresh just now.
                key_id=principal.key_id if is_own else None,
                key_revision=principal.key_revision if is_own else None,
                expire_s=_lifetime_s(request),
                endpoint=ENDPOINT,
                model=_model(request.model),
            )
        )
        return pb.ReserveResponse(reservation=from_reservation(reservation))

    async def Settle(self, request: pb.SettleRequest, context: Any) -> pb.SettleResponse:  # noqa: N802
        """Ends a reservation with its usage."""
        receipt = await self._metering.settle(
            Settle(
                workspace_id=self._workspace(request.workspace_id),
                request_id=request.request_id,
                usage=_usage(request, "usage"),
                usage_source="caller",
                key_id=self._call().principal.key_id,
            )
        )
        return pb.SettleResponse(receipt=from_receipt(receipt))

    async def Release(self, request: pb.ReleaseRequest, context: Any) -> pb.ReleaseResponse:  # noqa: N802
        """Ends a reservation without charge."""
        workspace_id = self._workspace(request.workspace_id)
        receipt = await self._metering.release(
            Release(workspace_id=workspace_id, request_id=request.request_id, key_id=self._call().principal.key_id)
        )
        return pb.ReleaseResponse(remaining_messages=receipt.remaining_messages)

    async def Record(self, request: pb.RecordRequest, context: Any) -> pb.RecordResponse:  # noqa: N802
        """Counts a usage that is already known."""
        principal = self._call().principal
        workspace_id = self._workspace(request.workspace_id)
        receipt = await self._metering.record(
            Record(
                workspace_id=workspace_id,
                request_id=request.request_id,
                usage=_usage(request, "usage"),
                # A key's sums are of its own workspace, as its limits are, and are locked by that workspace's day.
                key_id=principal.key_id if workspace_id == principal.workspace_id else None,
                endpoint=ENDPOINT,
                model=_model(request.model),
            )
        )
        return pb.RecordResponse(receipt=from_receipt(receipt))

    def ListDailyMessageCount(  # noqa: N802
        self, request: pb.ListDailyMessageCountRequest, context: Any
    ) -> pb.ListDailyMessageCountResponse:
        """Lists days and what is left of today; blocking, run in the interceptor's threads."""
        principal = self._call().principal
        principal.require(USAGE_READ)
        workspace_id = principal.workspace(request.workspace_id)
        today = self._metering.today(workspace_id)
        end = to_day(request.end_day, param="end_day") or today.day
        start = to_day(request.start_day, param="start_day") or max(end, end.min + timedelta(30)) - timedelta(30)
        if start > end or end - start > timedelta(MAX_DAYS):
            raise InvalidRequest(
                f"start_day must be at most {MAX_DAYS} days before end_day, and not after it.",
                param="start_day",
                code="invalid_value",
            )
        rows = self._metering.daily(workspace_id, start_day=start, end_day=end)
        return pb.ListDailyMessageCountResponse(
            days=[from_daily(row) for row in rows],
            daily_message_allowance=today.allowance,
            remaining_messages=today.remaining_messages,
            reset_time=to_timestamp(today.reset_time),
            monthly_message_allowance=today.monthly_allowance,
            monthly_remaining_messages=today.monthly_remaining_messages,
        )

    def GetKeyUsage(self, request: pb.GetKeyUsageRequest, context: Any) -> pb.GetKeyUsageResponse:  # noqa: N802
        """Returns what a key may use and has used; blocking, run in the interceptor's threads."""
        return from_key_usage(self._key_usages.get(self._call().principal, request.key_id))

    async def ListUsageBreakdown(  # noqa: N802
        self, request: pb.ListUsageBreakdownRequest, context: Any
    ) -> pb.ListUsageBreakdownResponse:
        """Lists groups of requests."""
        return await self._views.breakdown(self._call().principal, request)

    async def ExportLedger(  # noqa: N802
        self, request: pb.ExportLedgerRequest, context: Any
    ) -> AsyncIterator[pb.ExportLedgerResponse]:
        """Streams ledger rows."""
        async with aclosing(self._views.export(self._call().principal, request)) as responses:  # type: ignore[type-var]
            async for response in responses:
                yield response

    def QuoteMessages(  # noqa: N802
        self, request: pb.QuoteMessagesRequest, context: Any
    ) -> pb.QuoteMessagesResponse:
        """Explains a count."""
        count = explain(_usage(request, "usage"))
        return pb.QuoteMessagesResponse(
            cached_discount=count.cached_discount,
            effective_input=count.effective_input,
            counted_messages=count.counted_messages,
            tokens_per_message=TOKENS_PER_MESSAGE,
        )

    def _workspace(self, requested: str) -> str:
        principal = self._call().principal
        principal.require(INFERENCE)
        return principal.workspace(requested)


def _usage(request: Any, name: str) -> Usage:
    """Returns the required usage of a request; absent is not the same as zero."""
    if not request.HasField(name):
        raise InvalidRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    return to_usage(getattr(request, name), param=name)


def _lifetime_s(request: pb.ReserveRequest) -> int:
    if not request.HasField("lifetime"):
        return LIFETIME_S
    lifetime_s = to_seconds(request.lifetime, param="lifetime")
    if not 1 <= lifetime_s <= MAX_LIFETIME_S:
        raise InvalidRequest(
            f"'lifetime' must be 1 to {MAX_LIFETIME_S} seconds.", param="lifetime", code="invalid_value"
        )
    return lifetime_s


def _model(model: str) -> str:
    if _MODEL.fullmatch(model) is None:
        raise InvalidRequest(
            "'model' must have at most 200 visible ASCII characters.", param="model", code="invalid_value"
        )
    return model
