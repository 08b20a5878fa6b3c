"""ProviderCredentialService on the real use case and a real database: what each message means, and back."""

import pytest
from fakes.credential_site import NEW, OLD, CredentialSite, open_credentials
from fakes.site import Site
from fakes.sync_rpc import FakeCaller, SyncRpc

from quillgate.v1 import provider_credential_service_pb2 as pb
from quillgate_core.errors import InvalidRequest, ProviderCredentialNotFound, ProviderCredentialRejected
from quillgate_core.principal import WORKSPACE_ADMIN
from quillgate_core.rpc.provider_credential_service import ProviderCredentialService

SERVICE = pb.DESCRIPTOR.services_by_name["ProviderCredentialService"]
KEY = "sk-planted-0123456789"


@pytest.fixture
def own(site: Site) -> CredentialSite:
    """One core process with a new master key and an old one."""
    return open_credentials(site, NEW, OLD)


@pytest.fixture
def workspace_id(site: Site) -> str:
    """The caller's workspace."""
    return site.workspace().workspace_id


@pytest.fixture
def caller(site: Site, workspace_id: str) -> FakeCaller:
    """The workspace's admin, until the test says otherwise."""
    return FakeCaller(site.caller(workspace_id, WORKSPACE_ADMIN))


@pytest.fixture
def servicer(own: CredentialSite, caller: FakeCaller) -> ProviderCredentialService:
    """The servicer itself, for errors and for what is async."""
    return ProviderCredentialService(own.credentials, caller)


@pytest.fixture
def call(servicer: ProviderCredentialService) -> SyncRpc:
    """The servicer as gRPC calls it."""
    return SyncRpc(SERVICE, servicer)


def test_what_is_set_is_answered_and_listed(own: CredentialSite, call: SyncRpc, workspace_id: str) -> None:
    """All members come back but the secret; by default it is the caller's own workspace."""
    request = pb.SetProviderCredentialRequest(
        provider="openai", secret=KEY, base_url="https://eu.example/v1", allow_fallback=True
    )
    made = call("SetProviderCredential", request).credential
    assert made.credential_id.startswith("cred_")
    assert len(made.credential_id) == 25
    assert made.create_time.seconds > 1_700_000_000
    assert (
        pb.ProviderCredential(
            credential_id=made.credential_id,
            workspace_id=workspace_id,
            provider="openai",
            base_url="https://eu.example/v1",
            last4="6789",
            allow_fallback=True,
            create_time=made.create_time,
            master_key_id=NEW.key_id,
        )
        == made
    )
    call("SetProviderCredential", pb.SetProviderCredentialRequest(provider="groq", secret="short"))
    listed = call("ListProviderCredentials", pb.ListProviderCredentialsRequest(workspace_id=workspace_id)).credentials
    assert [(credential.provider, credential.last4, credential.allow_fallback) for credential in listed] == [
        ("groq", "", False),
        ("openai", "6789", True),
    ]
    assert KEY.encode() not in b"".join(credential.SerializeToString() for credential in listed)
    assert own.open(workspace_id) == KEY


def test_set_again_is_another_credential(call: SyncRpc) -> None:
    """Repeating a set leaves one credential, with a new id."""
    request = pb.SetProviderCredentialRequest(provider="openai", secret=KEY)
    first, second = (call("SetProviderCredential", request).credential.credential_id for _ in range(2))
    listed = call("ListProviderCredentials", pb.ListProviderCredentialsRequest()).credentials
    assert [credential.credential_id for credential in listed] == [second] != [first]


def test_deleted_is_gone(call: SyncRpc, servicer: ProviderCredentialService) -> None:
    """After it there is nothing to list, and deleting again is an error."""
    call("SetProviderCredential", pb.SetProviderCredentialRequest(provider="openai", secret=KEY))
    request = pb.DeleteProviderCredentialRequest(provider="openai")
    assert call("DeleteProviderCredential", request) == pb.DeleteProviderCredentialResponse()
    assert not call("ListProviderCredentials", pb.ListProviderCredentialsRequest()).credentials
    with pytest.raises(ProviderCredentialNotFound) as caught:
        servicer.DeleteProviderCredential(request, None)
    assert caught.value.metadata == {"provider": "openai"}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"secret": KEY}, "provider"),
        ({"provider": "nope", "secret": KEY}, "provider"),
        ({"provider": "openai"}, "secret"),
        ({"provider": "openai", "secret": "a b"}, "secret"),
        ({"provider": "openai", "secret": KEY, "base_url": "http://x.example"}, "base_url"),
    ],
)
def test_what_is_wrong_is_named(servicer: ProviderCredentialService, members: dict[str, str], param: str) -> None:
    """Each member is checked, absent ones too, and told by its name."""
    with pytest.raises(InvalidRequest) as caught:
        servicer.SetProviderCredential(pb.SetProviderCredentialRequest(**members), None)
    assert caught.value.metadata == {"param": param, "code": "invalid_value"}


async def test_a_test_tells_what_came_of_it(
    own: CredentialSite, servicer: ProviderCredentialService, workspace_id: str
) -> None:
    """A key that works and one that does not are both answers, not errors."""
    own.set(workspace_id, KEY)
    request = pb.TestProviderCredentialRequest(provider="openai")
    good = await servicer.TestProviderCredential(request, None)
    assert (good.ok, good.message) == (True, "The provider takes the key.")
    own.accounts.lister.error = ProviderCredentialRejected("openai")
    bad = await servicer.TestProviderCredential(request, None)
    assert (bad.ok, bad.message) == (False, "The provider refused the key.")
    assert bad.latency_ms >= 0


def test_rewrapping_counts(site: Site, call: SyncRpc, caller: FakeCaller, workspace_id: str) -> None:
    """Each call does up to its limit, 100 by default, and says what is left."""
    before = open_credentials(site, OLD)
    for provider in ("openai", "groq", "mute"):
        before.set(workspace_id, KEY, provider=provider)
    caller.principal = site.admin
    answers = [
        call("RewrapProviderCredentials", pb.RewrapProviderCredentialsRequest(limit=limit)) for limit in (2, 0, 0)
    ]
    assert [(answer.rewrapped, answer.remaining, answer.unreadable) for answer in answers] == [
        (2, 1, 0),
        (1, 0, 0),
        (0, 0, 0),
    ]
    assert {answer.master_key_id for answer in answers} == {NEW.key_id}
