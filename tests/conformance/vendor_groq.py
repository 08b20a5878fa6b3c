"""Groq: thoughts as `reasoning`, usage in `x_groq` of the last chunk."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from conformance.vendor import Content, Trouble
from conformance.vendor_openai import OpenAIVendor, Refusals, chunk, openai_error

from quillgate_core.counting import Usage


class GroqVendor(OpenAIVendor):
    """https://console.groq.com/docs/api-reference and /docs/errors."""

    name = "groq"
    refusals: ClassVar[Refusals] = {
        **OpenAIVendor.refusals,
        "context_length": (
            400,
            openai_error(
                "Please reduce the length of the messages or completion.", "invalid_request_error", None, "messages"
            ),
        ),
        "no_money": (402, openai_error("Organization has no credit.", "billing_error")),
        "too_large": (413, openai_error("Request too large for model `m`.", "tokens", "rate_limit_exceeded")),
        "rate_limited": (429, openai_error("Rate limit reached for model `m`.", "tokens", "rate_limit_exceeded")),
        "overloaded": (503, openai_error("m is currently over capacity.", "internal_server_error")),
        "server_error": (500, openai_error("Internal Server Error", "internal_server_error")),
    }

    def error_frame(self, trouble: Trouble) -> bytes:
        """A request is too large before a stream begins: in one, OpenAI's words are told."""
        return OpenAIVendor().error_frame(trouble) if trouble == "too_large" else super().error_frame(trouble)

    def thought(self, text: str) -> Mapping[str, Any]:
        """Groq's member."""
        return {"reasoning": text}

    def last_chunks(self, content: Content, usage: Any) -> Iterable[Mapping[str, Any]]:
        """The usage is in the chunk with the end."""
        more = {} if usage is None else {"x_groq": {"id": "req_1", "usage": usage}}
        yield chunk({}, finish_reason=content.end, **more)

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """With the times that Groq adds, and its prompt cache."""
        times = {"queue_time": 0.03, "prompt_time": 0.0006, "completion_time": 0.46, "total_time": 0.46}
        plain = {"prompt_tokens": 18, "completion_tokens": 556, "total_tokens": 574, **times}
        cached = {**plain, "prompt_tokens": 4641, "prompt_tokens_details": {"cached_tokens": 4608}}
        return [(plain, Usage(18, 0, 556)), (cached, Usage(4641, 4608, 556))]


VENDOR = GroqVendor()
