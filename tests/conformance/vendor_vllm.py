"""vLLM: thoughts as `reasoning`, errors of FastAPI, a new id for every piece of a call in older versions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from conformance.vendor import Call, Trouble
from conformance.vendor_openai import WORDS_OF_KEY, OpenAIVendor, Refusals
from fakes.scripted_upstream import sse_event

from quillgate_core.counting import Usage


def _error(kind: str, code: int, message: str) -> tuple[int, Mapping[str, Any]]:
    return code, {"error": {"message": message, "type": kind, "param": None, "code": code}}


class VllmVendor(OpenAIVendor):
    """https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html"""

    name = "vllm"
    refusals: ClassVar[Refusals] = {
        "bad_request": _error("BadRequestError", 400, "temperature must be non-negative, got -1.0."),
        "context_length": _error("BadRequestError", 400, "This model's maximum context length is 8192 tokens."),
        "bad_key": (401, {"error": "Unauthorized", "detail": WORDS_OF_KEY}),
        "no_money": (402, {"error": "Payment Required"}),
        "forbidden": (403, {"detail": "Forbidden"}),
        "unknown_model": _error("NotFoundError", 404, "The model `m` does not exist."),
        "too_large": (413, {"detail": "Request Entity Too Large"}),
        "rate_limited": (429, {"detail": "Too Many Requests"}),
        "overloaded": _error("ServiceUnavailableError", 503, "The engine is dead."),
        "server_error": _error("InternalServerError", 500, "EngineCore encountered an issue."),
        "timeout": _error("timeout", 408, "The request timed out."),
    }

    def error_frame(self, trouble: Trouble) -> bytes:
        """The error object with its number, whatever answered before."""
        status, value = self.refusals[trouble]
        error = value.get("error")
        return sse_event(value if isinstance(error, dict) else _error("Error", status, str(value))[1])

    def thought(self, text: str) -> Mapping[str, Any]:
        """Its member since 0.12."""
        return {"reasoning": text}

    def call_pieces(self, index: int, call: Call) -> Iterable[Mapping[str, Any]]:
        """Every piece has an id, and only the first one's counts."""
        for number, piece in enumerate(super().call_pieces(index, call)):
            yield {**piece, "id": call.id if number == 0 else f"chatcmpl-tool-{number}", "type": "function"}

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """Details are null unless the server was started with them."""
        plain = {"prompt_tokens": 43, "total_tokens": 60, "completion_tokens": 17, "prompt_tokens_details": None}
        return [
            (plain, Usage(43, 0, 17)),
            ({**plain, "prompt_tokens_details": {"cached_tokens": 32}}, Usage(43, 32, 17)),
        ]


VENDOR = VllmVendor()
