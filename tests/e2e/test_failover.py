"""Two upstreams behind the whole service, asked by the official client: the second answers whatever ails the first."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from endpoint_probes import silence
from fakes.scripted_upstream import (
    DEFAULT_TEXT,
    RecordedRequest,
    ScriptedAnswer,
    ScriptedUpstream,
    Step,
    bytes_answer,
    chat_chunk,
    chat_stream,
    json_answer,
    sse_answer,
    sse_event,
)
from fakes.text_answers import text_or_chat
from openai import APIError, APIStatusError, AsyncOpenAI
from service import RunningService, Tenant, start_service

from quillgate.v1 import model_service_pb2, model_service_pb2_grpc

CATALOGUE = """
[providers.first]
base_url = "FIRST"
first_byte_s = SILENCE_S

[providers.narrow]
base_url = "FIRST"
max_in_flight = 1

[providers.gone]
base_url = "GONE"

[providers.second]
base_url = "{base_url}"
"""
_MODEL = """
[[models]]
id = "{id}"
context_window = 16000
max_output_tokens = 2000
endpoints = [{endpoints}]
upstreams = [{upstreams}]
"""
_LANGUAGE = '"chat.completions", "completions", "responses"'


def _model(model_id: str, *providers: str, endpoints: str = _LANGUAGE, **members: int) -> str:
    """A model of the catalogue, in text that is formatted once more."""
    extra = "".join(f", {name} = {value}" for name, value in members.items())
    upstreams = ", ".join(f'{{{{ provider = "{name}", model = "up"{extra} }}}}' for name in providers)
    return _MODEL.format(id=model_id, endpoints=endpoints, upstreams=upstreams)


MODELS = (
    _model("pair/ordered", "first", "second"),
    _model("pair/equals", "first", "second", priority=0),
    _model("pair/gone", "gone", "second"),
    _model("pair/narrow", "narrow", "second"),
    _model("only/first", "first"),
    _model("only/second", "second"),
    _model("pair/speech", "first", "second", endpoints='"audio.transcriptions"'),
    _model("pair/gone-speech", "gone", "second", endpoints='"audio.transcriptions"'),
)

SPEECH = {
    "text": DEFAULT_TEXT,
    "usage": {"type": "tokens", "input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
}
ROWS = "SELECT state, outcome, upstream, counted_messages, prompt_tokens FROM ledger WHERE workspace_id = %s"


def sane(request: RecordedRequest) -> ScriptedAnswer:
    """Answer every endpoint as a sane provider does."""
    if not request.path.endswith("/audio/transcriptions"):
        return text_or_chat(request)
    if b'name="stream"' in request.body:
        return sse_answer(sse_event({"type": "transcript.text.done", **SPEECH}))
    return json_answer(200, SPEECH)


@dataclass(frozen=True)
class Pair:
    """The service with a workspace of its own, its two upstreams, and an official client that never retries."""

    service: RunningService
    first: ScriptedUpstream
    second: ScriptedUpstream
    tenant: Tenant
    client: AsyncOpenAI

    async def rows(self) -> list[tuple[Any, ...]]:
        """The tenant's ledger."""
        return await self.service.rows(ROWS, self.tenant.workspace_id)

    async def step(self, model: str, provider: str = "first") -> model_service_pb2.RouteStep:
        """What is told of one upstream of a model."""
        stub: Any = model_service_pb2_grpc.ModelServiceStub(self.service.core.channel)
        request = model_service_pb2.ExplainModelRequest(id=model)
        explained = await stub.ExplainModel(request, metadata=self.service.metadata(self.tenant.key))
        (step,) = [step for step in explained.steps if step.provider == provider]
        assert isinstance(step, model_service_pb2.RouteStep)
        return step

    @property
    def dispatched(self) -> tuple[int, int]:
        """How many requests each upstream has had."""
        return len(self.first.requests), len(self.second.requests)


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port of loopback that nobody listens on, and nobody else can take."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def settings() -> dict[str, str]:
    """Further settings of the service, for tests to replace."""
    return {}


@pytest.fixture
def silence_s(request: pytest.FixtureRequest) -> float:
    """How long the first upstream may be silent: short where it hangs, else so long that a busy machine is no fault."""
    return 0.3 if "hang" in request.node.name else 10


@pytest.fixture
async def pair(
    database_url: str, tmp_path: Path, refused_port: int, settings: dict[str, str], silence_s: float
) -> AsyncIterator[Pair]:
    """Both upstreams well, and nothing known of them."""
    async with ScriptedUpstream(fallback=sane) as first:
        text = (CATALOGUE + "".join(MODELS)).replace("FIRST", first.base_url).replace("SILENCE_S", str(silence_s))
        text = text.replace("GONE", f"http://127.0.0.1:{refused_port}/v1")
        async with start_service(
            database_url, tmp_path, fallback=sane, catalogue_text=text, **settings
        ) as service:  # fmt: skip
            tenant = await service.tenant()
            async with AsyncOpenAI(base_url=service.base_url, api_key=tenant.key, max_retries=0, timeout=20) as client:
                yield Pair(service, first, service.upstream, tenant, client)


@dataclass(frozen=True)
class Got:
    """What a client has in the end."""

    text: str
    upstream: str
    model: str = ""


Ask = Callable[..., Awaitable[Got]]


async def chat(client: AsyncOpenAI, *, stream: bool, model: str = "pair/ordered", **members: Any) -> Got:
    """Ask `/chat/completions`."""
    made: Any = client.chat.completions.with_raw_response
    messages = [{"role": "user", "content": "Hi"}]
    raw = await made.create(**{"model": model, "messages": messages, "stream": stream, **members})
    answer, upstream = raw.parse(), raw.headers.get("x-quillgate-upstream", "")
    if not stream:
        return Got(answer.choices[0].message.content, upstream, answer.model)
    chunks = [chunk async for chunk in answer]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    return Got(text, upstream, chunks[0].model)


async def text(client: AsyncOpenAI, *, stream: bool, model: str = "pair/ordered", **members: Any) -> Got:
    """Ask `/completions`."""
    made: Any = client.completions.with_raw_response
    raw = await made.create(**{"model": model, "prompt": "Hi", "stream": stream, **members})
    answer, upstream = raw.parse(), raw.headers.get("x-quillgate-upstream", "")
    if not stream:
        return Got(answer.choices[0].text, upstream, answer.model)
    pieces = [piece async for piece in answer]
    return Got("".join(choice.text for piece in pieces for choice in piece.choices), upstream, pieces[0].model)


async def respond(client: AsyncOpenAI, *, stream: bool, model: str = "pair/ordered", **members: Any) -> Got:
    """Ask `/responses`."""
    made: Any = client.responses.with_raw_response
    raw = await made.create(**{"model": model, "input": "Hi", "stream": stream, **members})
    answer, upstream = raw.parse(), raw.headers.get("x-quillgate-upstream", "")
    if not stream:
        return Got(answer.output_text, upstream, answer.model)
    events = [event async for event in answer]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert events[-1].type == "response.completed", events[-1]
    return Got("".join(deltas), upstream, events[-1].response.model)


async def transcribe(client: AsyncOpenAI, *, stream: bool, model: str = "pair/speech") -> Got:
    """Ask `/audio/transcriptions`."""
    made: Any = client.audio.transcriptions.with_raw_response
    raw = await made.create(model=model, file=("s.wav", silence(1.0), "audio/wav"), stream=stream)
    answer, upstream = raw.parse(), raw.headers.get("x-quillgate-upstream", "")
    if not stream:
        return Got(answer.text, upstream)
    (done,) = [event async for event in answer]
    return Got(done.text, upstream)


ENDPOINTS: tuple[Ask, ...] = (chat, text, respond, transcribe)
EVERY = pytest.mark.parametrize("ask", ENDPOINTS, ids=lambda ask: ask.__name__)
WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
JSON_ANSWER = {"content-type": "application/json"}
SSE_ANSWER = {"content-type": "text/event-stream"}

FAULTS = {
    "reset": ScriptedAnswer(before=[Step.RESET]),
    "closed": ScriptedAnswer(before=[Step.CLOSE]),
    "hangs": ScriptedAnswer(before=[Step.HANG]),
    "408": json_answer(408, {"error": {"message": "slow"}}),
    "409": json_answer(409, {"error": {"message": "locked"}}),
    "425": json_answer(425, {}),
    "429": json_answer(429, {"error": {"message": "limit"}}),
    "500": json_answer(500, {"error": {"message": "oops"}}),
    "503 in HTML": bytes_answer(b"<html>", status=503, headers={"content-type": "text/html"}),
    "529": json_answer(529, {"error": {"message": "overloaded"}}),
    "401": json_answer(401, {"error": {"message": "bad key"}}),
    "402": json_answer(402, {"error": {"message": "pay"}}),
    "403": json_answer(403, {"error": {"message": "no"}}),
    "no JSON": bytes_answer(b"{", headers=JSON_ANSWER),
    "cut whole answer": ScriptedAnswer(200, JSON_ANSWER, [b'{"choices":', Step.CLOSE]),
    "cut stream": ScriptedAnswer(200, SSE_ANSWER, [b": wait\n\n", Step.RESET]),
    "empty stream": ScriptedAnswer(200, SSE_ANSWER, [b"data: [DONE]\n\n"]),
    "error in stream": sse_answer(sse_event({"error": {"message": "oops", "code": 502}})),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_second_answers_whatever_ails_the_first(pair: Pair, fault: str) -> None:
    """On every endpoint, whole and streamed: one answer, two dispatches, one charge, and who it was."""
    for count, (ask, stream) in enumerate(((ask, stream) for ask in ENDPOINTS for stream in (False, True)), 1):
        pair.first.script(FAULTS[fault])
        got = await ask(pair.client, stream=stream)
        assert (got.text, got.upstream) == (DEFAULT_TEXT, "second/up"), ask
        assert pair.dispatched == (count, count)
    assert await pair.rows() == [("settled", "complete", "second", 1, 10)] * 8
    assert (await pair.service.settled(pair.tenant))[:2] == (8, 0)
    step = await pair.step("pair/ordered")
    assert (step.recent_requests, step.recent_failures, step.in_flight) == (8, 8, 0)


@EVERY
@WAYS
async def test_refused_connection_goes_on(pair: Pair, ask: Ask, stream: bool) -> None:
    """Nobody listens at the first one's address."""
    model = "pair/gone-speech" if ask is transcribe else "pair/gone"
    got = await ask(pair.client, stream=stream, model=model)
    assert (got.text, got.upstream) == (DEFAULT_TEXT, "second/up")
    assert await pair.rows() == [("settled", "complete", "second", 1, 10)]


@WAYS
async def test_retry_after_keeps_others_away(pair: Pair, stream: bool) -> None:
    """The request that is told goes on at once; those after it do not even ask."""
    pair.first.script(json_answer(429, {"error": {"message": "limit"}}, {"retry-after": "30"}))
    for _ in range(3):
        assert (await chat(pair.client, stream=stream)).upstream == "second/up"
    assert pair.dispatched == (1, 3)
    assert "left alone" in (await pair.step("pair/ordered")).reason


@WAYS
async def test_short_retry_after_is_waited_for(pair: Pair, stream: bool) -> None:
    """With nobody else to ask, the client has its answer a second later; a long one is the client's to wait for."""
    pair.first.script(json_answer(429, {}, {"retry-after": "1"}))
    got = await chat(pair.client, stream=stream, model="only/first")
    assert (got.text, pair.dispatched) == (DEFAULT_TEXT, (2, 0))
    pair.first.script(json_answer(503, {}, {"retry-after": "30"}))
    with pytest.raises(APIStatusError) as caught:
        await chat(pair.client, stream=stream, model="only/first")
    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "30")
    assert pair.dispatched == (3, 0)
    assert sorted(row[0] for row in await pair.rows()) == ["released", "settled"]


@WAYS
@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_refused_request_is_not_sent_twice(pair: Pair, stream: bool, status: int) -> None:
    """What the caller has to change, no other provider can mend; it is no mark against the first."""
    pair.first.script(json_answer(status, {"error": {"message": "too long", "code": "context_length_exceeded"}}))
    with pytest.raises(APIStatusError) as caught:
        await chat(pair.client, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (400, "context_length_exceeded")
    assert pair.dispatched == (1, 0)
    assert (await pair.step("pair/ordered")).recent_failures == 0


@pytest.mark.parametrize("ask", [chat, text, respond], ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("cut", [Step.RESET, Step.CLOSE, sse_event({"error": {"message": "x", "code": 500}})])
async def test_after_output_nobody_else_is_asked(pair: Pair, ask: Ask, cut: Any) -> None:
    """The client is told in the stream, what it got is charged once, and the second never hears of it."""
    pair.first.script(sse_answer(chat_chunk({"role": "assistant", "content": "Hel"}), cut))
    with pytest.raises(APIError) as caught:
        await ask(pair.client, stream=True)
    assert not isinstance(caught.value, APIStatusError)
    assert pair.dispatched == (1, 0)
    ((state, outcome, upstream, counted, _),) = await pair.rows()
    assert (state, outcome, upstream, counted) == ("settled", "provider_failed", "first", 1)


@WAYS
async def test_both_down_is_told_and_free(pair: Pair, stream: bool) -> None:
    """Two dispatches, no more; nothing is charged."""
    pair.first.script(FAULTS["500"])
    pair.second.script(FAULTS["reset"])
    with pytest.raises(APIStatusError) as caught:
        await chat(pair.client, stream=stream)
    assert caught.value.status_code == 502
    assert pair.dispatched == (1, 1)
    assert [row[:2] for row in await pair.rows()] == [("released", "provider_failed")]
    assert await pair.service.settled(pair.tenant) == (0, 0, 0, 0, 0, 0)


@WAYS
@pytest.mark.parametrize("ask", [chat, text, respond], ids=lambda ask: ask.__name__)
async def test_other_models_of_the_request_may_answer(pair: Pair, ask: Ask, stream: bool) -> None:
    """`models` is the request's own list; the answer is under the name of the model that it is from."""
    pair.first.script(FAULTS["500"])
    got = await ask(pair.client, stream=stream, model="only/first", extra_body={"models": ["only/second"]})
    assert (got.text, got.upstream, got.model) == (DEFAULT_TEXT, "second/up", "only/second")
    assert "models" not in pair.second.requests[0].json
    assert pair.dispatched == (1, 1)


@pytest.mark.parametrize("how", ["prompt_cache_key", "x-session-id", "session_id"])
async def test_conversations_stick(pair: Pair, how: str) -> None:
    """One conversation stays with one of two equals, and many use both."""

    async def served(name: str) -> str:
        extra = {"prompt_cache_key": name} if how == "prompt_cache_key" else {"extra_headers": {how: name}}
        return (await chat(pair.client, stream=False, model="pair/equals", **extra)).upstream

    assert len({await served("one") for _ in range(6)}) == 1
    assert {await served(str(number)) for number in range(16)} == {"first/up", "second/up"}


async def test_open_breaker_answers_for_the_upstream(pair: Pair) -> None:
    """After 20 failures nobody is sent there: clients hear 503 with a time, and what has others to ask, asks them."""
    pair.first.script(*[FAULTS["500"]] * 20)
    for _ in range(20):
        with suppress(APIStatusError):
            await chat(pair.client, stream=False, model="only/first")
    with pytest.raises(APIStatusError) as caught:
        await chat(pair.client, stream=True, model="only/first")
    assert caught.value.status_code == 503
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 6
    assert pair.dispatched == (20, 0)
    step = await pair.step("only/first")
    assert (step.breaker, step.eligible) == ("open", False)
    assert (await chat(pair.client, stream=False)).upstream == "second/up"
    assert pair.dispatched == (20, 1)


async def test_clients_that_leave_blame_nobody(pair: Pair) -> None:
    """30 that hang up while the first is silent, or in the middle of its answer, leave its breaker closed."""
    hang = (ScriptedAnswer(before=[Step.HANG]), chat_stream(["Hel", "lo"], between=Step.HANG))  # type: ignore[arg-type]
    pair.first.script(*hang * 15)
    for count in range(1, 31):
        asking = asyncio.ensure_future(chat(pair.client, stream=True))
        request = await pair.first.wait_for_requests(count)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(5):
            await request.disconnected.wait()
    async with asyncio.timeout(5):
        while (step := await pair.step("pair/ordered")).in_flight:
            await asyncio.sleep(0.01)
    assert (step.breaker, step.recent_requests, step.recent_failures) == ("closed", 0, 0)
    assert pair.dispatched == (30, 0)


async def test_full_provider_leaves_the_rest_to_the_next(pair: Pair) -> None:
    """More than its limit is not sent there; when it has room again, it is first again."""
    go_on = asyncio.Event()
    pair.first.script(chat_stream(["Hello"], between=go_on))
    slow = asyncio.ensure_future(chat(pair.client, stream=True, model="pair/narrow"))
    await pair.first.wait_for_requests(1)
    assert (await chat(pair.client, stream=False, model="pair/narrow")).upstream == "second/up"
    go_on.set()
    assert (await slow).upstream == "narrow/up"
    assert (await chat(pair.client, stream=False, model="pair/narrow")).upstream == "narrow/up"


@pytest.mark.parametrize("settings", [{"QUILLGATE_MAX_ATTEMPTS": "1"}])
async def test_attempts_are_a_setting(pair: Pair) -> None:
    """With one attempt, the first one's failure is the client's."""
    pair.first.script(FAULTS["500"])
    with pytest.raises(APIStatusError):
        await chat(pair.client, stream=False)
    assert pair.dispatched == (1, 0)
