"""What Mistral's messages have otherwise than OpenAI's: documents, sounds, and the ids of calls. Pure.

Ids must have nine letters or digits, so a conversation that began with another provider would be refused; a longer id
becomes nine characters of its hash, the same wherever it occurs.
"""

import re
from hashlib import sha256
from typing import Any, Final

_ID: Final = re.compile(r"[A-Za-z0-9]{9}")


def mistral_message(message: dict[str, Any]) -> None:
    """Makes one of OpenAI's messages one of Mistral's, in place."""
    content = message.get("content")
    if type(content) is list:
        message["content"] = [_part(part) if type(part) is dict else part for part in content]
    calls = message.get("tool_calls")
    for call in calls if type(calls) is list else ():
        if type(call) is dict and type(call.get("id")) is str:
            call["id"] = mistral_id(call["id"])
            call.pop("index", None)
    if type(message.get("tool_call_id")) is str:
        message["tool_call_id"] = mistral_id(message["tool_call_id"])
    message.pop("refusal", None)


def mistral_id(call_id: str) -> str:
    """Returns the id of a call as Mistral takes it."""
    if _ID.fullmatch(call_id):
        return call_id
    return sha256(call_id.encode("utf-8", errors="replace")).hexdigest()[:9]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    inner = part.get(kind) if type(kind) is str else None
    if type(inner) is not dict:
        return part
    if kind == "file" and type(inner.get("file_data")) is str:
        document = {"type": "document_url", "document_url": inner["file_data"]}
        return document if inner.get("filename") is None else {**document, "document_name": inner["filename"]}
    if kind == "file" and type(inner.get("file_id")) is str:
        return {"type": "file", "file_id": inner["file_id"]}
    if kind == "input_audio" and type(inner.get("data")) is str:
        return {"type": "input_audio", "input_audio": inner["data"]}
    return part
