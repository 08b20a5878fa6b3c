"""Provider keys for those who manage them: who may, what is accepted, what a test says, and how a rotation ends."""

import asyncio
import logging
import threading
from dataclasses import replace
from typing import Any

import pytest
from fakes.credential_site import NEW, OLD, CredentialSite, FakeLister, open_credentials
from fakes.site import Site

from quillgate_core.errors import (
    InvalidRequest,
    Overloaded,
    ProviderCredentialNotFound,
    ProviderCredentialRejected,
    ProviderTimeout,
    ProviderUnavailable,
    QuillgateError,
    ScopeMissing,
    WorkspaceNotFound,
)
from quillgate_core.principal import (
    INFERENCE,
    KEYS_MANAGE,
    PLATFORM_ADMIN,
    USAGE_READ,
    WORKSPACE_ADMIN,
    Principal,
)
from quillgate_core.provider_credentials import MAX_SECRET_CHARACTERS, MAX_TESTS
from quillgate_core.secret import Secret

KEY = "sk-planted-0123456789"
WEAK = (INFERENCE, USAGE_READ, KEYS_MANAGE)


@pytest.fixture
def own(site: Site) -> CredentialSite:
    """One core process with the old master key."""
    return open_credentials(site)


async def _everything(own: CredentialSite, principal: Principal, workspace_id: str) -> list[QuillgateError | None]:
    """Tries all that a workspace's admin may do there, and returns how each ended."""
    credentials = own.credentials

    async def outcome(attempt: Any) -> QuillgateError | None:
        try:
            await asyncio.to_thread(attempt)
        except QuillgateError as error:
            return error
        return None

    target: dict[str, Any] = {"workspace_id": workspace_id}
    return [
        await outcome(lambda: credentials.set(principal, provider="openai", secret=Secret(KEY), **target)),
        await outcome(lambda: credentials.list(principal, **target)),
        await outcome(lambda: asyncio.run(credentials.test(principal, provider="openai", **target))),
        await outcome(lambda: credentials.delete(principal, provider="openai", **target)),
    ]


async def test_who_may(own: CredentialSite) -> None:
    """A workspace's admin manages its own keys, the platform's those of any workspace; nobody else any."""
    workspace_id = own.site.workspace().workspace_id
    admin = own.site.caller(workspace_id, INFERENCE, WORKSPACE_ADMIN)
    assert await _everything(own, admin, "") == [None] * 4
    assert await _everything(own, admin, workspace_id) == [None] * 4
    assert await _everything(own, own.site.admin, workspace_id) == [None] * 4
    weak = own.site.caller(workspace_id, *WEAK)
    refusals = await _everything(own, weak, "")
    assert [(type(error), error and error.metadata) for error in refusals] == [
        (ScopeMissing, {"scope": WORKSPACE_ADMIN})
    ] * 4


async def test_other_workspaces_are_unknown(own: CredentialSite) -> None:
    """Another tenant's workspace, with a key or without, is answered exactly like one that never was."""
    foreign = own.site.workspace().workspace_id
    own.set(foreign, KEY)
    caller = own.site.caller(own.site.workspace().workspace_id, WORKSPACE_ADMIN)
    for workspace_id in (foreign, "ws_" + "0" * 20, "nonsense\x00"):
        for error in await _everything(own, caller, workspace_id):
            assert isinstance(error, WorkspaceNotFound)
            assert error.metadata == {"workspace_id": workspace_id}
    for error in await _everything(own, own.site.admin, "ws_" + "0" * 20):
        assert isinstance(error, WorkspaceNotFound)
    assert own.open(foreign) == KEY


def test_what_is_set_is_listed_without_the_key(own: CredentialSite) -> None:
    """A list shows what was kept, by provider, and nowhere the key."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY, base_url="https://eu.example/v1/", allow_fallback=True)
    own.set(workspace_id, "short-key-15chr", provider="groq")
    groq, openai = own.credentials.list(own.site.admin, workspace_id=workspace_id)
    assert (groq.provider, groq.base_url, groq.last4, groq.allow_fallback) == ("groq", "", "", False)
    assert (openai.provider, openai.base_url, openai.last4) == ("openai", "https://eu.example/v1", "6789")
    assert openai.allow_fallback
    assert openai.sealed.master_key_id == OLD.key_id
    assert KEY not in repr(openai) + repr(own.credentials.of(workspace_id))


@pytest.mark.parametrize("secret", ["", " ", KEY + " ", KEY + "\n", "sk-ü", "a b", "\x00", "\x7f", "x" * 4097])
def test_a_secret_is_visible_ascii(own: CredentialSite, secret: str) -> None:
    """What could not be a header's value is refused by name and not repeated."""
    workspace_id = own.site.workspace().workspace_id
    with pytest.raises(InvalidRequest) as caught:
        own.set(workspace_id, secret)
    assert caught.value.metadata == {"param": "secret", "code": "invalid_value"}
    assert "planted" not in caught.value.message
    assert own.credentials.list(own.site.admin, workspace_id=workspace_id) == ()


@pytest.mark.parametrize("secret", ["!", "~" * MAX_SECRET_CHARACTERS, "".join(map(chr, range(33, 127)))])
def test_the_limits_themselves_are_taken(own: CredentialSite, secret: str) -> None:
    """A key of one character and one of the greatest length come back whole."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, secret)
    assert own.open(workspace_id) == secret
    (kept,) = own.credentials.list(own.site.admin, workspace_id=workspace_id)
    assert kept.last4 == (secret[-4:] if len(secret) >= 16 else "")


@pytest.mark.parametrize("provider", ["", "unknown", "OpenAI", KEY, "echo", "openai\x00", "x" * 5000])
async def test_a_provider_must_be_known(own: CredentialSite, provider: str) -> None:
    """One that is not configured is refused by the member's name, and what was given is not repeated."""
    workspace_id = own.site.workspace().workspace_id
    with pytest.raises(InvalidRequest) as caught:
        own.set(workspace_id, KEY, provider=provider)
    assert caught.value.metadata == {"param": "provider", "code": "invalid_value"}
    assert caught.value.message == "There is no such provider here; those that are known: groq, mute, openai."


@pytest.mark.parametrize("provider", ["", KEY + "\x00", "A", "x" * 65, "a b"])
async def test_what_is_no_provider_is_not_repeated(own: CredentialSite, provider: str) -> None:
    """Deleting and testing refuse what can be no name, which may be a key in the wrong place."""
    with pytest.raises(InvalidRequest) as deleted:
        own.credentials.delete(own.site.admin, provider=provider)
    with pytest.raises(InvalidRequest) as tested:
        await own.credentials.test(own.site.admin, provider=provider)
    assert deleted.value.metadata == tested.value.metadata == {"param": "provider", "code": "invalid_value"}
    assert "planted" not in deleted.value.message + tested.value.message


async def test_a_key_that_is_not_there(own: CredentialSite) -> None:
    """Deleting twice and testing what was never set tell which provider has none."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    own.credentials.delete(own.site.admin, workspace_id=workspace_id, provider="openai")
    with pytest.raises(ProviderCredentialNotFound) as caught:
        own.credentials.delete(own.site.admin, workspace_id=workspace_id, provider="openai")
    assert caught.value.metadata == {"provider": "openai"}
    with pytest.raises(ProviderCredentialNotFound):
        await own.credentials.test(own.site.admin, workspace_id=workspace_id, provider="gone-long-ago")


def test_http_is_for_hosts_that_the_operator_allows(site: Site) -> None:
    """A base URL in the clear is refused by name unless its host and port are allowed, and is then trusted."""
    own = open_credentials(site, is_allowed_host=lambda host, port: (host, port) == ("vllm.internal", 8000))
    workspace_id = site.workspace().workspace_id
    for base_url in ("http://vllm.internal:8001/v1", "http://api.example.com", "https://u:p@vllm.internal:8000"):
        with pytest.raises(InvalidRequest) as caught:
            own.set(workspace_id, KEY, base_url=base_url)
        assert caught.value.metadata["param"] == "base_url"
    own.set(workspace_id, KEY, base_url="http://vllm.internal:8000/v1")
    own.open(workspace_id)
    assert own.accounts.opened[-1].is_trusted


async def _test(own: CredentialSite, workspace_id: str, provider: str = "openai") -> tuple[bool, str]:
    result = await own.credentials.test(own.site.admin, workspace_id=workspace_id, provider=provider)
    assert 0 <= result.latency_ms < 60_000
    return result.ok, result.message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, (True, "The provider takes the key.")),
        (ProviderCredentialRejected("openai"), (False, "The provider refused the key.")),
        (ProviderTimeout("slow", provider="openai"), (False, "The provider did not answer in time.")),
        (ProviderUnavailable("It failed.", provider="openai"), (False, "It failed.")),
        (Overloaded("It is over its limit."), (False, "It is over its limit.")),
    ],
)
async def test_a_test_says_what_came_of_it(
    own: CredentialSite, error: QuillgateError | None, expected: tuple[bool, str]
) -> None:
    """The provider is asked once, with the stored key, and its answer or failure is told without raising."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    own.accounts.lister.error = error
    assert await _test(own, workspace_id) == expected
    assert (own.accounts.lister.asked, own.accounts.secrets) == (1, [KEY])


async def test_a_provider_without_a_list_cannot_be_tested(own: CredentialSite) -> None:
    """It says so instead of guessing."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY, provider="mute")
    ok, message = await _test(own, workspace_id, "mute")
    assert not ok
    assert "cannot be tested" in message


async def test_a_test_of_a_key_that_cannot_be_decrypted(own: CredentialSite) -> None:
    """It is told as such; nobody is asked."""
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    assert (await _test(open_credentials(own.site, NEW), workspace_id))[1].startswith("The key cannot be decrypted")
    assert own.accounts.lister.asked == 0


async def test_a_test_is_bounded_in_time(site: Site) -> None:
    """A provider that never answers is given up after the limit."""
    own = open_credentials(site, test_timeout_s=0.05)
    own.accounts.lister.hangs = asyncio.Event()
    workspace_id = site.workspace().workspace_id
    own.set(workspace_id, KEY)
    assert await _test(own, workspace_id) == (False, "The provider did not answer in time.")


async def test_tests_are_bounded_in_number(own: CredentialSite) -> None:
    """So many wait for their providers at once; one more is refused, and a cancelled one makes room."""
    lister = own.accounts.lister = FakeLister(hangs=asyncio.Event())
    workspace_id = own.site.workspace().workspace_id
    own.set(workspace_id, KEY)
    running = [asyncio.create_task(_test(own, workspace_id)) for _ in range(MAX_TESTS)]
    async with asyncio.timeout(10):
        while lister.asked < MAX_TESTS:
            await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await _test(own, workspace_id)
    running[0].cancel()
    await asyncio.gather(running[0], return_exceptions=True)
    running[0] = asyncio.create_task(_test(own, workspace_id))
    async with asyncio.timeout(10):
        while lister.asked < MAX_TESTS + 1:
            await asyncio.sleep(0.01)
    assert lister.hangs is not None
    lister.hangs.set()
    assert await asyncio.gather(*running) == [(True, "The provider takes the key.")] * MAX_TESTS


def _workspaces(own: CredentialSite, count: int) -> list[str]:
    made = [own.site.workspace().workspace_id for _ in range(count)]
    for workspace_id in made:
        own.set(workspace_id, f"{KEY}-{workspace_id}")
    return made


def test_a_rotation_that_is_interrupted_goes_on(own: CredentialSite) -> None:
    """One batch, then the process dies and keys are set meanwhile; another goes on until the old key can go."""
    before = _workspaces(own, 5)
    rotating = open_credentials(own.site, NEW, OLD)
    first = rotating.credentials.rewrap(own.site.admin, limit=2)
    assert (first.rewrapped, first.remaining, first.unreadable, first.master_key_id) == (2, 3, 0, NEW.key_id)
    meanwhile = [*_workspaces(open_credentials(own.site, OLD), 1), *_workspaces(rotating, 1)]
    resumed = open_credentials(own.site, NEW, OLD)
    second = resumed.credentials.rewrap(own.site.admin, limit=3)
    assert (second.rewrapped, second.remaining) == (3, 1)
    last = resumed.credentials.rewrap(own.site.admin)
    assert (last.rewrapped, last.remaining, last.unreadable) == (1, 0, 0)
    assert resumed.credentials.rewrap(own.site.admin) == replace(last, rewrapped=0)
    without_old = open_credentials(own.site, NEW)
    for workspace_id in before + meanwhile:
        assert without_old.open(workspace_id) == f"{KEY}-{workspace_id}"
    assert own.value("SELECT array_agg(DISTINCT master_key_id) FROM provider_credentials") == [NEW.key_id]


def test_replicas_that_rotate_and_set_at_once(own: CredentialSite) -> None:
    """While keys are replaced and deleted, rewrapping loses none and brings none back."""
    workspaces = _workspaces(own, 12)
    rotating = open_credentials(own.site, NEW, OLD)
    stop = threading.Event()

    def change() -> None:
        try:
            for workspace_id in workspaces[:6]:
                own.set(workspace_id, "replaced-" + workspace_id)
            for workspace_id in workspaces[6:9]:
                own.credentials.delete(own.site.admin, workspace_id=workspace_id, provider="openai")
        finally:
            stop.set()

    thread = threading.Thread(target=change)
    thread.start()
    while not stop.is_set() or rotating.credentials.rewrap(own.site.admin, limit=1).remaining:
        pass
    thread.join()
    after = open_credentials(own.site, NEW)
    assert [after.open(workspace_id) for workspace_id in workspaces[:6]] == ["replaced-" + w for w in workspaces[:6]]
    assert [after.open(workspace_id) for workspace_id in workspaces[9:]] == [f"{KEY}-{w}" for w in workspaces[9:]]
    assert [dict(after.credentials.of(workspace_id).keys) for workspace_id in workspaces[6:9]] == [{}] * 3


def test_what_cannot_be_opened_does_not_stop_a_rotation(own: CredentialSite, caplog: pytest.LogCaptureFixture) -> None:
    """Edited rows and those of a lost master key are passed over, counted and logged; the others are rewrapped."""
    workspaces = _workspaces(own, 6)
    lost = open_credentials(own.site, NEW)
    lost.set(own.site.workspace().workspace_id, KEY)
    ids = sorted(own.credentials.list(own.site.admin, workspace_id=w)[0].credential_id for w in workspaces)
    own.change("UPDATE provider_credentials SET base_url = 'x' WHERE credential_id = ANY (:ids)", ids=ids[:3])
    other = type(OLD)(b"x" * 32)
    rotating = open_credentials(own.site, other, OLD)
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        first = rotating.credentials.rewrap(own.site.admin, limit=2)
    assert (first.rewrapped, first.remaining) == (1, 6)
    second = rotating.credentials.rewrap(own.site.admin, limit=2)
    third = rotating.credentials.rewrap(own.site.admin, limit=2)
    assert (second.rewrapped, third.rewrapped) == (1, 1)
    last = rotating.credentials.rewrap(own.site.admin, limit=2)
    assert (last.rewrapped, last.remaining, last.unreadable) == (0, 4, 4)
    assert ids[0] in caplog.text
    assert KEY not in caplog.text


def test_only_the_platform_s_admin_rotates(own: CredentialSite) -> None:
    """A workspace's admin cannot touch everybody's keys."""
    caller = own.site.caller(own.site.workspace().workspace_id, WORKSPACE_ADMIN)
    with pytest.raises(ScopeMissing) as caught:
        own.credentials.rewrap(caller)
    assert caught.value.metadata == {"scope": PLATFORM_ADMIN}


@pytest.mark.parametrize("limit", [-1, 1_001, 2**31 - 1])
def test_a_batch_is_bounded(own: CredentialSite, limit: int) -> None:
    """A call rewraps 1 to 1,000."""
    with pytest.raises(InvalidRequest) as caught:
        own.credentials.rewrap(own.site.admin, limit=limit)
    assert caught.value.metadata == {"param": "limit", "code": "invalid_value"}
    assert own.credentials.rewrap(own.site.admin, limit=1_000).rewrapped == 0
