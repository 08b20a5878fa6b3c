"""KeyService on the real keys and a real database: what each message means to the use case, and back."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fakes.site import Site
from fakes.sync_rpc import FakeCaller, SyncRpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from quillgate.v1 import key_service_pb2 as pb
from quillgate_core.errors import (
    InvalidRequest,
    KeyInvalid,
    KeyNotFound,
    KeyRevoked,
    ModelNotAllowed,
    QuillgateError,
    ScopeMissing,
    WorkspaceNotFound,
)
from quillgate_core.principal import INFERENCE, KEYS_MANAGE, PLATFORM_ADMIN, USAGE_READ
from quillgate_core.rpc.key_service import KeyService

UNKNOWN = "key_" + "0" * 20
SERVICE = pb.DESCRIPTOR.services_by_name["KeyService"]


@pytest.fixture
def caller(site: Site) -> FakeCaller:
    """The admin, until the test says otherwise."""
    return FakeCaller(site.admin)


@pytest.fixture
def servicer(site: Site, caller: FakeCaller) -> KeyService:
    """The servicer itself, for errors."""
    return KeyService(site.keys, caller)


@pytest.fixture
def call(servicer: KeyService) -> SyncRpc:
    """The servicer as gRPC calls it."""
    return SyncRpc(SERVICE, servicer)


def test_every_method_is_plain_and_served() -> None:
    """Blocking methods belong to the gate's threads: none is a coroutine, and none is missing."""
    for method in SERVICE.methods:
        assert method.name in vars(KeyService)
        assert vars(KeyService)[method.name].__code__.co_flags & 0x80 == 0


def test_create_returns_the_key_and_its_secret(site: Site, call: SyncRpc) -> None:
    """Every field of the request is on the key, and the secret works."""
    workspace_id = site.workspace().workspace_id
    end = Timestamp(seconds=int((datetime.now(UTC) + timedelta(hours=1)).timestamp()), nanos=250_000_000)
    request = pb.CreateKeyRequest(
        workspace_id=workspace_id,
        name="CI",
        scopes=[KEYS_MANAGE, INFERENCE],
        allowed_models=["b", "a"],
        expire_time=end,
    )
    response = call("CreateKey", request)
    key = response.key
    assert (key.workspace_id, key.name, key.last4) == (workspace_id, "CI", response.secret[-4:])
    assert (list(key.scopes), list(key.allowed_models)) == ([INFERENCE, KEYS_MANAGE], ["b", "a"])
    assert key.expire_time == end
    assert key.HasField("create_time") and not key.HasField("revoke_time") and not key.HasField("last_used_time")
    assert site.keys.authenticate(response.secret).key_id == key.key_id
    assert call("GetKey", pb.GetKeyRequest(key_id=key.key_id)).key == key


def test_create_has_the_documented_defaults(site: Site, call: SyncRpc) -> None:
    """Without more than a name the key is the caller's workspace's, may infer and read usage, and never ends."""
    key = call("CreateKey", pb.CreateKeyRequest(name="n")).key
    assert key.workspace_id == site.admin.workspace_id
    assert (list(key.scopes), list(key.allowed_models)) == ([INFERENCE, USAGE_READ], [])
    assert not key.HasField("expire_time")


def test_list_pages_through_the_workspace(site: Site, call: SyncRpc) -> None:
    """Pages follow each other, oldest first, with revoked keys only when asked for."""
    workspace_id = site.workspace().workspace_id
    ids = [site.key(workspace_id, INFERENCE)[0].key_id for _ in range(3)]
    site.keys.revoke(site.admin, ids[1])
    first = call("ListKeys", pb.ListKeysRequest(workspace_id=workspace_id, page_size=1))
    second = call(
        "ListKeys", pb.ListKeysRequest(workspace_id=workspace_id, page_size=1, page_token=first.next_page_token)
    )
    everything = call("ListKeys", pb.ListKeysRequest(workspace_id=workspace_id, include_revoked=True))
    assert [key.key_id for key in (*first.keys, *second.keys)] == [ids[0], ids[2]]
    assert (bool(first.next_page_token), second.next_page_token, everything.next_page_token) == (True, "", "")
    assert [(key.key_id, key.HasField("revoke_time")) for key in everything.keys] == [
        (ids[0], False),
        (ids[1], True),
        (ids[2], False),
    ]


def test_update_changes_only_what_the_mask_names(site: Site, call: SyncRpc) -> None:
    """A field outside the mask is ignored; a named one that is absent is cleared."""
    end = datetime.now(UTC) + timedelta(hours=1)
    key, _ = site.key(site.workspace().workspace_id, INFERENCE, models=("m",), expire_time=end)

    def update(*paths: str, **fields: Any) -> pb.Key:
        request = pb.UpdateKeyRequest(key_id=key.key_id, update_mask=FieldMask(paths=paths), **fields)
        changed: pb.Key = call("UpdateKey", request).key
        return changed

    named = update("name", name="new", scopes=[USAGE_READ], allowed_models=["x"])
    assert (named.name, list(named.scopes), list(named.allowed_models)) == ("new", [INFERENCE], ["m"])
    assert named.HasField("expire_time")
    assert list(update("scopes", scopes=[USAGE_READ]).scopes) == [USAGE_READ]
    assert list(update("allowed_models").allowed_models) == []
    assert not update("expire_time").HasField("expire_time")
    later = Timestamp(seconds=int(end.timestamp()))
    assert update("expire_time", "name", name="n2", expire_time=later).expire_time == later


def test_limits_are_set_shown_and_masked_one_by_one(call: SyncRpc) -> None:
    """`limits` in the mask replaces all of them, `limits.x` one; those that are absent while named go."""
    given = pb.KeyLimits(daily_messages=5, monthly_messages=0, requests_per_minute=60)
    key = call("CreateKey", pb.CreateKeyRequest(name="n", limits=given)).key
    assert key.limits == given

    def update(*paths: str, **limits: int) -> pb.KeyLimits:
        fields = pb.KeyLimits(**limits)
        mask = FieldMask(paths=paths)
        request = pb.UpdateKeyRequest(key_id=key.key_id, update_mask=mask, name="n", limits=fields)
        changed: pb.Key = call("UpdateKey", request).key
        assert changed == call("GetKey", pb.GetKeyRequest(key_id=key.key_id)).key
        return changed.limits

    one = update("limits.daily_messages", daily_messages=6, requests_per_minute=1)
    assert one == pb.KeyLimits(daily_messages=6, monthly_messages=0, requests_per_minute=60)
    two = update("limits.monthly_messages", "limits.concurrent_requests", concurrent_requests=3)
    assert two == pb.KeyLimits(daily_messages=6, requests_per_minute=60, concurrent_requests=3)
    assert update("limits", tokens_per_minute=9) == pb.KeyLimits(tokens_per_minute=9)
    assert update("name", tokens_per_minute=1) == pb.KeyLimits(tokens_per_minute=9)
    assert update("limits") == pb.KeyLimits()


def test_limits_are_always_there(call: SyncRpc) -> None:
    """A key without limits has an empty message of them, so that clients need not ask."""
    assert call("CreateKey", pb.CreateKeyRequest(name="n")).key.HasField("limits")


@pytest.mark.parametrize(
    "paths",
    [["limits.x"], ["limits."], ["limits.daily_messages.x"], [], ["key_id"], ["name", "last4"], ["*"], ["name.x"]],
)
def test_mask_names_changeable_fields(servicer: KeyService, paths: list[str]) -> None:
    """An empty mask and one with anything else than a changeable field are refused."""
    with pytest.raises(InvalidRequest) as caught:
        servicer.UpdateKey(pb.UpdateKeyRequest(key_id=UNKNOWN, update_mask=FieldMask(paths=paths)), None)
    assert caught.value.metadata == {"param": "update_mask", "code": "invalid_value"}


def test_rotation_overlaps_for_a_day_by_default(site: Site, call: SyncRpc) -> None:
    """Without an overlap the old secret works for 24 hours; with one of zero it ends at once."""
    key, old = site.key(site.workspace().workspace_id, INFERENCE)
    rotated = call("RotateKey", pb.RotateKeyRequest(key_id=key.key_id))
    assert rotated.key.last4 == rotated.secret[-4:]
    assert site.keys.authenticate(rotated.secret).key_id == key.key_id
    end = site.keys.authenticate(old).expire_time
    assert end is not None
    assert timedelta(hours=23) < end - datetime.now(UTC) < timedelta(hours=25)
    call("RotateKey", pb.RotateKeyRequest(key_id=key.key_id, overlap=Duration()))
    with pytest.raises(KeyInvalid):
        site.keys.authenticate(rotated.secret)


@pytest.mark.parametrize(
    ("overlap", "code"),
    [
        (Duration(seconds=-1), ""),
        (Duration(nanos=-1), ""),
        (Duration(seconds=7 * 86_400, nanos=1), ""),
        (Duration(seconds=1, nanos=-1), "invalid_value"),
        (Duration(seconds=2**62), "invalid_value"),
        (Duration(nanos=2**31 - 1), "invalid_value"),
    ],
)
def test_overlap_is_a_duration_of_at_most_a_week(
    site: Site, servicer: KeyService, overlap: Duration, code: str
) -> None:
    """Negative, too long and malformed overlaps are refused, however small the excess."""
    key, _ = site.key(site.workspace().workspace_id, INFERENCE)
    with pytest.raises(InvalidRequest) as caught:
        servicer.RotateKey(pb.RotateKeyRequest(key_id=key.key_id, overlap=overlap), None)
    assert caught.value.metadata.get("param") == "overlap"
    assert caught.value.metadata.get("code", "") == code


def test_revoke_says_when_and_says_it_again(site: Site, call: SyncRpc) -> None:
    """Revoking twice answers the same key with the first revocation's time."""
    key, _ = site.key(site.workspace().workspace_id, INFERENCE)
    request = pb.RevokeKeyRequest(key_id=key.key_id)
    revoked = call("RevokeKey", request)
    assert revoked.key.HasField("revoke_time")
    assert call("RevokeKey", request) == revoked


def test_introspection_shows_the_key_or_nothing(site: Site, call: SyncRpc) -> None:
    """A live secret is active with its key; anything else is inactive without one."""
    key, secret = site.key(site.workspace().workspace_id, INFERENCE)
    active = call("IntrospectKey", pb.IntrospectKeyRequest(secret=secret))
    assert (active.active, active.key.key_id) == (True, key.key_id)
    for dead in ("", "nonsense", secret[:-1]):
        assert call("IntrospectKey", pb.IntrospectKeyRequest(secret=dead)) == pb.IntrospectKeyResponse()


@pytest.mark.parametrize("seconds", [-(2**40), 2**40])
def test_time_must_be_a_time(servicer: KeyService, seconds: int) -> None:
    """A timestamp outside the years 1 to 9999 is a bad request, not a crash."""
    with pytest.raises(InvalidRequest) as caught:
        servicer.CreateKey(pb.CreateKeyRequest(name="n", expire_time=Timestamp(seconds=seconds)), None)
    assert caught.value.metadata == {"param": "expire_time", "code": "invalid_value"}


@pytest.mark.parametrize(
    ("method", "fields", "error", "metadata"),
    [
        ("CreateKey", {"name": "n", "scopes": [PLATFORM_ADMIN]}, ScopeMissing, {"scope": PLATFORM_ADMIN}),
        ("CreateKey", {"name": "n", "allowed_models": ["x"]}, ModelNotAllowed, {"model": "x"}),
        ("CreateKey", {"name": "n", "workspace_id": "ws_x"}, WorkspaceNotFound, {"workspace_id": "ws_x"}),
        ("ListKeys", {"workspace_id": "ws_x"}, WorkspaceNotFound, {"workspace_id": "ws_x"}),
        ("GetKey", {"key_id": UNKNOWN}, KeyNotFound, {"key_id": UNKNOWN}),
        ("UpdateKey", {"key_id": UNKNOWN, "update_mask": FieldMask(paths=["name"]), "name": "n"}, KeyNotFound, None),
        ("RotateKey", {"key_id": UNKNOWN}, KeyNotFound, {"key_id": UNKNOWN}),
        ("RevokeKey", {"key_id": "' OR 1=1 --"}, KeyNotFound, {"key_id": "' OR 1=1 --"}),
    ],
)
def test_refusals_go_through_as_they_are(
    site: Site,
    caller: FakeCaller,
    servicer: KeyService,
    method: str,
    fields: dict[str, Any],
    error: type[QuillgateError],
    metadata: dict[str, str] | None,
) -> None:
    """What the use case refuses to a manager with one model, the servicer raises unchanged."""
    caller.principal = site.caller(site.workspace().workspace_id, INFERENCE, USAGE_READ, KEYS_MANAGE, models=("m",))
    with pytest.raises(error) as caught:
        getattr(servicer, method)(getattr(pb, f"{method}Request")(**fields), None)
    assert metadata is None or caught.value.metadata == metadata


def test_revoked_key_cannot_be_rotated(site: Site, servicer: KeyService) -> None:
    """The end of a key is told apart from a key that is not there."""
    key, _ = site.key(site.workspace().workspace_id, INFERENCE)
    site.keys.revoke(site.admin, key.key_id)
    with pytest.raises(KeyRevoked) as caught:
        servicer.RotateKey(pb.RotateKeyRequest(key_id=key.key_id), None)
    assert caught.value.metadata == {"key_id": key.key_id}


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_every_method_needs_the_scope(site: Site, caller: FakeCaller, servicer: KeyService, method: str) -> None:
    """A key that may only infer manages no keys, and learns nothing about them."""
    caller.principal = site.caller(site.workspace().workspace_id, INFERENCE, USAGE_READ)
    request = getattr(pb, f"{method}Request")()
    if method == "UpdateKey":
        request.update_mask.paths.append("name")
    with pytest.raises(ScopeMissing) as caught:
        getattr(servicer, method)(request, None)
    assert caught.value.metadata == {"scope": KEYS_MANAGE}
