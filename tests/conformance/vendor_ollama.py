"""Ollama: no key needed, thoughts as `reasoning`, the role in every chunk, whole calls, no cached tokens."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from conformance.vendor import Call, Content, Spent
from conformance.vendor_openai import OpenAIVendor, Refusals, chunk, openai_error

from quillgate_core.counting import Usage


class OllamaVendor(OpenAIVendor):
    """https://docs.ollama.com/openai and openai.go of its source."""

    name = "ollama"
    refusals: ClassVar[Refusals] = {
        **OpenAIVendor.refusals,
        "bad_request": (400, openai_error("invalid message format", "invalid_request_error")),
        "context_length": (
            400,
            openai_error("the input length exceeds the context length", "invalid_request_error"),
        ),
        "unknown_model": (404, openai_error('model "m" not found, try pulling it first', "not_found_error")),
        "overloaded": (503, openai_error("server busy, please try again.", "api_error")),
        "server_error": (500, openai_error("llama runner process has terminated", "api_error")),
    }

    def thought(self, text: str) -> Mapping[str, Any]:
        """Its member."""
        return {"reasoning": text}

    def call_pieces(self, index: int, call: Call) -> Iterable[Mapping[str, Any]]:
        """Whole calls, all of which older versions number 0."""
        yield {
            "id": call.id,
            "index": 0,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }

    def last_chunks(self, content: Content, usage: Any) -> Iterable[Mapping[str, Any]]:
        """The role once more, then the usage."""
        yield chunk({"role": "assistant", "content": ""}, finish_reason=content.end)
        if usage is not None:
            yield chunk(None, usage=usage)

    def usage(self, spent: Spent) -> Any:
        """Three numbers."""
        return {
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
            "total_tokens": spent.prompt_tokens + spent.completion_tokens,
        }

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """Three numbers."""
        return [({"prompt_tokens": 26, "completion_tokens": 298, "total_tokens": 324}, Usage(26, 0, 298))]


VENDOR = OllamaVendor()
