"""The tools of a response request as chat tools, and the way back from a called name. Pure.

Every tool becomes a chat function: a `custom` one with a single string, the tools of a `namespace` under its name. What
a provider would have to run itself (web search and the like) chat completions cannot offer: it is left out and named.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, Function, Tool
from quillgate.v1.response_pb2 import ResponseNamedToolChoice, ResponseTool, ResponseToolChoice
from quillgate_codec import Codec, JsonError, load_json
from quillgate_core.errors import InvalidRequest

_INPUT = "input"
_INPUT_SCHEMA = msgspec.json.encode(
    {"type": "object", "properties": {_INPUT: {"type": "string"}}, "required": [_INPUT], "additionalProperties": False}
)
_MODES = ("none", "auto", "required")
_tool = Codec(ResponseTool, lenient=True)


@dataclass(frozen=True, slots=True)
class CallerTool:
    """A tool that the caller runs: `kind` is `function` or `custom`, `namespace` may be empty."""

    kind: str
    name: str
    namespace: str = ""

    @property
    def chat_name(self) -> str:
        """What the tool is called in chat completions, where there are no namespaces."""
        return chat_name(self.name, self.namespace)


@dataclass(frozen=True, slots=True)
class ToolSet:
    """The tools of a request: for chat, by the name that they have there, and what was left out."""

    chat: list[Tool] = field(default_factory=list)
    by_chat_name: dict[str, CallerTool] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def add(self, tool: ResponseTool, *, path: str, namespace: str = "") -> None:
        """Takes a tool; `path` names it should it be left out."""
        if tool.type == "namespace" and not namespace:
            for index, nested in enumerate(_nested(tool)):
                self.add(nested, path=f"{path}.tools[{index}]", namespace=tool.name)
            return
        if tool.type not in ("function", "custom") or not tool.name:
            self.ignored.append(f"{path}:{tool.type}")
            return
        own = CallerTool(tool.type, tool.name, namespace)
        self.by_chat_name[own.chat_name] = own
        self.chat.append(Tool(type="function", function=_function(tool, own)))


def chat_name(name: str, namespace: str = "") -> str:
    """Returns the name of a tool in chat completions."""
    return f"{namespace.removesuffix('__')}__{name}" if namespace else name


def tool_set(tools: Iterable[ResponseTool]) -> ToolSet:
    """Returns a request's tools for chat."""
    found = ToolSet()
    for index, tool in enumerate(tools):
        found.add(tool, path=f"tools[{index}]")
    return found


def custom_arguments(text: str) -> str:
    """Returns the chat arguments that stand for the input of a custom tool."""
    return msgspec.json.encode({_INPUT: text}).decode()


def custom_input(arguments: str) -> str:
    """Returns the input of a custom tool from chat arguments; models that write no JSON object mean the text itself."""
    try:
        value = load_json(arguments.encode())
    except JsonError:
        return arguments
    found = value.get(_INPUT) if type(value) is dict else None
    return found if type(found) is str else arguments


def set_tools(chat: ChatCompletionRequest, choice: ResponseToolChoice, tools: ToolSet) -> None:
    """Puts tools and choice into the chat request; raises InvalidRequest for a choice that cannot be served."""
    allowed, mode = _allowed(choice, tools)
    chat.tools.extend(tool for tool in tools.chat if allowed is None or tool.function.name in allowed)
    if not chat.tools:
        if mode == "required":
            raise _bad_choice("it demands a tool, but 'tools' has none that the caller runs")
        return
    if choice.named.type in ("function", "custom"):
        chat.tool_choice.named.type = "function"
        chat.tool_choice.named.function.name = _named(choice.named, tools)
    elif mode:
        chat.tool_choice.mode = mode


def _allowed(choice: ResponseToolChoice, tools: ToolSet) -> tuple[frozenset[str] | None, str]:
    """Returns the chat names that may be called, None for all, and the mode."""
    form = choice.WhichOneof("value")
    if form is None:
        return None, ""
    if form == "mode":
        if choice.mode not in _MODES:
            wanted = ", ".join(f"'{mode}'" for mode in _MODES)
            raise _bad_choice(f"'{choice.mode[:100]}' is none of {wanted}")
        return None, choice.mode
    named = choice.named
    if named.type == "allowed_tools":
        return _allowed_names(named, tools), named.mode or "auto"
    if named.type in ("function", "custom"):
        _named(named, tools)
        return None, ""
    raise _bad_choice(f"tools of type '{named.type[:100]}' are not served for this model", code="unsupported_value")


def _named(named: ResponseNamedToolChoice, tools: ToolSet) -> str:
    for name, tool in tools.by_chat_name.items():
        if tool.name == named.name and tool.kind == named.type:
            return name
    raise _bad_choice(f"'tools' has no {named.type} '{named.name[:100]}'")


def _allowed_names(named: ResponseNamedToolChoice, tools: ToolSet) -> frozenset[str]:
    listed = _objects(named.tools)
    wanted = {(str(tool.get("type")), str(tool.get("name"))) for tool in listed}
    return frozenset(name for name, tool in tools.by_chat_name.items() if (tool.kind, tool.name) in wanted)


def _function(tool: ResponseTool, own: CallerTool) -> Function:
    function = Function(name=own.chat_name)
    if tool.HasField("description"):
        function.description = tool.description
    if tool.type == "custom":
        function.parameters = _INPUT_SCHEMA
        return function
    if tool.HasField("parameters"):
        function.parameters = tool.parameters
    if tool.HasField("strict"):
        function.strict = tool.strict
    return function


def _nested(tool: ResponseTool) -> Sequence[ResponseTool]:
    members: Mapping[str, object] = load_json(tool.extra_json) if tool.extra_json else {}
    return [_tool.from_value(value) for value in _dicts(members.get("tools"))]


def _objects(data: bytes) -> list[dict[str, object]]:
    return _dicts(load_json(data)) if data else []


def _dicts(value: object) -> list[dict[str, object]]:
    return [item for item in value if type(item) is dict] if isinstance(value, list) else []


def _bad_choice(problem: str, *, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"Invalid value for 'tool_choice': {problem}.", param="tool_choice", code=code)
