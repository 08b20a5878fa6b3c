"""The store of provider keys: one a workspace and provider, both revisions grow with every change, batches are safe."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from quillgate_core.errors import Overloaded, ProviderCredentialNotFound, WorkspaceNotFound
from quillgate_core.provider_credential import NewProviderCredential, ProviderCredential, Unrotated
from quillgate_core.sealing import Sealed
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.provider_credential_store import (
    PostgresProviderCredentialStore,
    has_provider_credentials,
)


@pytest.fixture
def store(engine: Engine) -> PostgresProviderCredentialStore:
    """A store with the workspaces `ws_a` and `ws_b`."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO workspaces (workspace_id, name) VALUES ('ws_a', 'n'), ('ws_b', 'n')"))
    return PostgresProviderCredentialStore(engine)


def _new(credential_id: str = "cred_1", **members: Any) -> NewProviderCredential:
    given = {
        "workspace_id": "ws_a",
        "provider": "openai",
        "base_url": "",
        "last4": "wxyz",
        "allow_fallback": False,
        "sealed": Sealed(b"\x00c", b"\xffd", "old"),
    }
    return NewProviderCredential(credential_id=credential_id, **{**given, **members})


def _revisions(engine: Engine) -> tuple[int, int, int]:
    query = """
        SELECT (SELECT credential_revision FROM workspaces WHERE workspace_id = 'ws_a'),
               (SELECT credential_revision FROM workspaces WHERE workspace_id = 'ws_b'),
               (SELECT revision FROM shared_revisions WHERE name = 'provider_credentials')
    """
    with engine.connect() as connection:
        a, b, shared = connection.execute(text(query)).one()
    return a, b, shared


def test_what_was_put_comes_back(store: PostgresProviderCredentialStore) -> None:
    """Every member is kept as given, bytes included, with the database's time."""
    new = _new(base_url="https://x.example", allow_fallback=True)
    kept = store.put(new)
    assert store.get("ws_a", "openai") == kept
    assert store.list("ws_a") == (kept,)
    members = {name: getattr(kept, name) for name in NewProviderCredential.__dataclass_fields__}
    assert NewProviderCredential(**members) == new
    assert kept.create_time.tzinfo is not None


def test_a_key_takes_the_place_of_the_one_before(store: PostgresProviderCredentialStore) -> None:
    """A workspace has one key with a provider: the newest, with its own id and time; others' stay."""
    first = store.put(_new("cred_1"))
    store.put(_new("cred_b", workspace_id="ws_b"))
    store.put(_new("cred_g", provider="groq"))
    second = store.put(_new("cred_2", sealed=Sealed(b"2", b"2", "new"), allow_fallback=True))
    assert second.create_time > first.create_time
    assert [credential.credential_id for credential in store.list("ws_a")] == ["cred_g", "cred_2"]
    assert store.get("ws_a", "openai") == second
    assert store.get("ws_b", "openai").credential_id == "cred_b"


def test_every_change_makes_both_revisions_grow(engine: Engine, store: PostgresProviderCredentialStore) -> None:
    """Putting and deleting bump the workspace's own revision and the shared one, and no other workspace's."""
    assert _revisions(engine) == (0, 0, 0) == (0, 0, store.revision())
    store.put(_new())
    assert _revisions(engine) == (1, 0, 1)
    store.put(_new("cred_2"))
    assert _revisions(engine) == (2, 0, 2)
    store.delete("ws_a", "openai")
    assert _revisions(engine) == (3, 0, 3) == (3, 0, store.revision())


def test_what_changes_nothing_bumps_nothing(engine: Engine, store: PostgresProviderCredentialStore) -> None:
    """A refused change leaves every revision as it was."""
    store.put(_new())
    with pytest.raises(WorkspaceNotFound):
        store.put(_new("cred_2", workspace_id="ws_nobody"))
    with pytest.raises(ProviderCredentialNotFound):
        store.delete("ws_a", "groq")
    assert _revisions(engine) == (1, 0, 1)


def test_unknown_workspaces_and_providers_are_told_apart(store: PostgresProviderCredentialStore) -> None:
    """A workspace that is not there is WorkspaceNotFound everywhere; one without the key is not."""
    store.put(_new())
    for attempt in (
        lambda: store.list("ws_nobody"),
        lambda: store.get("ws_nobody", "openai"),
        lambda: store.delete("ws_nobody", "openai"),
    ):
        with pytest.raises(WorkspaceNotFound) as caught:
            attempt()
        assert caught.value.metadata == {"workspace_id": "ws_nobody"}
    for missing in (lambda: store.get("ws_b", "openai"), lambda: store.delete("ws_b", "openai")):
        with pytest.raises(ProviderCredentialNotFound) as not_found:
            missing()
        assert not_found.value.metadata == {"provider": "openai"}
    assert store.list("ws_b") == ()


def test_every_has_all_that_ever_had_one(store: PostgresProviderCredentialStore) -> None:
    """All sets come with their revisions, also that of a workspace which has no key any more; others do not."""
    assert store.every().sets == {}
    kept = (store.put(_new("cred_g", provider="groq")), store.put(_new("cred_o")))
    store.put(_new("cred_b", workspace_id="ws_b"))
    store.delete("ws_b", "openai")
    every = store.every()
    assert every.revision == store.revision() == 4
    assert {name: (found.revision, found.credentials) for name, found in every.sets.items()} == {
        "ws_a": (2, kept),
        "ws_b": (2, ()),
    }


def _resealing(refused: tuple[str, ...] = ()) -> Callable[[ProviderCredential], Sealed | None]:
    def reseal(credential: ProviderCredential) -> Sealed | None:
        if credential.credential_id in refused:
            return None
        return Sealed(credential.sealed.ciphertext, b"new " + credential.credential_id.encode(), "new")

    return reseal


def _fill(store: PostgresProviderCredentialStore, count: int) -> None:
    for number in range(count):
        store.put(_new(f"cred_{number:03}", provider=f"p{number}"))


def test_rewrapping_goes_in_order_and_step_by_step(engine: Engine, store: PostgresProviderCredentialStore) -> None:
    """A step takes at most its limit, in the order of ids, behind `after`; what is refused stays; it can be resumed."""
    _fill(store, 5)
    step = store.rewrap(["old"], _resealing(("cred_001",)), limit=3, after="")
    assert (step.seen, step.rewrapped, step.last_id) == (3, 2, "cred_002")
    assert store.unrotated(current_id="new", known_ids=["new", "old"]) == Unrotated(3, 0)
    step = store.rewrap(["old"], _resealing(), limit=3, after=step.last_id)
    assert (step.seen, step.rewrapped, step.last_id) == (2, 2, "cred_004")
    step = store.rewrap(["old"], _resealing(), limit=3, after="")
    assert (step.seen, step.rewrapped) == (1, 1)
    assert store.rewrap(["old"], _resealing(), limit=3, after="").seen == 0
    assert store.unrotated(current_id="new", known_ids=["new"]) == Unrotated(0, 0)
    sealed = store.get("ws_a", "p3").sealed
    assert sealed == Sealed(b"\x00c", b"new cred_003", "new")


def test_rewrapping_is_told_to_the_cores(engine: Engine, store: PostgresProviderCredentialStore) -> None:
    """It bumps the shared revision, so that memories follow, but no workspace's: the keys are the same."""
    _fill(store, 1)
    before = _revisions(engine)
    store.rewrap(["other"], _resealing(), limit=3, after="")
    assert _revisions(engine) == before
    store.rewrap(["old"], _resealing(), limit=3, after="")
    assert _revisions(engine) == (before[0], before[1], before[2] + 1)


def test_lost_ones_are_counted_apart(store: PostgresProviderCredentialStore) -> None:
    """Those of a master key that nobody has here remain, and are counted as lost."""
    for name, key_id in (("a", "new"), ("b", "old"), ("c", "gone"), ("d", "gone")):
        store.put(_new(f"cred_{name}", provider=name, sealed=Sealed(b"", b"", key_id)))
    assert store.unrotated(current_id="new", known_ids=["new", "old"]) == Unrotated(3, 2)


def test_several_may_rewrap_at_once(store: PostgresProviderCredentialStore) -> None:
    """Processes that rewrap together neither wait for each other nor take one row twice."""
    _fill(store, 60)
    taken: list[str] = []

    def reseal(credential: ProviderCredential) -> Sealed | None:
        taken.append(credential.credential_id)
        return _resealing()(credential)

    def work() -> int:
        done = 0
        while step := store.rewrap(["old"], reseal, limit=7, after="").rewrapped:
            done += step
        return done

    with ThreadPoolExecutor(4) as pool:
        total = sum(future.result(30) for future in [pool.submit(work) for _ in range(4)])
    assert total == len(taken) == len(set(taken)) == 60


def test_what_another_process_works_on_is_passed_over(engine: Engine, store: PostgresProviderCredentialStore) -> None:
    """A row that is locked is neither waited for nor seen; it is left for the next call."""
    _fill(store, 3)
    with engine.begin() as other:
        other.execute(text("SELECT * FROM provider_credentials WHERE credential_id = 'cred_001' FOR UPDATE"))
        step = store.rewrap(["old"], _resealing(), limit=3, after="")
    assert (step.seen, step.rewrapped, step.last_id) == (2, 2, "cred_002")
    assert store.rewrap(["old"], _resealing(), limit=3, after="").last_id == "cred_001"


def test_a_failure_in_the_middle_undoes_the_step(store: PostgresProviderCredentialStore) -> None:
    """A process that dies in a step leaves whole rows behind, sealed as before."""
    _fill(store, 3)

    def dies(credential: ProviderCredential) -> Sealed | None:
        if credential.credential_id == "cred_001":
            raise RuntimeError
        return _resealing()(credential)

    with pytest.raises(RuntimeError):
        store.rewrap(["old"], dies, limit=3, after="")
    assert {credential.sealed.master_key_id for credential in store.list("ws_a")} == {"old"}


def test_concurrent_sets_of_one_key_leave_one(engine: Engine, store: PostgresProviderCredentialStore) -> None:
    """Two that set the same key at once both succeed, one of them is kept, and no change is missed."""
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(store.put, _new(f"cred_{number}")) for number in range(20)]
        ids = {future.result(30).credential_id for future in made}
    assert store.get("ws_a", "openai").credential_id in ids
    assert _revisions(engine) == (20, 0, 20)


def test_it_is_known_whether_anything_is_sealed(engine: Engine, store: PostgresProviderCredentialStore) -> None:
    """The first start may make a master key; later ones know that one is needed."""
    assert has_provider_credentials(engine) is False
    store.put(_new())
    assert has_provider_credentials(engine) is True


def test_a_database_that_is_away_is_told_as_overloaded() -> None:
    """Every method says that trying again may help."""
    engine = make_engine("postgresql://nobody@127.0.0.1:9/nothing")
    store = PostgresProviderCredentialStore(engine)
    for attempt in (
        lambda: store.put(_new()),
        lambda: store.list("ws_a"),
        lambda: store.get("ws_a", "openai"),
        lambda: store.delete("ws_a", "openai"),
        store.revision,
        store.every,
        lambda: store.rewrap(["old"], _resealing(), limit=1, after=""),
        lambda: store.unrotated(current_id="new", known_ids=["new"]),
        lambda: has_provider_credentials(engine),
    ):
        with pytest.raises(Overloaded):
            attempt()
    engine.dispose()
