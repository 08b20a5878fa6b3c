"""Two upstreams under steady load, the first of which fails in every way in turn: no client notices."""

import asyncio
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from fakes.scripted_upstream import (
    RecordedRequest,
    ScriptedAnswer,
    ScriptedUpstream,
    Step,
    default_answer,
    json_answer,
)
from service import RunningService, start_service

from quillgate.v1 import model_service_pb2, model_service_pb2_grpc

CATALOGUE = """
[providers.first]
base_url = "FIRST"
first_byte_s = 0.3

[providers.second]
base_url = "{base_url}"

[[models]]
id = "pair/ordered"
context_window = 16000
max_output_tokens = 2000
upstreams = [{{ provider = "first", model = "ordered" }}, {{ provider = "second", model = "ordered" }}]

[[models]]
id = "pair/equals"
context_window = 16000
max_output_tokens = 2000
upstreams = [
  {{ provider = "first", model = "equals", priority = 0 }},
  {{ provider = "second", model = "equals", priority = 0 }},
]
"""
MODELS = ("pair/ordered", "pair/equals")
FAULTS = {
    "dead": ScriptedAnswer(before=[Step.RESET]),
    "hung": ScriptedAnswer(before=[Step.HANG]),
    "busy": json_answer(429, {"error": {"message": "busy"}}, {"retry-after": "1"}),
    "broken": json_answer(500, {"error": {"message": "broken"}}),
}
PERIOD_S = 0.02
PHASE_S = 1.5
BOUND_S = 30.0


@dataclass
class FakeAilingUpstream:
    """What the first upstream suffers from; nothing at first."""

    fault: str = ""

    def answer(self, request: RecordedRequest) -> ScriptedAnswer:
        return FAULTS[self.fault] if self.fault else default_answer(request)


@dataclass
class Load:
    """Clients that come at a fixed pace, to both models, whole and streamed, until they are stopped."""

    service: RunningService
    asked: int = 0
    failures: list[str] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Come, and wait for the last answers."""
        headers = {"authorization": f"Bearer {self.service.developer_key}"}
        async with ClientSession(headers=headers) as http, asyncio.TaskGroup() as clients:
            for model, stream in itertools.cycle(itertools.product(MODELS, (False, True))):
                if self.stopped.is_set():
                    break
                self.asked += 1
                clients.create_task(self._ask(http, model, stream=stream))
                await asyncio.sleep(PERIOD_S)

    async def _ask(self, http: ClientSession, model: str, *, stream: bool) -> None:
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
        async with http.post(f"{self.service.base_url}/chat/completions", json=body) as answer:
            text = await answer.text()
        if answer.status != 200 or '"error"' in text or (stream and not text.endswith("data: [DONE]\n\n")):
            self.failures.append(f"{model} {stream} {answer.status} {text[:200]}")


async def breaker_of(service: RunningService, model: str) -> str:
    """Where the first upstream's breaker stands."""
    stub: Any = model_service_pb2_grpc.ModelServiceStub(service.core.channel)
    request = model_service_pb2.ExplainModelRequest(id=model)
    explained = await stub.ExplainModel(request, metadata=service.metadata(service.developer_key))
    (step,) = [step for step in explained.steps if step.provider == "first"]
    return str(step.breaker)


async def wait_for(service: RunningService, *states: str) -> None:
    """Wait until the breaker of the ordered model's first upstream is seen in each of the states, in turn."""
    async with asyncio.timeout(BOUND_S):
        for state in states:
            while await breaker_of(service, "pair/ordered") != state:
                await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_clients_notice_nothing(database_url: str, tmp_path: Path) -> None:
    """Every client has its whole answer, for at most 1.1 calls each; the breaker opens, and closes when all is well."""
    ailing = FakeAilingUpstream()
    async with ScriptedUpstream(fallback=ailing.answer) as first:
        catalogue = CATALOGUE.replace("FIRST", first.base_url)
        async with start_service(database_url, tmp_path, catalogue_text=catalogue) as service:
            load = Load(service)
            running = asyncio.create_task(load.run())
            for fault in FAULTS:
                await asyncio.sleep(PHASE_S)
                ailing.fault = fault
                await asyncio.sleep(PHASE_S)
                if fault in ("dead", "broken"):
                    await wait_for(service, "open")
                ailing.fault = ""
                await wait_for(service, "closed")
            load.stopped.set()
            await running
            assert load.failures == []
            calls = len(first.requests) + len(service.upstream.requests)
            assert load.asked <= calls <= 1.1 * load.asked
            rows = await service.rows("SELECT state, count(*), sum(counted_messages) FROM ledger GROUP BY 1")
            assert rows == [("settled", load.asked, load.asked)]
