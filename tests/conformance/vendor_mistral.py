"""Mistral: closed schemas, content in parts when a model thinks, usage in the last chunk without being asked."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from conformance.vendor import Call, Content, Sent, Trouble
from conformance.vendor_openai import WORDS_OF_KEY, OpenAIVendor, Refusals, chunk
from fakes.scripted_upstream import RecordedRequest, sse_event

from quillgate_core.counting import Usage

#: What its schemas know: anything else is refused with 422.
MEMBERS = frozenset(
    {"model", "messages", "temperature", "top_p", "max_tokens", "stream", "stop", "random_seed", "metadata"}
    | {"response_format", "tools", "tool_choice", "presence_penalty", "frequency_penalty", "n", "prediction"}
    | {"parallel_tool_calls", "reasoning_effort", "prompt_mode", "guardrails", "prompt_cache_key", "safe_prompt"}
)
ROLES = frozenset({"system", "user", "assistant", "tool"})


def _error(kind: str, message: str, code: str) -> Mapping[str, Any]:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


class MistralVendor(OpenAIVendor):
    """https://docs.mistral.ai/api and the models of its Python client."""

    name = "mistral"
    refusals: ClassVar[Refusals] = {
        "bad_request": (422, {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]}),
        "context_length": (
            400,
            _error(
                "invalid_request_prompt",
                "Prompt contains 200000 tokens and 0 draft tokens, too large for model "
                "with 131072 maximum context length",
                "3051",
            ),
        ),
        "bad_key": (401, {"detail": WORDS_OF_KEY}),
        "no_money": (402, {"message": "Payment required", "request_id": "1"}),
        "forbidden": (403, {"message": "Forbidden", "request_id": "1"}),
        "unknown_model": (400, _error("invalid_model", "Invalid model: m", "1500")),
        "too_large": (413, {"message": "Request size limit exceeded"}),
        "rate_limited": (429, _error("rate_limited", "Requests rate limit exceeded", "1300")),
        "overloaded": (503, _error("service_unavailable", "Service tier capacity exceeded", "3505")),
        "server_error": (500, _error("internal_server_error", "Service unavailable.", "1000")),
        "timeout": (504, _error("timeout", "The request timed out", "2000")),
    }

    def error_frame(self, trouble: Trouble) -> bytes:
        """Its errors name their status in the frame."""
        status, value = self.refusals[trouble]
        message = value.get("message") or str(value.get("detail"))
        return sse_event({"object": "error", "message": message, "type": value.get("type"), "code": status})

    def sent(self, request: RecordedRequest) -> Sent:
        """Reads what was asked, and refuses what Mistral would."""
        body = request.json
        assert set(body) <= MEMBERS
        for message in body["messages"]:
            assert message["role"] in ROLES
            assert not {"name", "reasoning_content", "reasoning", "refusal"} & set(message)
            ids = [call["id"] for call in message.get("tool_calls", ())] + [message.get("tool_call_id", "abcdefghi")]
            assert all(re.fullmatch("[A-Za-z0-9]{9}", call_id) for call_id in ids)
        return super().sent(request)

    def thought(self, text: str) -> Mapping[str, Any]:
        """A part of the content."""
        return {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]}

    def message(self, content: Content) -> dict[str, Any]:
        """Thought and text are parts of one content."""
        message = super().message(content)
        if not content.thought:
            return message
        text = {"type": "text", "text": "".join(content.words)}
        return {**message, "content": [*self.thought(content.thought)["content"], text]}

    def finish_reason(self, content: Content) -> str:
        """Its own word for a full context; a filter it does not tell."""
        return "model_length" if content.end == "length" else content.end

    def last_chunks(self, content: Content, usage: Any) -> Iterable[Mapping[str, Any]]:
        """The usage is in the chunk with the end."""
        yield chunk({"content": ""}, finish_reason=self.finish_reason(content), **self.whole_extra(usage))

    def call_pieces(self, index: int, call: Call) -> Iterable[Mapping[str, Any]]:
        """Calls are not cut into pieces."""
        yield {"index": index, "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """Its client knows three members; the cached ones come under two names."""
        plain = {"prompt_tokens": 16, "total_tokens": 50, "completion_tokens": 34}
        return [
            (plain, Usage(16, 0, 34)),
            ({**plain, "prompt_audio_seconds": None, "num_cached_tokens": 8}, Usage(16, 8, 34)),
            ({**plain, "prompt_tokens_details": {"cached_tokens": 12}}, Usage(16, 12, 34)),
        ]


VENDOR = MistralVendor()
