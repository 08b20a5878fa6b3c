"""A response that is kept, and where: values and an interface only. The SQL is in `storage/response_store.py`."""

from dataclasses import dataclass
from typing import Protocol

from quillgate.v1.response_pb2 import Response, ResponseItem


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
