"""A service that calls models itself and meters through MeteringService, repeating each step until it is answered."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from faults.chaos.record import Attempt, Record, Tokens
from faults.chaos.site import Tenancy
from google.protobuf.duration_pb2 import Duration

from quillgate.v1 import metering_service_pb2 as pb
from quillgate.v1.metering_service_pb2_grpc import MeteringServiceStub

CALL_S = 5.0
STEP_S = 60.0
"""How long a step is repeated; a core is back within seconds."""

LIFETIME_S = 300
ABANDONED_LIFETIME_S = 5
MAX_COMPLETION = 40_000
_LATER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})


@dataclass
class ChatService:
    """The service; of its requests some are released, some are settled twice, and some are never ended."""

    tenancy: Tenancy
    cores: list[str]
    record: Record
    chance: random.Random
    stopped: asyncio.Event
    number: int = field(default=0)

    async def run(self) -> None:
        """Serve until it is enough."""
        async with grpc.aio.insecure_channel(
            f"ipv4:{','.join(self.cores)}", options=(("grpc.lb_policy_name", "round_robin"),)
        ) as channel:
            stub: Any = MeteringServiceStub(channel)
            while not self.stopped.is_set():
                self.number += 1
                await self._serve(stub, f"{self.tenancy.key_id}.m{self.number}")
                await asyncio.sleep(self.chance.uniform(0.1, 0.5))

    async def _serve(self, stub: Any, token: str) -> None:
        attempt = Attempt(
            token, self.tenancy.workspace_id, self.tenancy.key_id, "metering", False, time.time(), request_id=token
        )
        self.record.attempts.append(attempt)
        end = self.chance.choices(("settle", "settle twice", "release", "abandon"), (70, 15, 10, 5))[0]
        most = self.chance.randint(10, MAX_COMPLETION)
        lifetime_s = ABANDONED_LIFETIME_S if end == "abandon" else LIFETIME_S
        reserve = pb.ReserveRequest(
            request_id=token,
            max_usage=pb.TokenUsage(prompt_tokens=100, completion_tokens=most),
            lifetime=Duration(seconds=lifetime_s),
        )
        attempt.note = end
        if await self._repeat(stub.Reserve, reserve, attempt) is not None and end != "release":
            dispatch = self.record.dispatch(token, time.time())
            dispatch.billed = Tokens(100, self.chance.randint(0, 100), self.chance.randint(1, most))
            await asyncio.sleep(self.chance.uniform(0.05, 0.3))
            dispatch.fate = "whole"
            await self._end(stub, attempt, dispatch.billed, end)
        elif end == "release":
            await self._repeat(stub.Release, pb.ReleaseRequest(request_id=token), attempt)
        attempt.end_time = time.time()

    async def _end(self, stub: Any, attempt: Attempt, used: Tokens, end: str) -> None:
        if end == "abandon":
            return
        usage = pb.TokenUsage(prompt_tokens=used.prompt, cached_tokens=used.cached, completion_tokens=used.completion)
        step = pb.SettleRequest(request_id=attempt.token, usage=usage)
        for _ in range(2 if end == "settle twice" else 1):
            answer = await self._repeat(stub.Settle, step, attempt)
            if answer is None:
                return
            shown = answer.receipt.usage
            attempt.is_done = True
            attempt.shown = Tokens(shown.prompt_tokens, shown.cached_tokens, shown.completion_tokens)

    async def _repeat(self, call: Callable[..., Any], request: Any, attempt: Attempt) -> Any:
        """Returns the answer, None for a refusal."""
        metadata = (("authorization", f"Bearer {self.tenancy.secret}"),)
        deadline = time.monotonic() + STEP_S
        while time.monotonic() < deadline:
            try:
                return await call(request, metadata=metadata, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _LATER:
                    attempt.note += f", {type(request).__name__} refused: {error.code().name} {error.details()}"
                    return None
            await asyncio.sleep(self.chance.uniform(0.1, 0.4))
        attempt.note += f", {type(request).__name__} never answered"
        return None
