"""Managing keys: making, reading, listing, changing, rotating and revoking them, and who may do that to which."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fakes.site import Site

from quillgate_core.errors import InvalidRequest, KeyInvalid, KeyNotFound, KeyRevoked, ScopeMissing, WorkspaceNotFound
from quillgate_core.key_format import is_well_formed
from quillgate_core.keys import MAX_OVERLAP_S, KeyChanges, Keys
from quillgate_core.principal import INFERENCE, KEYS_MANAGE, PLATFORM_ADMIN, USAGE_READ, WORKSPACE_ADMIN, Principal

_UNKNOWN_KEY_ID = "key_" + "0" * 20
_SOON = timedelta(hours=1)

_CALLS: dict[str, Callable[[Keys, Principal, str], object]] = {
    "get": lambda keys, caller, key_id: keys.get(caller, key_id),
    "update": lambda keys, caller, key_id: keys.update(caller, key_id, changes=KeyChanges(name="taken over")),
    "rotate": lambda keys, caller, key_id: keys.rotate(caller, key_id, overlap_s=0),
    "revoke": lambda keys, caller, key_id: keys.revoke(caller, key_id),
}


def _manager(site: Site, workspace_id: str) -> Principal:
    return site.caller(workspace_id, INFERENCE, USAGE_READ, KEYS_MANAGE)


def test_new_key_is_described_and_works(site: Site) -> None:
    """Create returns the key as stored and a secret that authenticates as it, with scopes and models once each."""
    workspace_id = site.workspace().workspace_id
    end = datetime.now(UTC) + _SOON
    key, secret = site.keys.create(
        site.admin,
        workspace_id=workspace_id,
        name="CI",
        scopes=[USAGE_READ, INFERENCE, USAGE_READ],
        allowed_models=["b", "a", "b"],
        expire_time=end,
    )
    assert is_well_formed(secret)
    assert (key.workspace_id, key.name, key.last4, key.revision) == (workspace_id, "CI", secret[-4:], 1)
    assert (key.scopes, key.allowed_models) == ((INFERENCE, USAGE_READ), ("b", "a"))
    assert (key.expire_time, key.last_used_time, key.revoke_time) == (end, None, None)
    assert site.keys.get(site.admin, key.key_id) == key
    assert site.keys.authenticate(secret) == Principal(
        key.key_id, 1, workspace_id, frozenset([INFERENCE, USAGE_READ]), ("b", "a"), end
    )


def test_secret_is_not_stored(site: Site) -> None:
    """No column of the database holds the secret: only a digest and its last four characters."""
    _, secret = site.key(site.workspace().workspace_id, INFERENCE)
    with site.engine.connect() as connection:
        dump = [
            str(tuple(row))
            for table in ("keys", "key_secrets", "workspaces")
            for row in connection.exec_driver_sql(f"SELECT t::text, t.* FROM {table} t")
        ]
    assert dump
    assert not any(secret[8:-4] in row for row in dump)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        (KeyChanges(name=""), "name"),
        (KeyChanges(name="\t"), "name"),
        (KeyChanges(name="x" * 201), "name"),
        (KeyChanges(name="a\0"), "name"),
        (KeyChanges(name="\udc00"), "name"),
        (KeyChanges(scopes=[]), "scopes"),
        (KeyChanges(scopes=[INFERENCE, "root"]), "scopes[1]"),
        (KeyChanges(scopes=[""]), "scopes[0]"),
        (KeyChanges(allowed_models=["a", ""]), "allowed_models[1]"),
        (KeyChanges(allowed_models=["a\0"]), "allowed_models[0]"),
        (KeyChanges(allowed_models=[str(n) for n in range(201)]), "allowed_models"),
        (KeyChanges(expire_time=datetime(2020, 1, 1, tzinfo=UTC)), "expire_time"),
    ],
)
def test_bad_values_are_refused(site: Site, changes: KeyChanges, param: str) -> None:
    """Create and update refuse the same values, name the parameter, and change nothing."""
    key, _ = site.key(site.workspace().workspace_id, INFERENCE)
    with pytest.raises(InvalidRequest) as caught:
        site.keys.update(site.admin, key.key_id, changes=changes)
    assert caught.value.metadata == {"param": param}
    assert site.keys.get(site.admin, key.key_id) == key
    good: dict[str, Any] = {"name": "n", "scopes": [INFERENCE], "allowed_models": [], "expire_time": None}
    given: dict[str, Any] = {
        name: getattr(changes, name) for name in good if getattr(changes, name) != getattr(KeyChanges(), name)
    }
    with pytest.raises(InvalidRequest) as caught:
        site.keys.create(site.admin, workspace_id=key.workspace_id, **(good | given))
    assert caught.value.metadata == {"param": param}
    assert site.keys.list(site.admin, workspace_id=key.workspace_id) == ((key,), "")


def test_update_changes_only_what_is_named(site: Site) -> None:
    """Every member changes alone, each change is a new revision, and None takes an expiry away."""
    key, secret = site.key(site.workspace().workspace_id, INFERENCE, models=("a",))
    end = datetime.now(UTC) + _SOON
    steps: list[tuple[KeyChanges, dict[str, Any]]] = [
        (KeyChanges(name="new"), {"name": "new"}),
        (KeyChanges(scopes=[USAGE_READ]), {"scopes": (USAGE_READ,)}),
        (KeyChanges(allowed_models=[]), {"allowed_models": ()}),
        (KeyChanges(expire_time=end), {"expire_time": end}),
        (KeyChanges(expire_time=None), {"expire_time": None}),
    ]
    for changes, expected in steps:
        key = replace(key, revision=key.revision + 1, **expected)
        assert site.keys.update(site.admin, key.key_id, changes=changes) == key
        assert site.replica().authenticate(secret).key_revision == key.revision
    assert site.keys.get(site.admin, key.key_id) == key


def test_update_of_nothing_is_refused(site: Site) -> None:
    """An update must name something."""
    with pytest.raises(InvalidRequest) as caught:
        site.keys.update(site.admin, site.admin.key_id, changes=KeyChanges())
    assert caught.value.metadata == {"param": "update_mask"}


def test_pages_follow_creation_and_hide_revoked_keys(site: Site) -> None:
    """Pages repeat and skip nothing; revoked keys are listed only when asked for."""
    workspace_id = site.workspace().workspace_id
    made = [site.key(workspace_id, INFERENCE)[0] for _ in range(5)]
    revoked = site.keys.revoke(site.admin, made[1].key_id)
    first, token = site.keys.list(site.admin, workspace_id=workspace_id, page_size=2)
    second, end = site.keys.list(site.admin, workspace_id=workspace_id, page_size=2, page_token=token)
    assert [*first, *second] == [made[0], *made[2:]]
    assert end == ""
    every, _ = site.keys.list(site.admin, workspace_id=workspace_id, include_revoked=True)
    assert list(every) == [made[0], revoked, *made[2:]]


@pytest.mark.parametrize(("page_size", "page_token", "param"), [(-1, "", "page_size"), (0, "?", "page_token")])
def test_bad_page_is_refused(site: Site, page_size: int, page_token: str, param: str) -> None:
    """A page beyond the limits or a token from elsewhere is a bad request."""
    with pytest.raises(InvalidRequest) as caught:
        site.keys.list(site.admin, page_size=page_size, page_token=page_token)
    assert caught.value.metadata == {"param": param}


@pytest.mark.parametrize("call", _CALLS)
def test_manager_manages_its_own_workspace(site: Site, call: str) -> None:
    """`keys.manage` is enough for keys of one's own workspace that grant no more than one's own."""
    workspace_id = site.workspace().workspace_id
    key, _ = site.key(workspace_id, INFERENCE)
    _CALLS[call](site.keys, _manager(site, workspace_id), key.key_id)


@pytest.mark.parametrize("call", _CALLS)
def test_another_tenants_key_is_unknown(site: Site, call: str) -> None:
    """A foreign key's id, an unknown one and nonsense are answered identically, and the key stays as it was."""
    key, secret = site.key(site.workspace("other").workspace_id, INFERENCE)
    caller = _manager(site, site.workspace("own").workspace_id)
    for key_id in (key.key_id, _UNKNOWN_KEY_ID, "", "key_\0", "\ud800"):
        with pytest.raises(KeyNotFound) as caught:
            _CALLS[call](site.keys, caller, key_id)
        assert caught.value.metadata == {"key_id": key_id}
    assert site.keys.get(site.admin, key.key_id) == key
    site.keys.authenticate(secret)


def test_another_tenants_workspace_is_unknown(site: Site) -> None:
    """Creating and listing in a foreign workspace are answered as if it did not exist, and make nothing."""
    other = site.workspace("other").workspace_id
    caller = _manager(site, site.workspace("own").workspace_id)
    for workspace_id in (other, "ws_" + "0" * 20):
        with pytest.raises(WorkspaceNotFound):
            site.keys.create(caller, workspace_id=workspace_id, name="x", scopes=[INFERENCE])
        with pytest.raises(WorkspaceNotFound):
            site.keys.list(caller, workspace_id=workspace_id)
    assert site.keys.list(site.admin, workspace_id=other) == ((), "")


def test_a_page_token_opens_no_other_workspace(site: Site) -> None:
    """The token of somebody else's list only says where to go on in one's own."""
    other, own = site.workspace("other").workspace_id, site.workspace("own").workspace_id
    site.key(other, INFERENCE)
    site.key(other, INFERENCE)
    caller = _manager(site, own)
    _, token = site.keys.list(site.admin, workspace_id=other, page_size=1)
    page, _ = site.keys.list(caller, page_token=token)
    assert {key.workspace_id for key in page} == {own}


def test_admin_manages_every_workspace(site: Site) -> None:
    """`platform.admin` reaches any key, and hears about a workspace that does not exist."""
    key, _ = site.key(site.workspace().workspace_id, INFERENCE)
    for call in _CALLS.values():
        call(site.keys, site.admin, key.key_id) if key.revoke_time is None else None
    with pytest.raises(WorkspaceNotFound):
        site.keys.create(site.admin, workspace_id="ws_" + "0" * 20, name="x", scopes=[INFERENCE])
    with pytest.raises(WorkspaceNotFound):
        site.keys.list(site.admin, workspace_id="ws_" + "0" * 20)


def test_every_call_needs_the_scope(site: Site) -> None:
    """Without `keys.manage` nothing is managed, not even one's own key."""
    caller = site.caller(site.workspace().workspace_id, INFERENCE, USAGE_READ, WORKSPACE_ADMIN)
    calls: list[Callable[[], object]] = [
        lambda: site.keys.create(caller, name="x", scopes=[INFERENCE]),
        lambda: site.keys.list(caller),
        lambda: site.keys.introspect(caller, "qg_live_"),
    ]
    calls += [lambda call=call: call(site.keys, caller, caller.key_id) for call in _CALLS.values()]  # type: ignore[misc]
    for call in calls:
        with pytest.raises(ScopeMissing) as caught:
            call()
        assert caught.value.metadata == {"scope": KEYS_MANAGE}


def test_rotation_lets_the_old_secret_overlap(site: Site) -> None:
    """After a rotation both secrets work until the overlap ends, then the new one alone; the key stays the same."""
    key, old = site.key(site.workspace().workspace_id, INFERENCE)
    rotated, new = site.keys.rotate(site.admin, key.key_id, overlap_s=3_600)
    assert rotated == replace(key, revision=2, last4=new[-4:])
    before, after = site.keys.authenticate(old), site.keys.authenticate(new)
    assert before.key_id == after.key_id == key.key_id
    assert after.expire_time is None
    assert before.expire_time is not None
    _let_overlap_end(site)
    with pytest.raises(KeyInvalid):
        site.keys.authenticate(old)
    assert site.keys.authenticate(new) == after


def test_rotation_without_overlap_ends_the_old_secret_at_once(site: Site) -> None:
    """With overlap 0 the old secret is refused from the next request on."""
    key, old = site.key(site.workspace().workspace_id, INFERENCE)
    _, new = site.keys.rotate(site.admin, key.key_id, overlap_s=0)
    with pytest.raises(KeyInvalid):
        site.keys.authenticate(old)
    site.keys.authenticate(new)


def test_rotating_again_never_prolongs_an_old_secret(site: Site) -> None:
    """An older secret ends at the earlier of its own end and the new overlap's; ended ones are removed."""
    key, first = site.key(site.workspace().workspace_id, INFERENCE)
    _, second = site.keys.rotate(site.admin, key.key_id, overlap_s=60)
    ends = site.keys.authenticate(first).expire_time
    _, third = site.keys.rotate(site.admin, key.key_id, overlap_s=MAX_OVERLAP_S)
    assert site.keys.authenticate(first).expire_time == ends
    later = site.keys.authenticate(second).expire_time
    assert ends is not None and later is not None and later > ends
    site.keys.rotate(site.admin, key.key_id, overlap_s=1)
    shortened = site.keys.authenticate(third).expire_time
    assert shortened is not None and shortened < ends
    _let_overlap_end(site)
    site.keys.rotate(site.admin, key.key_id, overlap_s=60)
    with site.engine.connect() as connection:
        query = f"SELECT count(*) FROM key_secrets WHERE key_id = '{key.key_id}'"
        assert connection.exec_driver_sql(query).scalar_one() == 2


@pytest.mark.parametrize("overlap_s", [-1, MAX_OVERLAP_S + 1])
def test_overlap_is_bounded(site: Site, overlap_s: int) -> None:
    """An overlap is 0 to 7 days."""
    with pytest.raises(InvalidRequest) as caught:
        site.keys.rotate(site.admin, site.admin.key_id, overlap_s=overlap_s)
    assert caught.value.metadata == {"param": "overlap"}


def test_revocation_is_final_and_idempotent(site: Site) -> None:
    """A revoked key works no more, keeps the first revocation's time, and can be neither changed nor rotated."""
    key, secret = site.key(site.workspace().workspace_id, INFERENCE)
    revoked = site.keys.revoke(site.admin, key.key_id)
    assert revoked.revoke_time is not None
    assert revoked.revision == 2
    assert site.keys.revoke(site.admin, key.key_id) == revoked
    with pytest.raises(KeyInvalid):
        site.keys.authenticate(secret)
    for call in (_CALLS["update"], _CALLS["rotate"]):
        with pytest.raises(KeyRevoked) as caught:
            call(site.keys, site.admin, key.key_id)
        assert caught.value.metadata == {"key_id": key.key_id}
    assert site.keys.get(site.admin, key.key_id) == revoked


def test_a_key_may_revoke_itself(site: Site) -> None:
    """Handing back one's own key is allowed."""
    _, secret = site.key(site.workspace().workspace_id, KEYS_MANAGE)
    caller = site.keys.authenticate(secret)
    site.keys.revoke(caller, caller.key_id)
    with pytest.raises(KeyInvalid):
        site.keys.authenticate(secret)


def test_introspection_shows_live_keys_that_the_caller_may_manage(site: Site) -> None:
    """An internal service learns the key behind a secret; dead, malformed and foreign secrets look the same."""
    own, other = site.workspace("own").workspace_id, site.workspace("other").workspace_id
    caller = _manager(site, own)
    key, secret = site.key(own, INFERENCE, PLATFORM_ADMIN)
    foreign, foreign_secret = site.key(other, INFERENCE)
    assert site.keys.introspect(caller, secret) == key
    assert site.keys.introspect(caller, foreign_secret) is None
    assert site.keys.introspect(caller, "Bearer nonsense") is None
    assert site.keys.introspect(site.admin, foreign_secret) == foreign
    site.keys.revoke(site.admin, key.key_id)
    assert site.keys.introspect(caller, secret) is None


def _let_overlap_end(site: Site) -> None:
    site.run("UPDATE key_secrets SET expire_time = clock_timestamp() WHERE expire_time IS NOT NULL")
