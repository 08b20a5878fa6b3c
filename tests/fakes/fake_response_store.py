"""Responses kept in memory, for tests of those who need a store; held to the same contract as the real one."""

from quillgate.v1.response_pb2 import Response
from quillgate_core.errors import ResponseNotFound
from quillgate_core.stored_response import StoredResponse, require_response_id


class FakeResponseStore:
    """A ResponseStore in memory; `expire` makes one pass its retention, `refusing` lists workspaces that keep none."""

    def __init__(self, *, refusing: frozenset[str] = frozenset()) -> None:
        self._refusing = refusing
        self._stored: dict[tuple[str, str], StoredResponse] = {}
        self._expired: set[tuple[str, str]] = set()

    def save(self, workspace_id: str, stored: StoredResponse) -> None:
        """Keep a copy; the first one under an id stays."""
        response_id = require_response_id(stored.response.id)
        self._stored.setdefault((workspace_id, response_id), _copy(stored))

    def get(self, workspace_id: str, response_id: str) -> StoredResponse:
        """Return a copy."""
        return _copy(self._stored[self._found(workspace_id, response_id)])

    def delete(self, workspace_id: str, response_id: str) -> None:
        """Forget it."""
        del self._stored[self._found(workspace_id, response_id)]

    def keeps(self, workspace_id: str) -> bool:
        """Tell whether the workspace is not a refusing one."""
        return workspace_id not in self._refusing

    def purge(self) -> int:
        """Forget what has expired."""
        count = len(self._expired)
        for key in self._expired:
            del self._stored[key]
        self._expired.clear()
        return count

    def expire(self, workspace_id: str, response_id: str) -> None:
        """Let the retention of one pass."""
        self._expired.add(self._found(workspace_id, response_id))

    def __len__(self) -> int:
        return len(self._stored)

    def _found(self, workspace_id: str, response_id: str) -> tuple[str, str]:
        key = (workspace_id, require_response_id(response_id))
        if key not in self._stored or key in self._expired:
            raise ResponseNotFound(response_id)
        return key


def _copy(stored: StoredResponse) -> StoredResponse:
    response = Response()
    response.CopyFrom(stored.response)
    return StoredResponse(response, tuple(stored.items), stored.own_input_from)
