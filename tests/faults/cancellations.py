"""Requests that are cancelled at every await: `PYTHONPATH=tests python -m faults.cancellations 100000`.

Each request is a task of the whole core (in-process channel, interceptor, metering, the echo model, a real PostgreSQL)
that is cancelled when it waits for the k-th time, k at random; a few come to their end. Afterwards no row may be open.
"""

import asyncio
import random
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Coroutine, Generator
from pathlib import Path
from typing import Any, Final

from service import RunningService, Tenant, start_service

from quillgate.v1 import completion_service_pb2 as pb
from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatContent, ChatMessage
from quillgate.v1.completion_service_pb2_grpc import CompletionServiceStub
from quillgate_core.storage.embedded import EmbeddedPostgres

AT_ONCE: Final = 32
MOST_WAITS: Final = 12
QUESTION: Final = ChatCompletionRequest(
    model="quillgate/echo", messages=[ChatMessage(role="user", content=ChatContent(text="one two three four five"))]
)


async def cancel_at_random(service: RunningService, tenant: Tenant, count: int, *, seed: int) -> Counter[str]:
    """Send so many requests, half of them streams, and return how they ended."""
    stub: Any = CompletionServiceStub(service.core.channel)  # type: ignore[arg-type]
    metadata = service.metadata(tenant.key)
    chance = random.Random(seed)
    ends: Counter[str] = Counter()

    async def unary() -> None:
        await stub.CreateChatCompletion(pb.CreateChatCompletionRequest(completion=QUESTION), metadata=metadata)

    async def stream() -> None:
        async for _ in stub.StreamChatCompletion(
            pb.StreamChatCompletionRequest(completion=QUESTION), metadata=metadata
        ):
            pass

    async def work(share: int) -> None:
        for _ in range(share):
            request = chance.choice((unary, stream))
            waits = chance.randint(1, MOST_WAITS)
            try:
                await asyncio.create_task(_cancelled_at(request(), waits))
            except asyncio.CancelledError:
                ends["cancelled"] += 1
            else:
                ends["complete"] += 1

    await asyncio.gather(*(work(count // AT_ONCE) for _ in range(AT_ONCE)))
    return ends


async def _cancelled_at(request: Coroutine[Any, Any, None], waits: int) -> None:
    await _drive(request, waits)


@types.coroutine
def _drive(request: Coroutine[Any, Any, None], waits: int) -> Generator[Any, Any, None]:
    """Run a coroutine in this task, and cancel the task at its so-manieth wait, as a hang-up does."""
    error: BaseException | None = None
    while True:
        try:
            waited_for = request.send(None) if error is None else request.throw(error)
        except StopIteration:
            return
        waits -= 1
        if not waits:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        error = None
        try:
            yield waited_for
        except BaseException as thrown:
            error = thrown


async def open_rows(service: RunningService, tenant: Tenant, *, timeout_s: float = 10.0) -> Counter[str]:
    """Wait until nothing is held, and return how many rows are in each state; some may be open if something leaks."""
    try:
        await service.settled(tenant, timeout_s=timeout_s)
    except TimeoutError:
        pass
    rows = await service.rows(
        "SELECT state, count(*) FROM ledger WHERE workspace_id = %s GROUP BY 1", tenant.workspace_id
    )
    return Counter(dict(rows))


async def _main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as postgres:
        directory = Path(folder) / "service"
        directory.mkdir()
        async with start_service(postgres.url, directory) as service:
            tenant = await service.tenant()
            ends = await cancel_at_random(service, tenant, count, seed=0)
            print(f"requests {sum(ends.values())}: {dict(ends)}")
            print(f"ledger rows: {dict(await open_rows(service, tenant))}; day: {await service.daily(tenant)}")


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
