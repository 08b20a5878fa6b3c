"""OpenRouter: comments while it waits, thoughts as `reasoning`, errors with numbers, cost and writes in the usage."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from conformance.vendor import Content, Spent, Trouble
from conformance.vendor_openai import WORDS_OF_KEY, OpenAIVendor, Refusals, chunk
from fakes.scripted_upstream import sse_event

from quillgate_core.counting import Usage


def _error(code: int, message: str, raw: str | None = None) -> tuple[int, Mapping[str, Any]]:
    metadata = {} if raw is None else {"metadata": {"provider_name": "Novita", "raw": raw}}
    return code, {"error": {"code": code, "message": message, **metadata}, "user_id": "user_1"}


class OpenRouterVendor(OpenAIVendor):
    """https://openrouter.ai/docs/api/reference/errors-and-debugging and /streaming."""

    name = "openrouter"
    refusals: ClassVar[Refusals] = {
        "bad_request": _error(400, 'Input required: specify "prompt" or "messages"'),
        "context_length": _error(400, "This endpoint's maximum context length is 131072 tokens."),
        "bad_key": _error(401, WORDS_OF_KEY),
        "no_money": _error(402, "Insufficient credits."),
        "forbidden": _error(403, "Your input was flagged."),
        "unknown_model": _error(404, "No endpoints found for m."),
        "too_large": _error(413, "Request Entity Too Large"),
        "rate_limited": _error(429, "Provider returned error", '{"error": {"message": "slow down"}}'),
        "overloaded": _error(503, "No instances available"),
        "server_error": _error(502, "Provider returned error", "upstream connect error"),
        "timeout": _error(408, "Request timed out"),
    }

    def error_frame(self, trouble: Trouble) -> bytes:
        """A chunk with the error beside a choice that ends with `error`."""
        _, value = self.refusals[trouble]
        return sse_event({**chunk({"content": ""}, finish_reason="error"), **value, "provider": "Novita"})

    def thought(self, text: str) -> Mapping[str, Any]:
        """The text, and the list that has to come back unchanged."""
        return {"reasoning": text, "reasoning_details": [{"type": "reasoning.text", "text": text, "index": 0}]}

    def first_frames(self) -> Iterable[bytes]:
        """Comments that keep the connection open."""
        return [b": OPENROUTER PROCESSING\n\n"] * 2

    def last_chunks(self, content: Content, usage: Any) -> Iterable[Mapping[str, Any]]:
        """The usage comes with one more choice that says nothing."""
        yield chunk({"role": "assistant", "content": ""}, finish_reason=content.end)
        if usage is not None:
            yield chunk({"role": "assistant", "content": ""}, usage=usage)

    def usage(self, spent: Spent) -> Any:
        """With what it cost."""
        return {**super().usage(spent), "cost": 0.00014, "cost_details": {"upstream_inference_cost": None}}

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """https://openrouter.ai/docs/use-cases/usage-accounting"""
        documented = {
            "completion_tokens": 2,
            "completion_tokens_details": {"reasoning_tokens": 0},
            "cost": 0.95,
            "cost_details": {"upstream_inference_cost": 19},
            "prompt_tokens": 194,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100, "audio_tokens": 0},
            "total_tokens": 196,
        }
        read = {**documented, "prompt_tokens_details": {"cached_tokens": 150}}
        return [(documented, Usage(194, 0, 2)), (read, Usage(194, 150, 2))]


VENDOR = OpenRouterVendor()
