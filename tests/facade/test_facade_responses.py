"""`/responses` over HTTP: whole answers, events, what breaks in the middle, and what was stored."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from fakes.facade_site import KEY, StartFacade, client_of, config
from fakes.fake_core import FakeFailure
from fakes.fake_response_core import (
    RESPONSE_ID,
    FakeResponseCore,
    created,
    delta,
    ended,
    event,
    first,
    hello_events,
    last,
    more,
)
from fakes.stored import message
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError

from quillgate.v1.completion_service_pb2 import StreamResponseResponse
from quillgate.v1.response_pb2 import ResponseItemPage
from quillgate_facade.app import FacadeServer
from quillgate_facade.errors import ApiError
from quillgate_facade.response_events import ResponseEvents, ignored_header

RESPONSES = "/v1/responses"
BODY: dict[str, Any] = {"model": "m", "input": "Hi"}
STREAM = {**BODY, "stream": True}
BROKEN = FakeFailure(grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNAVAILABLE", "The provider broke off.", {})

Frame = tuple[str, dict[str, Any]]


@pytest.fixture
async def core() -> AsyncIterator[FakeResponseCore]:
    """A core that does what its script says."""
    async with FakeResponseCore() as fake:
        yield fake


async def read_events(http: ClientSession, body: dict[str, Any] = STREAM) -> list[Frame]:
    """Asks for a stream and returns its events, each with the name on its `event:` line."""
    async with http.post(RESPONSES, json=body) as answer:
        assert answer.status == 200
        text = await answer.text()
    assert text.endswith("\n\n")
    return parse(text)


def parse(text: str) -> list[Frame]:
    """Splits frames, each of which must be an `event:` and a `data:` line."""
    frames = []
    for frame in text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        frames.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return frames


@pytest.mark.parametrize("prefix", ["/v1", "/api/openai/v1"])
async def test_a_whole_response(core: FakeResponseCore, http: ClientSession, prefix: str) -> None:
    """The answer has every member that clients insist on, keeps unknown ones, and tells its charge."""
    core.response_answer.receipt.remaining_messages = 41
    async with http.post(prefix + "/responses", json=BODY) as answer:
        body = await answer.json()
    assert answer.status == 200
    assert answer.headers["x-quillgate-messages"] == "1"
    assert answer.headers["x-quillgate-messages-remaining"] == "41"
    assert "x-quillgate-ignored" not in answer.headers
    assert body["output"][0]["content"][0]["text"] == "Hello"
    assert body["x_vendor"] == {"kept": True}
    assert (body["error"], body["usage"], body["metadata"], body["instructions"]) == (None, None, {}, None)


async def test_what_reaches_the_core(core: FakeResponseCore, http: ClientSession) -> None:
    """The core gets the key, the request id, a deadline and the body without loss."""
    async with http.post(RESPONSES, json={**BODY, "tools": [], "client_metadata": {"a": 1}}) as answer:
        assert answer.status == 200
    (seen,) = core.metadata
    assert seen["authorization"] == f"Bearer {KEY}"
    assert seen["x-request-id"] == answer.headers["x-request-id"]
    assert 600 < core.deadlines_s[0] < 612
    asked = core.requests[0].response
    assert asked.input.text == "Hi"
    assert json.loads(asked.extra_json)["client_metadata"] == {"a": 1}


async def test_what_was_ignored_is_said(core: FakeResponseCore, http: ClientSession) -> None:
    """Whole answers and streams name what was ignored in a header."""
    ignored = ["tools[2]:web_search", "reasoning.summary"]
    core.response_answer.ignored.extend(ignored)
    core.script.steps = hello_events(ignored=ignored)
    for body in (BODY, STREAM):
        async with http.post(RESPONSES, json=body) as answer:
            await answer.read()
        assert answer.headers["x-quillgate-ignored"] == "tools[2]:web_search, reasoning.summary"


def test_the_ignored_header_is_short_and_clean() -> None:
    """Nothing that could end a header or be split wrongly gets in, and 4 KiB are the most."""
    assert ignored_header([]) == {}
    assert ignored_header(["a\r\nx-evil: 1", "ü,b"]) == {"x-quillgate-ignored": "a??x-evil:?1, ??b"}
    (value,) = ignored_header([f"tools[{number}]:web_search" for number in range(1000)]).values()
    assert 4000 < len(value) <= 4096
    assert value.endswith(", ...")
    assert ignored_header(["x" * 5000]) == {"x-quillgate-ignored": "..."}


async def test_a_stream(core: FakeResponseCore, http: ClientSession) -> None:
    """Every event has its name on an `event:` line; numbers have no gaps; there is no `[DONE]`."""
    core.script.steps = hello_events(remaining=7)
    frames = await read_events(http)
    assert [name for name, _ in frames] == [
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.completed",
    ]
    assert all(value["type"] == name for name, value in frames)
    assert [value["sequence_number"] for _, value in frames] == [0, 1, 2, 3, 4, 5]
    assert all("error" not in value for _, value in frames)
    assert frames[-1][1]["response"]["x_vendor"] == {"kept": True}


async def test_stream_head(core: FakeResponseCore, http: ClientSession) -> None:
    """The head is that of every stream."""
    core.script.steps = hello_events(remaining=7)
    async with http.post(RESPONSES, json=STREAM, headers={"accept-encoding": "gzip, br"}) as answer:
        await answer.read()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-quillgate-messages-remaining"] == "7"
    assert "content-encoding" not in answer.headers


async def test_a_refusal_before_the_first_event_has_its_own_status(core: FakeResponseCore, http: ClientSession) -> None:
    """The head waits for the core's first message, so a refused stream is not a 200."""
    core.script.failure = FakeFailure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "No.", {"model": "m"})
    async with http.post(RESPONSES, json=STREAM) as answer:
        body = await answer.json()
    assert (answer.status, body["error"]["code"]) == (404, "model_not_found")


async def test_a_failure_that_the_core_told_is_not_told_again(core: FakeResponseCore, http: ClientSession) -> None:
    """After the core's own `error` and `response.failed` the stream just closes."""
    told = more(event("error", 1, code="server_error", message="m", param=None), ended("failed", 2))
    core.script.steps = [first(created()), told, BROKEN]
    frames = await read_events(http)
    assert [name for name, _ in frames] == ["response.created", "error", "response.failed"]


GONE = FakeFailure(grpc.StatusCode.UNAVAILABLE, message="Socket closed at 10.0.0.7")


@pytest.mark.parametrize("steps", [[BROKEN], [GONE], []])
async def test_a_failure_that_the_core_did_not_tell(
    core: FakeResponseCore, http: ClientSession, steps: list[Any]
) -> None:
    """When the core breaks off, or ends without a receipt, both events are written, numbered on, with what is known."""
    core.script.steps = [first(created()), more(delta("Hel", 1)), *steps]
    frames = await read_events(http)
    assert [name for name, _ in frames][2:] == ["error", "response.failed"]
    error, failed = frames[2][1], frames[3][1]
    assert (error["sequence_number"], failed["sequence_number"]) == (2, 3)
    assert error["error"] == {
        "type": "server_error",
        "code": "server_error",
        "message": error["message"],
        "param": None,
    }
    assert (error["code"], error["param"]) == ("server_error", None)
    response = failed["response"]
    assert (response["id"], response["status"], response["x_vendor"]) == (RESPONSE_ID, "failed", {"kept": True})
    assert response["error"] == {"code": "server_error", "message": error["message"]}
    assert (error["message"] == "The provider broke off.") is (steps == [BROKEN])
    assert "10.0.0.7" not in error["message"]


async def test_half_of_a_told_failure_is_completed(core: FakeResponseCore, http: ClientSession) -> None:
    """A core that dies between the two events leaves the second one to the facade."""
    told = event("error", 1, code="server_error", message="m", param=None)
    core.script.steps = [first(created(), told), BROKEN]
    frames = await read_events(http)
    assert [name for name, _ in frames] == ["response.created", "error", "response.failed"]
    assert frames[2][1]["sequence_number"] == 2


async def test_a_completed_response_is_not_failed(core: FakeResponseCore, http: ClientSession) -> None:
    """What breaks after `response.completed` cannot take the answer back."""
    core.script.steps = [first(created()), more(ended("completed", 1)), BROKEN]
    assert [name for name, _ in await read_events(http)] == ["response.created", "response.completed"]


async def test_an_event_that_cannot_be_written_ends_the_stream(core: FakeResponseCore, http: ClientSession) -> None:
    """Broken raw JSON from the core becomes a failure that shows nothing of it."""
    broken = ended("completed", 2)
    broken.response.extra_json = b"{secret"
    core.script.steps = [first(created()), more(delta("a", 1), broken)]
    frames = await read_events(http)
    assert [name for name, _ in frames] == ["response.created", "error", "response.failed"]
    assert [value["sequence_number"] for _, value in frames] == [0, 1, 2]
    assert "secret" not in json.dumps(frames)


def test_a_failure_without_any_response_is_still_whole() -> None:
    """Where no event told of a response, the last one names at least the model."""
    error, failed = parse(ResponseEvents(model="m").failure(ApiError(503, "No.", kind="server_error")).decode())
    assert (error[1]["sequence_number"], failed[1]["sequence_number"]) == (0, 1)
    assert (failed[1]["response"]["model"], failed[1]["response"]["status"]) == ("m", "failed")


def test_a_name_cannot_begin_a_line_of_its_own() -> None:
    """A provider's odd kind of event stays inside its JSON."""
    odd = event("x\n\ndata: evil", 0)
    frames = bytes(ResponseEvents(model="m").frames(StreamResponseResponse(events=[odd])))
    assert frames.startswith(b"data: {") and frames.count(b"\n") == 2


async def test_a_stop_ends_a_stream_with_both_words(core: FakeResponseCore, facade: FacadeServer) -> None:
    """A stream that outlives the drain is told that the server stops, as any failed one is told."""
    core.script.steps = [first(created()), 60.0]
    async with client_of(facade) as http, http.post(RESPONSES, json=STREAM) as answer:
        head = await answer.content.readuntil(b"\n\n")
        await facade.stop(0.05)
        frames = parse((head + await answer.read()).decode())
    assert [name for name, _ in frames] == ["response.created", "error", "response.failed"]
    assert "stopping" in frames[1][1]["message"]


async def test_comments_in_silence(core: FakeResponseCore, start: StartFacade) -> None:
    """A silent stream gets comments between its events."""
    facade = await start(config(comment_interval_s=0.05))
    core.script.steps = [first(created()), 0.3, last(ended("completed", 1))]
    async with client_of(facade) as http, http.post(RESPONSES, json=STREAM) as answer:
        assert (await answer.text()).count(": keep-alive\n\n") >= 2


async def test_hanging_up_in_the_stream_cancels_the_call(core: FakeResponseCore, facade: FacadeServer) -> None:
    """A client that leaves in the middle cancels the call, although no event is under way."""
    core.script.steps = [first(created()), 60.0]
    async with client_of(facade) as http, http.post(RESPONSES, json=STREAM) as answer:
        await answer.content.readany()
        answer.close()
        await asyncio.wait_for(core.cancelled.wait(), 5)


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_hanging_up_before_the_first_byte_cancels_the_call(
    core: FakeResponseCore, facade: FacadeServer, body: dict[str, Any]
) -> None:
    """A client that leaves while the model thinks cancels the call to the core."""
    core.script.hang = True
    async with client_of(facade) as http:
        pending = asyncio.ensure_future(http.post(RESPONSES, json=body))
        await core.started.wait()
        pending.cancel()
        await asyncio.wait([pending])
        await asyncio.wait_for(core.cancelled.wait(), 5)


async def test_a_client_that_stops_reading_is_cut(core: FakeResponseCore, start: StartFacade) -> None:
    """A stalled reader is disconnected after the stall limit and its call is cancelled."""
    facade = await start(config(write_stall_timeout_s=0.3))
    core.script.endless = more(delta("x" * 100_000, 1))  # type: ignore[assignment]
    reader, writer = await asyncio.open_connection("127.0.0.1", facade.port, limit=1024)
    body = json.dumps(STREAM).encode()
    head = f"POST {RESPONSES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await asyncio.wait_for(core.cancelled.wait(), 20)
    with suppress(ConnectionError):
        while await reader.read(65536):
            pass
    writer.close()


async def test_stored_responses(core: FakeResponseCore, http: ClientSession) -> None:
    """A stored response is read and deleted by its id."""
    async with http.get(f"{RESPONSES}/{RESPONSE_ID}") as answer:
        body = await answer.json()
    assert (answer.status, body["id"], body["x_vendor"]) == (200, RESPONSE_ID, {"kept": True})
    async with http.delete(f"{RESPONSES}/{RESPONSE_ID}") as answer:
        assert await answer.json() == {"id": RESPONSE_ID, "object": "response", "deleted": True}
    assert [request.response_id for request in core.requests] == [RESPONSE_ID] * 2
    assert all(deadline_s < 30 for deadline_s in core.deadlines_s)


async def test_input_items(core: FakeResponseCore, http: ClientSession) -> None:
    """The page is passed on, and so are limit, order and place."""
    core.page = ResponseItemPage(object="list", data=[message("a", item_id="msg_1")], has_more=True)
    core.page.first_id = core.page.last_id = "msg_1"
    async with http.get(f"{RESPONSES}/{RESPONSE_ID}/input_items?limit=1&order=asc&after=msg_0&include[]=x") as answer:
        body = await answer.json()
    assert (body["object"], body["first_id"], body["last_id"], body["has_more"]) == ("list", "msg_1", "msg_1", True)
    assert body["data"][0]["content"] == "a"
    asked = core.requests[0]
    assert (asked.limit, asked.order, asked.after) == (1, "asc", "msg_0")


async def test_an_empty_page_has_its_nulls(core: FakeResponseCore, http: ClientSession) -> None:
    """Clients get `data` and null ids even where there is nothing."""
    async with http.get(f"{RESPONSES}/{RESPONSE_ID}/input_items") as answer:
        body = await answer.json()
    assert body == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert core.requests[0].limit == 0


@pytest.mark.parametrize("limit", ["0", "-1", "x", "", "1.5", "9" * 30, "٣"])
async def test_a_limit_is_a_number(core: FakeResponseCore, http: ClientSession, limit: str) -> None:
    """What is no positive number is refused by name before the core is asked."""
    async with http.get(f"{RESPONSES}/{RESPONSE_ID}/input_items", params={"limit": limit}) as answer:
        body = await answer.json()
    assert (answer.status, body["error"]["param"], core.requests) == (400, "limit", [])


UNKNOWN = [
    ("GET", "/resp_2"),
    ("DELETE", "/resp_2"),
    ("GET", "/resp_2/input_items"),
    ("POST", "/resp_2/cancel"),
    ("GET", "/resp%00"),
    ("GET", "/%2e%2e%2fetc"),
]


@pytest.mark.parametrize(("method", "path"), UNKNOWN)
async def test_an_unknown_response_is_404(http: ClientSession, method: str, path: str) -> None:
    """Every path under an unknown id says so."""
    async with http.request(method, RESPONSES + path) as answer:
        body = await answer.json()
    assert (answer.status, body["error"]["type"]) == (404, "invalid_request_error")


async def test_what_is_not_served_is_said(core: FakeResponseCore, http: ClientSession) -> None:
    """A stored response is neither streamed nor cancelled, with a 400 that says what to do instead."""
    async with http.get(f"{RESPONSES}/{RESPONSE_ID}?stream=true") as answer:
        body = await answer.json()
    assert (answer.status, body["error"]["param"], core.requests) == (400, "stream", [])
    async with http.post(f"{RESPONSES}/{RESPONSE_ID}/cancel") as answer:
        body = await answer.json()
    assert answer.status == 400
    assert "Only background responses can be cancelled" in body["error"]["message"]


async def test_wrong_methods(http: ClientSession) -> None:
    """A path answers 405 with all the methods that it has."""
    async with http.put(f"{RESPONSES}/{RESPONSE_ID}") as answer:
        assert answer.status == 405
        assert {"GET", "DELETE"} <= set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize("path", ["", "/resp_1", "/resp_1/input_items"])
async def test_a_key_is_needed(facade: FacadeServer, path: str) -> None:
    """Nothing is read or made without a credential."""
    async with ClientSession(f"http://127.0.0.1:{facade.port}") as http:
        method = "GET" if path else "POST"
        async with http.request(method, RESPONSES + path, json=None if path else BODY) as answer:
            assert answer.status == 401


async def test_openai_client(core: FakeResponseCore, openai: AsyncOpenAI) -> None:
    """The official client makes, streams, reads, lists and deletes."""
    core.script.steps = hello_events()
    core.page = ResponseItemPage(object="list", data=[message("a", item_id="msg_1")], has_more=False)
    assert (await openai.responses.create(model="m", input="Hi")).output_text == "Hello"
    async with openai.responses.stream(model="m", input="Hi") as stream:
        assert (await stream.get_final_response()).output_text == "Hello"
    assert (await openai.responses.retrieve(RESPONSE_ID)).id == RESPONSE_ID
    assert [item.id async for item in openai.responses.input_items.list(RESPONSE_ID)] == ["msg_1"]
    await openai.responses.delete(RESPONSE_ID)
    with pytest.raises(NotFoundError):
        await openai.responses.retrieve("resp_2")
    with pytest.raises(BadRequestError):
        await openai.responses.cancel(RESPONSE_ID)


@pytest.mark.parametrize("helper", [False, True])
async def test_openai_client_raises_on_a_broken_stream(
    core: FakeResponseCore, openai: AsyncOpenAI, helper: bool
) -> None:
    """Both ways to stream of the official client raise what the facade says of a dead core."""
    core.script.steps = [first(created()), BROKEN]
    with pytest.raises(APIError, match="broke off"):
        if helper:
            async with openai.responses.stream(model="m", input="Hi") as stream:
                await stream.get_final_response()
        else:
            async for _ in await openai.responses.create(model="m", input="Hi", stream=True):
                pass
