"""A chat request as the body of Gemini's `generateContent`. Pure.

    messages                                    systemInstruction, contents (`gemini_contents`)
    tools, tool_choice                          tools, toolConfig; parameters pass as the JSON schema that they are
    response_format                             responseMimeType, responseJsonSchema
    max_tokens, temperature, top_p, stop, n,    generationConfig
    seed, penalties, logprobs, modalities
    reasoning_effort, reasoning                 thinkingConfig (`gemini_thinking`)
    store                                       store: whether Google logs the request
    top_k, thinking_config, safety_settings,    the same in Gemini's spelling; also within `google` or
    cached_content                              `extra_body.google`, as for Google's own OpenAI endpoint

What Gemini cannot do is refused before anything is sent:

    functions                                   unsupported_parameter: `tools` do the same
    logit_bias                                  unsupported_parameter: token ids are not OpenAI's
    audio; modality `audio`                     unsupported_parameter, unsupported_value: it answers in text and images
    web_search_options, moderation              unsupported_parameter
    n above 8                                   unsupported_value
    tools of other types than `function`        unsupported_value
    formats other than text, json_object and    unsupported_value
    json_schema
    parts of a message that it cannot see       unsupported_value, invalid_value (`gemini_media`)

`parallel_tool_calls: false` has no counterpart: of several calls in one answer only the first is passed on
(`gemini_answer`). Hints that change no contract are left out: `user`, `metadata`, `service_tier`, `verbosity`,
`prediction`, cache settings, image details, names of participants, and members that are neither OpenAI's nor Gemini's.
Safety settings stay Google's defaults unless the request has its own.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, Function
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.extra_members import extra_members, raw_object, raw_value
from quillgate_core.providers.gemini_contents import conversation
from quillgate_core.providers.gemini_thinking import GeminiModel, thinking_config

_MAX_CHOICES: Final = 8
_PLAIN: Final = (
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequencyPenalty"),
)
_NATIVE: Final = (
    ("top_k", "topK", True),
    ("thinking_config", "thinkingConfig", True),
    ("safety_settings", "safetySettings", False),
    ("cached_content", "cachedContent", False),
)
"""Gemini's own members: their name here, their name there, and whether they belong into generationConfig."""

_CANNOT: Final[tuple[tuple[str, str, Callable[[ChatCompletionRequest], bool]], ...]] = (
    ("functions", "use `tools` instead", lambda request: bool(request.functions)),
    ("logit_bias", "its tokens are not OpenAI's", lambda request: bool(request.logit_bias)),
    ("audio", "it answers in text", lambda request: request.HasField("audio")),
    ("web_search_options", "it has no such tool here", lambda request: request.HasField("web_search_options")),
    ("moderation", "it has safety settings instead", lambda request: request.HasField("moderation")),
)
_CHOICE_MODES: Final = {"none": "NONE", "required": "ANY"}
_MODALITIES: Final = {"text": "TEXT", "image": "IMAGE"}
_SEED_MASK: Final = 0x7FFF_FFFF
_NOTHING_SAID: Final = frozenset({"type", "properties", "required", "additionalProperties", "$schema", "title"})

_dumps = msgspec.json.Encoder().encode


def gemini_body(request: ChatCompletionRequest, *, model: str, max_output_tokens: int | None) -> bytes:
    """Returns the body as JSON; raises InvalidRequest for what Gemini cannot do."""
    _check(request)
    gemini = GeminiModel.named(model)
    talk = conversation(request.messages, needs_signatures=gemini.needs_signatures)
    body: dict[str, Any] = {"contents": talk.contents}
    if talk.system:
        body["systemInstruction"] = {"parts": talk.system}
    if request.HasField("store"):
        body["store"] = request.store
    _add_tools(body, request)
    config = _generation_config(request, max_output_tokens)
    thinking = thinking_config(request, gemini)
    if thinking is not None:
        config["thinkingConfig"] = thinking
    _add_native(body, config, request)
    if config:
        body["generationConfig"] = config
    return _dumps(body)


def _check(request: ChatCompletionRequest) -> None:
    for param, reason, is_there in _CANNOT:
        if is_there(request):
            message = f"Unsupported parameter: '{param}' is not supported by this model's provider: {reason}."
            raise InvalidRequest(message, param=param, code="unsupported_parameter")
    if request.n > _MAX_CHOICES:
        raise _unsupported("n", f"this model's provider makes at most {_MAX_CHOICES} choices")


def _generation_config(request: ChatCompletionRequest, max_output_tokens: int | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        theirs: getattr(request, ours)
        for ours, theirs in _PLAIN
        if request.HasField(ours)  # type: ignore[arg-type]  # the stub wants literals
    }
    if request.n > 1:
        config["candidateCount"] = request.n
    limit = _output_limit(request) if max_output_tokens is None else max_output_tokens
    if limit is not None:
        config["maxOutputTokens"] = limit
    stop = list(request.stop.list.items) or ([request.stop.text] if request.stop.text else [])
    if stop:
        config["stopSequences"] = stop
    if request.HasField("seed"):
        config["seed"] = request.seed & _SEED_MASK  # Gemini's has 32 bits
    if request.logprobs:
        config["responseLogprobs"] = True
        if request.HasField("top_logprobs"):
            config["logprobs"] = request.top_logprobs
    _add_format(config, request)
    _add_modalities(config, request)
    return config


def _output_limit(request: ChatCompletionRequest) -> int | None:
    if request.HasField("max_completion_tokens"):
        return request.max_completion_tokens
    return request.max_tokens if request.HasField("max_tokens") else None


def _add_format(config: dict[str, Any], request: ChatCompletionRequest) -> None:
    wanted = request.response_format
    if wanted.type in ("", "text"):
        return
    if wanted.type not in ("json_object", "json_schema"):
        raise _unsupported("response_format.type", "this model's provider has 'text', 'json_object', 'json_schema'")
    config["responseMimeType"] = "application/json"
    if wanted.type == "json_schema" and wanted.json_schema.HasField("schema"):
        raw_object(wanted.json_schema.schema, "response_format.json_schema.schema")
        config["responseJsonSchema"] = msgspec.Raw(wanted.json_schema.schema)


def _add_modalities(config: dict[str, Any], request: ChatCompletionRequest) -> None:
    for index, modality in enumerate(request.modalities):
        if modality not in _MODALITIES:
            raise _unsupported(f"modalities[{index}]", "this model's provider has 'text' and 'image'")
    if set(request.modalities) - {"text"}:
        config["responseModalities"] = [_MODALITIES[modality] for modality in request.modalities]


def _add_native(body: dict[str, Any], config: dict[str, Any], request: ChatCompletionRequest) -> None:
    """Adds what is said in Gemini's own words, which win over what was translated."""
    members = extra_members(request.extra_json, "")
    nested = members.get("extra_body")
    for source in (nested.get("google") if type(nested) is dict else None, members.get("google"), members):
        if type(source) is not dict:
            continue
        for ours, theirs, is_config in _NATIVE:
            value = source.get(ours, source.get(theirs))
            if value is not None:
                (config if is_config else body)[theirs] = value


def _add_tools(body: dict[str, Any], request: ChatCompletionRequest) -> None:
    declared = [_declaration(request, index) for index in range(len(request.tools))]
    choice = request.tool_choice
    mode, allowed = _CHOICE_MODES.get(choice.mode, ""), None
    if choice.WhichOneof("value") == "named":
        mode, allowed = _named_choice(request)
    if allowed is not None and not mode:
        # A set to choose from freely: Gemini limits names only where it must call, so the others are not declared.
        declared = [function for function in declared if function["name"] in allowed]
    if not declared:
        return
    body["tools"] = [{"functionDeclarations": declared}]
    if mode:
        config: dict[str, Any] = {"mode": mode}
        if allowed is not None:
            config["allowedFunctionNames"] = allowed
        body["toolConfig"] = {"functionCallingConfig": config}


def _declaration(request: ChatCompletionRequest, index: int) -> dict[str, Any]:
    tool = request.tools[index]
    if tool.type != "function":
        raise _unsupported(f"tools[{index}].type", "this model's provider has tools of the type 'function' only")
    function = tool.function
    if not function.name:
        param = f"tools[{index}].function.name"
        raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    declared: dict[str, Any] = {"name": function.name}
    if function.description:
        declared["description"] = function.description
    if _has_parameters(function, f"tools[{index}].function.parameters"):
        declared["parametersJsonSchema"] = msgspec.Raw(function.parameters)
    return declared


def _has_parameters(function: Function, param: str) -> bool:
    """Tells whether there is a schema that says anything: Gemini takes none for an empty object."""
    if not function.HasField("parameters"):
        return False
    schema = raw_object(function.parameters, param)
    says_nothing = schema.keys() <= _NOTHING_SAID and not schema.get("properties")
    return not says_nothing or bool(schema.get("additionalProperties"))


def _named_choice(request: ChatCompletionRequest) -> tuple[str, list[str] | None]:
    """Returns Gemini's mode, empty for a free choice, and the functions to choose from."""
    named = request.tool_choice.named
    if named.type == "function":
        return "ANY", [named.function.name]
    if named.type == "allowed_tools":
        tools = raw_value(named.allowed_tools.tools or b"[]", "tool_choice.allowed_tools.tools")
        names = [_tool_name(tool) for tool in tools] if type(tools) is list else []
        return _CHOICE_MODES.get(named.allowed_tools.mode, ""), [name for name in names if name]
    raise _unsupported("tool_choice.type", "this model's provider has 'function' and 'allowed_tools'")


def _tool_name(tool: Any) -> str:
    function = tool.get("function") if type(tool) is dict else None
    name = function.get("name") if type(function) is dict else None
    return name if type(name) is str else ""


def _unsupported(param: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"Unsupported value for '{param}': {problem}.", param=param, code="unsupported_value")
