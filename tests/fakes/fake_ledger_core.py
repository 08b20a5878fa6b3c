"""LedgerService of the core in memory that the CLI's tests talk to; it answers what a test puts into it."""

from collections.abc import Iterator
from typing import Any, Protocol

import grpc

from quillgate.v1 import ledger_service_pb2 as pb
from quillgate.v1 import ledger_service_pb2_grpc


class Gate(Protocol):
    """The fake core around it, which records calls and refuses wrong keys."""

    def begin(self, request: Any, context: grpc.ServicerContext) -> None:
        """Record the call, or fail it."""


class FakeLedger(ledger_service_pb2_grpc.LedgerServiceServicer):
    """Answers with its members; `broken` ends a verification early and keeps every day."""

    def __init__(self, core: Gate) -> None:
        self._core = core
        self.shown = pb.GetLedgerEntryResponse()
        self.checked: list[pb.VerifyLedgerResponse] = []
        self.compared: list[pb.ReconcileLedgerResponse] = []
        self.days: list[pb.LedgerDay] = []
        self.broken = False

    def GetLedgerEntry(self, request: Any, context: Any) -> pb.GetLedgerEntryResponse:  # noqa: N802
        self._core.begin(request, context)
        return self.shown

    def VerifyLedger(self, request: Any, context: Any) -> Iterator[pb.VerifyLedgerResponse]:  # noqa: N802
        self._core.begin(request, context)
        yield from self.checked
        if self.broken:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    def VoidLedgerEntry(self, request: Any, context: Any) -> pb.VoidLedgerEntryResponse:  # noqa: N802
        self._core.begin(request, context)
        return pb.VoidLedgerEntryResponse(entry=self.shown.entry)

    def ReconcileLedger(self, request: Any, context: Any) -> Iterator[pb.ReconcileLedgerResponse]:  # noqa: N802
        self._core.begin(request, context)
        yield from self.compared

    def ListLedgerDays(self, request: Any, context: Any) -> pb.ListLedgerDaysResponse:  # noqa: N802
        self._core.begin(request, context)
        return pb.ListLedgerDaysResponse(days=self.days)

    def DropLedgerDay(self, request: Any, context: Any) -> pb.DropLedgerDayResponse:  # noqa: N802
        self._core.begin(request, context)
        if self.broken:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "kept")
        return pb.DropLedgerDayResponse(row_count=request.row_count)
