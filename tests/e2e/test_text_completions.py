"""Text completions with the official client against the whole service: at a provider's own endpoint or through chat."""

import asyncio
import json
from typing import Any

import aiohttp
import grpc
import pytest
from fakes.scripted_upstream import (
    Step,
    chat_answer,
    chat_chunk,
    chat_stream,
    json_answer,
    sse_answer,
    sse_event,
)
from fakes.text_answers import text_answer, text_value
from openai import BadRequestError, NotFoundError
from openai.types import Completion
from openai_clients import Connect
from service import MODEL, NATIVE_MODEL, RunningService

from quillgate.v1.completion_service_pb2 import CreateTextCompletionRequest, StreamTextCompletionRequest
from quillgate.v1.completion_service_pb2_grpc import CompletionServiceStub
from quillgate.v1.text_completion_pb2 import TextCompletionRequest, TextPrompt
from quillgate_codec import error_info

ECHO = "quillgate/echo"
BOTH = pytest.mark.parametrize("model", [MODEL, NATIVE_MODEL], ids=["chat", "native"])
HELLO = "Hello from upstream."


async def post(service: RunningService, key: str, **body: Any) -> tuple[int, bytes]:
    """Posts a text completion and reads the whole answer."""
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session,
        session.post(service.base_url + "/completions", json={"prompt": "Hi", **body}) as response,
    ):
        return response.status, await response.read()


def frames(text: bytes) -> list[Any]:
    """The decoded events of a stream that ended with [DONE]."""
    *events, done, rest = text.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


@BOTH
async def test_whole_answer(service: RunningService, connect: Connect, model: str) -> None:
    """The official client gets a text completion with usage, whatever the provider speaks."""
    answer = await connect().completions.create(model=model, prompt="Say hello", max_tokens=20)
    assert (answer.object, answer.model) == ("text_completion", model)
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert (choice.text, choice.index, choice.finish_reason, choice.logprobs) == (HELLO, 0, "stop", None)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (10, 5, 15)
    asked = service.upstream.requests[-1]
    assert asked.json["max_tokens"] == 20
    assert asked.path == ("/v1/completions" if model == NATIVE_MODEL else "/v1/chat/completions")


@BOTH
async def test_stream(connect: Connect, model: str) -> None:
    """Pieces have one id, the text in order, one finish_reason and no usage."""
    stream = await connect().completions.create(model=model, prompt="Say hello", stream=True)
    pieces = [piece async for piece in stream]
    assert "".join(piece.choices[0].text for piece in pieces) == HELLO
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices[0].finish_reason] == ["stop"]
    assert len({(piece.id, piece.created, piece.model, piece.object) for piece in pieces}) == 1
    assert all("usage" not in piece.model_dump(exclude_unset=True) for piece in pieces)


@BOTH
async def test_stream_with_usage(service: RunningService, model: str) -> None:
    """With include_usage every piece has the member, null but on the last one, which has no choices."""
    options = {"include_usage": True}
    _, text = await post(service, service.developer_key, model=model, stream=True, stream_options=options)
    *pieces, last = frames(text)
    assert all(piece["usage"] is None and piece["choices"] for piece in pieces)
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (10, 5)
    assert last["object"] == "text_completion"


async def test_list_of_prompts_through_chat(service: RunningService, connect: Connect) -> None:
    """Each prompt is a chat of its own; choices are numbered prompt by prompt and usage is summed, charged once."""
    tenant = await service.tenant()
    answer = await connect(tenant.key).completions.create(
        model=ECHO, prompt=["one", "two words", "three whole words"], n=2
    )
    assert [choice.index for choice in answer.choices] == list(range(6))
    texts = [choice.text for choice in answer.choices]
    assert texts == ["one", "one", "two words", "two words", "three whole words", "three whole words"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 12)
    assert await service.daily(tenant) == (1, 0, 6, 0, 12, 1)


async def test_list_of_prompts_streamed_through_chat(service: RunningService) -> None:
    """A stream of several prompts numbers the choices likewise and tells the summed usage once."""
    tenant = await service.tenant()
    options = {"include_usage": True}
    prompts = ["one", "two words"]
    _, text = await post(service, tenant.key, model=ECHO, prompt=prompts, n=2, stream=True, stream_options=options)
    *pieces, last = frames(text)
    texts = dict.fromkeys(range(4), "")
    for piece in pieces:
        for choice in piece["choices"]:
            texts[choice["index"]] += choice["text"]
    assert list(texts.values()) == ["one", "one", "two words", "two words"]
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (3, 6)
    assert len({piece["id"] for piece in (*pieces, last)}) == 1
    assert await service.daily(tenant) == (1, 0, 3, 0, 6, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_echo(service: RunningService, stream: bool) -> None:
    """With `echo` the prompt stands before the text, streamed or not."""
    _, text = await post(service, service.developer_key, model=MODEL, prompt="Question? ", echo=True, stream=stream)
    answers = frames(text) if stream else [json.loads(text)]
    assert "".join(answer["choices"][0]["text"] for answer in answers) == "Question? " + HELLO


async def test_native_gets_every_member(service: RunningService) -> None:
    """Suffix, logprobs, best_of, tokens and members that nobody here knows reach a provider that speaks completions."""
    body = {
        "prompt": [[1, 2], [3]],
        "suffix": "the end",
        "logprobs": 3,
        "best_of": 2,
        "echo": True,
        "n": 2,
        "max_tokens": 7,
        "top_k": 5,
        "seed": None,
        "logit_bias": {"50256": -100.0},
    }
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}], "text_offset": [0]}
    choice = {"text": "a", "index": 0, "logprobs": logprobs, "finish_reason": "length", "matched_stop": 7}
    service.upstream.script(text_answer(extra={"choices": [choice], "provider": "X"}))
    status, text = await post(service, service.developer_key, model=NATIVE_MODEL, **body)
    answer = json.loads(text)
    assert (status, answer["choices"], answer["provider"]) == (200, [choice], "X")
    assert service.upstream.requests[-1].json == {**body, "model": "upstream-native", "stream": False}


async def test_what_langchain_sends(service: RunningService) -> None:
    """Explicit nulls and a list of one prompt are no obstacle to chat; what chat has by the same name passes on."""
    body = {
        "prompt": ["Hi"],
        "n": 1,
        "best_of": 1,
        "seed": None,
        "logprobs": None,
        "logit_bias": None,
        "suffix": None,
        "max_tokens": 256,
        "temperature": 0.7,
        "top_p": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "stop": ["\nuser:"],
        "user": "u",
        "top_k": 40,
    }
    status, _ = await post(service, service.developer_key, model=MODEL, **body)
    assert status == 200
    assert service.upstream.requests[-1].json == {
        "model": "upstream-model",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": False,
        "n": 1,
        "max_tokens": 256,
        "temperature": 0.7,
        "top_p": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "stop": ["\nuser:"],
        "user": "u",
        "top_k": 40,
    }


@pytest.mark.parametrize(
    ("model", "body", "param", "code"),
    [
        (MODEL, {"suffix": "x"}, "suffix", "unsupported_parameter"),
        (MODEL, {"logprobs": 2}, "logprobs", "unsupported_parameter"),
        (MODEL, {"best_of": 3}, "best_of", "unsupported_parameter"),
        (MODEL, {"prompt": [1, 2, 3]}, "prompt", "unsupported_value"),
        (MODEL, {"prompt": [[1], [2]]}, "prompt", "unsupported_value"),
        (MODEL, {"max_tokens": 0}, "max_tokens", "invalid_value"),
        (NATIVE_MODEL, {"prompt": None}, "prompt", "missing_required_parameter"),
        (NATIVE_MODEL, {"prompt": []}, "prompt", "invalid_value"),
        (NATIVE_MODEL, {"prompt": ["a", 1]}, "prompt[1]", "invalid_type"),
        (NATIVE_MODEL, {"prompt": [-1]}, "prompt[0]", "invalid_value"),
        (NATIVE_MODEL, {"prompt": {"a": 1}}, "prompt", "invalid_type"),
        (NATIVE_MODEL, {"n": 2, "best_of": 1}, "best_of", "invalid_value"),
        (NATIVE_MODEL, {"temperature": 3}, "temperature", "invalid_value"),
        (NATIVE_MODEL, {"max_tokens": "7"}, "max_tokens", "invalid_type"),
    ],
)
async def test_bad_input(service: RunningService, model: str, body: Any, param: str, code: str) -> None:
    """What cannot work is refused with a 400 that names the member, asks no provider and costs nothing."""
    tenant = await service.tenant()
    status, text = await post(service, tenant.key, model=model, **body)
    error = json.loads(text)["error"]
    assert (status, error["param"], error["code"], error["type"]) == (400, param, code, "invalid_request_error")
    assert service.upstream.requests == []
    assert await service.daily(tenant) is None


async def test_official_client_errors(connect: Connect) -> None:
    """The official client raises the exceptions that it documents."""
    with pytest.raises(NotFoundError):
        await connect().completions.create(model="nobody/nothing", prompt="Hi")
    with pytest.raises(BadRequestError) as caught:
        await connect().completions.create(model=MODEL, prompt=[1, 2])
    assert caught.value.param == "prompt"


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_complete_counts_1_10_5(service: RunningService, model: str, stream: bool) -> None:
    """Prompt 10 and completion 5 count 1, 10, 5, and the ledger knows the endpoint."""
    tenant = await service.tenant()
    assert (await post(service, tenant.key, model=model, stream=stream))[0] == 200
    assert await service.daily(tenant) == (1, 0, 10, 0, 5, 1)
    assert await service.rows("SELECT endpoint, state FROM ledger WHERE workspace_id = %s", tenant.workspace_id) == [
        ("completions", "settled")
    ]


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_failure_before_output_is_free(service: RunningService, model: str, stream: bool) -> None:
    """A provider that fails before any output, and the next one too, costs nothing and is told as 502."""
    tenant = await service.tenant()
    upstreams = 2 if model == NATIVE_MODEL else 1
    service.upstream.script(*[json_answer(500, {"error": {"message": "boom"}})] * upstreams)
    assert (await post(service, tenant.key, model=model, stream=stream))[0] == 502
    assert await service.daily(tenant) == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("end", [Step.RESET, Step.CLOSE])
@BOTH
async def test_failure_after_output_is_charged(service: RunningService, model: str, end: Step) -> None:
    """A stream that is cut is charged what was observed and ends with an error frame, without [DONE]."""
    tenant = await service.tenant()
    piece = sse_event(text_value(["Hel"], finish_reason=None))
    service.upstream.script(sse_answer(chat_chunk({"content": "Hel"}) if model == MODEL else piece, end))
    status, text = await post(service, tenant.key, model=model, stream=True)
    assert status == 200
    assert b'data: {"error":' in text and b"[DONE]" not in text
    row = await service.daily(tenant)
    assert row is not None and (row[0], row[1], row[5]) == (1, 0, 1)


async def test_one_of_several_prompts_fails(service: RunningService) -> None:
    """In one piece all prompts fail together and cost nothing; the error is the provider's."""
    tenant = await service.tenant()
    refusal = json_answer(400, {"error": {"message": "too long", "code": "context_length_exceeded"}})
    service.upstream.script(chat_answer(), refusal, chat_answer())
    status, text = await post(service, tenant.key, model=MODEL, prompt=["a", "b", "c"])
    assert (status, json.loads(text)["error"]["code"]) == (400, "context_length_exceeded")
    row = await service.settled(tenant)
    assert (row[0], row[1]) == (0, 0)


async def test_second_prompt_of_a_stream_fails(service: RunningService) -> None:
    """What the first prompt used, and an estimate of the second, is charged; the first one's text was delivered."""
    tenant = await service.tenant()
    service.upstream.script(chat_stream(["one"], prompt_tokens=40_000), json_answer(500, {}))
    _, text = await post(service, tenant.key, model=MODEL, prompt=["a", "b", "c"], stream=True)
    assert b'"text":"one"' in text and b'data: {"error":' in text
    row = await service.settled(tenant)
    assert (row[0], row[1], row[5]) == (3, 0, 1)
    assert 40_000 < row[2] < 40_100
    assert len(service.upstream.requests) == 2


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_hang_up(service: RunningService, model: str, stream: bool) -> None:
    """A client that leaves closes the provider's connection within 1 s and is charged what was observed."""
    tenant = await service.tenant()
    service.upstream.script(sse_answer(Step.HANG))
    task = asyncio.create_task(post(service, tenant.key, model=model, stream=stream))
    asked = await service.upstream.wait_for_requests(1)
    task.cancel()
    async with asyncio.timeout(1.0):
        await asked.disconnected.wait()
    row = await service.settled(tenant)
    assert (row[0], row[1], row[5]) == (1, 0, 1)


async def test_hang_up_with_several_prompts_at_once(service: RunningService) -> None:
    """All connections of a request's prompts are closed, at most four at once, and one charge is made."""
    tenant = await service.tenant()
    service.upstream.script(*(sse_answer(Step.HANG) for _ in range(6)))
    task = asyncio.create_task(post(service, tenant.key, model=MODEL, prompt=list("abcdef")))
    await service.upstream.wait_for_requests(4)
    await asyncio.sleep(0.05)
    assert len(service.upstream.requests) == 4
    task.cancel()
    async with asyncio.timeout(1.0):
        await asyncio.gather(*(asked.disconnected.wait() for asked in service.upstream.requests))
    row = await service.settled(tenant)
    assert (row[0], row[1], row[5]) == (1, 0, 1)
    assert len(service.upstream.requests) == 4


async def test_allowance_is_held_for_all_prompts(service: RunningService) -> None:
    """Near the allowance the output limit is lowered for every prompt, and below it the request is refused."""
    tenant = await service.tenant(allowance=1)
    assert (await post(service, tenant.key, model=MODEL, prompt=["a", "b", "c", "d"]))[0] == 200
    limits = [asked.json["max_tokens"] for asked in service.upstream.requests]
    assert limits == [limits[0]] * 4
    assert 3_800 < limits[0] < 4_000
    status, text = await post(service, tenant.key, model=MODEL)
    assert (status, b'"insufficient_quota"' in text) == (429, True)


@pytest.mark.parametrize(("prompts", "status"), [(128, 200), (129, 400)])
async def test_prompts_through_chat_are_bounded(service: RunningService, prompts: int, status: int) -> None:
    """128 prompts are asked one by one, 129 are refused."""
    tenant = await service.tenant()
    asked = await post(service, tenant.key, model=MODEL, prompt=["x"] * prompts, max_tokens=1)
    assert asked[0] == status
    assert len(service.upstream.requests) == (prompts if status == 200 else 0)


@pytest.mark.parametrize("model", [MODEL, NATIVE_MODEL, ECHO])
async def test_strictly_typed(service: RunningService, model: str) -> None:
    """What is complete validates strictly against the official client's types; it has none for a growing choice."""
    key, options = service.developer_key, {"include_usage": True}
    _, text = await post(service, key, model=model)
    Completion.model_validate_json(text, strict=True)
    _, text = await post(service, key, model=model, stream=True, stream_options=options)
    *growing, end, last = frames(text)
    for piece in (end, last):
        Completion.model_validate(piece, strict=True)
    for piece in growing:
        for choice in piece["choices"]:
            assert choice["finish_reason"] is None
            choice["finish_reason"] = "stop"
        Completion.model_validate(piece, strict=True)


@BOTH
async def test_typed_over_grpc(service: RunningService, model: str) -> None:
    """Internal teams get typed answers with a receipt; a stream has the reservation first and the receipt last."""
    tenant = await service.tenant(allowance=10)
    metadata = service.metadata(tenant.key)
    question = TextCompletionRequest(model=model, prompt=TextPrompt(text="Hi"))
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        stub: Any = CompletionServiceStub(channel)
        answer = await stub.CreateTextCompletion(CreateTextCompletionRequest(completion=question), metadata=metadata)
        assert answer.completion.choices[0].text == HELLO
        assert (answer.receipt.counted_messages, answer.receipt.remaining_messages) == (1, 9)
        call = stub.StreamTextCompletion(StreamTextCompletionRequest(completion=question), metadata=metadata)
        messages = [message async for message in call]
        assert "".join(piece.choices[0].text for message in messages for piece in message.pieces) == HELLO
        assert [message.HasField("reservation") for message in messages] == [True] + [False] * (len(messages) - 1)
        assert [message.HasField("receipt") for message in messages] == [False] * (len(messages) - 1) + [True]
        question.prompt.Clear()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateTextCompletion(CreateTextCompletionRequest(completion=question), metadata=metadata)
        info = error_info(caught.value)
        assert info is not None
        assert (info.reason, info.metadata["param"]) == ("INVALID_REQUEST", "prompt")
