"""Authentication: who presents a secret, fresh or remembered, what ends it, and the first key of all."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Never

import pytest
from fakes.clock import FakeClock
from fakes.site import PEPPER, Site, make_keys
from sqlalchemy import Engine

from quillgate_core.errors import KeyInvalid, Overloaded
from quillgate_core.key import Credential, Key, KeyEdit, NewKey, NewSecret
from quillgate_core.key_format import new_secret
from quillgate_core.keys import KeyChanges, Keys
from quillgate_core.page import PageStart
from quillgate_core.principal import INFERENCE, SCOPES, Principal
from quillgate_core.principal_cache import PrincipalCache


class FakeAbsentKeyStore:
    """A key store whose database is away: it counts the calls and refuses every one."""

    def __init__(self) -> None:
        self.calls = 0

    def now(self) -> datetime:
        return self._refuse()

    def find(self, digest: bytes) -> Credential | None:
        return self._refuse()

    def insert(self, key: NewKey, secret: NewSecret) -> Key:
        return self._refuse()

    def get(self, key_id: str, *, workspace_id: str | None) -> Key | None:
        return self._refuse()

    def list(self, workspace_id: str, *, limit: int, after: PageStart | None, include_revoked: bool) -> tuple[Key, ...]:
        return self._refuse()

    def edit(
        self, key_id: str, *, workspace_id: str | None, edit: Callable[[Key, datetime], KeyEdit | None]
    ) -> Key | None:
        return self._refuse()

    def write_last_used(self, ages_s: Mapping[str, float]) -> None:
        self._refuse()

    def bootstrap(self, workspace_name: str, key: NewKey, secret: NewSecret) -> bool:
        return self._refuse()

    def _refuse(self) -> Never:
        self.calls += 1
        raise Overloaded("away")


@pytest.mark.parametrize(
    "secret",
    ["", "sk-other", "qg_live_", "qg_live_" + "a" * 36, pytest.param(new_secret() + " ", id="space"), "\ud800", "\0"],
)
def test_malformed_secret_costs_no_query(secret: str) -> None:
    """Shape and checksum are looked at first, so junk never reaches the database."""
    store = FakeAbsentKeyStore()
    keys = Keys(store, pepper=PEPPER)
    with pytest.raises(KeyInvalid):
        keys.authenticate(secret)
    assert keys.authenticate_cached(secret) is None
    assert store.calls == 0


def test_every_dead_secret_gets_the_same_answer(site: Site) -> None:
    """Malformed, unknown, revoked, expired and rotated-away secrets cannot be told apart."""
    workspace_id = site.workspace().workspace_id
    revoked, revoked_secret = site.key(workspace_id, INFERENCE)
    site.keys.revoke(site.admin, revoked.key_id)
    expired, expired_secret = site.key(workspace_id, INFERENCE)
    site.run("UPDATE keys SET expire_time = clock_timestamp() WHERE key_id = :key_id", key_id=expired.key_id)
    rotated, rotated_secret = site.key(workspace_id, INFERENCE)
    site.keys.rotate(site.admin, rotated.key_id, overlap_s=0)
    answers = set()
    for secret in ("junk", new_secret(), revoked_secret, expired_secret, rotated_secret):
        with pytest.raises(KeyInvalid) as caught:
            site.keys.authenticate(secret)
        answers.add((caught.value.message, tuple(caught.value.metadata.items())))
    assert len(answers) == 1


def test_another_pepper_knows_no_key(site: Site) -> None:
    """Without the pepper the database's digests are worth nothing."""
    _, secret = site.key(site.workspace().workspace_id, INFERENCE)
    other = make_keys(site.engine, site.clock, pepper=b"\1" * 32)
    with pytest.raises(KeyInvalid):
        other.authenticate(secret)


def test_authenticating_is_always_fresh(site: Site) -> None:
    """A change made on another replica is seen by the next `authenticate`."""
    key, secret = site.key(site.workspace().workspace_id, INFERENCE)
    here = site.replica()
    assert here.authenticate(secret).key_revision == 1
    site.keys.update(site.admin, key.key_id, changes=KeyChanges(scopes=SCOPES))
    assert here.authenticate(secret).scopes == set(SCOPES)
    site.keys.revoke(site.admin, key.key_id)
    with pytest.raises(KeyInvalid):
        here.authenticate(secret)


def test_cached_principal_needs_no_database(site: Site) -> None:
    """What `authenticate` found is remembered for 30 s, and asked afresh after that."""
    _, secret = site.key(site.workspace().workspace_id, INFERENCE)
    assert site.keys.authenticate_cached(secret) is None
    principal = site.keys.authenticate(secret)
    site.clock.now_s += 29.9
    assert site.keys.authenticate_cached(secret) is principal
    site.clock.now_s += 0.1
    assert site.keys.authenticate_cached(secret) is None


def test_use_does_not_prolong_a_cached_principal(site: Site) -> None:
    """An entry lives 30 s from its authentication, however often it is used."""
    _, secret = site.key(site.workspace().workspace_id, INFERENCE)
    site.keys.authenticate(secret)
    for _ in range(3):
        site.clock.now_s += 9
        assert site.keys.authenticate_cached(secret) is not None
    site.clock.now_s += 9
    assert site.keys.authenticate_cached(secret) is None


def test_cached_principal_ends_with_its_secret(site: Site) -> None:
    """A rotated-away secret stops at the end of the overlap, not up to 30 s later."""
    key, old = site.key(site.workspace().workspace_id, INFERENCE)
    _, new = site.keys.rotate(site.admin, key.key_id, overlap_s=10)
    site.keys.authenticate(old)
    site.keys.authenticate(new)
    site.clock.now_s += 10
    assert site.keys.authenticate_cached(old) is None
    assert site.keys.authenticate_cached(new) is not None


def test_cached_principal_ends_with_its_key(site: Site) -> None:
    """A key's own expiry bounds the cache in the same way."""
    end = datetime.now(UTC) + timedelta(seconds=20)
    _, secret = site.key(site.workspace().workspace_id, INFERENCE, expire_time=end)
    site.keys.authenticate(secret)
    site.clock.now_s += 20
    assert site.keys.authenticate_cached(secret) is None


@pytest.mark.parametrize("change", ["update", "rotate", "revoke", "forget"])
def test_changes_made_here_empty_the_cache(site: Site, change: str) -> None:
    """A process that changes a key, or is told that it changed, forgets it at once."""
    key, secret = site.key(site.workspace().workspace_id, INFERENCE)
    site.keys.authenticate(secret)
    calls: dict[str, Callable[[], object]] = {
        "update": lambda: site.keys.update(site.admin, key.key_id, changes=KeyChanges(name="new")),
        "rotate": lambda: site.keys.rotate(site.admin, key.key_id, overlap_s=60),
        "revoke": lambda: site.keys.revoke(site.admin, key.key_id),
        "forget": lambda: site.keys.forget(key.key_id),
    }
    calls[change]()
    assert site.keys.authenticate_cached(secret) is None


def test_every_change_shows_in_the_revision(site: Site) -> None:
    """A replica that still remembers the key holds an older revision, which the reservation will refuse."""
    key, secret = site.key(site.workspace().workspace_id, INFERENCE)
    here = site.replica()
    revisions = [here.authenticate(secret).key_revision]
    changes: list[Callable[[], Key]] = [
        lambda: site.keys.update(site.admin, key.key_id, changes=KeyChanges(name="new")),
        lambda: site.keys.rotate(site.admin, key.key_id, overlap_s=60)[0],
        lambda: site.keys.revoke(site.admin, key.key_id),
    ]
    for change in changes:
        remembered = here.authenticate_cached(secret)
        assert remembered is not None and remembered.key_revision == revisions[0]
        revisions.append(change().revision)
    assert revisions == [1, 2, 3, 4]


def test_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    """Beyond its capacity the cache forgets what was not used for longest."""
    cache = PrincipalCache(capacity=2, max_age_s=30, monotonic=FakeClock())
    principal = Principal("key_1", 1, "ws_1", frozenset())
    cache.put(b"1", principal, valid_s=None)
    cache.put(b"2", principal, valid_s=None)
    assert cache.get(b"1") is principal
    cache.put(b"3", principal, valid_s=None)
    assert [cache.get(digest) for digest in (b"1", b"2", b"3")] == [principal, None, principal]


def test_last_used_time_is_written_lazily(site: Site) -> None:
    """Uses are only noted until they are flushed, then stored as the time of the use, never moving back."""
    keys = [site.key(site.workspace().workspace_id, INFERENCE)[0] for _ in range(3)]
    site.keys.flush_last_used()
    site.keys.touch(keys[0].key_id)
    site.clock.now_s += 20
    site.keys.touch(keys[1].key_id)
    site.keys.touch("key_of_nobody")
    assert site.keys.get(site.admin, keys[0].key_id).last_used_time is None
    site.keys.flush_last_used()
    first, second, third = (site.keys.get(site.admin, key.key_id).last_used_time for key in keys)
    assert first is not None and second is not None
    assert second - first == timedelta(seconds=20)
    assert third is None
    site.replica().flush_last_used()
    late = site.replica()
    late.touch(keys[1].key_id)
    site.clock.now_s += 3_600
    late.flush_last_used()
    assert site.keys.get(site.admin, keys[1].key_id).last_used_time == second


def test_notes_survive_a_database_that_is_away() -> None:
    """A failed flush keeps its notes for the next one, and says that it failed."""
    store = FakeAbsentKeyStore()
    keys = Keys(store, pepper=PEPPER)
    keys.touch("key_1")
    for attempt in (1, 2):
        with pytest.raises(Overloaded):
            keys.flush_last_used()
        assert store.calls == attempt


def test_touching_changes_no_revision(site: Site) -> None:
    """Being used is no change of the key, so nobody's cache goes stale."""
    key, _ = site.key(site.workspace().workspace_id, INFERENCE)
    site.keys.touch(key.key_id)
    site.keys.flush_last_used()
    assert site.keys.get(site.admin, key.key_id).revision == key.revision


def test_first_start_makes_one_admin_key(engine: Engine) -> None:
    """The first start makes the workspace "default" without limit and a key with every scope; later starts nothing."""
    keys = make_keys(engine, FakeClock())
    secret = keys.bootstrap()
    assert secret is not None
    principal = keys.authenticate(secret)
    assert (principal.scopes, principal.allowed_models, principal.expire_time) == (frozenset(SCOPES), (), None)
    with engine.connect() as connection:
        row = connection.exec_driver_sql("SELECT workspace_id, name, daily_message_allowance FROM workspaces").one()
    assert tuple(row) == (principal.workspace_id, "default", None)
    assert keys.bootstrap() is None
    keys.revoke(principal, principal.key_id)
    assert keys.bootstrap() is None


def test_racing_first_starts_make_one_admin_key(engine: Engine) -> None:
    """Of replicas that start at once on an empty database exactly one makes the key."""
    replicas = [make_keys(engine, FakeClock()) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        secrets = list(pool.map(Keys.bootstrap, replicas))
    assert sum(secret is not None for secret in secrets) == 1
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM keys").scalar_one() == 1
