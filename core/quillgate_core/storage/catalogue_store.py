"""What is changed of the catalogue while running, in PostgreSQL: switches, aliases, and what providers' lists told.

Only SQL: who may change what, and what it means, is decided by the use cases. Every change counts up the revision of
the catalogue in its own transaction, so that a core which polls the revision alone misses none.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from quillgate_core.discovered import DiscoveredModel
from quillgate_core.live_catalogue import CatalogueState
from quillgate_core.storage.engine import database_errors
from quillgate_core.storage.tables import discovered_models, model_aliases, model_switches, shared_revisions
from quillgate_core.upstream import ListedModel

_logger = logging.getLogger(__name__)

_NAME = "catalogue"
_REVISION = select(shared_revisions.c.revision).where(shared_revisions.c.name == _NAME)

_ALIASES = select(model_aliases.c.alias, model_aliases.c.model_id)

_CLAIM = text("""
INSERT INTO discoveries AS d (provider, attempt_time) VALUES (:provider, clock_timestamp())
ON CONFLICT (provider) DO UPDATE SET attempt_time = clock_timestamp()
WHERE d.attempt_time <= clock_timestamp() - make_interval(secs => :period_s)
RETURNING true
""")


class PostgresCatalogueStore:
    """A CatalogueStore on an engine; raises Overloaded when the database is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def revision(self) -> int:
        """Return the revision of the catalogue; cheap enough to ask every second."""
        with database_errors(), self._engine.connect() as connection:
            return int(connection.execute(_REVISION).scalar_one())

    def read(self) -> CatalogueState:
        """Return everything, as of one moment."""
        with database_errors(), self._engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ")
            return CatalogueState(
                revision=int(connection.execute(_REVISION).scalar_one()),
                disabled=frozenset(connection.execute(select(model_switches.c.model_id)).scalars()),
                aliases={row.alias: row.model_id for row in connection.execute(_ALIASES)},
                discovered=_discovered(connection),
            )

    def set_enabled(self, model_id: str, *, enabled: bool) -> None:
        """Switch a model on or off; nothing changes if it is so already."""
        column = model_switches.c.model_id
        on = delete(model_switches).where(column == model_id).returning(column)
        off = insert(model_switches).values(model_id=model_id).on_conflict_do_nothing().returning(column)
        with database_errors(), self._engine.begin() as connection:
            if connection.execute(on if enabled else off).all():
                _count_up(connection)

    def set_alias(self, alias: str, model_id: str) -> None:
        """Give an alias a model, another one if it had one."""
        values = {"model_id": model_id}
        statement = insert(model_aliases).values(alias=alias, **values)
        with database_errors(), self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["alias"], set_=values))
            _count_up(connection)

    def delete_alias(self, alias: str) -> bool:
        """Forget an alias; False when there is none."""
        with database_errors(), self._engine.begin() as connection:
            column = model_aliases.c.alias
            gone = bool(connection.execute(delete(model_aliases).where(column == alias).returning(column)).all())
            if gone:
                _count_up(connection)
            return gone

    def write_discovered(self, provider: str, *, listed: Collection[DiscoveredModel], gone: Iterable[str] = ()) -> None:
        """Keep what a provider's list says of models, and forget those of its names that are gone."""
        names = sorted(set(gone))
        with database_errors(), self._engine.begin() as connection:
            _count_up(connection)  # first: whoever writes at the same time waits here, and none for the other's rows
            if names:
                own = discovered_models.c.provider == provider
                connection.execute(delete(discovered_models).where(own & discovered_models.c.upstream_model.in_(names)))
            if listed:
                statement = insert(discovered_models)
                changes = {
                    "model_id": statement.excluded.model_id,
                    "listed": statement.excluded.listed,
                    "update_time": func.clock_timestamp(),
                }
                keys = ["provider", "upstream_model"]
                connection.execute(
                    statement.on_conflict_do_update(index_elements=keys, set_=changes),
                    [_row(model) for model in sorted(listed, key=lambda model: model.upstream_model)],
                )

    def claim_discovery(self, provider: str, period_s: float) -> bool:
        """Tell whether this core may read the provider's list now: one of all may, once in a period."""
        with database_errors(), self._engine.begin() as connection:
            claim = {"provider": provider, "period_s": period_s}
            return connection.execute(_CLAIM, claim).scalar_one_or_none() is not None


def _count_up(connection: Connection) -> None:
    revision = shared_revisions.c.revision
    connection.execute(update(shared_revisions).where(shared_revisions.c.name == _NAME).values(revision=revision + 1))


def _discovered(connection: Connection) -> tuple[DiscoveredModel, ...]:
    columns = discovered_models.c
    rows = connection.execute(
        select(columns.provider, columns.upstream_model, columns.model_id, columns.listed).order_by(
            columns.provider, columns.upstream_model
        )
    )
    return tuple(model for row in rows if (model := _model(tuple(row))) is not None)


def _model(row: Sequence[Any]) -> DiscoveredModel | None:
    """Returns a row as a model, None if a newer release wrote what this one cannot read."""
    provider, upstream_model, model_id, listed = row
    try:
        return DiscoveredModel(provider, upstream_model, model_id, msgspec.convert(listed, ListedModel))
    except msgspec.ValidationError:
        _logger.warning("discovered model %s of %s cannot be read", upstream_model, provider)
        return None


def _row(model: DiscoveredModel) -> dict[str, object]:
    return {
        "provider": model.provider,
        "upstream_model": model.upstream_model,
        "model_id": model.model_id,
        "listed": msgspec.to_builtins(model.listed),
    }
