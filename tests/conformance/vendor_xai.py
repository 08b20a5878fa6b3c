"""xAI: thoughts as `reasoning_content`, whose tokens its completion tokens lack; errors that are a text and a code."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from conformance.vendor import Content, Trouble
from conformance.vendor_openai import WORDS_OF_KEY, OpenAIVendor, Refusals, chunk
from fakes.scripted_upstream import sse_event

from quillgate_core.counting import Usage


def _error(code: str, text: str) -> Mapping[str, Any]:
    return {"code": code, "error": text}


class XaiVendor(OpenAIVendor):
    """https://docs.x.ai/docs/api-reference and /docs/key-information/debugging."""

    name = "xai"
    refusals: ClassVar[Refusals] = {
        "bad_request": (400, _error("Client specified an invalid argument", "Argument not supported: stop")),
        "context_length": (
            400,
            _error(
                "Client specified an invalid argument",
                "This model's maximum prompt length is 131072 but the request contains 200000 tokens.",
            ),
        ),
        "bad_key": (400, _error("Client specified an invalid argument", WORDS_OF_KEY)),
        "no_money": (403, _error("The caller does not have permission", "Your team has no credits.")),
        "forbidden": (403, _error("The caller does not have permission", "This API key is blocked.")),
        "unknown_model": (404, _error("Some requested entity was not found", "The model m does not exist.")),
        "too_large": (413, _error("Payload too large", "The request is too large.")),
        "rate_limited": (429, _error("Some resource has been exhausted", "Too many requests.")),
        "overloaded": (503, _error("The service is currently unavailable", "The model is at capacity.")),
        "server_error": (500, _error("Internal error", "Something went wrong.")),
        "timeout": (504, _error("deadline_exceeded", "The request took too long.")),
    }

    def error_frame(self, trouble: Trouble) -> bytes:
        """The text and the code, which is a number in streams."""
        status, value = self.refusals[trouble]
        code = value["code"] if trouble == "timeout" else str(status)
        return sse_event({"code": code, "error": value["error"]})

    def last_chunks(self, content: Content, usage: Any) -> Iterable[Mapping[str, Any]]:
        """The usage comes in a chunk without choices."""
        yield chunk({}, finish_reason=content.end)
        if usage is not None:
            yield chunk(None, usage=usage)

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """The total has the thoughts: 32 + 9 + 94 = 135."""
        documented = {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "prompt_tokens_details": {"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
            "completion_tokens_details": {"reasoning_tokens": 94, "audio_tokens": 0},
            "num_sources_used": 0,
        }
        inside = {**documented, "completion_tokens": 103}
        return [(documented, Usage(32, 6, 103)), (inside, Usage(32, 6, 103))]


VENDOR = XaiVendor()
