"""A chat request in OpenAI's form as the body of `POST /messages`, or a refusal that names the member. Pure.

messages                            system, messages: `anthropic_conversation`
tools, tool_choice,                 tools, tool_choice: `anthropic_tools`
  parallel_tool_calls
max_tokens, max_completion_tokens   max_tokens; Anthropic demands one: without one, the model's own limit
stop                                stop_sequences; white space alone is refused
temperature                         at most 1: above it is 1, as in Anthropic's own OpenAI endpoint
temperature, top_p, top_k           left out where the model takes none, or thinks; of both the first where it
                                      takes one
reasoning_effort, reasoning,        thinking, output_config.effort: `anthropic_thinking`
  thinking
response_format: json_schema        output_config.format; refused for models before 4.5
response_format: json_object        a system text that asks for it: Anthropic has no such mode
safety_identifier, user             metadata.user_id, but for mail addresses, which Anthropic refuses
n > 1, logprobs, top_logprobs,      refused: the answer would be another one
  logit_bias, audio, modalities
  with audio, web_search_options,
  functions, penalties other than 0
cache_control, context_management,  Anthropic's own: as they are
  inference_geo, output_config
all others                          left out: seed, penalties of 0, prediction, verbosity, store, metadata,
                                      service_tier, prompt_cache_…, moderation, and what nobody knows
"""

from typing import Any, Final

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ResponseFormat
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.anthropic_conversation import conversation_of
from quillgate_core.providers.anthropic_generation import Generation, generation_of
from quillgate_core.providers.anthropic_parts import Block, members, raw_json, unsupported
from quillgate_core.providers.anthropic_schema import constrained
from quillgate_core.providers.anthropic_thinking import Thinking, thinking_of
from quillgate_core.providers.anthropic_tools import forces_tool, tools_of

_NATIVE: Final = ("cache_control", "context_management")
_MAX_USER_ID_CHARACTERS: Final = 256
_JSON_ONLY: Final = "Answer with one valid JSON object and nothing else: no words before or after it, no code fence."
_dumps = msgspec.json.Encoder().encode


def body_of(request: ChatCompletionRequest, *, model: str, stream: bool, max_output_tokens: int | None) -> bytes:
    """Returns the body for the upstream model; raises InvalidRequest for what Claude cannot do."""
    _check(request)
    extra = members(request.extra_json, "extra_json")
    generation = generation_of(model)
    # Of both limits the newer name wins.
    asked = request.max_completion_tokens or request.max_tokens or generation.max_output_tokens
    max_tokens = asked if max_output_tokens is None else max_output_tokens
    conversation = conversation_of(request.messages)
    tools = tools_of(request, generation)
    thinking = thinking_of(
        request,
        extra.get("thinking"),
        generation,
        max_tokens=max_tokens,
        is_forced=forces_tool(tools),
        is_unthought=conversation.is_within_unthought_loop,
    )
    system = conversation.system + _format_text(request.response_format)
    return _dumps(
        {"model": model, "max_tokens": max_tokens}
        | ({"system": system} if system else {})
        | {"messages": conversation.turns, "stream": stream}
        | tools
        | ({"thinking": thinking.config} if thinking.config else {})
        | _output_config(request, extra, thinking, generation)
        | _sampling(request, extra, thinking, generation)
        | _stop(request)
        | _metadata(request)
        | {name: extra[name] for name in _NATIVE if extra.get(name) is not None}
    )


def _check(request: ChatCompletionRequest) -> None:
    """Refuses what would change the meaning of the answer if it were left out."""
    refused = {
        "n": request.n > 1,
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs > 0,
        "logit_bias": bool(request.logit_bias),
        "presence_penalty": request.presence_penalty != 0,
        "frequency_penalty": request.frequency_penalty != 0,
        "modalities": any(modality != "text" for modality in request.modalities),
        "audio": request.HasField("audio"),
        "web_search_options": request.HasField("web_search_options"),
        "functions": bool(request.functions),
    }
    for name, is_refused in refused.items():
        if is_refused:
            hint = " Use `tools` instead." if name == "functions" else ""
            message = f"Unsupported parameter: '{name}' is not supported with this model's provider.{hint}"
            raise InvalidRequest(message, param=name, code="unsupported_parameter")


def _output_config(
    request: ChatCompletionRequest, extra: dict[str, Any], thinking: Thinking, generation: Generation
) -> dict[str, Any]:
    native = extra.get("output_config")
    config: dict[str, Any] = dict(native) if type(native) is dict else {}
    if thinking.effort is not None:
        config.setdefault("effort", thinking.effort)
    if request.response_format.type == "json_schema":
        config["format"] = _format(request.response_format, generation)
    return {"output_config": config} if config else {}


def _format(asked: ResponseFormat, generation: Generation) -> Block:
    if not generation.has_json_schema:
        raise unsupported("response_format.type", "this model cannot be held to a JSON schema")
    path = "response_format.json_schema.schema"
    schema = raw_json(asked.json_schema.schema or b"null", path)
    if type(schema) is not dict:
        raise InvalidRequest(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")
    return {"type": "json_schema", "schema": constrained(schema)}


def _format_text(asked: ResponseFormat) -> list[Block]:
    if asked.type in ("", "text", "json_schema"):
        return []
    if asked.type != "json_object":
        raise unsupported("response_format.type", f"'{asked.type[:64]}' is not known to this model's provider")
    return [{"type": "text", "text": _JSON_ONLY}]


def _sampling(
    request: ChatCompletionRequest, extra: dict[str, Any], thinking: Thinking, generation: Generation
) -> dict[str, Any]:
    """Sampling is a wish like the seed: where it cannot be had, an answer is worth more than a refusal."""
    if generation.sampling == "none" or thinking.is_on:
        return {}
    made: dict[str, Any] = {}
    if request.HasField("temperature"):
        made["temperature"] = min(request.temperature, 1.0)
    if request.HasField("top_p") and (generation.sampling == "all" or not made):
        made["top_p"] = request.top_p
    if type(extra.get("top_k")) is int:
        made["top_k"] = extra["top_k"]
    return made


def _stop(request: ChatCompletionRequest) -> dict[str, Any]:
    form = request.stop.WhichOneof("value")
    stops = [request.stop.text] if form == "text" else list(request.stop.list.items)
    if any(not stop.strip() for stop in stops):
        raise unsupported("stop", "a sequence of white space alone cannot end an answer of this model's provider")
    return {"stop_sequences": stops} if stops else {}


def _metadata(request: ChatCompletionRequest) -> dict[str, Any]:
    user = request.safety_identifier or request.user
    is_id = user and "@" not in user and len(user) <= _MAX_USER_ID_CHARACTERS
    return {"metadata": {"user_id": user}} if is_id else {}
