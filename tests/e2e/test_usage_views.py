"""Bills as people get them: what was used by whom, and every ledger row once, over gRPC, while requests come in."""

import asyncio
import csv
import os
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes.ledger_days import LedgerDays
from openai import AsyncOpenAI
from service import MODEL, RunningService

from quillgate.v1 import metering_service_pb2 as pb
from quillgate.v1 import metering_service_pb2_grpc
from quillgate_codec import error_info
from quillgate_core.storage.engine import make_engine

OLD_DAYS = (date(2001, 2, 3), date(2001, 2, 4))


@pytest.fixture
def days(running_service: RunningService) -> Iterator[LedgerDays]:
    """The service's ledger, with two old days."""
    engine = make_engine(running_service.database_url)
    days = LedgerDays(engine)
    for day in OLD_DAYS:
        days.add_day(day)
    yield days
    engine.dispose()


async def read_until_cut(stub: Any, request: pb.ExportLedgerRequest, metadata: Any, messages: int) -> tuple[Any, str]:
    """Reads so many messages, then breaks the stream; the rows and the last cursor."""
    call = stub.ExportLedger(request, metadata=metadata)
    rows, cursor = [], request.cursor
    for _ in range(messages):
        message = await call.read()
        if message is grpc.aio.EOF:
            break
        rows += message.entries
        cursor = message.cursor
    call.cancel()
    return rows, cursor


async def test_an_export_that_breaks_has_every_row_once(running_service: RunningService, days: LedgerDays) -> None:
    """Cut off behind any message and resumed from its cursor, while requests come in, no row is twice or missing."""
    tenant = await running_service.tenant()
    metadata = running_service.metadata()
    old = [each for day in OLD_DAYS for each in days.add_rows(day, 5_000, workspace_id=tenant.workspace_id)]
    days.add_rows(OLD_DAYS[0], 100, workspace_id="ws_of_others")
    async with grpc.aio.insecure_channel(running_service.grpc_address) as channel:
        stub: Any = metering_service_pb2_grpc.MeteringServiceStub(channel)

        async def record(name: str) -> None:
            usage = pb.TokenUsage(prompt_tokens=10, completion_tokens=5)
            request = pb.RecordRequest(request_id=name, workspace_id=tenant.workspace_id, usage=usage)
            await stub.Record(request, metadata=metadata)

        before = [f"before-{number}" for number in range(20)]
        await asyncio.gather(*map(record, before))

        seen: Counter[str] = Counter()
        request, cuts, new = pb.ExportLedgerRequest(workspace_id=tenant.workspace_id), 0, 0
        while True:
            if new < 6:
                await record(f"new-{new}")
                new += 1
            rows, cursor = await read_until_cut(stub, request, metadata, messages=1 + cuts % 2)
            seen.update(entry.request_id for entry in rows)
            cuts += 1
            if not rows:
                break
            request.cursor = cursor
    assert cuts > 3
    assert set(seen.values()) == {1}
    assert set(old) | set(before) <= set(seen) <= {*old, *before, *(f"new-{number}" for number in range(new))}
    assert [name for name in seen if name in set(old)] == old


async def test_what_was_used_is_broken_down(running_service: RunningService) -> None:
    """A chat and a recorded usage are in the same bill, each under its key, model, endpoint, provider and day."""
    tenant = await running_service.tenant()
    async with AsyncOpenAI(base_url=running_service.base_url, api_key=tenant.key) as client:
        await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello!"}])
    async with grpc.aio.insecure_channel(running_service.grpc_address) as channel:
        stub: Any = metering_service_pb2_grpc.MeteringServiceStub(channel)
        usage = pb.TokenUsage(prompt_tokens=20_000, completion_tokens=5)
        record = pb.RecordRequest(request_id="r", usage=usage, model="own/model")
        await stub.Record(record, metadata=running_service.metadata(tenant.key))
        request = pb.ListUsageBreakdownRequest(
            workspace_id=tenant.workspace_id, dimensions=[number for number in pb.UsageDimension.values() if number]
        )
        response = await stub.ListUsageBreakdown(request, metadata=running_service.metadata())
    assert not response.truncated
    assert [(row.model, row.endpoint, row.upstream, row.message_count, row.request_count) for row in response.rows] == [
        ("own/model", "metering", "", 2, 1),
        (MODEL, "chat.completions", "scripted", 1, 1),
    ]
    assert {(row.key_id, row.key_name) for row in response.rows} == {(tenant.key_id, "developer")}
    assert {row.day for row in response.rows} <= {datetime.now(UTC).date().isoformat(), response.rows[0].day}


async def test_the_command_writes_the_bill(running_service: RunningService, days: LedgerDays, tmp_path: Path) -> None:
    """`quillgate usage export` writes every row of every workspace to a file, and later only what has come since."""
    key = {"QUILLGATE_KEY": running_service.admin_key, "QUILLGATE_CORE_ADDRESS": running_service.grpc_address}
    path = tmp_path / "bill.csv"
    made: list[str] = []
    for arguments in ([], ["--resume"]):
        made += [*days.add_rows(OLD_DAYS[-1], 2_500), *days.add_rows(OLD_DAYS[-1], 1, workspace_id="other")]
        command = [sys.executable, "-m", "quillgate_cli", "usage", "export", "--all-workspaces", "--output", str(path)]
        process = await asyncio.create_subprocess_exec(*command, *arguments, env={**os.environ, **key})
        async with asyncio.timeout(60):
            assert await process.wait() == 0
        with path.open(newline="") as file:
            assert [row["request_id"] for row in csv.DictReader(file)] == made


async def test_a_bad_cursor_is_refused_over_grpc(running_service: RunningService) -> None:
    """A stream's refusal has its reason and the parameter's name, as any other."""
    async with grpc.aio.insecure_channel(running_service.grpc_address) as channel:
        stub: Any = metering_service_pb2_grpc.MeteringServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ExportLedger(pb.ExportLedgerRequest(cursor="x"), metadata=running_service.metadata()).read()
    info = error_info(caught.value)
    assert info is not None
    assert (info.reason, dict(info.metadata)) == ("INVALID_REQUEST", {"param": "cursor", "code": "invalid_value"})
