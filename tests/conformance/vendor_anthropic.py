"""Anthropic's Messages API on the wire, as its documentation and its client's recorded answers show it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from conformance.vendor import API_KEY, Content, Sent, Spent, Trouble
from fakes.scripted_upstream import RecordedRequest, ScriptedAnswer, json_answer, sse_answer

from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.counting import Usage
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret
from quillgate_core.upstream import Account

_REFUSALS: Final[Mapping[Trouble, tuple[int, str, str]]] = {
    "bad_request": (400, "invalid_request_error", "top_p: Input should be less than or equal to 1"),
    "context_length": (400, "invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"),
    "bad_key": (401, "authentication_error", f"invalid x-api-key: {API_KEY}"),
    "no_money": (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade.",
    ),
    "forbidden": (403, "permission_error", "Your API key does not have permission to use the specified resource."),
    "unknown_model": (404, "not_found_error", "model: claude-none"),
    "too_large": (413, "request_too_large", "Request exceeds the maximum size"),
    "rate_limited": (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "server_error": (500, "api_error", "Internal server error"),
    "timeout": (504, "timeout_error", "The request timed out while processing."),
}
_STOPS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
}


class AnthropicVendor:
    """Anthropic itself."""

    name = "anthropic"

    def account(self, base_url: str, pool: HttpPool, limits: ProviderLimits) -> Account:
        """The account as make_account makes it."""
        config = ProviderConfig(self.name, base_url, Secret(API_KEY), protocol="anthropic", is_trusted=True)
        return make_account(config, pool, limits)

    def answer(self, content: Content) -> ScriptedAnswer:
        """A whole answer."""
        return _answer(content, _usage(content.spent))

    def frames(self, content: Content) -> list[bytes]:
        """The frames of a streamed answer."""
        usage = _usage(content.spent)
        return list(_frames(content, _without_output(usage), usage))

    def stream(self, frames: Sequence[bytes | Any]) -> ScriptedAnswer:
        """A stream of the frames."""
        return sse_answer(*frames)

    def refusal(self, trouble: Trouble) -> ScriptedAnswer:
        """An answer without success."""
        status = _REFUSALS[trouble][0]
        return json_answer(status, _error(trouble), {"retry-after": "7"} if trouble == "rate_limited" else {})

    def error_frame(self, trouble: Trouble) -> bytes:
        """The event of an error."""
        return frame(_error(trouble))

    def sent(self, request: RecordedRequest) -> Sent:
        """Reads what was asked."""
        body = request.json
        blocks = [block for turn in body["messages"] for block in turn["content"]]
        return Sent(
            path=request.path,
            key=request.headers["x-api-key"],
            model=body["model"],
            stream=body["stream"],
            system="\n".join(block["text"] for block in body.get("system", ())),
            turns=[said for turn in body["messages"] for said in _said(turn)],
            images=sum(block["type"] == "image" for block in blocks),
            files=sum(block["type"] == "document" for block in blocks),
            tools=[tool["name"] for tool in body.get("tools", ())],
            max_output_tokens=body["max_tokens"],
            raw=body,
        )

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """Anthropic's usage objects: the cached tokens, read or written, are not among the input tokens."""
        plain = {"input_tokens": 25, "output_tokens": 15}
        creation = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
        none = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation": creation}
        read = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 100_000}
        both = {"cache_creation_input_tokens": 248, "cache_read_input_tokens": 1_800}
        unknown = {"cache_creation_input_tokens": None, "cache_read_input_tokens": None, "server_tool_use": None}
        thoughts = {"output_tokens": 373, "output_tokens_details": {"thinking_tokens": 62}}
        return [
            (plain, Usage(25, 0, 15)),
            ({**plain, **none, "service_tier": "standard"}, Usage(25, 0, 15)),
            ({**plain, **read}, Usage(100_025, 100_000, 15)),
            ({**plain, **both}, Usage(2_073, 1_800, 15, cache_write_tokens=248)),
            (
                {**plain, "cache_creation_input_tokens": 188_086, "cache_read_input_tokens": 0},
                Usage(188_111, 0, 15, cache_write_tokens=188_086),
            ),
            ({**plain, **unknown}, Usage(25, 0, 15)),
            ({**plain, **none, **thoughts, "inference_geo": "global"}, Usage(25, 0, 373)),
        ]

    def answer_with_usage(self, usage: Any) -> ScriptedAnswer:
        """A whole answer with this usage object."""
        return _answer(Content(words=["fine"]), usage)

    def frames_with_usage(self, usage: Any) -> list[bytes]:
        """A streamed answer with this usage object, of which the last event has only the output, as it used to."""
        last = {name: value for name, value in usage.items() if name.startswith("output")}
        return list(_frames(Content(words=["fine"]), _without_output(usage), last))


def frame(value: Mapping[str, Any]) -> bytes:
    """One event, with its name, as Anthropic sends it."""
    return f"event: {value['type']}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def _usage(spent: Spent | None) -> dict[str, Any] | None:
    if spent is None:
        return None
    return {
        "input_tokens": spent.prompt_tokens - spent.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": spent.cached_tokens,
        "output_tokens": spent.completion_tokens,
    }


def _without_output(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What is known of the usage when an answer begins."""
    if usage is None:
        return None
    early = {name: value for name, value in usage.items() if not name.startswith("output")}
    return {**early, "output_tokens": 1}


def _message(content: Sequence[Mapping[str, Any]], stop: str | None, usage: Any) -> dict[str, Any]:
    head = {"id": "msg_01", "type": "message", "role": "assistant", "model": "m", "content": content}
    end = {"stop_reason": stop, "stop_sequence": None}
    return {**head, **end} | ({} if usage is None else {"usage": usage})


def _blocks(content: Content) -> Iterator[dict[str, Any]]:
    if content.thought:
        yield {"type": "thinking", "thinking": content.thought, "signature": "c2lnbmF0dXJl"}
    if content.words:
        yield {"type": "text", "text": "".join(content.words)}
    for call in content.calls:
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}


def _answer(content: Content, usage: Any) -> ScriptedAnswer:
    return json_answer(200, _message(list(_blocks(content)), _STOPS[content.end], usage))


def _frames(content: Content, early_usage: Any, usage: Any) -> Iterator[bytes]:
    yield frame({"type": "message_start", "message": _message([], None, early_usage)})
    for index, (block, deltas) in enumerate(_streamed(content)):
        yield frame({"type": "content_block_start", "index": index, "content_block": block})
        if index == 0:
            yield frame({"type": "ping"})
        for delta in deltas:
            yield frame({"type": "content_block_delta", "index": index, "delta": delta})
        yield frame({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": _STOPS[content.end], "stop_sequence": None}
    yield frame({"type": "message_delta", "delta": delta} | ({} if usage is None else {"usage": usage}))
    yield frame({"type": "message_stop"})


def _streamed(content: Content) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each block as it begins, with what is added to it."""
    if content.thought:
        half = len(content.thought) // 2
        pieces = [content.thought[:half], content.thought[half:]]
        added = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
        yield (
            {"type": "thinking", "thinking": "", "signature": ""},
            [*added, {"type": "signature_delta", "signature": "c2lnbmF0dXJl"}],
        )
    if content.words:
        yield {"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in content.words]
    for call in content.calls:
        half = len(call.arguments) // 2
        pieces = ["", call.arguments[:half], call.arguments[half:]] if call.arguments != "{}" else [""]
        yield (
            {"type": "tool_use", "id": call.id, "name": call.name, "input": {}},
            [{"type": "input_json_delta", "partial_json": piece} for piece in pieces],
        )


def _error(trouble: Trouble) -> dict[str, Any]:
    _, kind, message = _REFUSALS[trouble]
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}


def _said(turn: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The results of tools, then what the speaker of the turn says."""
    results = [block for block in turn["content"] if block["type"] == "tool_result"]
    for result in results:
        yield "tool", result["content"]
    if len(results) < len(turn["content"]):
        yield turn["role"], "".join(block.get("text", "") for block in turn["content"])


VENDOR = AnthropicVendor()
