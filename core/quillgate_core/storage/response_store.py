"""The responses that are kept, in PostgreSQL. Only SQL: who may read what is decided by `stored_responses.py`.

Each row holds the whole conversation before its output, so deleting or losing one row breaks no other.
"""

import logging
from datetime import timedelta
from typing import Final

from sqlalchemy import Engine, Interval, and_, bindparam, delete, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert

from quillgate.v1.response_pb2 import Response, ResponseItemList
from quillgate_core.errors import ResponseNotFound
from quillgate_core.storage.engine import database_errors, single_statements
from quillgate_core.storage.tables import responses, workspaces
from quillgate_core.stored_response import MAX_STORED_BYTES, StoredResponse, require_response_id

PURGE_LIMIT: Final = 1_000
PURGE_TIMEOUT_S: Final = 60

_logger = logging.getLogger(__name__)

_IS_KEPT: Final = and_(
    responses.c.workspace_id == bindparam("of"),
    responses.c.response_id == bindparam("id"),
    responses.c.expire_time > func.clock_timestamp(),
)

# Made once, as SQLAlchemy needs longer to put a statement together than the database to run it.
_SAVE: Final = (
    insert(responses)
    .values(
        workspace_id=bindparam("workspace_id"),
        response_id=bindparam("response_id"),
        response=bindparam("response"),
        items=bindparam("items"),
        own_input_from=bindparam("own_input_from"),
        expire_time=func.clock_timestamp() + bindparam("retention", type_=Interval),
    )
    .on_conflict_do_nothing()
)
_GET: Final = select(responses.c.response, responses.c["items"], responses.c.own_input_from).where(_IS_KEPT)
_DELETE: Final = delete(responses).where(_IS_KEPT)
_KEEPS: Final = select(workspaces.c.store_responses).where(workspaces.c.workspace_id == bindparam("of"))


class PostgresResponseStore:
    """A ResponseStore on an engine; raises Overloaded when the database is away."""

    def __init__(self, engine: Engine, retention: timedelta) -> None:
        self._engine = engine
        self._single = single_statements(engine)
        self._retention = retention

    def save(self, workspace_id: str, stored: StoredResponse) -> None:
        """Keep a response for the retention time by the database clock; saving it again changes nothing.

        One that is larger than MAX_STORED_BYTES even so (the input was checked before) is not kept, and logged.
        """
        size = stored.response.ByteSize() + sum(item.ByteSize() for item in stored.items)
        if size > MAX_STORED_BYTES:
            _logger.warning("response %s is not kept: %d bytes are too many", stored.response.id, size)
            return
        values = {
            "workspace_id": workspace_id,
            "response_id": require_response_id(stored.response.id),
            "response": stored.response.SerializeToString(),
            "items": ResponseItemList(items=stored.items).SerializeToString(),
            "own_input_from": stored.own_input_from,
            "retention": self._retention,
        }
        with database_errors(), self._single.connect() as connection:
            connection.execute(_SAVE, values)

    def get(self, workspace_id: str, response_id: str) -> StoredResponse:
        """Return a response that is not past its retention. Raises ResponseNotFound."""
        key = {"of": workspace_id, "id": require_response_id(response_id)}
        with database_errors(), self._single.connect() as connection:
            row = connection.execute(_GET, key).one_or_none()
        if row is None:
            raise ResponseNotFound(response_id)
        response, items, own_input_from = row
        return StoredResponse(
            response=Response.FromString(response),
            items=tuple(ResponseItemList.FromString(items).items),
            own_input_from=own_input_from,
        )

    def delete(self, workspace_id: str, response_id: str) -> None:
        """Forget a response. Raises ResponseNotFound, also when it is past its retention."""
        key = {"of": workspace_id, "id": require_response_id(response_id)}
        with database_errors(), self._single.connect() as connection:
            if not connection.execute(_DELETE, key).rowcount:
                raise ResponseNotFound(response_id)

    def keeps(self, workspace_id: str) -> bool:
        """Tell whether the workspace lets responses be stored."""
        with database_errors(), self._single.connect() as connection:
            return bool(connection.execute(_KEEPS, {"of": workspace_id}).scalar_one_or_none())

    def purge(self) -> int:
        """Forget up to 1,000 responses that are past their retention; several processes may purge at once."""
        key = tuple_(responses.c.workspace_id, responses.c.response_id)
        expired = (
            select(responses.c.workspace_id, responses.c.response_id)
            .where(responses.c.expire_time <= func.clock_timestamp())
            .order_by(responses.c.expire_time)
            .limit(PURGE_LIMIT)
            .with_for_update(skip_locked=True)
        )
        with database_errors(), self._engine.begin() as connection:
            connection.execute(text(f"SET LOCAL statement_timeout = '{PURGE_TIMEOUT_S}s'"))
            return connection.execute(delete(responses).where(key.in_(expired))).rowcount
