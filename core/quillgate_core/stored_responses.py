"""Stored responses for those who made them: read, forget, list what they were made from. Blocking.

Knows no SQL and no gRPC; makes no responses, which is the business of `responses.py`.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from quillgate.v1.response_pb2 import Response, ResponseItem, ResponseItemPage
from quillgate_core.errors import InvalidRequest
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.stored_response import ResponseStore, StoredResponse

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
MAX_PURGE_ROUNDS: Final = 100
_ORDERS: Final = ("asc", "desc")
_ID_PREFIXES: Final = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}


class StoredResponses:
    """What a workspace may do with the responses it stored; a response of another one is unknown to it."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    def get(self, principal: Principal, response_id: str) -> Response:
        """Return a response; needs `inference`. Raises ScopeMissing or ResponseNotFound."""
        return self._find(principal, response_id).response

    def delete(self, principal: Principal, response_id: str) -> None:
        """Forget a response; needs `inference`. Raises ScopeMissing or ResponseNotFound."""
        principal.require(INFERENCE)
        self._store.delete(principal.workspace_id, response_id)

    def list_input_items(
        self, principal: Principal, response_id: str, *, limit: int = 0, order: str = "", after: str = ""
    ) -> ResponseItemPage:
        """Return a page of this turn's own input, by default the last 20 items, newest first; needs `inference`.

        Raises ScopeMissing, ResponseNotFound, or InvalidRequest for a limit outside 1 to 100, an unknown order, or an
        `after` that is no item's id.
        """
        limit = _check_limit(limit)
        order = _check_order(order)
        stored = self._find(principal, response_id)
        items = _with_ids(stored.items[stored.own_input_from :], response_id)
        if order == "desc":
            items.reverse()
        start = _position_after(items, after)
        data = items[start : start + limit]
        page = ResponseItemPage(object="list", data=data, has_more=start + limit < len(items))
        if data:
            page.first_id, page.last_id = data[0].id, data[-1].id
        return page

    def purge(self) -> None:
        """Forget all responses that are past their retention, in steps; what is left after 100 steps waits."""
        for _ in range(MAX_PURGE_ROUNDS):
            if not self._store.purge():
                return

    def _find(self, principal: Principal, response_id: str) -> StoredResponse:
        principal.require(INFERENCE)
        return self._store.get(principal.workspace_id, response_id)


def _check_limit(limit: int) -> int:
    if not 0 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"'limit' must be 1 to {MAX_LIMIT}.", param="limit", code="invalid_value")
    return limit or DEFAULT_LIMIT


def _check_order(order: str) -> str:
    if order not in ("", *_ORDERS):
        raise InvalidRequest("'order' must be 'asc' or 'desc'.", param="order", code="invalid_value")
    return order or "desc"


def _position_after(items: Sequence[ResponseItem], after: str) -> int:
    if not after:
        return 0
    for position, item in enumerate(items):
        if item.id == after:
            return position + 1
    raise InvalidRequest(
        "'after' is not the id of an input item of this response.", param="after", code="invalid_value"
    )


def _with_ids(items: Sequence[ResponseItem], response_id: str) -> list[ResponseItem]:
    """Returns the items as OpenAI lists them: each with a type and an id of its own, made up where it came without.

    A made-up id depends on nothing but the response and the place, so that it is the same on every page.
    """
    seen: set[str] = set()
    listed: list[ResponseItem] = []
    for position, given in enumerate(items):
        item = ResponseItem()
        item.CopyFrom(given)
        item.type = item.type or "message"
        if not item.id or item.id in seen:
            item.id = _made_up_id(item.type, response_id, position)
        seen.add(item.id)
        listed.append(_in_parts(item))
    return listed


def _made_up_id(kind: str, response_id: str, position: int) -> str:
    digest = hashlib.sha256(f"{response_id}/{position}".encode()).hexdigest()[:32]
    return f"{_ID_PREFIXES.get(kind, 'item')}_{digest}"


def _in_parts(item: ResponseItem) -> ResponseItem:
    """Gives a message's content the form of a list, and a status, as clients' models demand."""
    if item.type != "message":
        return item
    if not item.HasField("status"):
        item.status = "completed"
    if item.content.WhichOneof("value") == "text":
        text = item.content.text
        part = item.content.parts.parts.add(type="input_text", text=text)
        if item.role == "assistant":
            part.type, part.annotations, part.logprobs = "output_text", b"[]", b"[]"
    return item
