"""The Messages API's answers and stream events as far as they matter here, for decoding in one step. Pure declarations.

Members that are not declared are skipped unread. Anthropic adds kinds of blocks, deltas and events as it likes, so each
is one struct with the members of all kinds; which of them count, `type` says.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec


class Usage(msgspec.Struct):
    """What was used so far; an absent count is unknown. Counts are cumulative: a later one replaces an earlier."""

    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: dict[str, Any] | None = None


class StopDetails(msgspec.Struct):
    """Why an answer was refused."""

    explanation: str | None = None


class Block(msgspec.Struct):
    """A content block, whole or as it begins in a stream."""

    type: str
    text: str | None = None
    citations: list[dict[str, Any]] | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class Message(msgspec.Struct):
    """An answer, whole or as it begins in a stream."""

    id: str = ""
    model: str = ""
    content: list[Block] | None = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None
    usage: Usage | None = None


class Delta(msgspec.Struct):
    """What an event adds to a block, or to the message."""

    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: dict[str, Any] | None = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class Event(msgspec.Struct):
    """One event of a stream."""

    type: str
    index: int = 0
    message: Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: Usage | None = None


class ModelInfo(msgspec.Struct):
    """One model of the list of models."""

    id: str
    created_at: str = ""
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    display_name: str = ""
    lifecycle: str = ""
    capabilities: dict[str, Any] | None = None


class ModelPage(msgspec.Struct):
    """One page of the list of models."""

    data: list[ModelInfo]
    has_more: bool = False
    last_id: str | None = None


#: They raise ValueError, or RecursionError, for bytes that are no such value.
decode_message: Final[Callable[[bytes], Message]] = msgspec.json.Decoder(Message).decode
decode_event: Final[Callable[[bytes], Event]] = msgspec.json.Decoder(Event).decode
decode_page: Final[Callable[[bytes], ModelPage]] = msgspec.json.Decoder(ModelPage).decode
