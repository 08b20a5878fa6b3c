"""OpenAI's chat completions on the wire, and what its compatible vendors have in common with it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

from conformance.vendor import API_KEY, Call, Content, Sent, Spent, Trouble
from fakes.scripted_upstream import DONE, RecordedRequest, ScriptedAnswer, json_answer, sse_answer, sse_event

from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.counting import Usage
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret
from quillgate_core.upstream import Account

WORDS_OF_KEY: Final = f"Incorrect API key provided: {API_KEY}. You can find your API key in the console."

Refusals = Mapping[Trouble, tuple[int, Mapping[str, Any]]]
"""A status and a body for each trouble."""


def openai_error(message: str, kind: str, code: str | None = None, param: str | None = None) -> Mapping[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class OpenAIVendor:
    """OpenAI itself; vendors that speak its format override what differs."""

    name = "openai"
    refusals: ClassVar[Refusals] = {
        "bad_request": (400, openai_error("Invalid 'n'.", "invalid_request_error", "invalid_value", "n")),
        "context_length": (
            400,
            openai_error(
                "This model's maximum context length is 128000 tokens.",
                *("invalid_request_error", "context_length_exceeded", "messages"),
            ),
        ),
        "bad_key": (401, openai_error(WORDS_OF_KEY, "invalid_request_error", "invalid_api_key")),
        "no_money": (
            429,
            openai_error("You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
        ),
        "forbidden": (403, openai_error("Country not supported.", "permission_error", "unsupported_country")),
        "unknown_model": (
            404,
            openai_error("The model `m` does not exist.", "invalid_request_error", "model_not_found"),
        ),
        "too_large": (413, openai_error("The request is too large.", "invalid_request_error", "request_too_large")),
        "rate_limited": (429, openai_error("Rate limit reached.", "requests", "rate_limit_exceeded")),
        "overloaded": (503, openai_error("The engine is currently overloaded.", "server_error")),
        "server_error": (500, openai_error("The server had an error.", "server_error")),
        "timeout": (408, openai_error("The request timed out.", "timeout", "timeout")),
    }

    def config(self, base_url: str) -> ProviderConfig:
        """The provider's settings with the suite's key."""
        return ProviderConfig(self.name, base_url, Secret(API_KEY), is_trusted=True)

    def account(self, base_url: str, pool: HttpPool, limits: ProviderLimits) -> Account:
        """The account as make_account makes it."""
        return make_account(self.config(base_url), pool, limits)

    def answer(self, content: Content) -> ScriptedAnswer:
        """A whole answer."""
        return self._answer(content, None if content.spent is None else self.usage(content.spent))

    def frames(self, content: Content) -> list[bytes]:
        """The frames of a streamed answer."""
        return self._frames(content, None if content.spent is None else self.usage(content.spent))

    def stream(self, frames: Sequence[bytes | Any]) -> ScriptedAnswer:
        """A stream of the frames."""
        return sse_answer(*frames)

    def refusal(self, trouble: Trouble) -> ScriptedAnswer:
        """An answer without success."""
        status, value = self.refusals[trouble]
        return json_answer(status, value, {"retry-after": "7"} if trouble == "rate_limited" else {})

    def error_frame(self, trouble: Trouble) -> bytes:
        """The same error object as data of the stream."""
        return sse_event(self.refusals[trouble][1])

    def sent(self, request: RecordedRequest) -> Sent:
        """Reads what was asked."""
        body = request.json
        messages = body["messages"]
        parts = [part for message in messages for part in _parts(message)]
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        return Sent(
            path=request.path,
            key=self.key_of(request),
            model=body["model"],
            stream=bool(body.get("stream")),
            system="\n".join(_text(message) for message in messages if message["role"] in ("system", "developer")),
            turns=[
                (message["role"], _text(message))
                for message in messages
                if message["role"] not in ("system", "developer")
            ],
            images=sum(part["type"] == "image_url" for part in parts),
            files=sum(part["type"] in ("file", "document_url") for part in parts),
            tools=[tool["function"]["name"] for tool in body.get("tools", ())],
            max_output_tokens=limit,
            raw=body,
        )

    def key_of(self, request: RecordedRequest) -> str:
        """The key that the request has."""
        return request.headers["Authorization"].removeprefix("Bearer ")

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """OpenAI's usage objects."""
        plain = {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}
        details = {
            **plain,
            "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 0},
        }
        long = {"prompt_tokens": 64_000, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 32_000}}
        return [
            (plain, Usage(19, 0, 10)),
            (details, Usage(19, 8, 10)),
            (long, Usage(64_000, 32_000, 1)),
            ({**plain, "prompt_tokens_details": None}, Usage(19, 0, 10)),
        ]

    def answer_with_usage(self, usage: Any) -> ScriptedAnswer:
        """A whole answer with this usage object."""
        return self._answer(Content(words=["fine"]), usage)

    def frames_with_usage(self, usage: Any) -> list[bytes]:
        """A streamed answer with this usage object."""
        return self._frames(Content(words=["fine"]), usage)

    def usage(self, spent: Spent) -> Any:
        """The usage object of the vendor."""
        return {
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
            "total_tokens": spent.prompt_tokens + spent.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": spent.cached_tokens},
        }

    def thought(self, text: str) -> Mapping[str, Any]:
        """The members of a message or delta that hold a thought."""
        return {"reasoning_content": text}

    def message(self, content: Content) -> dict[str, Any]:
        """A whole message with its text and thought."""
        thought = self.thought(content.thought) if content.thought else {}
        return {"role": "assistant", "content": "".join(content.words) or None, **thought}

    def finish_reason(self, content: Content) -> str:
        """The vendor's word for the end."""
        return content.end

    def whole_extra(self, usage: Any) -> Mapping[str, Any]:
        """The members of a whole answer that tell the usage."""
        return {} if usage is None else {"usage": usage}

    def last_chunks(self, content: Content, usage: Any) -> Iterable[Mapping[str, Any]]:
        """The chunks after the last delta: the end, and the usage."""
        yield chunk({}, finish_reason=self.finish_reason(content))
        if usage is not None:
            yield chunk(None, usage=usage)

    def first_frames(self) -> Iterable[bytes]:
        """What comes before the first chunk of the answer."""
        return ()

    def _answer(self, content: Content, usage: Any) -> ScriptedAnswer:
        message = self.message(content)
        if content.calls:
            message["tool_calls"] = [_call(call) for call in content.calls]
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason(content)}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "m"}
        return json_answer(200, {**head, "choices": [choice], **self.whole_extra(usage)})

    def _frames(self, content: Content, usage: Any) -> list[bytes]:
        chunks: list[Mapping[str, Any]] = [chunk({"role": "assistant", "content": ""})]
        if content.thought:
            half = len(content.thought) // 2
            chunks += [chunk(self.thought(text)) for text in (content.thought[:half], content.thought[half:])]
        chunks += [chunk({"content": word}) for word in content.words]
        for index, call in enumerate(content.calls):
            chunks += [chunk({"tool_calls": [piece]}) for piece in self.call_pieces(index, call)]
        chunks += self.last_chunks(content, usage)
        return [*self.first_frames(), *(sse_event(value) for value in chunks), DONE]

    def call_pieces(self, index: int, call: Call) -> Iterable[Mapping[str, Any]]:
        """The pieces that a call is streamed in."""
        head = {"id": call.id, "type": "function"}
        yield {"index": index, **head, "function": {"name": call.name, "arguments": ""}}
        half = len(call.arguments) // 2
        for text in (call.arguments[:half], call.arguments[half:]):
            yield {"index": index, "function": {"arguments": text}}


def chunk(delta: Mapping[str, Any] | None, *, finish_reason: str | None = None, **members: Any) -> Mapping[str, Any]:
    """One chunk; without a delta it has no choices."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m"}
    return {**head, "choices": [] if delta is None else [choice], **members}


def _call(call: Call) -> Mapping[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _parts(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())


def decoded(data: bytes) -> Any:
    """The JSON value of a frame of one line of data."""
    return json.loads(data.removeprefix(b"data: "))


VENDOR = OpenAIVendor()
