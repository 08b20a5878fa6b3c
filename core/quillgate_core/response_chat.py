"""A response request as a chat completion request, for providers that do not speak the Responses API. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage
from quillgate.v1.response_pb2 import ResponseItem, ResponseRequest, ResponseTextFormat
from quillgate_codec import JsonError, chat_request, load_json
from quillgate_core.errors import InvalidRequest
from quillgate_core.response_messages import chat_messages
from quillgate_core.response_tools import CallerTool, set_tools, tool_set

LOGPROBS = "message.output_text.logprobs"
"""The member of `include` that asks for log probabilities."""

_SAME = (
    "temperature",
    "top_p",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "user",
)
_NOT_FOR_CHAT = frozenset(
    {"messages", "model", "n", "stream", "stream_options", "store", "tools", "tool_choice", "functions", "metadata"}
    | {"function_call", "max_tokens", "max_completion_tokens", "response_format", "modalities", "audio"}
    | {"client_metadata", "conversation", "prompt", "context_management", "generate", "access_programs"}
)
"""Members that are not passed on: chat ones that the translation itself decides, and some that only Responses has."""


@dataclass(frozen=True, slots=True)
class ChatTranslation:
    """A chat request, the tools that its calls may name, and what could not be translated."""

    request: ChatCompletionRequest
    tools: Mapping[str, CallerTool]
    ignored: tuple[str, ...]


def to_chat(request: ResponseRequest, items: Sequence[ResponseItem], *, own_from: int) -> ChatTranslation:
    """Translates a request whose conversation is `items`, its own from `own_from`; raises InvalidRequest."""
    chat = _unknown_members(request)
    chat.model = request.model
    messages, ignored = chat_messages(items, own_from=own_from)
    if request.instructions:
        chat.messages.add(role="system").content.text = request.instructions
    chat.messages.extend(messages)
    tools = tool_set(request.tools)
    set_tools(chat, request.tool_choice, tools)
    if chat.tools and request.HasField("parallel_tool_calls"):
        chat.parallel_tool_calls = request.parallel_tool_calls
    _set_sampling(chat, request)
    _set_text(chat, request)
    chat.stream_options.include_usage = True
    if request.truncation == "auto":
        ignored.append("truncation:auto")
    return ChatTranslation(chat, tools.by_chat_name, (*tools.ignored, *ignored))


def _unknown_members(request: ResponseRequest) -> ChatCompletionRequest:
    """Returns a chat request of the members that the contract does not have: a provider may know them."""
    if not request.extra_json:
        return ChatCompletionRequest()
    members: dict[str, Any] = load_json(request.extra_json)
    ours = request.DESCRIPTOR.fields_by_name
    kept = {
        name: item
        for name, item in members.items()
        if item is not None and name not in _NOT_FOR_CHAT and name not in ours
    }
    try:
        return chat_request.from_value(kept)
    except JsonError as error:
        raise InvalidRequest(str(error), param=error.path, code=error.code) from None


def _set_sampling(chat: ChatCompletionRequest, request: ResponseRequest) -> None:
    for name in _SAME:
        if request.HasField(name):  # type: ignore[arg-type]  # the stub wants literals
            setattr(chat, name, getattr(request, name))
    if request.HasField("max_output_tokens"):
        chat.max_completion_tokens = request.max_output_tokens
    if request.reasoning.HasField("effort"):
        chat.reasoning_effort = request.reasoning.effort
    if request.top_logprobs or LOGPROBS in request.include:
        chat.logprobs = True
        if request.top_logprobs:
            chat.top_logprobs = request.top_logprobs


def _set_text(chat: ChatCompletionRequest, request: ResponseRequest) -> None:
    if request.text.HasField("verbosity"):
        chat.verbosity = request.text.verbosity
    form = request.text.format
    if form.type == "json_object":
        chat.response_format.type = form.type
    elif form.type == "json_schema":
        chat.response_format.type = form.type
        _set_schema(chat, form)


def _set_schema(chat: ChatCompletionRequest, form: ResponseTextFormat) -> None:
    schema = chat.response_format.json_schema
    schema.name = form.name
    schema.schema = form.schema
    if form.HasField("description"):
        schema.description = form.description
    if form.HasField("strict"):
        schema.strict = form.strict


def bound_of(translation: ChatTranslation, unseen: Sequence[str]) -> ChatCompletionRequest:
    """Returns a chat request that costs at least what the request costs a provider that speaks Responses.

    Such a provider also reads what chat leaves out: `unseen` texts, and with hosted tools as much as it likes.
    """
    bound = ChatCompletionRequest()
    bound.CopyFrom(translation.request)
    for text in unseen:
        message = ChatMessage(role="assistant")
        message.content.text = text
        bound.messages.append(message)
    if translation.ignored:
        bound.tools.add(type="hosted")
    return bound
