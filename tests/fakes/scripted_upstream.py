"""A provider made of a real HTTP server on loopback, which answers what a test scripts and records what it was sent.

    async with ScriptedUpstream() as upstream:
        upstream.script(chat_stream(["Hel", "lo"]), json_answer(429, {"error": {"message": "slow down"}}))
        ...                                 # requests to f"{upstream.base_url}/chat/completions"
        assert upstream.requests[0].json["model"] == "m"

Scripted answers are used once each, in order, whatever the path; after them `fallback` answers, by default as a sane
provider would: `DEFAULT_TEXT` with usage 10 / 5, streamed or not as asked. An answer's body is a list of steps:

    bytes           are written at once, as one chunk
    float           waits so many seconds
    asyncio.Event   waits until it is set
    Step.HANG       waits until the client goes away
    Step.RESET      cuts the connection in the middle of the body (TCP reset)
    Step.CLOSE      ends the connection in the middle of the body (TCP end of file)
"""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Final

from aiohttp import web

DEFAULT_TEXT: Final = "Hello from upstream."
MODEL: Final = "upstream-model"
CREATED: Final = 1_700_000_000

SCRIPTED_CATALOGUE: Final = """
[providers.scripted]
base_url = "{base_url}"

[[models]]
id = "scripted/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "scripted", model = "upstream-model" }}]
"""
"""A catalogue file whose one model such a provider answers; `base_url` is to be filled in."""


class Step(Enum):
    """What an answer's body can do besides writing and waiting."""

    HANG = "hang"
    RESET = "reset"
    CLOSE = "close"


BodyStep = bytes | float | asyncio.Event | Step


@dataclass(frozen=True)
class ScriptedAnswer:
    """What to answer one request: `before` is done before the headers are sent, `steps` after."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[BodyStep] = ()
    before: Sequence[BodyStep] = ()


@dataclass(frozen=True)
class RecordedRequest:
    """What one request was, and what became of it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    query: str = ""
    """What stood after the question mark, as it was sent."""
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client went away before its answer was complete."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the answer was written to its end."""

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


Fallback = Callable[[RecordedRequest], ScriptedAnswer]


def default_answer(request: RecordedRequest) -> ScriptedAnswer:
    """Answer as a sane provider does: streamed if asked to, with usage if asked for it."""
    if not request.path.endswith("/chat/completions"):
        return json_answer(404, {"error": {"message": "No such path.", "type": "invalid_request_error"}})
    asked = request.json
    model = asked.get("model", MODEL)
    if not asked.get("stream"):
        return chat_answer(model=model)
    words = [word + " " for word in DEFAULT_TEXT.split()[:-1]] + DEFAULT_TEXT.split()[-1:]
    options = asked.get("stream_options") or {}
    return chat_stream(words, model=model, include_usage=bool(options.get("include_usage")))


class ScriptedUpstream:
    """The server, as an async context manager."""

    def __init__(self, *, fallback: Fallback = default_answer, tls: ssl.SSLContext | None = None) -> None:
        self._fallback = fallback
        self._tls = tls
        self._answers: list[ScriptedAnswer] = []
        self._arrival = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._transports: set[asyncio.BaseTransport] = set()
        self.requests: list[RecordedRequest] = []
        self.port = 0
        self.base_url = ""

    async def __aenter__(self) -> "ScriptedUpstream":
        app = web.Application(client_max_size=256 * 1024**2)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        self.base_url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def connections(self) -> int:
        """How many TCP connections brought requests so far."""
        return len(self._transports)

    def script(self, *answers: ScriptedAnswer) -> None:
        """Add answers for the next requests."""
        self._answers.extend(answers)

    async def wait_for_requests(self, count: int = 1, *, timeout_s: float = 10.0) -> RecordedRequest:
        """Wait until so many requests have arrived in all, and return the last of them."""
        async with asyncio.timeout(timeout_s), self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            self._transports.add(request.transport)
        body = await request.read()
        recorded = RecordedRequest(request.method, request.path, request.headers.copy(), body, request.query_string)
        async with self._arrival:
            self.requests.append(recorded)
            self._arrival.notify_all()
        answer = self._answers.pop(0) if self._answers else self._fallback(recorded)
        try:
            response = await _write(request, answer)
        except (asyncio.CancelledError, ConnectionError):
            recorded.disconnected.set()
            raise
        recorded.finished.set()
        return response


def sse_event(value: Any) -> bytes:
    """One event that carries the value as JSON."""
    return b"data: " + _dumps(value) + b"\n\n"


DONE: Final = b"data: [DONE]\n\n"


def json_answer(status: int, value: Any, headers: Mapping[str, str] | None = None) -> ScriptedAnswer:
    """A JSON body with a status."""
    return bytes_answer(_dumps(value), status=status, headers={"content-type": "application/json", **(headers or {})})


def bytes_answer(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> ScriptedAnswer:
    """Any body with its length."""
    return ScriptedAnswer(status, {"content-length": str(len(body)), **(headers or {})}, [body])


def sse_answer(*steps: BodyStep) -> ScriptedAnswer:
    """A stream of the given steps."""
    return ScriptedAnswer(200, {"content-type": "text/event-stream"}, steps)


def usage(prompt_tokens: int = 10, completion_tokens: int = 5, cached_tokens: int | None = None) -> dict[str, Any]:
    """An OpenAI usage object."""
    value: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if cached_tokens is not None:
        value["prompt_tokens_details"] = {"cached_tokens": cached_tokens}
    return value


def chat_answer(
    text: str = DEFAULT_TEXT,
    *,
    prompt_tokens: int = 10,
    completion_tokens: int = 5,
    cached_tokens: int | None = None,
    model: str = MODEL,
    finish_reason: str = "stop",
    extra: Mapping[str, Any] | None = None,
) -> ScriptedAnswer:
    """A whole chat completion; `extra` adds or replaces members (`{"usage": None}` for a server without usage)."""
    message = {"role": "assistant", "content": text, "refusal": None}
    value = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": usage(prompt_tokens, completion_tokens, cached_tokens),
        **(extra or {}),
    }
    return json_answer(200, {name: item for name, item in value.items() if name != "usage" or item is not None})


def chat_chunk(
    delta: Mapping[str, Any] | None, *, model: str = MODEL, finish_reason: str | None = None, **members: Any
) -> bytes:
    """One event of a chat stream; without a delta it has no choices, as the one with the usage."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    value = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
        "choices": [] if delta is None else [choice],
        **members,
    }
    return sse_event(value)


def chat_stream(
    words: Iterable[str] = (DEFAULT_TEXT,),
    *,
    prompt_tokens: int = 10,
    completion_tokens: int = 5,
    cached_tokens: int | None = None,
    model: str = MODEL,
    finish_reason: str = "stop",
    include_usage: bool = True,
    done: bool = True,
    between: BodyStep | None = None,
) -> ScriptedAnswer:
    """A whole chat stream, one chunk a word; `between` is a step before each word, such as a pause or an event."""
    steps: list[BodyStep] = [chat_chunk({"role": "assistant", "content": ""}, model=model)]
    for word in words:
        steps += [] if between is None else [between]
        steps.append(chat_chunk({"content": word}, model=model))
    steps.append(chat_chunk({}, model=model, finish_reason=finish_reason))
    if include_usage:
        steps.append(chat_chunk(None, model=model, usage=usage(prompt_tokens, completion_tokens, cached_tokens)))
    if done:
        steps.append(DONE)
    return sse_answer(*steps)


async def _write(request: web.Request, answer: ScriptedAnswer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    for step in answer.before:
        await _perform(step, request, response)
    await response.prepare(request)
    for step in answer.steps:
        await _perform(step, request, response)
    await response.write_eof()
    return response


async def _perform(step: BodyStep, request: web.Request, response: web.StreamResponse) -> None:
    if isinstance(step, bytes):
        await response.write(step)
    elif isinstance(step, asyncio.Event):
        await step.wait()
    elif isinstance(step, float | int):
        await asyncio.sleep(step)
    elif step is Step.HANG:
        await asyncio.Event().wait()
    else:
        await cut(request, reset=step is Step.RESET)


async def cut(request: web.Request, *, reset: bool) -> None:
    """End the connection; the wait ends with the handler's cancellation."""
    transport = request.transport
    if transport is not None:
        if reset:
            # A linger time of zero makes the close a TCP reset.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
    await asyncio.Event().wait()


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
