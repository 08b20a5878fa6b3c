"""The key store's transactions: edits that race or fail, and what it does when the database is away."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from threading import Event

import pytest
from fakes.site import Site, open_site
from sqlalchemy import Engine

from quillgate_core.errors import KeyRevoked, Overloaded
from quillgate_core.key import Key, KeyEdit, NewSecret
from quillgate_core.principal import INFERENCE, SCOPES
from quillgate_core.storage.engine import make_engine
from quillgate_core.storage.key_store import PostgresKeyStore
from quillgate_core.storage.workspace_store import PostgresWorkspaceStore


@pytest.fixture
def site(engine: Engine) -> Site:
    """Keys and workspaces on a fresh database, and the first admin."""
    return open_site(engine)


def test_an_edit_decides_on_the_latest_key(site: Site) -> None:
    """Of two edits at once the second waits and sees the first's result: no check is made on values about to change."""
    key, _ = site.key(site.admin.workspace_id, INFERENCE)
    store = PostgresKeyStore(site.engine)
    first_decides, first_may_end = Event(), Event()
    seen: list[Key] = []

    def strengthen(key: Key, now: datetime) -> KeyEdit:
        first_decides.set()
        first_may_end.wait(10)
        return KeyEdit(replace(key, scopes=SCOPES))

    def look(key: Key, now: datetime) -> None:
        seen.append(key)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.edit, key.key_id, workspace_id=None, edit=strengthen)
        assert first_decides.wait(10)
        second = pool.submit(store.edit, key.key_id, workspace_id=None, edit=look)
        first_may_end.set()
        assert first.result(10) == second.result(10) == replace(key, scopes=SCOPES, revision=2)
    assert seen == [replace(key, scopes=SCOPES, revision=2)]


def test_a_refused_edit_changes_nothing(site: Site) -> None:
    """What the decision raises reaches the caller as it is, and nothing is written."""
    key, _ = site.key(site.admin.workspace_id, INFERENCE)

    def refuse(key: Key, now: datetime) -> KeyEdit:
        raise KeyRevoked(key.key_id)

    with pytest.raises(KeyRevoked):
        PostgresKeyStore(site.engine).edit(key.key_id, workspace_id=None, edit=refuse)
    assert site.keys.get(site.admin, key.key_id) == key


def test_an_edit_reaches_its_workspace_only(site: Site) -> None:
    """With a workspace given, a key elsewhere is never even shown to the decision."""
    key, _ = site.key(site.workspace().workspace_id, INFERENCE)

    def fail(key: Key, now: datetime) -> KeyEdit:
        raise AssertionError(key)

    store = PostgresKeyStore(site.engine)
    assert store.edit(key.key_id, workspace_id=site.admin.workspace_id, edit=fail) is None


def test_last_used_never_moves_back(site: Site) -> None:
    """A late report of an earlier use leaves the time of the later one."""
    key, _ = site.key(site.admin.workspace_id, INFERENCE)
    store = PostgresKeyStore(site.engine)
    store.write_last_used({key.key_id: 5.0})
    time = site.keys.get(site.admin, key.key_id).last_used_time
    store.write_last_used({key.key_id: 3_600.0})
    assert time is not None
    assert site.keys.get(site.admin, key.key_id).last_used_time == time


_KEY_CALLS: dict[str, Callable[[PostgresKeyStore], object]] = {
    "now": lambda store: store.now(),
    "find": lambda store: store.find(bytes(32)),
    "get": lambda store: store.get("key_1", workspace_id=None),
    "list": lambda store: store.list("ws_1", limit=1, after=None, include_revoked=False),
    "edit": lambda store: store.edit("key_1", workspace_id=None, edit=lambda key, now: None),
    "write_last_used": lambda store: store.write_last_used({"key_1": 1.0}),
}


@pytest.mark.parametrize("call", _KEY_CALLS)
def test_absent_database_is_overload(call: str) -> None:
    """Every call says "try again" when there is no connection."""
    with pytest.raises(Overloaded):
        _KEY_CALLS[call](PostgresKeyStore(make_engine("postgresql://127.0.0.1:1/quillgate")))


def test_absent_database_is_overload_for_workspaces() -> None:
    """The workspace store says the same."""
    store = PostgresWorkspaceStore(make_engine("postgresql://127.0.0.1:1/quillgate"))
    with pytest.raises(Overloaded):
        store.get("ws_1")


def test_digest_is_all_that_find_looks_at(site: Site) -> None:
    """A digest that differs in one bit finds nothing."""
    key, _ = site.key(site.admin.workspace_id, INFERENCE)
    store = PostgresKeyStore(site.engine)
    digest = bytes(31) + b"\1"
    store.edit(key.key_id, workspace_id=None, edit=lambda key, now: KeyEdit(key, NewSecret(digest, "last"), now))
    found = store.find(digest)
    assert found is not None and found.key.last4 == "last"
    assert store.find(bytes(32)) is None
