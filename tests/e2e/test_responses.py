"""Responses with the official OpenAI client against the whole service: made, streamed, continued, stored, left."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from fakes.scripted_upstream import DEFAULT_TEXT, DONE, Step, chat_chunk, json_answer, sse_answer
from google.protobuf.field_mask_pb2 import FieldMask
from openai import AsyncOpenAI
from openai_clients import Connect
from service import MODEL, RunningService, Tenant, start_service

from quillgate.v1 import response_service_pb2, response_service_pb2_grpc
from quillgate.v1.workspace_service_pb2 import UpdateWorkspaceRequest
from quillgate.v1.workspace_service_pb2_grpc import WorkspaceServiceStub

TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
EVENTS_BEFORE_THE_END = 8
"""What a stream of four words sends before it is whole: four events to begin with, then a piece for each word."""


def tool_call(arguments: str = '{"city":"Bern"}') -> Any:
    """The provider's answer that calls the tool."""
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    return json_answer(200, {"id": "x", "choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}})


def streamed_tool_call() -> Any:
    """The same as a stream."""
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": text}} for text in ('{"city":', '"Bern"}')]
    chunks = [chat_chunk({"role": "assistant", "content": None, "tool_calls": [call]})]
    chunks += [chat_chunk({"tool_calls": [piece]}) for piece in pieces]
    return sse_answer(*chunks, chat_chunk({}, finish_reason="tool_calls"), DONE)


async def stored_ids(service: RunningService, tenant: Tenant) -> list[str]:
    """The ids that the tenant's workspace keeps."""
    query = "SELECT response_id FROM responses WHERE workspace_id = %s"
    return [row[0] for row in await service.rows(query, tenant.workspace_id)]


async def test_create(service: RunningService, connect: Connect) -> None:
    """A question gets the provider's answer, with usage and request id, and is settled once."""
    tenant = await service.tenant(allowance=10)
    raw = await connect(tenant.key).responses.with_raw_response.create(model=MODEL, input="Hello!")
    response = raw.parse()
    assert (response.output_text, response.status, response.model) == (DEFAULT_TEXT, "completed", MODEL)
    assert (response.usage.input_tokens, response.usage.output_tokens) == (10, 5)
    assert raw.headers["x-request-id"].startswith("req_")
    assert (raw.headers["x-quillgate-messages"], raw.headers["x-quillgate-messages-remaining"]) == ("1", "9")
    assert await service.daily(tenant) == (1, 0, 10, 0, 5, 1)


async def test_stream(service: RunningService, connect: Connect) -> None:
    """A stream's numbers have no gaps, its pieces make the text, and it ends with the whole response."""
    stream = await connect().responses.create(model=MODEL, input="Hello!", stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[1].type, events[-1].type) == (
        "response.created",
        "response.in_progress",
        "response.completed",
    )
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == DEFAULT_TEXT
    assert events[-1].response.output_text == DEFAULT_TEXT
    assert events[-1].response.usage.total_tokens == 15


async def test_stream_helper(service: RunningService, connect: Connect) -> None:
    """The client's own helper puts the same response together."""
    async with connect().responses.stream(model=MODEL, input="Hello!") as stream:
        final = await stream.get_final_response()
    assert (final.output_text, final.status) == (DEFAULT_TEXT, "completed")


@pytest.mark.parametrize("streaming", [False, True])
async def test_tools_round_trip(service: RunningService, connect: Connect, streaming: bool) -> None:
    """A call comes back typed; its result continues the stored response, and the provider sees all of it."""
    client = connect()
    service.upstream.script(streamed_tool_call() if streaming else tool_call())
    question: Any = {"model": MODEL, "input": "Weather?", "tools": [TOOL]}
    if streaming:
        async with client.responses.stream(**question) as stream:
            response = await stream.get_final_response()
    else:
        response = await client.responses.create(**question)
    (call,) = response.output
    assert (call.type, call.call_id, call.name, call.arguments) == (
        "function_call",
        "call_1",
        "weather",
        '{"city":"Bern"}',
    )
    result: Any = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    await client.responses.create(model=MODEL, input=[result], tools=[TOOL], previous_response_id=response.id)
    sent = service.upstream.requests[-1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == '{"city":"Bern"}'
    assert (sent[2]["tool_call_id"], sent[2]["content"]) == ("call_1", "sunny")


async def test_parallel_calls_and_their_results(service: RunningService, connect: Connect) -> None:
    """Two calls at once are two items; given back as items with their results, the provider sees one turn of calls."""
    pieces = [
        {"index": index, "id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for index, name in enumerate("ab")
    ]
    chunks = [chat_chunk({"role": "assistant", "content": None, "tool_calls": [piece]}) for piece in pieces]
    service.upstream.script(sse_answer(*chunks, chat_chunk({}, finish_reason="tool_calls"), DONE))
    client = connect()
    tools: Any = [{**TOOL, "name": name} for name in "ab"]
    async with client.responses.stream(model=MODEL, input="Both!", tools=tools, store=False) as stream:
        calls = (await stream.get_final_response()).output
    assert [(call.type, call.call_id, call.name) for call in calls] == [
        ("function_call", "call_a", "a"),
        ("function_call", "call_b", "b"),
    ]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": call.name} for call in calls]
    question = {"role": "user", "content": "Both!"}
    given: Any = [question, *(call.to_dict() for call in calls), *results]
    await client.responses.create(model=MODEL, input=given, tools=tools, store=False)
    sent = service.upstream.requests[-1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["call_a", "call_b"]
    assert [(message["tool_call_id"], message["content"]) for message in sent[2:]] == [("call_a", "a"), ("call_b", "b")]


async def test_continuing(service: RunningService, connect: Connect) -> None:
    """Each turn holds all before it, whatever is deleted meanwhile; instructions do not carry over."""
    client = connect()
    first = await client.responses.create(model=MODEL, input="one", instructions="Be brief.")
    second = await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    await client.responses.delete(first.id)
    third = await client.responses.create(model=MODEL, input="three", previous_response_id=second.id)
    assert third.previous_response_id == second.id
    sent = service.upstream.requests[-1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user", "assistant", "user"]
    assert "Be brief." not in json.dumps(sent)


async def test_unknown_previous_response(service: RunningService, connect: Connect) -> None:
    """Continuing what is not there is refused before the provider is asked, and costs nothing."""
    tenant = await service.tenant()
    with pytest.raises(openai.APIStatusError) as caught:
        await connect(tenant.key).responses.create(model=MODEL, input="x", previous_response_id="resp_none")
    assert caught.value.status_code in (400, 404)
    assert (service.upstream.requests, await service.daily(tenant)) == ([], None)


async def test_retrieve_list_and_delete(service: RunningService, connect: Connect) -> None:
    """A stored response is read as it ended, its input is listed, and once deleted it is unknown."""
    client = connect()
    made = await client.responses.create(model=MODEL, input="one", metadata={"a": "b"})
    again = await client.responses.retrieve(made.id)
    assert again.to_dict() == made.to_dict()
    follow = await client.responses.create(model=MODEL, input="two", previous_response_id=made.id)
    items = [item async for item in client.responses.input_items.list(follow.id)]
    assert [item.content[0].text for item in items] == ["two"]
    await client.responses.delete(made.id)
    for attempt in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            await attempt(made.id)
    with pytest.raises(openai.BadRequestError, match="Only background"):
        await client.responses.cancel(follow.id)


async def test_input_items_in_pages(service: RunningService, connect: Connect) -> None:
    """The client pages through a long input by itself and sees every item once, in order."""
    client = connect()
    texts = [f"number {number}" for number in range(7)]
    made = await client.responses.create(model=MODEL, input=[{"role": "user", "content": text} for text in texts])
    listed = client.responses.input_items.list(made.id, limit=3, order="asc")
    assert [item.content[0].text async for item in listed] == texts


async def test_another_workspace_sees_nothing(service: RunningService, connect: Connect) -> None:
    """A response is unknown to every other workspace: to read, list, delete and continue."""
    made = await connect((await service.tenant()).key).responses.create(model=MODEL, input="secret")
    other = connect((await service.tenant()).key)
    for attempt in (other.responses.retrieve, other.responses.delete, other.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            await attempt(made.id)
    with pytest.raises(openai.APIStatusError):
        await other.responses.create(model=MODEL, input="x", previous_response_id=made.id)
    assert len(service.upstream.requests) == 1


@pytest.mark.parametrize("streaming", [False, True])
async def test_nothing_is_kept_unasked(service: RunningService, connect: Connect, streaming: bool) -> None:
    """With `store: false` nothing reaches the database, and the response says so."""
    tenant = await service.tenant()
    client = connect(tenant.key)
    answer: Any = await client.responses.create(model=MODEL, input="x", store=False, stream=streaming)
    response = [event async for event in answer][-1].response if streaming else answer
    assert response.store is False
    assert await stored_ids(service, tenant) == []
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)


async def test_a_workspace_that_keeps_nothing(service: RunningService, connect: Connect) -> None:
    """A workspace can turn storage off from the next request on; what it kept before stays."""
    tenant = await service.tenant()
    client = connect(tenant.key)
    before = await client.responses.create(model=MODEL, input="x")
    workspaces: Any = WorkspaceServiceStub(service.core.channel)
    change = UpdateWorkspaceRequest(
        workspace_id=tenant.workspace_id, store_responses=False, update_mask=FieldMask(paths=["store_responses"])
    )
    await workspaces.UpdateWorkspace(change, metadata=service.metadata())
    after = await client.responses.create(model=MODEL, input="x", store=True)
    assert (before.store, after.store) == (True, False)
    assert await stored_ids(service, tenant) == [before.id]


async def test_retention(service: RunningService, connect: Connect) -> None:
    """Past its retention a response is neither read nor continued, and the purge forgets it and nothing else."""
    tenant = await service.tenant()
    client = connect(tenant.key)
    old = await client.responses.create(model=MODEL, input="x")
    new = await client.responses.create(model=MODEL, input="y", previous_response_id=old.id)
    expire = "UPDATE responses SET expire_time = clock_timestamp() WHERE response_id = %s RETURNING 1"
    assert await service.rows(expire, old.id) == [(1,)]
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(old.id)
    with pytest.raises(openai.APIStatusError):
        await client.responses.create(model=MODEL, input="z", previous_response_id=old.id)
    await asyncio.to_thread(service.core.stored_responses.purge)
    assert await stored_ids(service, tenant) == [new.id]
    await client.responses.create(model=MODEL, input="z", previous_response_id=new.id)


async def test_two_replicas(database_url: str, tmp_path: Path) -> None:
    """What one replica stored, another reads, continues and deletes at once."""
    async with (
        start_service(database_url, tmp_path) as one,
        start_service(database_url, tmp_path, admin_key=one.admin_key) as two,
        AsyncOpenAI(base_url=one.base_url, api_key=one.developer_key) as first,
        AsyncOpenAI(base_url=two.base_url, api_key=one.developer_key) as second,
    ):
        for number in range(5):
            made = await first.responses.create(model=MODEL, input=f"question {number}")
            next_turn = await second.responses.create(model=MODEL, input="and?", previous_response_id=made.id)
            sent = two.upstream.requests[-1].json["messages"]
            assert [message["role"] for message in sent] == ["user", "assistant", "user"]
            assert f"question {number}" in json.dumps(sent[0])
            await second.responses.delete(made.id)
            with pytest.raises(openai.NotFoundError):
                await first.responses.retrieve(made.id)
            assert (await first.responses.retrieve(next_turn.id)).id == next_turn.id


@pytest.mark.parametrize("helper", [False, True])
async def test_stream_cut_by_the_provider(service: RunningService, connect: Connect, helper: bool) -> None:
    """A stream that the provider cuts raises on both ways to stream, is charged, and is not kept."""
    tenant = await service.tenant()
    client = connect(tenant.key)
    service.upstream.script(sse_answer(chat_chunk({"role": "assistant", "content": "Hel"})))
    with pytest.raises(openai.APIError):
        if helper:
            async with client.responses.stream(model=MODEL, input="x") as stream:
                await stream.get_final_response()
        else:
            async for _ in await client.responses.create(model=MODEL, input="x", stream=True):
                pass
    row = await service.settled(tenant)
    assert (row[0], row[1], row[5]) == (1, 0, 1)
    assert await stored_ids(service, tenant) == []


async def test_a_cut_stream_ends_with_both_words(service: RunningService) -> None:
    """On the wire the last events are `error` and `response.failed`, once each, numbered on, without `[DONE]`."""
    tenant = await service.tenant()
    service.upstream.script(sse_answer(chat_chunk({"role": "assistant", "content": "Hel"})))
    reader, writer = await send(service, tenant, stream=True)
    async with asyncio.timeout(5):
        text = (await reader.read()).decode()
    writer.close()
    names = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert names[-2:] == ["error", "response.failed"]
    assert (names.count("error"), names.count("response.failed"), "[DONE]" in text) == (1, 1, False)
    values = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert [value["sequence_number"] for value in values] == list(range(len(values)))
    assert values[-2]["error"]["message"] == values[-2]["message"] == values[-1]["response"]["error"]["message"]


Socket = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def send(service: RunningService, tenant: Tenant, *, stream: bool) -> Socket:
    """Sends a request over a bare socket."""
    host, port = service.http_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    payload = json.dumps({"model": MODEL, "input": "Hi", "stream": stream}).encode()
    head = (
        f"POST /v1/responses HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {tenant.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("events_read", range(EVENTS_BEFORE_THE_END + 1))
async def test_hang_up_at_every_event(service: RunningService, events_read: int) -> None:
    """After any event, hanging up closes the provider's socket within 1 s, settles a message and keeps nothing."""
    tenant = await service.tenant()
    words = [chat_chunk({"role": "assistant", "content": f"word{number} "}) for number in range(4)]
    service.upstream.script(sse_answer(*words, Step.HANG))
    reader, writer = await send(service, tenant, stream=True)
    asked = await service.upstream.wait_for_requests(1)
    async with asyncio.timeout(5):
        for _ in range(events_read):
            while not (await reader.readline()).startswith(b"event: "):
                pass
    writer.transport.abort()
    async with asyncio.timeout(1.0):
        await asked.disconnected.wait()
    row = await service.settled(tenant)
    assert (row[0], row[1], row[5]) == (1, 0, 1)
    query = "SELECT state, outcome, usage_source FROM ledger WHERE workspace_id = %s"
    assert await service.rows(query, tenant.workspace_id) == [("settled", "caller_gone", "estimate")]
    assert await stored_ids(service, tenant) == []


async def test_hang_up_on_a_unary_response(service: RunningService) -> None:
    """A client that leaves before its one answer is charged what was observed, and nothing is kept."""
    tenant = await service.tenant()
    service.upstream.script(sse_answer(Step.HANG))
    _, writer = await send(service, tenant, stream=False)
    asked = await service.upstream.wait_for_requests(1)
    writer.transport.abort()
    async with asyncio.timeout(1.0):
        await asked.disconnected.wait()
    row = await service.settled(tenant)
    assert (row[0], row[1], row[5]) == (1, 0, 1)
    assert await stored_ids(service, tenant) == []


async def test_over_grpc(service: RunningService, connect: Connect) -> None:
    """An internal service reads over gRPC what a REST client stored."""
    tenant = await service.tenant()
    made = await connect(tenant.key).responses.create(model=MODEL, input="x")
    responses: Any = response_service_pb2_grpc.ResponseServiceStub(service.core.channel)
    answer = await responses.GetResponse(
        response_service_pb2.GetResponseRequest(response_id=made.id), metadata=service.metadata(tenant.key)
    )
    assert (answer.response.id, answer.response.status) == (made.id, "completed")
