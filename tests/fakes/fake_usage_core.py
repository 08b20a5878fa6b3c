"""A scripted core that tells limits and usage, and nothing else."""

from typing import Any, Self

import grpc.aio
from fakes.fake_core import FakeCore

from quillgate.v1 import metering_service_pb2_grpc
from quillgate.v1.metering_service_pb2 import (
    GetKeyUsageRequest,
    GetKeyUsageResponse,
    ListDailyMessageCountRequest,
    ListDailyMessageCountResponse,
    ListUsageBreakdownRequest,
    ListUsageBreakdownResponse,
)


class FakeUsageCore(FakeCore):
    """Answers `key_usage`, `days` and `breakdown`, which tests fill; `failure` of the script ends every call."""

    def __init__(self) -> None:
        super().__init__()
        self.key_usage = GetKeyUsageResponse()
        self.days = ListDailyMessageCountResponse()
        self.breakdown = ListUsageBreakdownResponse()
        self._usage_server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        server = self._usage_server = grpc.aio.server()
        metering_service_pb2_grpc.add_MeteringServiceServicer_to_server(FakeUsages(self), server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._usage_server is not None
        await self._usage_server.stop(None)


class FakeUsages(metering_service_pb2_grpc.MeteringServiceServicer):
    """The reading half of MeteringService, as its core says."""

    def __init__(self, core: FakeUsageCore) -> None:
        self._core = core

    async def GetKeyUsage(self, request: GetKeyUsageRequest, context: Any) -> GetKeyUsageResponse:  # noqa: N802
        await self._core.note(request, context)
        return self._core.key_usage

    async def ListDailyMessageCount(  # noqa: N802
        self, request: ListDailyMessageCountRequest, context: Any
    ) -> ListDailyMessageCountResponse:
        await self._core.note(request, context)
        return self._core.days

    async def ListUsageBreakdown(  # noqa: N802
        self, request: ListUsageBreakdownRequest, context: Any
    ) -> ListUsageBreakdownResponse:
        await self._core.note(request, context)
        return self._core.breakdown
