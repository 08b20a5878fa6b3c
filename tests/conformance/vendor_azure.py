"""Azure OpenAI's v1 API: its header for the key, filter results everywhere, a first chunk without choices."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from conformance.vendor import API_KEY, Content, Trouble
from conformance.vendor_openai import OpenAIVendor, Refusals, chunk
from fakes.scripted_upstream import RecordedRequest, sse_event

SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
PROMPT_FILTER = [{"prompt_index": 0, "content_filter_results": {**SAFE, "jailbreak": {"filtered": False}}}]


def _error(status: int, code: str, message: str) -> tuple[int, Mapping[str, Any]]:
    return status, {"error": {"code": code, "message": message}}


class AzureVendor(OpenAIVendor):
    """https://learn.microsoft.com/azure/foundry/openai"""

    name = "azure"
    refusals: ClassVar[Refusals] = {
        **OpenAIVendor.refusals,
        "bad_request": (
            400,
            {
                "error": {
                    "message": "The response was filtered due to the prompt triggering Azure OpenAI's policy.",
                    "type": None,
                    "param": "prompt",
                    "code": "content_filter",
                    "status": 400,
                    "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": SAFE},
                }
            },
        ),
        "bad_key": _error(401, "401", f"Access denied due to invalid subscription key {API_KEY}."),
        "no_money": _error(403, "insufficient_quota", "Your quota is used up."),
        "forbidden": _error(403, "403", "Access denied due to Virtual Network/Firewall rules."),
        "unknown_model": _error(404, "DeploymentNotFound", "The API deployment for this resource does not exist."),
        "rate_limited": _error(429, "429", "Requests have exceeded the token rate limit. Retry after 7 seconds."),
        "server_error": _error(500, "InternalServerError", "Backend returned unexpected response."),
        "timeout": _error(408, "Timeout", "The operation was timeout."),
    }

    def key_of(self, request: RecordedRequest) -> str:
        """Azure's header."""
        assert "Authorization" not in request.headers
        return request.headers["api-key"]

    def error_frame(self, trouble: Trouble) -> bytes:
        """The deployment is looked up before a stream begins: in one, OpenAI's words are told."""
        value = OpenAIVendor.refusals[trouble] if trouble == "unknown_model" else self.refusals[trouble]
        return sse_event(value[1])

    def first_frames(self) -> Iterable[bytes]:
        """What the filter says of the prompt."""
        head = {"id": "", "object": "", "created": 0, "model": "", "prompt_filter_results": PROMPT_FILTER}
        yield sse_event({"choices": [], **head})

    def whole_extra(self, usage: Any) -> Mapping[str, Any]:
        """What the filter says, beside the usage."""
        return {**super().whole_extra(usage), "prompt_filter_results": PROMPT_FILTER}

    def last_chunks(self, content: Content, usage: Any) -> Iterable[Mapping[str, Any]]:
        """The filter's last word comes in a choice without a delta, if it works beside the stream."""
        asynchronous = chunk({})
        offsets = {"check_offset": 0, "start_offset": 0, "end_offset": 9}
        choice = {"index": 0, "finish_reason": None, "content_filter_results": SAFE, "content_filter_offsets": offsets}
        yield {**asynchronous, "id": "", "created": 0, "choices": [choice]}
        yield from super().last_chunks(content, usage)


VENDOR = AzureVendor()
