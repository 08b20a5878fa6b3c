"""The facade on a channel inside the process, where cancelling a call cancels the task that waits for it."""

import asyncio
import json
from typing import Any

import pytest
from fakes.facade_site import client_of, config
from fakes.fake_core import FakeCompletions, FakeCore, chunk, first, hello_stream

from quillgate.v1.completion_service_pb2_grpc import add_CompletionServiceServicer_to_server
from quillgate_core.rpc.in_process import InProcessChannel, InProcessServer
from quillgate_facade.app import FacadeServer, build_app, serve

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**BODY, "stream": True}


class FakeInterceptor:
    """Lets every call through as it is."""

    def wrap(self, method: str, handler: Any) -> Any:
        """Returns the handler."""
        return handler


@pytest.fixture
async def near_core() -> FakeCore:
    """A scripted core that no socket leads to."""
    return FakeCore()


@pytest.fixture
async def near_facade(near_core: FakeCore) -> Any:
    """A facade in the same process as its core."""
    server = InProcessServer(FakeInterceptor())  # type: ignore[arg-type]
    add_CompletionServiceServicer_to_server(FakeCompletions(near_core), server)  # type: ignore[arg-type]
    facade = await serve(build_app(InProcessChannel(server), config(drain_timeout_s=0.1)))
    yield facade
    await facade.stop()


async def test_answers(near_core: FakeCore, near_facade: FacadeServer) -> None:
    """Whole answers and streams come through without a socket."""
    near_core.script.steps = hello_stream()
    async with client_of(near_facade) as http:
        async with http.post(CHAT, json=BODY) as answer:
            assert answer.status == 200
        async with http.post(CHAT, json=STREAM) as answer:
            assert (await answer.text()).endswith("data: [DONE]\n\n")


async def test_a_stop_tells_streams(near_core: FakeCore, near_facade: FacadeServer) -> None:
    """A stream that outlives the drain ends with an error frame here as well."""
    near_core.script.steps = [first(chunk("Hel")), 60.0]
    async with client_of(near_facade) as http, http.post(CHAT, json=STREAM) as answer:
        await answer.content.readany()
        await asyncio.wait_for(near_facade.stop(), 10)
        text = (await answer.content.read()).decode()
    assert json.loads(text.removeprefix("data: "))["error"]["message"] == "The server is stopping. Please try again."
    assert near_core.cancelled.is_set()


async def test_a_stop_tells_requests_without_an_answer(near_core: FakeCore, near_facade: FacadeServer) -> None:
    """A request that outlives the drain before its first byte gets 503 here as well."""
    near_core.script.hang = True
    async with client_of(near_facade) as http:
        pending = asyncio.ensure_future(http.post(CHAT, json=BODY))
        await near_core.started.wait()
        await asyncio.wait_for(near_facade.stop(), 10)
        answer = await pending
    assert answer.status == 503
    assert near_core.cancelled.is_set()


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_hanging_up_cancels(near_core: FakeCore, near_facade: FacadeServer, body: dict[str, Any]) -> None:
    """A client that leaves while the model thinks cancels the servicer itself."""
    near_core.script.hang = True
    async with client_of(near_facade) as http:
        pending = asyncio.ensure_future(http.post(CHAT, json=body))
        await near_core.started.wait()
        pending.cancel()
        await asyncio.wait([pending])
        await asyncio.wait_for(near_core.cancelled.wait(), 5)
