"""Stored responses as a use case: who may read them, and pages of what they were made from."""

from collections.abc import Sequence

import pytest
from fakes.fake_response_store import FakeResponseStore
from fakes.stored import message, stored

from quillgate.v1.response_pb2 import ResponseItem, ResponseItemPage
from quillgate_core.errors import InvalidRequest, ResponseNotFound, ScopeMissing
from quillgate_core.principal import INFERENCE, USAGE_READ, Principal
from quillgate_core.stored_responses import StoredResponses

ALICE = Principal(key_id="key_a", key_revision=1, workspace_id="ws_a", scopes=frozenset({INFERENCE}))
BOB = Principal(key_id="key_b", key_revision=1, workspace_id="ws_b", scopes=frozenset({INFERENCE}))
CLERK = Principal(key_id="key_c", key_revision=1, workspace_id="ws_a", scopes=frozenset({USAGE_READ}))


def _site(*items: ResponseItem, own_input_from: int = 0) -> StoredResponses:
    store = FakeResponseStore()
    store.save("ws_a", stored("resp_1", *items, own_input_from=own_input_from))
    return StoredResponses(store)


def _texts(page: ResponseItemPage) -> list[str]:
    return [item.content.parts.parts[0].text for item in page.data]


def _ids(items: Sequence[ResponseItem]) -> list[str]:
    return [item.id for item in items]


def test_its_maker_reads_and_forgets_it() -> None:
    """A key of the workspace that made a response gets it, and after deleting gets it no more."""
    responses = _site()
    assert responses.get(ALICE, "resp_1").extra_json == b'{"vendor":{"n":1}}'
    responses.delete(ALICE, "resp_1")
    with pytest.raises(ResponseNotFound):
        responses.get(ALICE, "resp_1")


@pytest.mark.parametrize(("caller", "error"), [(BOB, ResponseNotFound), (CLERK, ScopeMissing)])
def test_others_do_not(caller: Principal, error: type[Exception]) -> None:
    """Another workspace's key learns nothing, and a key without the scope is told so."""
    responses = _site(message("secret"))
    for attempt in (responses.get, responses.delete, responses.list_input_items):
        with pytest.raises(error):
            attempt(caller, "resp_1")
    assert responses.get(ALICE, "resp_1").id == "resp_1"


def test_only_this_turns_input_is_listed() -> None:
    """Earlier turns are not part of a response's own input."""
    responses = _site(message("old"), message("a"), message("b"), own_input_from=1)
    assert _texts(responses.list_input_items(ALICE, "resp_1")) == ["b", "a"]
    assert _texts(responses.list_input_items(ALICE, "resp_1", order="asc")) == ["a", "b"]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_follow_each_other(order: str) -> None:
    """Following `last_id` gives every item once, in order, and the last page says that it is the last."""
    responses = _site(*(message(str(number)) for number in range(7)))
    texts: list[str] = []
    after, more = "", True
    while more:
        page = responses.list_input_items(ALICE, "resp_1", limit=3, order=order, after=after)
        assert (page.object, page.first_id, page.last_id) == ("list", page.data[0].id, page.data[-1].id)
        texts += _texts(page)
        after, more = page.last_id, page.has_more
    assert texts == sorted("0123456", reverse=order == "desc")


def test_twenty_are_a_page() -> None:
    """Without a limit a page has 20 items; 100 is the most."""
    responses = _site(*(message(str(number)) for number in range(101)))
    assert len(responses.list_input_items(ALICE, "resp_1").data) == 20
    page = responses.list_input_items(ALICE, "resp_1", limit=100)
    assert (len(page.data), page.has_more) == (100, True)


def test_an_empty_input_is_an_empty_page() -> None:
    """Where there is nothing, first and last id are absent."""
    page = _site(message("old"), own_input_from=1).list_input_items(ALICE, "resp_1")
    assert (list(page.data), page.has_more) == ([], False)
    assert not page.HasField("first_id") and not page.HasField("last_id")


def test_every_item_has_an_id_of_its_own() -> None:
    """Items keep their ids; without one, or with one that was there before, they get a lasting id of their kind."""
    call = ResponseItem(type="function_call", call_id="c", name="f", arguments="{}")
    untyped = message("x")
    untyped.ClearField("type")
    responses = _site(message("a", item_id="msg_1"), message("b", item_id="msg_1"), call, untyped)
    first = responses.list_input_items(ALICE, "resp_1", order="asc").data
    assert first[0].id == "msg_1"
    assert [item_id.split("_")[0] for item_id in _ids(first)] == ["msg", "msg", "fc", "msg"]
    assert len(set(_ids(first))) == 4
    assert _ids(first) == _ids(responses.list_input_items(ALICE, "resp_1", order="asc").data)
    assert first[3].type == "message"


def test_text_is_listed_in_parts() -> None:
    """A message whose content was a string is listed with one part of its speaker's kind, and as completed."""
    listed = _site(message("q"), message("a", role="assistant")).list_input_items(ALICE, "resp_1", order="asc").data
    assert [(item.content.parts.parts[0].type, item.status) for item in listed] == [
        ("input_text", "completed"),
        ("output_text", "completed"),
    ]
    assert listed[1].content.parts.parts[0].annotations == b"[]"


@pytest.mark.parametrize(
    ("question", "param"),
    [({"limit": -1}, "limit"), ({"limit": 101}, "limit"), ({"order": "up"}, "order"), ({"after": "msg_x"}, "after")],
)
def test_odd_questions_are_refused(question: dict[str, object], param: str) -> None:
    """A limit outside 1 to 100, an unknown order and an unknown place are refused by name."""
    with pytest.raises(InvalidRequest) as caught:
        _site(message("a")).list_input_items(ALICE, "resp_1", **question)  # type: ignore[arg-type]
    assert caught.value.metadata == {"param": param, "code": "invalid_value"}


def test_purge_goes_on_until_nothing_is_left() -> None:
    """The chore empties the store of what has expired, and keeps the rest."""
    store = FakeResponseStore()
    for number in range(3):
        store.save("ws_a", stored(f"resp_{number}"))
    store.expire("ws_a", "resp_0")
    store.expire("ws_a", "resp_1")
    StoredResponses(store).purge()
    assert len(store) == 1
