"""OpenAI's Responses API as providers speak it: the body to send, and events that are failures. Pure.

The provider keeps nothing: `store` is false and the whole conversation is sent, so that it can go on with another
provider. Usage convention: `input_tokens` includes the cached tokens. It must not log.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItem, ResponseRequest
from quillgate_codec import (
    JsonError,
    provider_response,
    provider_response_event,
    response_item,
    response_request,
)
from quillgate_core.errors import InvalidRequest, QuillgateError
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.upstream import PreparedResponse

_OURS: Final = ("previous_response_id", "background", "conversation")
_dumps = msgspec.json.Encoder().encode


def prepared_response(
    request: ResponseRequest,
    items: Sequence[ResponseItem],
    *,
    model: str,
    stream: bool,
    max_output_tokens: int | None,
) -> PreparedResponse:
    """Writes a request as JSON for the upstream model; raises InvalidRequest when raw members are not JSON."""
    try:
        value = response_request.to_value(request)
        value["input"] = [response_item.to_value(item) for item in _readable(items)]
    except JsonError as error:
        raise InvalidRequest(str(error), param=error.path, code=error.code) from None
    for name in _OURS:
        value.pop(name, None)
    value |= {"model": model, "stream": stream, "store": False}
    if not stream:
        value.pop("stream_options", None)
    if max_output_tokens is not None:
        value["max_output_tokens"] = max_output_tokens
    return PreparedResponse(body=_dumps(value), stream=stream)


def _readable(items: Iterable[ResponseItem]) -> list[ResponseItem]:
    """Leaves out thoughts that hold nothing but an id: the provider that had them kept nothing."""
    return [item for item in items if item.type != "reasoning" or item.encrypted_content or item.content.parts.parts]


def whole_response(value: dict[str, Any], errors: ProviderErrors) -> Response:
    """Reads a whole answer; raises the failure that it stands for."""
    if value.get("status") not in (None, "completed", "incomplete"):
        raise errors.unavailable("did not complete its answer")
    return provider_response.from_value(value)


def event_of(value: dict[str, Any], errors: ProviderErrors) -> ResponseEvent:
    """Reads an event; raises the failure that it stands for."""
    kind = value.get("type")
    if kind == "error":
        raise _failure({name: value.get(name) for name in ("code", "message", "param")}, errors)
    if kind == "response.failed":
        response = value.get("response")
        error = response.get("error") if type(response) is dict else None
        raise _failure(error if type(error) is dict else {}, errors)
    return provider_response_event.from_value(value)


def as_event(response: Response) -> ResponseEvent:
    """Returns the whole answer of a server that cannot stream as the event that ends a stream."""
    return ResponseEvent(type=f"response.{response.status or 'completed'}", response=response)


def _failure(error: dict[str, Any], errors: ProviderErrors) -> QuillgateError:
    return (errors.for_value({"error": error}) if error else None) or errors.unavailable("failed")
