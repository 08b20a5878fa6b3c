"""What a Response says besides its output: the request's settings, usage, failure. Pure.

Clients validate these strictly, so every member is there, with the defaults that OpenAI documents.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletion, ChatCompletionChunk, ChatMessage, CompletionUsage
from quillgate.v1.response_pb2 import Response, ResponseError, ResponseRequest, ResponseTool, ResponseUsage
from quillgate_codec import load_json
from quillgate_core.errors import (
    AllowanceExhausted,
    InvalidRequest,
    KeyInvalid,
    ModelNotAllowed,
    Overloaded,
    ProviderRejected,
    QuillgateError,
    ScopeMissing,
    WorkspaceDisabled,
)

Status = Literal["completed", "incomplete", "failed"]

_ECHOED = ("instructions", "max_output_tokens", "max_tool_calls", "previous_response_id", "user")
_ECHOED_TOO = ("safety_identifier", "prompt_cache_key")
_NO_RIGHT: Final[Mapping[type[QuillgateError], str]] = {
    KeyInvalid: "invalid_api_key",
    ScopeMissing: "insufficient_permissions",
    ModelNotAllowed: "model_not_allowed",
    WorkspaceDisabled: "workspace_disabled",
    AllowanceExhausted: "insufficient_quota",
}
"""What ends a response whose caller has lost the right to it, with the codes that a new request would get."""

_INTERNAL = "The server had an error while processing your request."


def opened(request: ResponseRequest, *, response_id: str, created_at: int, store: bool) -> Response:
    """Returns the response to a request as it is before there is any output; `created_at` in seconds since 1970."""
    response = Response(
        id=response_id,
        object="response",
        created_at=created_at,
        status="in_progress",
        model=request.model,
        parallel_tool_calls=request.parallel_tool_calls if request.HasField("parallel_tool_calls") else True,
        temperature=request.temperature if request.HasField("temperature") else 1.0,
        top_p=request.top_p if request.HasField("top_p") else 1.0,
        top_logprobs=request.top_logprobs,
        truncation=request.truncation or "disabled",
        service_tier=request.service_tier or "auto",
        metadata=request.metadata,
        tools=[_echoed_tool(tool) for tool in request.tools],
        store=store,
        background=False,
        presence_penalty=0.0,
        frequency_penalty=0.0,
    )
    _echo(response, request)
    return response


def _echo(response: Response, request: ResponseRequest) -> None:
    for name in (*_ECHOED, *_ECHOED_TOO):
        if request.HasField(name):  # type: ignore[arg-type]  # the stub wants literals
            if name == "instructions":
                response.instructions.text = request.instructions
            else:
                setattr(response, name, getattr(request, name))
    response.reasoning.CopyFrom(request.reasoning)
    response.reasoning.SetInParent()
    response.text.CopyFrom(request.text)
    if not response.text.HasField("format"):
        response.text.format.type = "text"
    if request.tool_choice.WhichOneof("value") is None:
        response.tool_choice.mode = "auto"
    else:
        response.tool_choice.CopyFrom(request.tool_choice)


def _echoed_tool(tool: ResponseTool) -> ResponseTool:
    """Returns a function with all of its members, null where the request said nothing; other tools as they are."""
    echoed = ResponseTool()
    echoed.CopyFrom(tool)
    if tool.type == "function":
        extra: dict[str, Any] = load_json(tool.extra_json) if tool.extra_json else {}
        unset = [name for name in ("description", "parameters", "strict") if not tool.HasField(name)]
        extra.update(dict.fromkeys(unset))
        if extra:
            echoed.extra_json = msgspec.json.encode(extra)
    return echoed


def usage_of(usage: CompletionUsage) -> ResponseUsage:
    """Returns a chat usage as a response has it, with every detail, 0 where the provider said nothing."""
    shown = ResponseUsage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
    shown.input_tokens_details.cached_tokens = usage.prompt_tokens_details.cached_tokens
    shown.input_tokens_details.cache_write_tokens = usage.prompt_tokens_details.cache_write_tokens
    shown.output_tokens_details.reasoning_tokens = usage.completion_tokens_details.reasoning_tokens
    return shown


def as_chunk(answer: ChatCompletion) -> ChatCompletionChunk:
    """Returns a whole chat answer as the one chunk of a stream that says the same, its first choice only."""
    chunk = ChatCompletionChunk(id=answer.id, created=answer.created, service_tier=answer.service_tier or None)
    if answer.HasField("usage"):
        chunk.usage.CopyFrom(answer.usage)
    for choice in answer.choices[:1]:
        told = chunk.choices.add(index=0, finish_reason=choice.finish_reason or "stop")
        if choice.HasField("logprobs"):
            told.logprobs.CopyFrom(choice.logprobs)
        message = choice.message
        delta = told.delta
        delta.content = _text_of(message)
        delta.refusal = message.refusal
        delta.reasoning_content = message.reasoning_content or message.reasoning
        delta.tool_calls.extend(message.tool_calls)
        delta.annotations.extend(message.annotations)
    return chunk


def _text_of(message: ChatMessage) -> str:
    if message.content.WhichOneof("value") == "parts":
        return "".join(part.text for part in message.content.parts.parts)
    return message.content.text


def failure_of(error: Exception) -> tuple[ResponseError, dict[str, str | None]]:
    """Returns a failure as a response has it and as an `error` event has it; our own bugs are told no details of."""
    if not isinstance(error, QuillgateError) or error.reason == "INTERNAL":
        return (
            ResponseError(code="server_error", message=_INTERNAL),
            {"type": "server_error", "code": None, "message": _INTERNAL, "param": None},
        )
    code = error.metadata.get("code") or None
    event = {"code": code, "message": error.message, "param": error.metadata.get("param") or None}
    if isinstance(error, InvalidRequest | ProviderRejected):
        # Not in OpenAI's list, but what clients look for before they shorten the conversation.
        kept = code if code == "context_length_exceeded" else "invalid_prompt"
        return ResponseError(code=kept, message=error.message), {"type": "invalid_request_error", **event}
    if type(error) in _NO_RIGHT:
        event["code"] = _NO_RIGHT[type(error)]
        is_quota = isinstance(error, AllowanceExhausted)  # not in OpenAI's list, but what clients look for
        kind = "insufficient_quota" if is_quota else "invalid_request_error"
        kept = "insufficient_quota" if is_quota else "server_error"
        return ResponseError(code=kept, message=error.message), {"type": kind, **event}
    kept = "rate_limit_exceeded" if isinstance(error, Overloaded) else "server_error"
    return ResponseError(code=kept, message=error.message), {"type": "server_error", **event}
