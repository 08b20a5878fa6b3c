"""What a response request continues: its own items and those of earlier responses, in order. Pure.

Ids of responses and of their items are made here. An item's id begins with the number of its response, so that a client
that sends an `item_reference` instead of the item can be understood without another look-up table.
"""

import uuid
from collections.abc import Iterable, Mapping

from quillgate.v1.response_pb2 import ResponseItem, ResponsePart, ResponseRequest
from quillgate_core.errors import InvalidRequest
from quillgate_core.stored_response import StoredResponse

_NUMBER_CHARACTERS = 32
_PREFIXES = {"reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc", "message": "msg"}


def new_response_id() -> str:
    """Returns an id that nobody has used."""
    return f"resp_{uuid.uuid4().hex}"


def output_item_id(response_id: str, kind: str, output_index: int) -> str:
    """Returns the id of an item of a response's output."""
    return f"{_PREFIXES[kind]}_{response_id.removeprefix('resp_')}{output_index:04x}"


def response_id_of(item_id: str) -> str:
    """Returns the id of the response that would have made an item, whether it exists or not; empty for foreign ids."""
    number = item_id.rpartition("_")[2][:_NUMBER_CHARACTERS]
    return f"resp_{number}" if len(number) == _NUMBER_CHARACTERS and number.isalnum() else ""


def kind_of(item: ResponseItem) -> str:
    """Returns the kind of an item, also of one that does not say it."""
    if item.type:
        return item.type
    if item.id and not item.role and not item.HasField("content"):
        return "item_reference"
    return "message"


def own_items(request: ResponseRequest) -> list[ResponseItem]:
    """Returns the items of a request's input, a text being one message of the user; the kind is always said."""
    if request.input.WhichOneof("value") == "text":
        item = ResponseItem(type="message", role="user")
        item.content.parts.parts.append(ResponsePart(type="input_text", text=request.input.text))
        return [item]
    items = []
    for given in request.input.items.items:
        item = ResponseItem()
        item.CopyFrom(given)
        item.type = kind_of(given)
        items.append(item)
    return items


def history_of(stored: StoredResponse) -> list[ResponseItem]:
    """Returns the whole conversation up to and including a response."""
    return [*stored.items, *stored.response.output]


def resolve(items: Iterable[ResponseItem], known: Mapping[str, ResponseItem]) -> list[ResponseItem]:
    """Replaces references by the items that they name; raises InvalidRequest for one that names none."""
    resolved = []
    for index, item in enumerate(items):
        if item.type == "item_reference":
            if item.id not in known:
                raise InvalidRequest(
                    f"Item with id '{item.id[:100]}' not found. Send the item itself, or keep its response.",
                    param=f"input[{index}].id",
                    code="invalid_value",
                )
            item = known[item.id]
        resolved.append(item)
    return resolved


def references(items: Iterable[ResponseItem], known: Mapping[str, ResponseItem]) -> list[str]:
    """Returns the ids that are referred to and not known, the latest last."""
    return [item.id for item in items if item.type == "item_reference" and item.id not in known]


def by_id(items: Iterable[ResponseItem]) -> dict[str, ResponseItem]:
    """Returns the items that can be referred to."""
    return {item.id: item for item in items if item.id and item.type != "item_reference"}
