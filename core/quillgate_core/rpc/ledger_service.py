"""LedgerService: translates between the contract and `LedgerAudit` and `LedgerReconciliation`.

A key with `usage.read` sees requests of its own workspace; everything else is the platform's admin's.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import date
from typing import Any

from quillgate.v1 import ledger_service_pb2 as pb
from quillgate.v1.ledger_service_pb2_grpc import LedgerServiceServicer
from quillgate_core.errors import InvalidRequest
from quillgate_core.ledger_audit import LedgerAudit
from quillgate_core.ledger_reconciliation import LedgerReconciliation
from quillgate_core.principal import PLATFORM_ADMIN, USAGE_READ, Principal
from quillgate_core.rpc.call import CurrentCall, current_call
from quillgate_core.rpc.convert import to_day
from quillgate_core.rpc.ledger_convert import from_checked, from_compared, from_count, from_entry, from_ledger_day


class LedgerService(LedgerServiceServicer):
    """Serves the ledger RPCs; the plain methods block and are run in the interceptor's threads."""

    def __init__(
        self, audit: LedgerAudit, reconciliation: LedgerReconciliation, call: CurrentCall = current_call
    ) -> None:
        self._audit = audit
        self._reconciliation = reconciliation
        self._call = call

    def GetLedgerEntry(self, request: pb.GetLedgerEntryRequest, context: Any) -> pb.GetLedgerEntryResponse:  # noqa: N802
        """Tells everything about one request."""
        principal = self._call().principal
        principal.require(USAGE_READ)
        entry = self._audit.entry(
            request.request_id,
            principal.workspace(request.workspace_id),
            anywhere=principal.is_platform_admin and not request.workspace_id,
        )
        count = entry.count()
        return pb.GetLedgerEntryResponse(
            entry=from_entry(entry),
            count=None if count is None else from_count(count),
            charged_messages=entry.charged().counted_messages,
        )

    async def VerifyLedger(  # noqa: N802
        self, request: pb.VerifyLedgerRequest, context: Any
    ) -> AsyncIterator[pb.VerifyLedgerResponse]:
        """Compares daily rows with the sums of the ledger, a message a day."""
        principal = self._admin()
        workspace_id = principal.workspace(request.workspace_id) if request.workspace_id else ""
        start_day, end_day = _days(request)
        async with aclosing(self._audit.verify(workspace_id, start_day, end_day)) as checked_days:
            async for checked in checked_days:
                yield from_checked(checked)

    def VoidLedgerEntry(  # noqa: N802
        self, request: pb.VoidLedgerEntryRequest, context: Any
    ) -> pb.VoidLedgerEntryResponse:
        """Makes the charge of a request nothing."""
        principal = self._admin()
        entry = self._audit.void(
            request.request_id,
            principal.workspace(request.workspace_id),
            actor_key_id=principal.key_id,
            note=request.note,
        )
        return pb.VoidLedgerEntryResponse(entry=from_entry(entry))

    async def ReconcileLedger(  # noqa: N802
        self, request: pb.ReconcileLedgerRequest, context: Any
    ) -> AsyncIterator[pb.ReconcileLedgerResponse]:
        """Compares the ledger with a provider's own records, a message for each hundred requests."""
        self._admin()
        start_day, end_day = _days(request)
        pages = self._reconciliation.reconcile(request.upstream, start_day, end_day, apply=request.apply)
        async with aclosing(pages):
            async for compared in pages:
                yield from_compared(compared)

    def ListLedgerDays(self, request: pb.ListLedgerDaysRequest, context: Any) -> pb.ListLedgerDaysResponse:  # noqa: N802
        """Lists the days whose rows are kept."""
        self._admin()
        return pb.ListLedgerDaysResponse(days=map(from_ledger_day, self._audit.days()))

    async def DropLedgerDay(self, request: pb.DropLedgerDayRequest, context: Any) -> pb.DropLedgerDayResponse:  # noqa: N802
        """Drops a day's rows, once they were exported."""
        self._admin()
        day = to_day(request.day, param="day")
        if day is None:
            raise InvalidRequest("Missing required parameter: 'day'.", param="day", code="missing_required_parameter")
        return pb.DropLedgerDayResponse(row_count=await self._audit.drop(day, request.row_count))

    def _admin(self) -> Principal:
        principal = self._call().principal
        principal.require(PLATFORM_ADMIN)
        return principal


def _days(request: pb.VerifyLedgerRequest | pb.ReconcileLedgerRequest) -> tuple[date | None, date | None]:
    start_day = to_day(request.start_day, param="start_day")
    end_day = to_day(request.end_day, param="end_day")
    if start_day is not None and end_day is not None and start_day > end_day:
        raise InvalidRequest("'start_day' must not be after 'end_day'.", param="start_day", code="invalid_value")
    return start_day, end_day
