"""Content parts in OpenAI's form as content blocks of the Messages API, or a refusal that names the part. Pure.

    text, refusal           text
    image_url               image, from base64 or from its address
    file (file_data)        document (PDF, text) or image, from base64 or from its address
    input_audio, others     refused: Claude hears nothing

A file by id is refused as well: the id would be looked up in the gateway's account, which all workspaces share.
"""

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Final

from quillgate.v1.chat_completion_pb2 import ChatContent, ContentPart, FileInput
from quillgate_codec import JsonError, load_json
from quillgate_core.errors import InvalidRequest

Block = dict[str, Any]

_PDF: Final = "application/pdf"
_TEXTS: Final = frozenset({"application/json", "application/xml"})


def blocks_of(content: ChatContent, path: str, *, only: frozenset[str] = frozenset()) -> list[Block]:
    """Returns the blocks of a message's content; empty texts, which Anthropic refuses, are left out.

    `only` are the types of blocks that the place takes; none: all of them.
    """
    if content.WhichOneof("value") != "parts":
        return text_blocks(content.text)
    blocks: list[Block] = []
    for index, part in enumerate(content.parts.parts):
        place = f"{path}[{index}]"
        made = _blocks_of_part(part, place)
        if only and any(block["type"] not in only for block in made):
            raise unsupported(place, f"a part of type '{part.type}' cannot stand here")
        blocks += made
    return blocks


def text_blocks(text: str) -> list[Block]:
    """Returns the block of a text, none for one of white space alone: Anthropic refuses it."""
    return [{"type": "text", "text": text}] if text and not text.isspace() else []


def members(extra_json: bytes, path: str) -> dict[str, Any]:
    """Decodes the members that have no field; raises InvalidRequest when they are no JSON object."""
    if not extra_json:
        return {}
    value = raw_json(extra_json, path)
    if type(value) is not dict:
        raise InvalidRequest("Invalid value: it must be a JSON object.", param=path, code="invalid_value")
    return value


def raw_json(data: bytes, path: str) -> Any:
    """Decodes JSON text of a request; raises InvalidRequest."""
    try:
        return load_json(data)
    except JsonError as error:
        raise InvalidRequest(f"Invalid value for '{path}': {error.problem}.", param=path, code=error.code) from None


def cache_control_of(extra: dict[str, Any]) -> Block:
    """Returns the mark that ends a cached prefix, where a client set one as Anthropic has it."""
    control = extra.get("cache_control")
    return {"cache_control": control} if type(control) is dict else {}


def unsupported(param: str, problem: str) -> InvalidRequest:
    """Returns the refusal of a value that Claude can do nothing with."""
    return InvalidRequest(f"Unsupported value: '{param}': {problem}.", param=param, code="unsupported_value")


def _blocks_of_part(part: ContentPart, path: str) -> list[Block]:
    extra = members(part.extra_json, path)
    marks = cache_control_of(extra)
    if part.HasField("prompt_cache_breakpoint") and not marks:
        marks = {"cache_control": {"type": "ephemeral"}}
    if part.type == "text":
        made = text_blocks(part.text)
    elif part.type == "refusal":
        made = text_blocks(part.refusal)
    elif part.type == "image_url":
        made = [{"type": "image", "source": _image_source(part.image_url.url, f"{path}.image_url.url")}]
    elif part.type == "file":
        made = [_file_block(part.file, f"{path}.file")]
    else:
        raise unsupported(path, f"a part of type '{part.type[:64]}' cannot be read by this model's provider")
    return [block | marks for block in made]


def _image_source(url: str, path: str) -> Block:
    if not url.startswith("data:"):
        return _url_source(url, path)
    media_type, data = _data_url(url, path)
    return {"type": "base64", "media_type": "image/jpeg" if media_type == "image/jpg" else media_type, "data": data}


def _file_block(file: FileInput, path: str) -> Block:
    if not file.HasField("file_data"):
        raise unsupported(path, "a file needs `file_data`; ids of files are not known to this model's provider")
    path += ".file_data"
    title = {"title": file.filename} if file.filename else {}
    if not file.file_data.startswith("data:"):
        return {"type": "document", "source": _url_source(file.file_data, path), **title}
    media_type, data = _data_url(file.file_data, path)
    if media_type.startswith("image/"):
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    if media_type == _PDF:
        return {"type": "document", "source": {"type": "base64", "media_type": _PDF, "data": data}, **title}
    if media_type.startswith("text/") or media_type in _TEXTS:
        return {"type": "document", "source": _text_source(data, path), **title}
    raise unsupported(path, f"a file of type '{media_type[:64]}' cannot be read by this model's provider")


def _text_source(data: str, path: str) -> Block:
    try:
        text = base64.b64decode(data, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise InvalidRequest("Invalid value: the text is not UTF-8.", param=path, code="invalid_value") from None
    return {"type": "text", "media_type": "text/plain", "data": text}


def _url_source(url: str, path: str) -> Block:
    if not url.startswith(("https://", "http://")):
        raise InvalidRequest(
            "Invalid value: expected an https address or a `data:` URL.", param=path, code="invalid_value"
        )
    return {"type": "url", "url": url}


def _data_url(url: str, path: str) -> tuple[str, str]:
    """Returns the media type and the base64 text of a `data:` URL."""
    head, comma, data = url.partition(",")
    media_type, *parameters = head.removeprefix("data:").lower().split(";")
    if not comma or "base64" not in (name.strip() for name in parameters):
        raise InvalidRequest("Invalid value: a `data:` URL must be in base64.", param=path, code="invalid_value")
    return media_type.strip(), data


def has_type(blocks: Iterable[Block], kinds: frozenset[str]) -> bool:
    """Tells whether a block is of one of the types."""
    return any(block["type"] in kinds for block in blocks)
