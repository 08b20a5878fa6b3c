"""DeepSeek: cached tokens as hits and misses, an end that is a failure, its own statuses."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from conformance.vendor import Content, Spent
from conformance.vendor_openai import OpenAIVendor, Refusals, chunk, openai_error

from quillgate_core.counting import Usage


class DeepSeekVendor(OpenAIVendor):
    """https://api-docs.deepseek.com/api/create-chat-completion and /quick_start/error_codes."""

    name = "deepseek"
    refusals: ClassVar[Refusals] = {
        **OpenAIVendor.refusals,
        "bad_request": (422, openai_error("Invalid parameters.", "invalid_request_error", "invalid_request_error")),
        "context_length": (
            400,
            openai_error(
                "This model's maximum context length is 131072 tokens. However, you requested 200000 tokens.",
                *("invalid_request_error", "invalid_request_error"),
            ),
        ),
        "no_money": (402, openai_error("Insufficient Balance", "unknown_error", "invalid_request_error")),
        "unknown_model": (400, openai_error("Model Not Exist", "invalid_request_error", "invalid_request_error")),
        "overloaded": (503, openai_error("Service is too busy.", "service_unavailable_error")),
    }

    def last_chunks(self, content: Content, usage: Any) -> Iterable[Mapping[str, Any]]:
        """The usage is in the chunk with the end; chunks before it say null."""
        yield chunk({"content": ""}, finish_reason=content.end, usage=usage)

    def usage(self, spent: Spent) -> Any:
        """Hits and misses add up to the prompt."""
        return {
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
            "total_tokens": spent.prompt_tokens + spent.completion_tokens,
            "prompt_cache_hit_tokens": spent.cached_tokens,
            "prompt_cache_miss_tokens": spent.prompt_tokens - spent.cached_tokens,
        }

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """Older answers have hits and misses alone, newer ones OpenAI's details too."""
        hits = {"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}
        older = {"prompt_tokens": 100, "completion_tokens": 11, "total_tokens": 111, **hits}
        return [
            (older, Usage(100, 64, 11)),
            ({**older, "prompt_tokens_details": {"cached_tokens": 64}}, Usage(100, 64, 11)),
            ({**older, "completion_tokens_details": {"reasoning_tokens": 9}}, Usage(100, 64, 11)),
        ]


VENDOR = DeepSeekVendor()
