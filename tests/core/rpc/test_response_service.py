"""ResponseService on a real database: what each message means to the use case, and back."""

from datetime import timedelta
from typing import Any

import pytest
from fakes.site import Site
from fakes.stored import message, stored
from fakes.sync_rpc import FakeCaller, SyncRpc

from quillgate.v1 import response_service_pb2 as pb
from quillgate_core.errors import InvalidRequest, QuillgateError, ResponseNotFound, ScopeMissing
from quillgate_core.principal import INFERENCE, KEYS_MANAGE, USAGE_READ
from quillgate_core.rpc.response_service import ResponseService
from quillgate_core.storage.response_store import PostgresResponseStore
from quillgate_core.stored_responses import StoredResponses

SERVICE = pb.DESCRIPTOR.services_by_name["ResponseService"]


@pytest.fixture
def caller(site: Site) -> FakeCaller:
    """A developer of a workspace."""
    return FakeCaller(site.caller(site.workspace().workspace_id, INFERENCE))


@pytest.fixture
def store(site: Site) -> PostgresResponseStore:
    """Where responses are kept."""
    return PostgresResponseStore(site.engine, timedelta(days=30))


@pytest.fixture
def servicer(store: PostgresResponseStore, caller: FakeCaller) -> ResponseService:
    """The servicer itself, for errors."""
    return ResponseService(StoredResponses(store), caller)


@pytest.fixture
def call(servicer: ResponseService) -> SyncRpc:
    """The servicer as gRPC calls it."""
    return SyncRpc(SERVICE, servicer)


def test_every_method_is_plain_and_served() -> None:
    """Blocking methods belong to the gate's threads: none is a coroutine, and none is missing."""
    for method in SERVICE.methods:
        assert method.name in vars(ResponseService)
        assert vars(ResponseService)[method.name].__code__.co_flags & 0x80 == 0


def test_get_then_delete(store: PostgresResponseStore, caller: FakeCaller, call: SyncRpc) -> None:
    """The response comes back as it was stored, until it is deleted."""
    kept = stored("resp_1", message("Hi"))
    store.save(caller.principal.workspace_id, kept)
    assert call("GetResponse", pb.GetResponseRequest(response_id="resp_1")).response == kept.response
    assert call("DeleteResponse", pb.DeleteResponseRequest(response_id="resp_1")) == pb.DeleteResponseResponse()
    with pytest.raises(ResponseNotFound):
        store.get(caller.principal.workspace_id, "resp_1")


def test_list_takes_limit_order_and_place(store: PostgresResponseStore, caller: FakeCaller, call: SyncRpc) -> None:
    """Every field of the request reaches the use case."""
    items = [message(str(number), item_id=f"msg_{number}") for number in range(5)]
    store.save(caller.principal.workspace_id, stored("resp_1", *items))
    request = pb.ListResponseInputItemsRequest(response_id="resp_1", limit=2, order="asc", after="msg_1")
    page = call("ListResponseInputItems", request).page
    assert ([item.id for item in page.data], page.first_id, page.last_id, page.has_more) == (
        ["msg_2", "msg_3"],
        "msg_2",
        "msg_3",
        True,
    )
    default = call("ListResponseInputItems", pb.ListResponseInputItemsRequest(response_id="resp_1")).page
    assert (default.data[0].id, default.has_more) == ("msg_4", False)


@pytest.mark.parametrize(
    ("method", "fields", "error"),
    [
        ("GetResponse", {"response_id": "resp_none"}, ResponseNotFound),
        ("DeleteResponse", {"response_id": "resp_none"}, ResponseNotFound),
        ("ListResponseInputItems", {"response_id": "resp_none"}, ResponseNotFound),
        ("GetResponse", {"response_id": "' OR 1=1 --"}, ResponseNotFound),
        ("ListResponseInputItems", {"response_id": "resp_none", "limit": 101}, InvalidRequest),
    ],
)
def test_refusals_go_through_as_they_are(
    servicer: ResponseService, method: str, fields: dict[str, Any], error: type[QuillgateError]
) -> None:
    """What the use case refuses, the servicer raises unchanged."""
    with pytest.raises(error):
        getattr(servicer, method)(getattr(pb, f"{method}Request")(**fields), None)


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_every_method_needs_the_scope_and_the_workspace(
    site: Site, store: PostgresResponseStore, caller: FakeCaller, servicer: ResponseService, method: str
) -> None:
    """A key without `inference` is told so; a platform admin of another workspace finds nothing either."""
    store.save(caller.principal.workspace_id, stored("resp_1"))
    request = getattr(pb, f"{method}Request")(response_id="resp_1")
    own = caller.principal.workspace_id
    caller.principal = site.caller(own, USAGE_READ, KEYS_MANAGE)
    with pytest.raises(ScopeMissing) as caught:
        getattr(servicer, method)(request, None)
    assert caught.value.metadata == {"scope": INFERENCE}
    caller.principal = site.admin
    with pytest.raises(ResponseNotFound):
        getattr(servicer, method)(request, None)
