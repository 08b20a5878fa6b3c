"""Together: thoughts as `reasoning`, the role in every chunk, `eos` for the end, usage beside it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from conformance.vendor import Content
from conformance.vendor_openai import OpenAIVendor, Refusals, chunk, openai_error

from quillgate_core.counting import Usage


class TogetherVendor(OpenAIVendor):
    """https://docs.together.ai/reference/chat-completions and /docs/error-codes."""

    name = "together"
    refusals: ClassVar[Refusals] = {
        **OpenAIVendor.refusals,
        "context_length": (
            422,
            openai_error(
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193: maximum context length.",
                "invalid_request_error",
            ),
        ),
        "no_money": (402, openai_error("Credit limit exceeded.", "credit_limit")),
        "unknown_model": (
            404,
            openai_error("Unable to access model m. Model not found.", "invalid_request_error", "model_not_available"),
        ),
        "server_error": (524, openai_error("Cloudflare timeout", "server_error")),
    }

    def thought(self, text: str) -> Mapping[str, Any]:
        """Together's member."""
        return {"reasoning": text}

    def finish_reason(self, content: Content) -> str:
        """An end of its own."""
        return "eos" if content.end == "stop" else content.end

    def last_chunks(self, content: Content, usage: Any) -> Iterable[Mapping[str, Any]]:
        """The end with the role again and the usage."""
        delta = {"token_id": 128009, "role": "assistant", "content": "", "tool_calls": None}
        yield chunk(delta, finish_reason=self.finish_reason(content), usage=usage)

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """Cached tokens stand beside the prompt's."""
        plain = {"prompt_tokens": 31, "completion_tokens": 17, "total_tokens": 48}
        return [(plain, Usage(31, 0, 17)), ({**plain, "cached_tokens": 16}, Usage(31, 16, 17))]


VENDOR = TogetherVendor()
