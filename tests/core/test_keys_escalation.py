"""Self-escalation: whatever a key makes, changes or rotates never grants more than the key itself."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest
from fakes.site import Site

from quillgate_core.errors import InvalidRequest, ModelNotAllowed, ScopeMissing
from quillgate_core.grants import MAX_LIMIT
from quillgate_core.key import Key, KeyLimitChanges, KeyLimits
from quillgate_core.keys import KeyChanges
from quillgate_core.principal import (
    INFERENCE,
    KEYS_MANAGE,
    PLATFORM_ADMIN,
    SCOPES,
    USAGE_READ,
    WORKSPACE_ADMIN,
    Principal,
)

_LATER = timedelta(days=2)


def _own_workspace(site: Site) -> str:
    return site.workspace().workspace_id


@pytest.mark.parametrize("scope", [INFERENCE, USAGE_READ, WORKSPACE_ADMIN, PLATFORM_ADMIN])
def test_no_scope_beyond_ones_own(site: Site, scope: str) -> None:
    """A key that may only manage keys can neither make nor turn a key, not even itself, into one that may do more."""
    caller = site.caller(_own_workspace(site), KEYS_MANAGE)
    weak, _ = site.keys.create(caller, name="as weak", scopes=[KEYS_MANAGE])
    for attempt in (
        lambda: site.keys.create(caller, name="x", scopes=[KEYS_MANAGE, scope]),
        lambda: site.keys.update(caller, weak.key_id, changes=KeyChanges(scopes=[KEYS_MANAGE, scope])),
        lambda: site.keys.update(caller, caller.key_id, changes=KeyChanges(scopes=[scope])),
    ):
        with pytest.raises(ScopeMissing) as caught:
            attempt()
        assert caught.value.metadata == {"scope": scope}
    assert site.keys.get(caller, weak.key_id) == weak


@pytest.mark.parametrize("scope", [INFERENCE, USAGE_READ, WORKSPACE_ADMIN, PLATFORM_ADMIN])
def test_stronger_keys_are_out_of_reach(site: Site, scope: str) -> None:
    """A key with a scope that the caller lacks can be seen, but not rotated (that would hand out its secret),
    changed or revoked."""
    workspace_id = _own_workspace(site)
    strong, secret = site.key(workspace_id, KEYS_MANAGE, scope)
    caller = site.caller(workspace_id, KEYS_MANAGE)
    for attempt in (
        lambda: site.keys.rotate(caller, strong.key_id, overlap_s=0),
        lambda: site.keys.update(caller, strong.key_id, changes=KeyChanges(name="mine")),
        lambda: site.keys.update(caller, strong.key_id, changes=KeyChanges(scopes=[KEYS_MANAGE])),
        lambda: site.keys.revoke(caller, strong.key_id),
    ):
        with pytest.raises(ScopeMissing) as caught:
            attempt()
        assert caught.value.metadata == {"scope": scope}
    assert site.keys.get(caller, strong.key_id) == strong
    site.keys.authenticate(secret)


def test_platform_admin_may_grant_every_scope(site: Site) -> None:
    """The strongest scope implies all, so a key that has only it makes keys with any."""
    caller = site.caller(_own_workspace(site), PLATFORM_ADMIN)
    key, _ = site.keys.create(caller, name="x", scopes=SCOPES)
    assert key.scopes == SCOPES
    site.keys.rotate(caller, key.key_id, overlap_s=0)


def test_a_new_key_inherits_the_allow_list(site: Site) -> None:
    """A caller that may use some models makes keys for those by default, or for a part of them."""
    caller = site.caller(_own_workspace(site), KEYS_MANAGE, models=("a", "b"))
    assert site.keys.create(caller, name="x", scopes=[KEYS_MANAGE])[0].allowed_models == ("a", "b")
    narrow, _ = site.keys.create(caller, name="x", scopes=[KEYS_MANAGE], allowed_models=["b"])
    assert narrow.allowed_models == ("b",)


@pytest.mark.parametrize("scopes", [(KEYS_MANAGE,), (PLATFORM_ADMIN,)])
def test_no_model_beyond_ones_own(site: Site, scopes: tuple[str, ...]) -> None:
    """Neither another model nor "every model" can be granted by a caller with an allow-list, admin or not."""
    caller = site.caller(_own_workspace(site), *scopes, models=("a", "b"))
    own, _ = site.keys.create(caller, name="x", scopes=scopes)
    for attempt, model in (
        (lambda: site.keys.create(caller, name="x", scopes=scopes, allowed_models=["a", "c"]), "c"),
        (lambda: site.keys.update(caller, own.key_id, changes=KeyChanges(allowed_models=["c"])), "c"),
        (lambda: site.keys.update(caller, own.key_id, changes=KeyChanges(allowed_models=[])), "*"),
        (lambda: site.keys.update(caller, caller.key_id, changes=KeyChanges(allowed_models=[])), "*"),
    ):
        with pytest.raises(ModelNotAllowed) as caught:
            attempt()
        assert caught.value.metadata == {"model": model}
    assert site.keys.get(site.admin, own.key_id) == own


@pytest.mark.parametrize("models", [(), ("a", "c")])
def test_rotation_hands_out_no_further_models(site: Site, models: tuple[str, ...]) -> None:
    """A caller with an allow-list gets no secret of a key that may use more."""
    workspace_id = _own_workspace(site)
    wide, secret = site.key(workspace_id, KEYS_MANAGE, models=models)
    caller = site.caller(workspace_id, KEYS_MANAGE, models=("a", "b"))
    with pytest.raises(ModelNotAllowed):
        site.keys.rotate(caller, wide.key_id, overlap_s=0)
    site.keys.authenticate(secret)


@pytest.mark.parametrize("scopes", [(KEYS_MANAGE,), (PLATFORM_ADMIN,)])
def test_no_key_outlasts_its_creator(site: Site, scopes: tuple[str, ...]) -> None:
    """A caller that ends some day cannot make, change or rotate its way to a key that ends later or never."""
    workspace_id = _own_workspace(site)
    end = datetime.now(UTC) + timedelta(days=1)
    endless, _ = site.key(workspace_id, *scopes)
    caller = site.caller(workspace_id, *scopes, expire_time=end)
    inherited, _ = site.keys.create(caller, name="x", scopes=scopes)
    assert inherited.expire_time == end
    for attempt, param in (
        (lambda: site.keys.create(caller, name="x", scopes=scopes, expire_time=end + _LATER), "expire_time"),
        (lambda: _set_expiry(site, caller, inherited.key_id, end + _LATER), "expire_time"),
        (lambda: _set_expiry(site, caller, inherited.key_id, None), "expire_time"),
        (lambda: _set_expiry(site, caller, caller.key_id, None), "expire_time"),
        (lambda: site.keys.rotate(caller, endless.key_id, overlap_s=0), "key_id"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            attempt()
        assert caught.value.metadata == {"param": param}
    site.keys.rotate(caller, inherited.key_id, overlap_s=0)
    _set_expiry(site, caller, inherited.key_id, end - timedelta(hours=1))


def _limited(site: Site, *scopes: str, limits: KeyLimits) -> Principal:
    """Authenticate with a new key of a new workspace that has the limits."""
    _, secret = site.keys.create(
        site.admin, workspace_id=_own_workspace(site), name="limited", scopes=scopes, limits=limits
    )
    return site.keys.authenticate(secret)


def test_a_new_key_inherits_limits_one_by_one(site: Site) -> None:
    """What is not said of a new key's limits is its creator's; what is said may be lower, or new."""
    own = KeyLimits(daily_messages=100, requests_per_minute=60)
    caller = _limited(site, KEYS_MANAGE, limits=own)
    assert site.keys.create(caller, name="x", scopes=[KEYS_MANAGE])[0].limits == own
    lower = KeyLimits(requests_per_minute=0, concurrent_requests=2)
    narrow, _ = site.keys.create(caller, name="x", scopes=[KEYS_MANAGE], limits=lower)
    assert narrow.limits == KeyLimits(daily_messages=100, requests_per_minute=0, concurrent_requests=2)


@pytest.mark.parametrize("scopes", [(KEYS_MANAGE,), (PLATFORM_ADMIN,)])
@pytest.mark.parametrize("name", [field.name for field in fields(KeyLimits)])
def test_no_limit_above_ones_own(site: Site, name: str, scopes: tuple[str, ...]) -> None:
    """No key, not even the caller's own, gets a limit above the caller's or loses it, admin or not; equal is fine."""
    caller = _limited(site, *scopes, limits=KeyLimits(**{name: 5}))
    made, _ = site.keys.create(caller, name="x", scopes=scopes, limits=KeyLimits(**{name: 5}))
    for attempt in (
        lambda: site.keys.create(caller, name="x", scopes=scopes, limits=KeyLimits(**{name: 6})),
        lambda: _set_limits(site, caller, made.key_id, **{name: 6}),
        lambda: _set_limits(site, caller, made.key_id, **{name: None}),
        lambda: _set_limits(site, caller, caller.key_id, **{name: None}),
    ):
        with pytest.raises(InvalidRequest) as caught:
            attempt()
        assert caught.value.metadata == {"param": f"limits.{name}"}
    assert site.keys.get(caller, made.key_id) == made
    _set_limits(site, caller, made.key_id, **{name: 4})
    _set_limits(site, caller, made.key_id, **{name: 5})


def test_other_changes_leave_a_higher_limit(site: Site) -> None:
    """A caller with a limit may rename a key that has a higher one, but gets no secret of it."""
    caller = _limited(site, KEYS_MANAGE, limits=KeyLimits(daily_messages=5, monthly_messages=50))
    higher, secret = site.keys.create(
        site.admin,
        workspace_id=caller.workspace_id,
        name="x",
        scopes=[KEYS_MANAGE],
        limits=KeyLimits(daily_messages=6, monthly_messages=50),
    )
    site.keys.update(caller, higher.key_id, changes=KeyChanges(name="renamed"))
    _set_limits(site, caller, higher.key_id, monthly_messages=49)
    with pytest.raises(InvalidRequest) as caught:
        site.keys.rotate(caller, higher.key_id, overlap_s=0)
    assert caught.value.metadata == {"param": "key_id"}
    assert site.keys.authenticate(secret).limits == KeyLimits(daily_messages=6, monthly_messages=49)


@pytest.mark.parametrize("value", [-1, MAX_LIMIT + 1])
@pytest.mark.parametrize("name", [field.name for field in fields(KeyLimits)])
def test_impossible_limits_are_refused(site: Site, name: str, value: int) -> None:
    """A limit is at least 0, and small enough to be added up safely; the largest is taken."""
    for attempt in (
        lambda: site.keys.create(site.admin, name="x", scopes=[INFERENCE], limits=KeyLimits(**{name: value})),
        lambda: _set_limits(site, site.admin, site.admin.key_id, **{name: value}),
    ):
        with pytest.raises(InvalidRequest) as caught:
            attempt()
        assert caught.value.metadata == {"param": f"limits.{name}"}
    site.keys.create(site.admin, name="x", scopes=[INFERENCE], limits=KeyLimits(**{name: MAX_LIMIT}))


def test_a_changed_limit_is_a_new_revision(site: Site) -> None:
    """Whoever remembers the key notices that its limits are others, and sees them on every replica."""
    key, secret = site.key(_own_workspace(site), INFERENCE)
    changed = _set_limits(site, site.admin, key.key_id, tokens_per_minute=7)
    assert (changed.revision, changed.limits) == (key.revision + 1, KeyLimits(tokens_per_minute=7))
    assert site.replica().authenticate(secret).limits == KeyLimits(tokens_per_minute=7)


def test_a_rotated_away_secret_makes_nothing_lasting(site: Site) -> None:
    """During the overlap the old secret, perhaps a leaked one, makes no key that outlasts the overlap."""
    key, old = site.key(_own_workspace(site), KEYS_MANAGE)
    site.keys.rotate(site.admin, key.key_id, overlap_s=3_600)
    caller = site.keys.authenticate(old)
    made, _ = site.keys.create(caller, name="x", scopes=[KEYS_MANAGE])
    assert made.expire_time == caller.expire_time is not None
    with pytest.raises(InvalidRequest):
        site.keys.rotate(caller, key.key_id, overlap_s=0)


def _set_expiry(site: Site, caller: Principal, key_id: str, expire_time: datetime | None) -> None:
    site.keys.update(caller, key_id, changes=KeyChanges(expire_time=expire_time))


def _set_limits(site: Site, caller: Principal, key_id: str, **limits: int | None) -> Key:
    return site.keys.update(caller, key_id, changes=KeyChanges(limits=KeyLimitChanges(**limits)))
