"""Fireworks: thoughts as `reasoning_content`, usage in the chunk with the end, errors with an object."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from conformance.vendor import Content, Trouble
from conformance.vendor_openai import WORDS_OF_KEY, OpenAIVendor, Refusals, chunk, openai_error


def _error(kind: str, code: str, message: str) -> Mapping[str, Any]:
    return {"error": {"object": "error", "type": kind, "code": code, "message": message}}


class FireworksVendor(OpenAIVendor):
    """https://docs.fireworks.ai/api-reference/post-chatcompletions and /guides/inference-error-codes."""

    name = "fireworks"
    refusals: ClassVar[Refusals] = {
        **OpenAIVendor.refusals,
        "bad_request": (400, _error("invalid_request_error", "invalid_request_error", "Extra inputs not permitted")),
        "context_length": (
            400,
            openai_error(
                "The prompt is too long: 200000, model maximum context length: 131072", "invalid_request_error"
            ),
        ),
        "bad_key": (401, _error("error", "UNAUTHORIZED", WORDS_OF_KEY)),
        "no_money": (412, _error("error", "insufficient_quota", "Account is suspended: spending limit reached.")),
        "unknown_model": (
            404,
            _error("error", "NOT_FOUND", "Model not found, inaccessible, and/or not deployed"),
        ),
    }

    def error_frame(self, trouble: Trouble) -> bytes:
        """OpenAI's words, where the status is not told by a number."""
        if trouble in ("bad_key", "unknown_model"):
            return OpenAIVendor().error_frame(trouble)
        return super().error_frame(trouble)

    def last_chunks(self, content: Content, usage: Any) -> Iterable[Mapping[str, Any]]:
        """The usage is in the chunk with the end."""
        more = self.whole_extra(usage)
        yield chunk({}, finish_reason=content.end, perf_metrics=None, **more)


VENDOR = FireworksVendor()
