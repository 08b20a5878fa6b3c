"""What a key has left: each limit's state, and who may see it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fakes.fake_key_usage_store import NOW, FakeKeyUsageStore
from fakes.site import Site

from quillgate_core.errors import KeyNotFound, ScopeMissing
from quillgate_core.key import KeyLimits
from quillgate_core.key_usage import KeyCount, KeyFigures, KeyUsage, KeyUsages
from quillgate_core.limits import LimitState
from quillgate_core.principal import INFERENCE, KEYS_MANAGE, PLATFORM_ADMIN, USAGE_READ, Principal
from quillgate_core.storage.daily_store import SqlDailyStore
from quillgate_core.workspaces import WorkspaceChanges

MIDNIGHT = datetime(2031, 1, 1, tzinfo=UTC)
CLOCK = "timestamptz '2030-12-31 12:00:00Z'"


@pytest.fixture
def store() -> FakeKeyUsageStore:
    """What the key used, as the test sets it."""
    return FakeKeyUsageStore()


@pytest.fixture
def usages(site: Site, store: FakeKeyUsageStore) -> KeyUsages:
    """The use case at noon of the last day of 2030."""
    return KeyUsages(site.keys, SqlDailyStore(site.engine, clock=CLOCK), store)


def _limited(site: Site, **limits: int) -> Principal:
    """Authenticate with a new key of a new workspace."""
    workspace_id = site.workspace().workspace_id
    _, secret = site.keys.create(
        site.admin, workspace_id=workspace_id, name="n", scopes=[INFERENCE], limits=KeyLimits(**limits)
    )
    return site.keys.authenticate(secret)


def _figures(*, today: int = 0, month: int = 0, held: int = 0) -> KeyFigures:
    """Figures of so many messages, some of them held."""
    counts = [KeyCount(message_count=count - held, held_messages=held) for count in (today, month)]
    return KeyFigures(NOW, *counts)


def _allow(site: Site, workspace_id: str, **changes: Any) -> None:
    site.workspaces.update(site.admin, workspace_id, changes=WorkspaceChanges(**changes))


def test_a_key_without_limits_has_none(site: Site, usages: KeyUsages, store: FakeKeyUsageStore) -> None:
    """Nothing is limited, and what it used is told all the same."""
    caller = _limited(site)
    store.figures = _figures(today=3, month=5)
    key = site.keys.get(site.admin, caller.key_id)
    assert usages.get(caller) == KeyUsage(key, KeyCount(3), KeyCount(5), (), None)
    assert store.asked == [caller.key_id]


def test_limits_in_messages(site: Site, usages: KeyUsages, store: FakeKeyUsageStore) -> None:
    """Counted and held messages are subtracted, never below 0; the day ends at midnight, the month after its last."""
    caller = _limited(site, daily_messages=10, monthly_messages=20)
    store.figures = _figures(today=4, month=50, held=1)
    found = usages.get(caller)
    assert found.limits == (
        LimitState("key_daily_messages", 10, 6, MIDNIGHT),
        LimitState("key_monthly_messages", 20, 0, MIDNIGHT),
    )
    assert found.remaining_messages == 0


def test_the_month_ends_with_the_month(site: Site, usages: KeyUsages, store: FakeKeyUsageStore) -> None:
    """In the middle of a month its limit stays used longer than the day's."""
    caller = _limited(site, daily_messages=1, monthly_messages=1)
    store.figures = KeyFigures(datetime(2030, 2, 27, 23, 59, 59, tzinfo=UTC), KeyCount(), KeyCount())
    reset_times = [state.reset_time for state in usages.get(caller).limits]
    assert reset_times == [datetime(2030, 2, 28, tzinfo=UTC), datetime(2030, 3, 1, tzinfo=UTC)]


def test_rates_are_told_as_they_are_read(site: Site, usages: KeyUsages, store: FakeKeyUsageStore) -> None:
    """What is not in messages comes last, and is nothing that remains in messages."""
    caller = _limited(site, monthly_messages=9, concurrent_requests=3)
    rate = LimitState("key_concurrent_requests", 3, 1, None)
    store.figures = KeyFigures(NOW, KeyCount(), KeyCount(), (rate,))
    found = usages.get(caller)
    assert found.limits == (LimitState("key_monthly_messages", 9, 9, MIDNIGHT), rate)
    assert found.remaining_messages == 9


def test_the_tightest_limit_is_what_is_left(site: Site, usages: KeyUsages, store: FakeKeyUsageStore) -> None:
    """The workspace's allowances are limits of each of its keys, those of other days and months do not count."""
    caller = _limited(site, daily_messages=50, requests_per_minute=1)
    _allow(site, caller.workspace_id, daily_message_allowance=30, monthly_message_allowance=100)
    for day, count in (("2030-11-30", 64), ("2030-12-01", 60), ("2030-12-31", 5)):
        site.run(
            "INSERT INTO daily_message_count (workspace_id, day, message_count, held_messages) "
            "VALUES (:workspace_id, CAST(:day AS date), :count, 3)",
            workspace_id=caller.workspace_id,
            day=day,
            count=count,
        )
    store.figures = _figures(today=1)
    found = usages.get(caller)
    assert found.limits[:3] == (
        LimitState("daily_message_allowance", 30, 22, MIDNIGHT),
        LimitState("monthly_message_allowance", 100, 29, MIDNIGHT),
        LimitState("key_daily_messages", 50, 49, MIDNIGHT),
    )
    assert found.remaining_messages == 22


def test_an_allowance_that_refuses_nobody_leaves_no_end(site: Site, usages: KeyUsages) -> None:
    """Where overage is allowed only the key's own limits bound what it can use."""
    caller = _limited(site)
    _allow(site, caller.workspace_id, daily_message_allowance=0, at_allowance="allow")
    found = usages.get(caller)
    assert found.limits == (LimitState("daily_message_allowance", 0, 0, MIDNIGHT),)
    assert found.remaining_messages is None


def test_any_key_sees_its_own(site: Site, usages: KeyUsages) -> None:
    """No scope is needed for what a key may find out by being refused, by its id or without."""
    caller = site.caller(site.workspace().workspace_id, INFERENCE)
    assert usages.get(caller) == usages.get(caller, caller.key_id)
    assert usages.get(caller).key.key_id == caller.key_id


def test_other_keys_are_for_those_who_manage_them(site: Site, usages: KeyUsages) -> None:
    """`keys.manage` reaches the keys of the workspace, `platform.admin` all, and nothing else reaches any."""
    own, foreign = site.workspace().workspace_id, site.workspace().workspace_id
    key, _ = site.key(own, INFERENCE)
    assert usages.get(site.caller(own, KEYS_MANAGE), key.key_id).key == key
    assert usages.get(site.admin, key.key_id).key == key
    assert usages.get(site.caller(foreign, PLATFORM_ADMIN), key.key_id).key == key
    with pytest.raises(ScopeMissing) as missing:
        usages.get(site.caller(own, INFERENCE, USAGE_READ), key.key_id)
    assert missing.value.metadata == {"scope": KEYS_MANAGE}
    for key_id in (key.key_id, "key_" + "0" * 20, "'; --"):
        with pytest.raises(KeyNotFound) as unknown:
            usages.get(site.caller(foreign, KEYS_MANAGE), key_id)
        assert unknown.value.metadata == {"key_id": key_id}


def test_a_managers_view_is_of_the_keys_own_workspace(site: Site, usages: KeyUsages) -> None:
    """An admin who looks at a tenant's key sees that tenant's allowance, not the admin's."""
    workspace_id = site.workspace().workspace_id
    _allow(site, workspace_id, daily_message_allowance=7)
    key, _ = site.key(workspace_id, INFERENCE, expire_time=datetime.now(UTC) + timedelta(days=1))
    assert usages.get(site.admin, key.key_id).remaining_messages == 7
