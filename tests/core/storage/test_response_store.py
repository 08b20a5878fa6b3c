"""The contract of a ResponseStore, for the real one and for the fake; and what only PostgreSQL has to prove."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from fakes.fake_response_store import FakeResponseStore
from fakes.stored import message, stored
from sqlalchemy import Engine, text

from quillgate_core.errors import InvalidRequest, Overloaded, ResponseNotFound
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.response_store import PURGE_LIMIT, PostgresResponseStore
from quillgate_core.stored_response import (
    MAX_ITEMS_BYTES,
    MAX_STORED_BYTES,
    ResponseStore,
    require_response_id,
    require_storable,
)

RETENTION = timedelta(days=30)
EXPIRE = text("UPDATE responses SET expire_time = clock_timestamp() WHERE response_id = :response_id")


@dataclass(frozen=True)
class Kept:
    """A store in which `ws_a` and `ws_b` keep responses and `ws_off` does not, and how to let one expire."""

    store: ResponseStore
    expire: Callable[[str], None]


def _fake() -> Kept:
    store = FakeResponseStore(refusing=frozenset({"ws_off"}))
    return Kept(store, lambda response_id: store.expire("ws_a", response_id))


def _real(engine: Engine) -> Kept:
    add = "INSERT INTO workspaces (workspace_id, name, store_responses) VALUES (:id, 'n', :store)"
    with engine.begin() as connection:
        for workspace_id, store in (("ws_a", True), ("ws_b", True), ("ws_off", False)):
            connection.execute(text(add), {"id": workspace_id, "store": store})

    def expire(response_id: str) -> None:
        with engine.begin() as connection:
            connection.execute(EXPIRE, {"response_id": response_id})

    return Kept(PostgresResponseStore(engine, RETENTION), expire)


@pytest.fixture
def postgres_store(engine: Engine) -> Kept:
    """The real one."""
    return _real(engine)


@pytest.fixture(params=["postgres", "fake"])
def kept(request: pytest.FixtureRequest) -> Kept:
    """Each of the two."""
    if request.param == "fake":
        return _fake()
    real: Kept = request.getfixturevalue("postgres_store")
    return real


def test_what_is_saved_comes_back(kept: Kept) -> None:
    """Response, items in order and the place of this turn's input come back without loss."""
    given = stored("resp_1", message("before"), message("\x00 ü 😀"), own_input_from=1)
    kept.store.save("ws_a", given)
    found = kept.store.get("ws_a", "resp_1")
    assert (found.response, found.items, found.own_input_from) == (given.response, given.items, 1)


def test_saving_again_changes_nothing(kept: Kept) -> None:
    """The first response under an id stays, so a repeated save is harmless."""
    kept.store.save("ws_a", stored("resp_1", model="first"))
    kept.store.save("ws_a", stored("resp_1", model="second"))
    assert kept.store.get("ws_a", "resp_1").response.model == "first"


def test_another_workspace_sees_nothing(kept: Kept) -> None:
    """Reading and deleting across workspaces find nothing, and two workspaces may use the same id."""
    kept.store.save("ws_a", stored("resp_1", model="a"))
    for attempt in (kept.store.get, kept.store.delete):
        with pytest.raises(ResponseNotFound) as caught:
            attempt("ws_b", "resp_1")
        assert caught.value.metadata == {"response_id": "resp_1"}
    kept.store.save("ws_b", stored("resp_1", model="b"))
    assert [kept.store.get(ws, "resp_1").response.model for ws in ("ws_a", "ws_b")] == ["a", "b"]


def test_deleted_is_gone(kept: Kept) -> None:
    """A deleted response can be neither read nor deleted again; others stay."""
    kept.store.save("ws_a", stored("resp_1"))
    kept.store.save("ws_a", stored("resp_2"))
    kept.store.delete("ws_a", "resp_1")
    for attempt in (kept.store.get, kept.store.delete):
        with pytest.raises(ResponseNotFound):
            attempt("ws_a", "resp_1")
    assert kept.store.get("ws_a", "resp_2").response.id == "resp_2"


def test_past_its_retention_it_is_gone_at_once(kept: Kept) -> None:
    """An expired response is unknown before any purge, and the purge removes it alone."""
    kept.store.save("ws_a", stored("resp_1"))
    kept.store.save("ws_a", stored("resp_2"))
    assert kept.store.purge() == 0
    kept.expire("resp_1")
    for attempt in (kept.store.get, kept.store.delete):
        with pytest.raises(ResponseNotFound):
            attempt("ws_a", "resp_1")
    assert (kept.store.purge(), kept.store.purge()) == (1, 0)
    assert kept.store.get("ws_a", "resp_2").response.id == "resp_2"


@pytest.mark.parametrize("response_id", ["", "resp_\x00", "resp_ü", "a b", "x" * 129, "../etc", "' OR 1=1 --"])
def test_what_is_no_id_is_unknown(kept: Kept, response_id: str) -> None:
    """Anything that cannot be an id is answered as unknown, and never repeated at length."""
    for attempt in (kept.store.get, kept.store.delete):
        with pytest.raises(ResponseNotFound) as caught:
            attempt("ws_a", response_id)
        assert len(caught.value.message) < 120


def test_a_workspace_may_keep_none(kept: Kept) -> None:
    """Whether responses are kept is the workspace's own choice."""
    assert [kept.store.keeps(workspace_id) for workspace_id in ("ws_a", "ws_off")] == [True, False]


def test_an_unknown_workspace_keeps_none(postgres_store: Kept) -> None:
    """A workspace that is not there keeps nothing."""
    assert postgres_store.store.keeps("ws_nobody") is False


def test_replicas_see_each_others_at_once(database_url: str, engine: Engine, postgres_store: Kept) -> None:
    """What one process saved or deleted, another knows at its next question."""
    other_engine = make_engine(database_url)
    other = PostgresResponseStore(other_engine, RETENTION)
    for number in range(20):
        response_id = f"resp_{number}"
        postgres_store.store.save("ws_a", stored(response_id, message(str(number))))
        assert other.get("ws_a", response_id).items[0].content.text == str(number)
        other.delete("ws_a", response_id)
        with pytest.raises(ResponseNotFound):
            postgres_store.store.get("ws_a", response_id)
    other_engine.dispose()


def test_retention_is_counted_from_the_save(engine: Engine, postgres_store: Kept) -> None:
    """A response expires the retention time after it was saved, by the database clock; a later change spares it."""
    postgres_store.store.save("ws_a", stored("resp_1"))
    PostgresResponseStore(engine, timedelta(days=1)).save("ws_a", stored("resp_2"))
    with engine.connect() as connection:
        query = text("SELECT expire_time - create_time FROM responses ORDER BY response_id")
        ages = connection.execute(query).scalars().all()
    assert [round(age / timedelta(days=1), 3) for age in ages] == [30, 1]


def test_purge_works_in_steps_from_several_processes(engine: Engine, postgres_store: Kept) -> None:
    """A step removes at most its limit, and two at once neither wait for each other nor count one row twice."""
    fill = text(
        "INSERT INTO responses (workspace_id, response_id, response, items, own_input_from, expire_time) "
        "SELECT 'ws_a', 'resp_' || n, '', '', 0, :expire_time FROM generate_series(1, :count) n"
    )
    past = datetime.now(UTC) - timedelta(days=1)
    with engine.begin() as connection:
        connection.execute(fill, {"expire_time": past, "count": PURGE_LIMIT + 500})
    with ThreadPoolExecutor(2) as pool:
        counts = [future.result(30) for future in [pool.submit(postgres_store.store.purge) for _ in range(2)]]
    assert all(count <= PURGE_LIMIT for count in counts)
    assert sum(counts) + postgres_store.store.purge() == PURGE_LIMIT + 500


def test_an_input_that_is_too_large_is_refused_beforehand() -> None:
    """A conversation of exactly the limit may be stored, one of a byte more is refused with its place."""
    overhead = message("x" * MAX_ITEMS_BYTES).ByteSize() - MAX_ITEMS_BYTES
    fitting = message("x" * (MAX_ITEMS_BYTES - overhead))
    require_storable([fitting])
    with pytest.raises(InvalidRequest) as caught:
        require_storable([fitting, message("")])
    assert caught.value.metadata["param"] == "input"


def test_the_largest_response_is_kept_and_a_larger_one_is_not(postgres_store: Kept) -> None:
    """The largest that may be kept is written within the database's limits; more is answered but not kept."""
    given = stored("resp_1", message("x" * (MAX_ITEMS_BYTES - 100)))
    room = MAX_STORED_BYTES - MAX_ITEMS_BYTES - 200
    given.response.output[0].content.text = "y" * room
    postgres_store.store.save("ws_a", given)
    assert postgres_store.store.get("ws_a", "resp_1").response == given.response
    given.response.id = "resp_2"
    given.response.output[0].content.text = "y" * (room + 400)
    postgres_store.store.save("ws_a", given)
    with pytest.raises(ResponseNotFound):
        postgres_store.store.get("ws_a", "resp_2")


def test_ids_are_what_is_made_here() -> None:
    """An id of the longest kind passes unchanged."""
    assert require_response_id("resp_" + "a" * 123) == "resp_" + "a" * 123


def test_a_database_that_is_away_is_told_as_overloaded() -> None:
    """Every method says that trying again may help."""
    engine = make_engine("postgresql://nobody@127.0.0.1:9/nothing")
    store = PostgresResponseStore(engine, RETENTION)
    for attempt in (
        lambda: store.save("ws_a", stored("resp_1")),
        lambda: store.get("ws_a", "resp_1"),
        lambda: store.delete("ws_a", "resp_1"),
        lambda: store.keeps("ws_a"),
        store.purge,
    ):
        with pytest.raises(Overloaded):
            attempt()
    engine.dispose()
