"""Workspaces' keys as routing sees them: from memory, soon after every change, and never with a tampered key."""

import gc
import logging
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fakes.credential_site import HOUSE_KEY, NEW, OLD, PROVIDERS, CredentialSite, open_credentials
from fakes.site import Site

from quillgate_core.errors import ProviderCredentialRejected
from quillgate_core.own_keys import WorkspaceKeys

KEY = "sk-planted-0123456789"


@pytest.fixture
def own(site: Site) -> CredentialSite:
    """One core process with the old master key."""
    return open_credentials(site)


def test_most_workspaces_have_none(own: CredentialSite) -> None:
    """A workspace without keys, known or not, is at revision 0 with nothing."""
    for workspace_id in (own.site.workspace().workspace_id, "ws_nobody"):
        assert own.credentials.of(workspace_id) == WorkspaceKeys()


def test_revisions_grow_with_every_change(own: CredentialSite) -> None:
    """Setting, replacing and deleting are seen at once where they were done, at the database's revision."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY, allow_fallback=True)
    keys = own.credentials.of(workspace_id)
    assert (keys.revision, set(keys.keys), keys.keys["openai"].allow_fallback) == (1, {"openai"}, True)
    own.set(workspace_id, "another")
    assert (own.credentials.of(workspace_id).revision, own.open(workspace_id)) == (2, "another")
    assert not own.credentials.of(workspace_id).keys["openai"].allow_fallback
    own.credentials.delete(own.site.admin, workspace_id=workspace_id, provider="openai")
    assert own.credentials.of(workspace_id) == WorkspaceKeys(revision=3)
    assert own.value(f"SELECT credential_revision FROM workspaces WHERE workspace_id = '{workspace_id}'") == 3


def test_other_processes_see_it_after_a_refresh(own: CredentialSite) -> None:
    """What one process set, replaced or deleted, another has after its next look, and not before."""
    other = open_credentials(own.site)
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    assert other.credentials.of(workspace_id) == WorkspaceKeys()
    other.credentials.refresh()
    assert other.open(workspace_id) == KEY
    own.set(workspace_id, "another")
    other.credentials.refresh()
    assert other.open(workspace_id) == "another"
    own.credentials.delete(own.site.admin, workspace_id=workspace_id, provider="openai")
    other.credentials.refresh()
    assert dict(other.credentials.of(workspace_id).keys) == {}


def test_an_account_is_opened_once_and_lives_as_long_as_its_key(own: CredentialSite) -> None:
    """Changes of other keys keep it; replacing or deleting its own lets go of it."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    open_ = own.credentials.of(workspace_id).keys["openai"].open
    account = open_()
    assert own.accounts.secrets == [KEY]
    own.set(workspace_id, "other", provider="groq")
    own.set(own.site.workspace().workspace_id, "other")
    assert open_() is own.credentials.of(workspace_id).keys["openai"].open() is account
    assert own.accounts.secrets == [KEY]
    own.set(workspace_id, "another")
    assert own.credentials.of(workspace_id).keys["openai"].open() is not account
    kept = weakref.ref(own.credentials.of(workspace_id).keys["openai"].open.__self__)  # type: ignore[attr-defined]
    own.credentials.delete(own.site.admin, workspace_id=workspace_id, provider="openai")
    gc.collect()
    assert kept() is None


def test_after_a_rotation_keys_open_as_before(own: CredentialSite) -> None:
    """Whoever holds an account keeps it, and the rewrapped row opens with the new master key, used before or not."""
    rotating = open_credentials(own.site, NEW, OLD)
    one, two = (own.site.workspace().workspace_id for _ in range(2))
    for workspace_id in (one, two):
        own.set(workspace_id, KEY + workspace_id)
    rotating.credentials.refresh()
    rotating.open(one)
    rotating.credentials.rewrap(own.site.admin)
    rotating.credentials.refresh()
    assert (rotating.open(one), rotating.open(two)) == (KEY + one, KEY + two)
    assert rotating.credentials.of(one).revision == 1


def test_nothing_is_decrypted_before_it_is_needed(own: CredentialSite) -> None:
    """Looking at a workspace's keys opens no account."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    assert own.credentials.of(workspace_id).keys["openai"].provider == "openai"
    assert own.accounts.opened == []


def test_the_account_is_the_provider_s_with_the_workspace_s_key(own: CredentialSite) -> None:
    """It is reached where the gateway reaches it, without the headers of the gateway's own account."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    assert own.credentials.of(workspace_id).keys["openai"].open().byok
    (config,) = own.accounts.opened
    house = PROVIDERS["openai"]
    assert (config.base_url, config.native_endpoints) == (house.base_url, house.native_endpoints)
    assert config.headers == {"X-Title": "Quillgate"}
    assert config.on_hang_up == "drain"
    assert config.api_key is not None and config.api_key.reveal() == KEY
    assert HOUSE_KEY not in repr(own.accounts.opened)


def test_another_server_gets_nothing_of_the_operator_s(own: CredentialSite) -> None:
    """Under a base URL of the workspace no header goes along and chat alone is spoken; the host is not trusted.

    Nor is it read on when callers leave.
    """
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY, base_url="https://tenant.example/v1")
    own.open(workspace_id)
    (config,) = own.accounts.opened
    assert (config.base_url, config.is_trusted, config.headers) == ("https://tenant.example/v1", False, {})
    assert config.native_endpoints == {"chat.completions"}
    assert config.on_hang_up == "cancel"


TAMPERED: list[tuple[str, str]] = [
    (
        "another base URL",
        "UPDATE provider_credentials SET base_url = 'https://evil.example' WHERE credential_id = :one",
    ),
    ("another provider", "UPDATE provider_credentials SET provider = 'groq' WHERE credential_id = :one"),
    ("another workspace", "UPDATE provider_credentials SET workspace_id = :other WHERE credential_id = :one"),
    ("another id", "UPDATE provider_credentials SET credential_id = 'cred_x' WHERE credential_id = :one"),
    (
        "another master key's id",
        "UPDATE provider_credentials SET master_key_id = '00000000' WHERE credential_id = :one",
    ),
    (
        "a flipped bit",
        "UPDATE provider_credentials SET ciphertext = set_byte(ciphertext, 20, get_byte(ciphertext, 20) # 1)"
        " WHERE credential_id = :one",
    ),
    ("no ciphertext", "UPDATE provider_credentials SET ciphertext = '' WHERE credential_id = :one"),
    (
        "another's ciphertext",
        "UPDATE provider_credentials a SET ciphertext = b.ciphertext FROM provider_credentials b"
        " WHERE a.credential_id = :one AND b.credential_id = :two",
    ),
    (
        "another's wrapped data key",
        "UPDATE provider_credentials a SET wrapped_data_key = b.wrapped_data_key FROM provider_credentials b"
        " WHERE a.credential_id = :one AND b.credential_id = :two",
    ),
    (
        "both of another",
        "UPDATE provider_credentials a SET ciphertext = b.ciphertext, wrapped_data_key = b.wrapped_data_key"
        " FROM provider_credentials b WHERE a.credential_id = :one AND b.credential_id = :two",
    ),
]


@pytest.mark.parametrize("was_open", [False, True])
@pytest.mark.parametrize(("change", "statement"), TAMPERED, ids=[change for change, _ in TAMPERED])
def test_a_row_that_was_tampered_with_does_not_open(
    own: CredentialSite, caplog: pytest.LogCaptureFixture, change: str, statement: str, was_open: bool
) -> None:
    """Whatever is edited or swapped in the database, the key is refused with one log line, and others still open."""
    workspace, neighbour, other = (own.site.workspace().workspace_id for _ in range(3))
    one = own.set(workspace, KEY)
    two = own.set(neighbour, "neighbour-key")
    own.set(other, "x", provider="mute")
    if was_open:
        own.open(workspace)
    given = {"one": one, "two": two, "other": other}
    used = {name: value for name, value in given.items() if f":{name}" in statement}
    own.change(statement, **used)
    (found,) = [
        key
        for workspace_id in (workspace, other)
        for key in own.credentials.of(workspace_id).keys.values()
        if key.provider != "mute"
    ]
    opened = len(own.accounts.opened)
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            with pytest.raises(ProviderCredentialRejected) as caught:
                found.open()
            assert caught.value.metadata == {"provider": found.provider}
    assert len(own.accounts.opened) == opened
    told = [record for record in caplog.records if "cannot be opened" in record.getMessage()]
    assert len(told) == 1
    assert KEY not in caplog.text
    assert own.open(neighbour) == "neighbour-key"


def test_a_wrong_master_key_opens_nothing(own: CredentialSite, caplog: pytest.LogCaptureFixture) -> None:
    """A process without the right master key refuses, and told at its start which one is missing."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    wrong = open_credentials(own.site, NEW)
    assert f"master keys that are not here: {OLD.key_id}" in caplog.text
    wrong.change("SELECT 1")
    assert caplog.text.count("master keys that are not here") == 1
    for claimed in (OLD.key_id, NEW.key_id):
        wrong.change("UPDATE provider_credentials SET master_key_id = :claimed", claimed=claimed)
        with pytest.raises(ProviderCredentialRejected):
            wrong.credentials.of(workspace_id).keys["openai"].open()
    wrong.change("UPDATE provider_credentials SET master_key_id = :claimed", claimed=OLD.key_id)
    own.credentials.refresh()
    assert own.open(workspace_id) == KEY


def test_a_provider_that_is_gone_is_refused_not_replaced(own: CredentialSite) -> None:
    """A key with a provider that is not configured any more is still there, and opens nothing."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    own.change("UPDATE provider_credentials SET provider = 'gone'")
    with pytest.raises(ProviderCredentialRejected) as caught:
        own.credentials.of(workspace_id).keys["gone"].open()
    assert caught.value.metadata == {"provider": "gone"}


def test_an_account_that_cannot_be_made_is_refused(own: CredentialSite) -> None:
    """Even where the HTTP client cannot use a base URL, nothing but a refusal comes out."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    own.accounts.opened = _Unusable()
    with pytest.raises(ProviderCredentialRejected):
        own.credentials.of(workspace_id).keys["openai"].open()


class _Unusable(list[Any]):
    def append(self, item: Any) -> None:
        raise ValueError(item)


def test_a_restored_database_is_read_again(own: CredentialSite) -> None:
    """A shared revision that went back is a change as well."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    own.site.run("DELETE FROM provider_credentials")
    own.site.run("UPDATE shared_revisions SET revision = 0")
    own.credentials.refresh()
    assert dict(own.credentials.of(workspace_id).keys) == {}


def test_concurrent_changes_and_refreshes_end_with_the_newest(own: CredentialSite) -> None:
    """Many threads that set and refresh leave every process with what the database has last."""
    other = open_credentials(own.site)
    workspaces = [own.site.workspace().workspace_id for _ in range(4)]

    def change(number: int) -> None:
        process = (own, other)[number % 2]
        process.set(workspaces[number % 4], f"key-{number}")
        process.credentials.refresh()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(40)))
    for process in (own, other):
        process.credentials.refresh()
    for workspace_id in workspaces:
        assert own.open(workspace_id) == other.open(workspace_id)
        assert own.credentials.of(workspace_id).revision == other.credentials.of(workspace_id).revision == 10


def test_an_unchanged_revision_costs_one_small_query(own: CredentialSite) -> None:
    """A poll that finds nothing new reads no credential: an edit without a new revision is not seen."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    open_: Callable[[], object] = own.credentials.of(workspace_id).keys["openai"].open
    own.site.run("UPDATE provider_credentials SET base_url = 'https://evil.example'")
    own.credentials.refresh()
    assert own.credentials.of(workspace_id).keys["openai"].open == open_
