"""Stored responses as tests need them."""

from quillgate.v1.response_pb2 import Response, ResponseContent, ResponseItem
from quillgate_core.stored_response import StoredResponse


def message(text: str, *, role: str = "user", item_id: str = "") -> ResponseItem:
    """A message as a client gives it."""
    item = ResponseItem(type="message", role=role, content=ResponseContent(text=text))
    if item_id:
        item.id = item_id
    return item


def stored(response_id: str, *items: ResponseItem, own_input_from: int = 0, model: str = "m") -> StoredResponse:
    """A completed response to the items, with members that no field has."""
    response = Response(id=response_id, object="response", status="completed", model=model, created_at=1)
    response.output.add(type="message", role="assistant", id="msg_out").content.text = "Hello"
    response.extra_json = b'{"vendor":{"n":1}}'
    return StoredResponse(response, items, own_input_from)
