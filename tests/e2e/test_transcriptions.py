"""POST /audio/transcriptions with the official client and over bare forms, against a scripted provider."""

import asyncio
import io
from typing import Any

import aiohttp
import openai
import pytest
from fakes.scripted_upstream import ScriptedAnswer, Step, json_answer, sse_answer, sse_event
from fakes.sounds import MIB, wav, wav_of_size
from openai_clients import Connect
from service import MODEL, SPEECH_MODEL, RunningService, Tenant

TEXT = "Hello there. How are you?"
TOKENS = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
    "output_tokens": 6,
    "total_tokens": 20,
}
SEGMENT = {
    "seek": 0,
    "tokens": [],
    "temperature": 0.0,
    "avg_logprob": -0.2,
    "compression_ratio": 0.9,
    "no_speech_prob": 0.0,
}
VERBOSE = {
    "task": "transcribe",
    "language": "english",
    "duration": 3.2,
    "text": TEXT,
    "segments": [
        {"id": 0, "start": 0.0, "end": 1.5, "text": " Hello there.", **SEGMENT},
        {"id": 1, "start": 1.5, "end": 3.2, "text": " How are you?", **SEGMENT},
    ],
}
PATH = "/audio/transcriptions"


def fields_of(body: bytes) -> str:
    """A recorded form without its sound, as text."""
    return body.decode("latin-1").replace("\x80", "")


async def post(
    service: RunningService, tenant: Tenant, *parts: tuple[str, Any], file: bytes = b"", file_at: int = 0
) -> tuple[int, bytes, Any]:
    """Posts a form with its file at a place among the fields and reads the whole answer."""
    form = aiohttp.FormData(default_to_multipart=True)
    items: list[tuple[str, Any]] = list(parts)
    if file:
        items.insert(file_at, ("file", file))
    for name, value in items:
        if name == "file":
            form.add_field(name, io.BytesIO(value), filename="speech.wav", content_type="audio/wav")
        else:
            form.add_field(name, value)
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(service.base_url + PATH, data=form, headers=headers) as response,
    ):
        return response.status, await response.read(), response.headers


async def test_json(service: RunningService, connect: Connect) -> None:
    """A JSON answer has the text and the provider's tokens, which are charged; what the caller sent is passed on."""
    tenant = await service.tenant(allowance=10)
    service.upstream.script(json_answer(200, {"text": TEXT, "usage": TOKENS, "x_new": [1]}))
    raw = await connect(tenant.key).audio.transcriptions.with_raw_response.create(
        model=SPEECH_MODEL,
        file=("speech.wav", wav(2.0)),
        language="en",
        prompt="Names: Ada",
        temperature=0.2,
        include=["logprobs"],
        extra_body={"x_unknown": "kept"},
    )
    answer = raw.parse()
    assert answer.text == TEXT
    assert answer.usage.total_tokens == 20
    assert answer.x_new == [1]
    assert (raw.headers["x-quillgate-messages"], raw.headers["x-quillgate-messages-remaining"]) == ("1", "9")
    assert raw.headers["x-request-id"].startswith("req_")
    assert await service.daily(tenant) == (1, 0, 14, 0, 6, 1)
    (asked,) = service.upstream.requests
    assert asked.path == "/v1/audio/transcriptions"
    sent = fields_of(asked.body)
    for name, value in [
        ("model", "upstream-speech"),
        ("language", "en"),
        ("prompt", "Names: Ada"),
        ("temperature", "0.2"),
        ("include[]", "logprobs"),
        ("x_unknown", "kept"),
    ]:
        assert f'name="{name}"' in sent and f"\r\n\r\n{value}\r\n" in sent
    assert 'filename="speech.wav"' in sent
    assert asked.body.count(wav(2.0)) == 1


async def test_verbose_json(service: RunningService, connect: Connect) -> None:
    """A verbose answer has segments with their times, of the official client's types."""
    service.upstream.script(json_answer(200, VERBOSE))
    answer = await connect().audio.transcriptions.create(
        model=SPEECH_MODEL,
        file=("a.wav", wav(3.2)),
        response_format="verbose_json",
        timestamp_granularities=["segment", "word"],
    )
    assert (answer.language, answer.duration) == ("english", 3.2)
    assert [segment.end for segment in answer.segments] == [1.5, 3.2]
    assert answer.usage.seconds == 4
    sent = fields_of(service.upstream.requests[0].body)
    assert sent.count('name="timestamp_granularities[]"') == 2 and "\r\n\r\nverbose_json\r\n" in sent


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        ("text", f"{TEXT}\n"),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n00:00:01,500 --> 00:00:03,200\nHow are you?\n\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n00:00:01.500 --> 00:00:03.200\nHow are you?\n\n",
        ),
    ],
)
async def test_texts(service: RunningService, connect: Connect, response_format: Any, expected: str) -> None:
    """Text, srt and vtt come as plain text, made of JSON that the provider is asked for."""
    service.upstream.script(json_answer(200, VERBOSE))
    raw = await connect().audio.transcriptions.with_raw_response.create(
        model=SPEECH_MODEL, file=("a.wav", wav(3.2)), response_format=response_format
    )
    assert raw.headers["content-type"].startswith("text/plain")
    assert raw.text == expected
    asked = "json" if response_format == "text" else "verbose_json"
    assert f"\r\n\r\n{asked}\r\n" in fields_of(service.upstream.requests[0].body)


async def test_every_format_counts_the_same(service: RunningService, connect: Connect) -> None:
    """Without tokens from the provider, 1,201 s of sound count 3 messages in every format, streamed or not."""
    for response_format in ("json", "text", "srt", "vtt", "verbose_json", "diarized_json"):
        tenant = await service.tenant()
        service.upstream.script(json_answer(200, VERBOSE))
        await connect(tenant.key).audio.transcriptions.create(
            model=SPEECH_MODEL, file=("a.wav", wav(1201)), response_format=response_format
        )
        assert await service.daily(tenant) == (3, 0, 0, 0, 0, 1)
    tenant = await service.tenant()
    done = {"type": "transcript.text.done", "text": TEXT}
    service.upstream.script(sse_answer(sse_event(done)))
    stream = await connect(tenant.key).audio.transcriptions.create(
        model=SPEECH_MODEL, file=("a.wav", wav(1201)), stream=True
    )
    assert [event.type async for event in stream] == ["transcript.text.done"]
    assert await service.daily(tenant) == (3, 0, 0, 0, 0, 1)


async def test_stream(service: RunningService, connect: Connect) -> None:
    """A stream gives the deltas in order and then the whole text with its usage, which is settled by then."""
    tenant = await service.tenant()
    deltas = [{"type": "transcript.text.delta", "delta": word} for word in ("Hello", " there.")]
    done = {"type": "transcript.text.done", "text": "Hello there.", "usage": TOKENS}
    service.upstream.script(sse_answer(*map(sse_event, [*deltas, done])))
    stream = await connect(tenant.key).audio.transcriptions.create(
        model=SPEECH_MODEL, file=("a.wav", wav(1)), stream=True
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert events[-1].usage.total_tokens == 20
    assert await service.daily(tenant) == (1, 0, 14, 0, 6, 1)
    assert 'name="stream"\r\n\r\ntrue' in fields_of(service.upstream.requests[0].body)


async def test_stream_of_a_provider_that_cannot(service: RunningService, connect: Connect) -> None:
    """A provider that ignores `stream`, as whisper-1 does, is streamed as one delta and the end."""
    service.upstream.script(json_answer(200, {"text": TEXT}))
    stream = await connect().audio.transcriptions.create(model=SPEECH_MODEL, file=("a.wav", wav(1)), stream=True)
    assert [event.type async for event in stream] == ["transcript.text.delta", "transcript.text.done"]


async def test_stream_cut_by_the_provider(service: RunningService, connect: Connect) -> None:
    """A stream that ends without its last event raises APIError after what came, and is charged."""
    tenant = await service.tenant()
    service.upstream.script(sse_answer(sse_event({"type": "transcript.text.delta", "delta": "Hel"})))
    stream = await connect(tenant.key).audio.transcriptions.create(
        model=SPEECH_MODEL, file=("a.wav", wav(1)), stream=True
    )
    with pytest.raises(openai.APIError):
        async for event in stream:
            assert event.delta == "Hel"
    assert await service.daily(tenant) == (1, 0, 0, 0, 0, 1)


@pytest.mark.parametrize("file_at", [0, 1, 3])
async def test_fields_in_any_order(service: RunningService, file_at: int) -> None:
    """The file may come before the model, as the Go client sends it, between the fields or last."""
    tenant = await service.tenant()
    service.upstream.script(json_answer(200, {"text": TEXT}))
    parts = [("model", SPEECH_MODEL), ("response_format", "text"), ("stream", "false")]
    status, body, headers = await post(service, tenant, *parts, file=wav(1), file_at=file_at)
    assert (status, body) == (200, f"{TEXT}\n".encode())
    assert headers["content-type"] == "text/plain; charset=utf-8"


async def test_25_mib_are_accepted(service: RunningService) -> None:
    """A file of exactly 25 MiB reaches the provider byte for byte; one byte more is a 413 that nobody pays for."""
    tenant = await service.tenant()
    service.upstream.script(json_answer(200, {"text": TEXT}))
    sound = wav_of_size(25 * MIB)
    status, _, _ = await post(service, tenant, ("model", SPEECH_MODEL), file=sound)
    assert status == 200
    assert service.upstream.requests[0].body.count(sound) == 1
    row = await service.daily(tenant)
    status, body, _ = await post(service, tenant, ("model", SPEECH_MODEL), file=sound + b"\x80")
    assert status == 413
    assert b"Maximum content size limit (26214400) exceeded" in body
    assert await service.daily(tenant) == row == (1, 0, 0, 0, 0, 1)
    assert len(service.upstream.requests) == 1


@pytest.mark.parametrize(
    ("parts", "file", "param", "code"),
    [
        ([("model", SPEECH_MODEL)], b"This is a text,\nnot a sound. " * 99, "file", "invalid_value"),
        ([], wav(1), "model", "missing_required_parameter"),
        ([("model", SPEECH_MODEL)], b"", "file", "missing_required_parameter"),
        ([("model", MODEL)], wav(1), "model", "unsupported_value"),
        ([("model", SPEECH_MODEL), ("response_format", "xml")], wav(1), "response_format", "invalid_value"),
        ([("model", SPEECH_MODEL), ("temperature", "warm")], wav(1), "temperature", "invalid_type"),
        ([("model", SPEECH_MODEL), ("temperature", "7")], wav(1), "temperature", "invalid_value"),
        ([("model", SPEECH_MODEL), ("stream", "maybe")], wav(1), "stream", "invalid_type"),
        (
            [("model", SPEECH_MODEL), ("stream", "true"), ("response_format", "srt")],
            wav(1),
            "stream",
            "unsupported_value",
        ),
    ],
)
async def test_bad_requests(
    service: RunningService, parts: list[tuple[str, str]], file: bytes, param: str, code: str
) -> None:
    """What can never work is a 400 that names the field, reaches no provider and costs nothing."""
    tenant = await service.tenant()
    status, body, _ = await post(service, tenant, *parts, file=file)
    assert (status, f'"param":"{param}","code":"{code}"'.encode() in body) == (400, True), body
    assert service.upstream.requests == []
    assert await service.daily(tenant) in (None, (0, 0, 0, 0, 0, 0))


async def test_empty_file(service: RunningService, connect: Connect) -> None:
    """A file without a byte is a 400."""
    with pytest.raises(openai.BadRequestError) as caught:
        await connect().audio.transcriptions.create(model=SPEECH_MODEL, file=("a.wav", b""))
    assert caught.value.param == "file"


async def test_json_body(service: RunningService) -> None:
    """A body that is no form is a 400."""
    tenant = await service.tenant()
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(service.base_url + PATH, json={"model": SPEECH_MODEL}, headers=headers) as response,
    ):
        assert response.status == 400


@pytest.mark.parametrize(
    "body", [b"", b"garbage", b"--b\r\n", b'--b\r\ncontent-disposition: form-data; name="file"\r\n']
)
async def test_broken_form(service: RunningService, body: bytes) -> None:
    """A form that is not what its head announces is a 400, never a fault of ours."""
    tenant = await service.tenant()
    headers = {"authorization": f"Bearer {tenant.key}", "content-type": "multipart/form-data; boundary=b"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(service.base_url + PATH, data=body, headers=headers) as response,
    ):
        assert response.status == 400


async def test_chat_with_a_model_that_hears(service: RunningService, connect: Connect) -> None:
    """A speech model asked to chat is a 400 that says so."""
    with pytest.raises(openai.BadRequestError) as caught:
        await connect().chat.completions.create(model=SPEECH_MODEL, messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.param == "model"


async def test_spent_allowance(service: RunningService, connect: Connect) -> None:
    """Sound that counts more than is left is refused before the provider is asked."""
    tenant = await service.tenant(allowance=2)
    with pytest.raises(openai.RateLimitError) as caught:
        await connect(tenant.key).audio.transcriptions.create(model=SPEECH_MODEL, file=("a.wav", wav(1201)))
    assert caught.value.code == "insufficient_quota"
    assert service.upstream.requests == []


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (json_answer(400, {"error": {"message": "Unrecognized file", "type": "invalid_request_error"}}), 400),
        (json_answer(500, {"error": {"message": "boom"}}), 502),
        (json_answer(200, {"nothing": 1}), 502),
        (ScriptedAnswer(200, {"content-type": "application/json"}, [b"<html>"]), 502),
    ],
)
async def test_provider_failures(service: RunningService, answer: ScriptedAnswer, status: int) -> None:
    """A provider's refusal is passed on, its failure is a 502, and neither costs anything."""
    tenant = await service.tenant()
    service.upstream.script(answer)
    assert (await post(service, tenant, ("model", SPEECH_MODEL), file=wav(1)))[0] == status
    assert await service.daily(tenant) == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_hang_up_during_the_answer(service: RunningService, stream: str) -> None:
    """A client that leaves before the answer is charged for its sound, and the provider is told."""
    tenant = await service.tenant()
    service.upstream.script(sse_answer(Step.HANG))
    sending = asyncio.create_task(post(service, tenant, ("model", SPEECH_MODEL), ("stream", stream), file=wav(601)))
    asked = await service.upstream.wait_for_requests(1)
    sending.cancel()
    async with asyncio.timeout(2.0):
        await asked.disconnected.wait()
    assert await service.settled(tenant) == (2, 0, 0, 0, 0, 1)


async def test_hang_up_during_the_upload(service: RunningService) -> None:
    """A client that leaves while it uploads costs nothing and reaches nobody."""
    tenant = await service.tenant()
    host, port = service.http_url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {tenant.key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    )
    writer.write(head.encode() + wav(60))
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.transport.abort()
    await asyncio.sleep(0.2)
    assert service.upstream.requests == []
    assert await service.daily(tenant) is None
