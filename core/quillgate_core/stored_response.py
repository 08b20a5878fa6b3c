"""A response that is kept, and where: values and an interface only. The SQL is in `storage/response_store.py`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from quillgate.v1.response_pb2 import Response, ResponseItem
from quillgate_core.errors import InvalidRequest, ResponseNotFound

#: The most bytes of conversation that one stored response may begin with, as protobuf: 16 MiB.
MAX_ITEMS_BYTES: Final = 16 * 1024 * 1024
#: The most bytes of one stored response and the items before it, as protobuf: room for an output of 8 MiB.
MAX_STORED_BYTES: Final = 24 * 1024 * 1024

_RESPONSE_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")
_SHOWN_ID_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response with everything that a continuation needs, so that it depends on no other row."""

    response: Response
    items: tuple[ResponseItem, ...]
    """The whole conversation before the output, oldest first: what earlier turns held, then this turn's input."""
    own_input_from: int
    """Where this turn's own input begins in `items`."""


class ResponseStore(Protocol):
    """Where responses are kept. Blocking; every method takes the workspace, so that no tenant sees another's."""

    def save(self, workspace_id: str, stored: StoredResponse) -> None:
        """Keep a response for the retention time. Saving the same id again changes nothing. Raises Overloaded."""

    def get(self, workspace_id: str, response_id: str) -> StoredResponse:
        """Return a response. Raises ResponseNotFound, also when it is past its retention, and Overloaded."""

    def delete(self, workspace_id: str, response_id: str) -> None:
        """Forget a response. Raises ResponseNotFound and Overloaded."""

    def keeps(self, workspace_id: str) -> bool:
        """Tell whether the workspace lets responses be stored."""

    def purge(self) -> int:
        """Forget up to 1,000 responses that are past their retention and return how many."""


def require_storable(items: Iterable[ResponseItem]) -> None:
    """Raise InvalidRequest for a conversation that is too large to be stored; to be asked before the provider is.

    Every turn of a stored conversation holds all turns before it, so without a bound it would grow for ever.
    """
    size = sum(item.ByteSize() for item in items)
    if size > MAX_ITEMS_BYTES:
        raise InvalidRequest(
            f"The conversation has {size} bytes; at most {MAX_ITEMS_BYTES} can be stored. "
            "Send `store: false`, or begin a new conversation.",
            param="input",
            code="invalid_value",
        )


def require_response_id(response_id: str) -> str:
    """Return the id; raise ResponseNotFound for what can be no id, so that nothing odd reaches the database."""
    if _RESPONSE_ID.fullmatch(response_id) is None:
        raise ResponseNotFound(response_id[:_SHOWN_ID_CHARACTERS])
    return response_id
