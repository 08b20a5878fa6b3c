"""Tools and the choice of them in OpenAI's form as the Messages API has them, or a refusal that names the tool. Pure.

    function                    a tool with `input_schema`; `strict` as far as Anthropic compiles that many schemas
    <name>_<date>               Anthropic's own tools, such as `bash_20250124` or `web_search_20250305`: as they are
    custom, others              refused
    auto, none, required        auto, none, any; a certain function: tool; allowed_tools: auto or any among those named

Of Anthropic's own tools, those that it runs itself read what nobody sent, so they are held for the whole context.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, Function, NamedToolChoice, Tool
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.anthropic_generation import Generation
from quillgate_core.providers.anthropic_parts import Block, cache_control_of, members, raw_json, unsupported
from quillgate_core.providers.anthropic_schema import constrained

MAX_STRICT_TOOLS: Final = 20
"""As many schemas as Anthropic compiles for one request; of more, none is strict."""

_NATIVE: Final = re.compile(r"[a-z][a-z_]*_20\d{6}")
_MODES: Final = {"auto": "auto", "none": "none", "required": "any"}


def tools_of(request: ChatCompletionRequest, generation: Generation) -> dict[str, Any]:
    """Returns the members `tools` and `tool_choice`, neither without a tool; raises InvalidRequest."""
    offered = _offered(request.tools, request.tool_choice.named)
    if not offered:
        return {}
    are_strict = generation.has_json_schema and sum(tool.function.strict for _, tool in offered) <= MAX_STRICT_TOOLS
    tools = [_tool(tool, f"tools[{index}]", are_strict=are_strict) for index, tool in offered]
    choice = _choice(request)
    return {"tools": tools, "tool_choice": choice} if choice else {"tools": tools}


def forces_tool(members_of_tools: dict[str, Any]) -> bool:
    """Tells whether the model must call a tool: then a thinking budget is refused."""
    return members_of_tools.get("tool_choice", {}).get("type") in ("any", "tool")


def _offered(tools: Sequence[Tool], named: NamedToolChoice) -> list[tuple[int, Tool]]:
    """The tools to offer, with their places: all, or those that `allowed_tools` names."""
    offered = list(enumerate(tools))
    if named.type != "allowed_tools":
        return offered
    names = _allowed_names(raw_json(named.allowed_tools.tools or b"[]", "tool_choice.allowed_tools.tools"))
    return [(index, tool) for index, tool in offered if tool.function.name in names]


def _allowed_names(allowed: Any) -> Collection[str]:
    entries = [entry for entry in allowed if type(entry) is dict] if type(allowed) is list else []
    functions = [entry.get("function", entry) for entry in entries]
    return {entry["name"] for entry in functions if type(entry) is dict and type(entry.get("name")) is str}


def _tool(tool: Tool, path: str, *, are_strict: bool) -> Block:
    extra = members(tool.extra_json, path)
    if tool.type == "function":
        return _function(tool.function, f"{path}.function", are_strict=are_strict) | cache_control_of(extra)
    if _NATIVE.fullmatch(tool.type):
        return {"type": tool.type, **extra}
    raise unsupported(f"{path}.type", f"a tool of type '{tool.type[:64]}' is not known to this model's provider")


def _function(function: Function, path: str, *, are_strict: bool) -> Block:
    made: Block = {"name": function.name}
    if function.description:
        made["description"] = function.description
    is_strict = function.strict and are_strict
    made["input_schema"] = _input_schema(function.parameters, f"{path}.parameters", is_strict=is_strict)
    if is_strict:
        made["strict"] = True
    return made | cache_control_of(members(function.extra_json, path))


def _input_schema(parameters: bytes, path: str, *, is_strict: bool) -> Any:
    """The schema of an object, which Anthropic wants to be told even where OpenAI takes it for granted."""
    schema = raw_json(parameters, path) if parameters else {}
    if type(schema) is not dict:
        raise InvalidRequest("Invalid value: a schema must be an object.", param=path, code="invalid_value")
    if is_strict:
        schema = constrained(schema)
    elif schema.get("type") == "object":
        return msgspec.Raw(parameters)
    return {"type": "object", **({} if schema else {"properties": {}}), **schema}


def _choice(request: ChatCompletionRequest) -> Block | None:
    choice = _chosen(request)
    one_at_a_time = request.HasField("parallel_tool_calls") and not request.parallel_tool_calls
    if not one_at_a_time or (choice or {}).get("type") == "none":
        return choice
    return {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}


def _chosen(request: ChatCompletionRequest) -> Block | None:
    form = request.tool_choice.WhichOneof("value")
    if form is None:
        return None
    named = request.tool_choice.named
    mode = named.allowed_tools.mode if named.type == "allowed_tools" else request.tool_choice.mode
    if form == "named" and named.type == "function":
        return {"type": "tool", "name": named.function.name}
    if mode in _MODES and (form == "mode" or named.type == "allowed_tools"):
        return {"type": _MODES[mode]}
    problem = f"'{(mode or named.type)[:64]}' is not known to this model's provider"
    raise unsupported("tool_choice", problem)
