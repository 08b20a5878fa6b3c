"""What keys may do now, as it is committed: their own state and that of their workspace."""

from datetime import UTC, datetime, timedelta

import pytest
from fakes.site import Site

from quillgate_core.principal import INFERENCE, USAGE_READ, Principal
from quillgate_core.storage.standing_store import SqlStandingStore


def test_standing_is_that_of_the_key_and_its_workspace(site: Site) -> None:
    """Scopes, models and revision are the key's, its end and limits have not come; unknown keys are left out."""
    workspace = site.workspace()
    key, _ = site.key(workspace.workspace_id, INFERENCE, USAGE_READ, models=("a/m",))
    other, _ = site.key(site.workspace().workspace_id, INFERENCE)
    store = SqlStandingStore(site.engine)
    found = store.read([key.key_id, other.key_id, "key_nobody"])
    assert set(found) == {key.key_id, other.key_id}
    standing = found[key.key_id]
    expected = Principal(key.key_id, 1, workspace.workspace_id, frozenset({INFERENCE, USAGE_READ}), ("a/m",))
    assert standing.principal == expected
    assert (standing.has_ended, standing.is_disabled) == (False, False)
    assert (standing.closed_limit, standing.reset_time) == (None, None)


def test_every_end_of_a_key_is_seen(site: Site) -> None:
    """A key that is revoked, or past its time, has ended; one with time left, or none, has not."""
    workspace_id = site.workspace().workspace_id
    soon = datetime.now(UTC) + timedelta(hours=1)
    revoked, lasting, expired = (site.key(workspace_id, INFERENCE, expire_time=soon)[0].key_id for _ in range(3))
    endless = site.key(workspace_id, INFERENCE)[0].key_id
    site.keys.revoke(site.admin, revoked)
    site.run("UPDATE keys SET expire_time = clock_timestamp() WHERE key_id = :key_id", key_id=expired)
    found = SqlStandingStore(site.engine).read([revoked, lasting, expired, endless])
    ended = {key_id for key_id, standing in found.items() if standing.has_ended}
    assert ended == {revoked, expired}


def test_disabled_workspace_is_seen(site: Site) -> None:
    """It is that of the key alone."""
    disabled, other = site.workspace().workspace_id, site.workspace().workspace_id
    keys = [site.key(workspace_id, INFERENCE)[0].key_id for workspace_id in (disabled, other)]
    site.run("UPDATE workspaces SET disable_time = clock_timestamp() WHERE workspace_id = :id", id=disabled)
    found = SqlStandingStore(site.engine).read(keys)
    assert [found[key].is_disabled for key in keys] == [True, False]


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ("UPDATE workspaces SET daily_message_allowance = 0", "daily_message_allowance"),
        ("UPDATE workspaces SET monthly_message_allowance = 0", "monthly_message_allowance"),
        ("UPDATE keys SET daily_messages = 0", "key_daily_messages"),
        ("UPDATE keys SET monthly_messages = 0", "key_monthly_messages"),
        ("UPDATE workspaces SET daily_message_allowance = 1, monthly_message_allowance = 1", None),
        ("UPDATE workspaces SET daily_message_allowance = 0, at_allowance = 'allow'", None),
    ],
)
def test_limit_of_nothing_is_closed(site: Site, change: str, limit: str | None) -> None:
    """A limit of 0 messages that refuses is named with the moment at which it begins anew, by UTC; no other one is."""
    key, _ = site.key(site.workspace().workspace_id, INFERENCE)
    site.run(change)
    (standing,) = SqlStandingStore(site.engine).read([key.key_id]).values()
    assert standing.closed_limit == limit
    if limit is None:
        assert standing.reset_time is None
        return
    assert standing.reset_time is not None
    longest = timedelta(days=31 if "monthly" in limit else 1)
    assert (
        timedelta(0) <= standing.reset_time - datetime.now(UTC) + timedelta(minutes=1) <= longest + timedelta(minutes=2)
    )
    assert standing.reset_time.isoformat().endswith("T00:00:00+00:00")
    assert "monthly" not in limit or standing.reset_time.day == 1
