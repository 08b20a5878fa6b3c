"""Google's Gemini API as documented: `generateContent`, `streamGenerateContent?alt=sse`, and its errors."""

import json
from collections.abc import Sequence
from typing import Any

from conformance.vendor import API_KEY, Content, Sent, Spent, Trouble
from fakes.scripted_upstream import RecordedRequest, ScriptedAnswer, json_answer, sse_answer

from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.counting import Usage
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret
from quillgate_core.upstream import Account

_ENDS = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
_TROUBLES: dict[Trouble, tuple[int, str, str]] = {
    "bad_request": (400, "INVALID_ARGUMENT", "Invalid value at 'generation_config.top_k' (TYPE_INT32)"),
    "context_length": (
        400,
        "INVALID_ARGUMENT",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    ),
    "bad_key": (400, "INVALID_ARGUMENT", f"API key not valid. Please pass a valid API key. {API_KEY}"),
    "no_money": (
        400,
        "FAILED_PRECONDITION",
        "Gemini API free tier is not available in your country. Please enable billing on your project.",
    ),
    "forbidden": (403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key."),
    "unknown_model": (
        404,
        "NOT_FOUND",
        "models/m is not found for API version v1beta, or is not supported for generateContent.",
    ),
    "too_large": (413, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes."),
    "rate_limited": (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota. Please retry in 7s."),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "server_error": (500, "INTERNAL", "An internal error has occurred."),
    "timeout": (504, "DEADLINE_EXCEEDED", "The request timed out. Please try again."),
}
_RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
_KEY_INFO = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
}
_USAGES: tuple[tuple[dict[str, Any], Usage], ...] = (
    ({"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}, Usage(10, 0, 5)),
    (
        {
            "promptTokenCount": 32_100,
            "cachedContentTokenCount": 32_000,
            "candidatesTokenCount": 400,
            "totalTokenCount": 32_500,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 32_100}],
            "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 32_000}],
        },
        Usage(32_100, 32_000, 400),
    ),
    (
        {
            "promptTokenCount": 100,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 30_000,
            "totalTokenCount": 30_120,
        },
        Usage(100, 0, 30_020),
    ),
    (
        {
            "promptTokenCount": 16_000,
            "cachedContentTokenCount": 16_000,
            "toolUsePromptTokenCount": 9_000,
            "candidatesTokenCount": 1,
            "thoughtsTokenCount": 2,
            "totalTokenCount": 25_003,
        },
        Usage(25_000, 16_000, 3),
    ),
    ({"promptTokenCount": 8, "totalTokenCount": 8}, Usage(8, 0, 0)),
)


class GeminiVendor:
    """Google's Gemini API."""

    name = "gemini"

    def account(self, base_url: str, pool: HttpPool, limits: ProviderLimits) -> Account:
        """The account that the catalogue's entry makes."""
        config = ProviderConfig(self.name, base_url, Secret(API_KEY), protocol="gemini", is_trusted=True)
        return make_account(config, pool, limits)

    def answer(self, content: Content) -> ScriptedAnswer:
        """One GenerateContentResponse."""
        usage = _usage(content.spent) if content.spent is not None else None
        return json_answer(200, _response(_parts(content), content.end, usage))

    def frames(self, content: Content) -> list[bytes]:
        """A GenerateContentResponse for each part; the last has the reason to stop, all have the usage so far."""
        usage = _usage(content.spent) if content.spent is not None else None
        parts = _parts(content)
        frames = [_frame(_response([part], None, usage)) for part in parts]
        return [*frames, _frame(_response([{"text": ""}], content.end, usage))]

    def stream(self, frames: Sequence[bytes | Any]) -> ScriptedAnswer:
        """A stream of the frames."""
        return sse_answer(*frames)

    def refusal(self, trouble: Trouble) -> ScriptedAnswer:
        """Google's error; it has no Retry-After, but a RetryInfo."""
        return json_answer(_TROUBLES[trouble][0], _error(trouble))

    def error_frame(self, trouble: Trouble) -> bytes:
        """An error as an event."""
        return _frame(_error(trouble))

    def sent(self, request: RecordedRequest) -> Sent:
        """Reads the body, and what the path and the headers say."""
        body = request.json
        path, _, method = request.path.rpartition(":")
        declared = [function for tool in body.get("tools", []) for function in tool["functionDeclarations"]]
        inline = [
            part["inlineData"]["mimeType"]
            for turn in body["contents"]
            for part in turn["parts"]
            if "inlineData" in part
        ]
        return Sent(
            path=request.path,
            key=request.headers.get("x-goog-api-key", ""),
            model=path.rpartition("/models/")[2],
            stream=method == "streamGenerateContent",
            system="\n".join(part["text"] for part in body.get("systemInstruction", {}).get("parts", [])),
            turns=[turn for content in body["contents"] for turn in _turns(content)],
            images=sum(kind.startswith("image/") for kind in inline),
            files=sum(kind == "application/pdf" for kind in inline),
            tools=[function["name"] for function in declared],
            max_output_tokens=body.get("generationConfig", {}).get("maxOutputTokens"),
            raw=body,
        )

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """Plain, implicitly cached, thinking, cached with tool use, and a prompt that was blocked."""
        return _USAGES

    def answer_with_usage(self, usage: Any) -> ScriptedAnswer:
        """A whole answer with this `usageMetadata`."""
        return json_answer(200, _response([{"text": "x"}], "stop", usage))

    def frames_with_usage(self, usage: Any) -> list[bytes]:
        """Counts grow from event to event: the last one has them all."""
        first = {name: count // 2 if type(count) is int else count for name, count in usage.items()}
        return [_frame(_response([{"text": "x"}], None, first)), _frame(_response([], "stop", usage))]


def _usage(spent: Spent) -> dict[str, Any]:
    usage = {
        "promptTokenCount": spent.prompt_tokens,
        "candidatesTokenCount": spent.completion_tokens,
        "totalTokenCount": spent.prompt_tokens + spent.completion_tokens,
    }
    return usage | ({"cachedContentTokenCount": spent.cached_tokens} if spent.cached_tokens else {})


def _parts(content: Content) -> list[dict[str, Any]]:
    thoughts = [{"text": content.thought, "thought": True}] if content.thought else []
    calls = [
        {"functionCall": {"id": call.id, "name": call.name, "args": json.loads(call.arguments)}}
        for call in content.calls
    ]
    return [*thoughts, *({"text": word} for word in content.words), *calls]


def _response(parts: list[dict[str, Any]], end: str | None, usage: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if end is not None:
        candidate["finishReason"] = _ENDS[end]
    value = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini", "responseId": "response-1"}
    return {name: item for name, item in value.items() if item is not None}


def _error(trouble: Trouble) -> dict[str, Any]:
    code, status, message = _TROUBLES[trouble]
    details = {"rate_limited": [_RETRY], "bad_key": [_KEY_INFO]}.get(trouble, [])
    return {"error": {"code": code, "message": message, "status": status, "details": details}}


def _frame(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\r\n\r\n"


def _turns(content: dict[str, Any]) -> list[tuple[str, str]]:
    results = [part["functionResponse"]["response"] for part in content["parts"] if "functionResponse" in part]
    if results:
        return [("tool", result["result"] if "result" in result else json.dumps(result)) for result in results]
    text = "".join(part.get("text", "") for part in content["parts"])
    return [("assistant" if content["role"] == "model" else "user", text)]


VENDOR = GeminiVendor()
