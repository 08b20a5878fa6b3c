"""A conversation of chat messages as Gemini's `systemInstruction` and `contents`. Pure.

    system, developer       systemInstruction, wherever in the conversation they stand: Gemini has no other place
    user                    a turn `user`
    assistant               a turn `model`; tool_calls become functionCall parts with their thought signatures
    tool, function          functionResponse parts, those that follow each other in one turn `user` of their own

Neighbours of one kind become one turn. Arguments are passed on as JSON text: no number changes on the way.

Thought signatures (ai.google.dev: Thought signatures) come back from clients where `gemini_answer` put them:
`tool_calls[].extra_content.google.thought_signature`, as Google's own OpenAI endpoint has it, or `reasoning_details`
with the format `google-gemini-v1`, as OpenRouter has it. From generation 3 on the first call of a message must have
one; in a conversation with another model, or through a client that drops unknown members, the value that Google
documents for this case stands in.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from quillgate.v1.chat_completion_pb2 import ChatMessage, FunctionCall, ToolCall
from quillgate_codec import JsonError, load_json
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.extra_members import extra_members, raw_value
from quillgate_core.providers.gemini_media import media_part

REASONING_FORMAT: Final = "google-gemini-v1"
"""How OpenRouter names the form of Gemini's entries in `reasoning_details`."""

NO_SIGNATURE: Final = "skip_thought_signature_validator"
"""What Google documents for calls that the model did not make itself."""

_Part = dict[str, Any]


@dataclass(slots=True)
class Conversation:
    """A conversation in Gemini's form, gathered message by message."""

    needs_signatures: bool
    """Whether the model refuses calls without one, which is also when it sees images within results."""
    system: list[_Part] = field(default_factory=list)
    contents: list[dict[str, Any]] = field(default_factory=list)
    _kind: str = field(default="", init=False)
    """Whose the last turn is: `user`, `model` or `results`."""
    _names: dict[str, str] = field(default_factory=dict, init=False)
    """Function names by the id of their call."""

    def add(self, message: ChatMessage, param: str) -> None:
        """Takes the next message, which is at `param`; raises InvalidRequest for what Gemini cannot be told."""
        if message.role in ("system", "developer"):
            self.system += _text_parts(message, param)
        elif message.role == "assistant":
            self._extend("model", self._said(message, param))
        elif message.role in ("tool", "function"):
            self._extend("results", self._result(message, param))
        else:
            self._extend("user", _parts(message, param))

    def close(self) -> None:
        """Makes sure that there is a turn: what only has system texts asks with them."""
        if not self.contents:
            parts = self.system or [{"text": " "}]
            self.contents.append({"role": "user", "parts": parts})
            self.system = []

    def _extend(self, kind: str, parts: Sequence[_Part]) -> None:
        if not parts:
            return
        if kind != self._kind:
            self._kind = kind
            self.contents.append({"role": "model" if kind == "model" else "user", "parts": []})
        self.contents[-1]["parts"] += parts

    def _said(self, message: ChatMessage, param: str) -> list[_Part]:
        parts = _parts(message, param)
        if not parts and message.refusal:
            parts = [{"text": message.refusal}]
        signatures = _signatures(message.reasoning_details, f"{param}.reasoning_details")
        if parts and "" in signatures:
            parts[-1]["thoughtSignature"] = signatures[""]
        calls = [
            self._call(call, signatures, f"{param}.tool_calls[{index}]")
            for index, call in enumerate(message.tool_calls)
        ]
        if message.HasField("function_call"):
            name = _required(message.function_call.name, f"{param}.function_call.name")
            calls.append({"functionCall": {"name": name, "args": _arguments(message.function_call)}})
        if calls and self.needs_signatures:
            calls[0].setdefault("thoughtSignature", NO_SIGNATURE)
        return parts + calls

    def _call(self, call: ToolCall, signatures: Mapping[str, str], param: str) -> _Part:
        if call.HasField("custom"):
            name, arguments = call.custom.name, {"input": call.custom.input}
        else:
            name, arguments = call.function.name, _arguments(call.function)
        _required(name, f"{param}.function.name")
        made: dict[str, Any] = {"name": name, "args": arguments}
        if call.id:
            made = {"id": call.id, **made}
            self._names[call.id] = name
        signature = _signature_of(call, param) or signatures.get(call.id, "")
        return {"functionCall": made, "thoughtSignature": signature} if signature else {"functionCall": made}

    def _result(self, message: ChatMessage, param: str) -> list[_Part]:
        call_id = message.tool_call_id
        name = message.name if message.role == "function" else self._names.get(call_id, message.name)
        if not name:
            problem = "it must be the `id` of a call in an assistant message before"
            param = f"{param}.tool_call_id"
            raise InvalidRequest(f"Invalid value for '{param}': {problem}.", param=param, code="invalid_value")
        parts = _parts(message, param)
        text = "\n".join(part["text"] for part in parts if "text" in part)
        media = [part for part in parts if "text" not in part]
        response: dict[str, Any] = {"name": name, "response": _as_object(text)}
        if call_id:
            response = {"id": call_id, **response}
        if not media:
            return [{"functionResponse": response}]
        if self.needs_signatures:
            return [{"functionResponse": {**response, "parts": media}}]
        return [{"functionResponse": response}, *media]


def conversation(messages: Iterable[ChatMessage], *, needs_signatures: bool) -> Conversation:
    """Returns the whole conversation; raises InvalidRequest."""
    found = Conversation(needs_signatures)
    for index, message in enumerate(messages):
        found.add(message, f"messages[{index}]")
    found.close()
    return found


def _parts(message: ChatMessage, param: str) -> list[_Part]:
    """Returns the content, without empty texts, which Gemini refuses."""
    content = message.content
    if content.WhichOneof("value") != "parts":
        return [{"text": content.text}] if content.text else []
    parts: list[_Part] = []
    for index, part in enumerate(content.parts.parts):
        if part.type in ("text", "refusal"):
            text = part.text or part.refusal
            parts += [{"text": text}] if text else []
        else:
            parts.append(media_part(part, f"{param}.content[{index}]"))
    return parts


def _text_parts(message: ChatMessage, param: str) -> list[_Part]:
    parts = _parts(message, param)
    if any("text" not in part for part in parts):
        problem = f"a message of the role '{message.role}' may hold text only"
        raise InvalidRequest(
            f"Invalid value for '{param}.content': {problem}.", param=f"{param}.content", code="unsupported_value"
        )
    return parts


def _arguments(call: FunctionCall) -> Any:
    """Returns the arguments as they are; text that is no JSON object, as a model may have written it, within one."""
    text = call.arguments.strip()
    if not text:
        return {}
    return msgspec.Raw(text.encode()) if _is_object(text) else {"input": call.arguments}


def _as_object(result: str) -> Any:
    text = result.strip()
    return msgspec.Raw(text.encode()) if text.startswith("{") and _is_object(text) else {"result": result}


def _is_object(text: str) -> bool:
    try:
        return type(load_json(text.encode())) is dict
    except JsonError:
        return False


def _signature_of(call: ToolCall, param: str) -> str:
    value: Any = extra_members(call.extra_json, param)
    for name in ("extra_content", "google", "thought_signature"):
        value = value.get(name) if type(value) is dict else None
    return value if type(value) is str else ""


def _signatures(reasoning_details: bytes, param: str) -> dict[str, str]:
    """Returns the signatures among a message's reasoning details by call id, that of its text under the empty one."""
    if REASONING_FORMAT.encode() not in reasoning_details:
        return {}
    details = raw_value(reasoning_details, param)
    return {
        detail["id"] if type(detail.get("id")) is str else "": detail["data"]
        for detail in (details if type(details) is list else ())
        if type(detail) is dict
        and detail.get("type") == "reasoning.encrypted"
        and detail.get("format") == REASONING_FORMAT
        and type(detail.get("data")) is str
    }


def _required(name: str, param: str) -> str:
    if not name:
        raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    return name
