"""Changes of the catalogue in PostgreSQL: each counts up the revision, and one core at a time reads a list."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from quillgate_core.discovered import DiscoveredModel
from quillgate_core.errors import Overloaded
from quillgate_core.live_catalogue import CatalogueState
from quillgate_core.pricing import Price, PriceTier
from quillgate_core.storage.catalogue_store import PostgresCatalogueStore
from quillgate_core.storage.engine import make_engine
from quillgate_core.upstream import ListedModel

FULL = ListedModel(
    "up/m",
    context_window=10**8,
    max_output_tokens=9,
    input_modalities=("text", "image"),
    output_modalities=("text",),
    price=Price("0.15", "1", "0.5", "2", (PriceTier(7, "3", "4"),)),
    description="Zoë's model",
    created=1_700_000_000,
)
BARE = ListedModel("up/bare")


@pytest.fixture
def store(engine: Engine) -> PostgresCatalogueStore:
    """A store on a fresh database."""
    return PostgresCatalogueStore(engine)


def _found(listed: ListedModel, model_id: str = "g/m") -> DiscoveredModel:
    return DiscoveredModel("p", listed.model, model_id, listed)


def test_a_fresh_database_has_no_changes(store: PostgresCatalogueStore) -> None:
    """Before the first change there is nothing to read, at revision 0."""
    assert store.read() == CatalogueState()
    assert store.revision() == 0


def test_what_is_written_is_read(store: PostgresCatalogueStore) -> None:
    """Switches, aliases and lists come back as they were given, also those that say nothing."""
    store.set_enabled("g/off", enabled=False)
    store.set_alias("fast", "g/m")
    store.write_discovered("p", listed=[_found(FULL), _found(BARE)])
    assert store.read() == CatalogueState(
        revision=3,
        disabled=frozenset({"g/off"}),
        aliases={"fast": "g/m"},
        discovered=(_found(BARE), _found(FULL)),
    )


def test_every_change_counts(store: PostgresCatalogueStore) -> None:
    """A change makes the revision grow; repeating one that cannot change anything does not."""
    steps = [
        (lambda: store.set_enabled("g/m", enabled=True), 0),
        (lambda: store.set_enabled("g/m", enabled=False), 1),
        (lambda: store.set_enabled("g/m", enabled=False), 0),
        (lambda: store.set_enabled("g/m", enabled=True), 1),
        (lambda: store.delete_alias("fast"), 0),
        (lambda: store.set_alias("fast", "g/m"), 1),
        (lambda: store.set_alias("fast", "g/n"), 1),
        (lambda: store.delete_alias("fast"), 1),
        (lambda: store.write_discovered("p", listed=[_found(BARE)]), 1),
        (lambda: store.write_discovered("p", listed=[], gone=["up/bare"]), 1),
    ]
    revision = 0
    for step, grows in steps:
        step()
        revision += grows
        assert store.revision() == revision
    assert store.read() == CatalogueState(revision=revision)


def test_an_alias_is_forgotten_once(store: PostgresCatalogueStore) -> None:
    """Forgetting tells whether there was anything to forget."""
    store.set_alias("fast", "g/m")
    assert [store.delete_alias("fast"), store.delete_alias("fast")] == [True, False]


def test_a_list_replaces_its_own_entries_only(store: PostgresCatalogueStore) -> None:
    """Upserts change what they name, `gone` takes away what it names, and other providers' entries stay."""
    other = DiscoveredModel("q", "up/bare", "g/other", BARE)
    store.write_discovered("q", listed=[other])
    store.write_discovered("p", listed=[_found(FULL), _found(BARE)])
    store.write_discovered("p", listed=[_found(FULL, "g/renamed")], gone=["up/bare", "up/none"])
    assert store.read().discovered == (_found(FULL, "g/renamed"), other)


def test_two_cores_may_write_one_list(store: PostgresCatalogueStore) -> None:
    """Writers of the same entries wait for each other; none fails, and the last one stands."""
    many = [DiscoveredModel("p", f"m{number}", f"g/m{number}", BARE) for number in range(50)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda turn: store.write_discovered("p", listed=many[:: 1 - 2 * (turn % 2)]), range(8)))
    assert len(store.read().discovered) == 50
    assert store.revision() == 8


def test_a_row_that_cannot_be_read_is_passed_over(store: PostgresCatalogueStore, engine: Engine) -> None:
    """What a newer release wrote, or somebody by hand, hides the other rows from nobody."""
    store.write_discovered("p", listed=[_found(FULL), _found(BARE)])
    with engine.begin() as connection:
        connection.execute(
            text("""UPDATE discovered_models SET listed = '{"model": 3}' WHERE upstream_model = 'up/m'""")
        )
    assert store.read().discovered == (_found(BARE),)


def test_one_core_reads_a_list_in_a_period(store: PostgresCatalogueStore, engine: Engine) -> None:
    """Of many claims at once one is granted, for this provider, until the period is over by the database's clock."""
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: store.claim_discovery("p", 3_600), range(8)))
    assert claims.count(True) == 1
    assert store.claim_discovery("q", 3_600)
    with engine.begin() as connection:
        connection.execute(text("UPDATE discoveries SET attempt_time = attempt_time - interval '1 hour'"))
    assert [store.claim_discovery("p", 3_600), store.claim_discovery("p", 3_600)] == [True, False]
    assert store.claim_discovery("p", 0)


def test_without_a_database_every_call_says_so() -> None:
    """A database that is away is Overloaded, whatever is asked."""
    store = PostgresCatalogueStore(make_engine("postgresql://nobody@127.0.0.1:1/none"))
    for call in (store.revision, store.read, lambda: store.claim_discovery("p", 1)):
        with pytest.raises(Overloaded):
            call()
