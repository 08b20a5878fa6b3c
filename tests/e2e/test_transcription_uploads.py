"""Uploads as the wire brings them: large ones in numbers, over gRPC in any order of messages, with a changed key."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import psutil
import pytest
from core.rpc.refusal import refusal_of
from fakes.scripted_upstream import ScriptedUpstream, json_answer, sse_answer, sse_event
from fakes.sounds import MIB, wav, wav_of_size
from serve_process import environment, serving
from service import SPEECH_MODEL, RunningService

from quillgate.v1 import completion_service_pb2 as pb
from quillgate.v1.completion_service_pb2_grpc import CompletionServiceStub
from quillgate.v1.transcription_pb2 import TranscriptionOptions

OPTIONS = TranscriptionOptions(model=SPEECH_MODEL, filename="a.wav")
CATALOGUE = """
bundled = false

[providers.scripted]
base_url = "{base_url}"

[[models]]
id = "scripted/speech"
context_window = 16000
max_output_tokens = 2000
endpoints = ["audio.transcriptions"]
upstreams = [{{ provider = "scripted", model = "upstream-speech" }}]
"""


async def sent(*messages: Any) -> AsyncIterator[Any]:
    """Messages that are sent one after the other."""
    for message in messages:
        yield message


async def test_grpc_over_a_socket(service: RunningService) -> None:
    """The RPCs work over a real socket, whole and streamed, with reservation first and receipt last."""
    service.upstream.script(
        json_answer(200, {"text": "Hello."}),
        sse_answer(
            sse_event({"type": "transcript.text.delta", "delta": "Hel"}),
            sse_event({"type": "transcript.text.done", "text": "Hel"}),
        ),
    )
    async with grpc.aio.insecure_channel(service.grpc_address) as channel:
        stub: Any = CompletionServiceStub(channel)
        metadata = service.metadata(service.developer_key)
        sound = wav(601)
        whole = [pb.CreateTranscriptionRequest(options=OPTIONS), pb.CreateTranscriptionRequest(audio=sound)]
        answer = await stub.CreateTranscription(sent(*whole), metadata=metadata)
        assert (answer.transcription.text, answer.receipt.counted_messages) == ("Hello.", 2)
        pieces = [pb.StreamTranscriptionRequest(audio=sound[:100]), pb.StreamTranscriptionRequest(audio=sound[100:])]
        call = stub.StreamTranscription(
            sent(pb.StreamTranscriptionRequest(options=OPTIONS), *pieces), metadata=metadata
        )
        received = [message async for message in call]
        assert received[0].reservation.held_messages == 2
        assert received[-1].receipt.counted_messages == 2
        kinds = [event.type for message in received for event in message.events]
        assert kinds == ["transcript.text.delta", "transcript.text.done"]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "options"),
        ([pb.CreateTranscriptionRequest(audio=b"a")], "options"),
        ([pb.CreateTranscriptionRequest(options=OPTIONS)], "file"),
        ([pb.CreateTranscriptionRequest(options=OPTIONS)] * 2, "audio"),
        ([pb.CreateTranscriptionRequest(options=TranscriptionOptions(filename="a"))], "model"),
    ],
    ids=["none", "sound first", "no sound", "options twice", "no model"],
)
async def test_messages_in_another_order(service: RunningService, messages: list[Any], param: str) -> None:
    """Messages that do not make an upload are refused by name."""
    stub: Any = CompletionServiceStub(service.core.channel)
    call = stub.CreateTranscription(sent(*messages), metadata=service.metadata(service.developer_key))
    refusal = await refusal_of(call)
    assert (refusal.reason, refusal.metadata["param"]) == ("INVALID_REQUEST", param)


async def test_changed_key(service: RunningService) -> None:
    """A key that was changed since it was last read is read afresh, because an upload cannot be read twice."""
    tenant = await service.tenant()
    stub: Any = CompletionServiceStub(service.core.channel)
    upload = [pb.CreateTranscriptionRequest(options=OPTIONS), pb.CreateTranscriptionRequest(audio=wav(1))]
    for name in ("first", "second"):
        service.upstream.script(json_answer(200, {"text": name}))
        answer = await stub.CreateTranscription(sent(*upload), metadata=service.metadata(tenant.key))
        assert answer.transcription.text == name
        await service.rows(
            "UPDATE keys SET revision = revision + 1 WHERE key_id = %s RETURNING 1",
            tenant.key_id,
        )


@pytest.mark.slow
async def test_memory_of_ten_large_uploads(tmp_path: Path) -> None:
    """While ten uploads of 25 MiB run at once, the service grows by less than 64 MiB."""
    async with ScriptedUpstream(fallback=lambda _: json_answer(200, {"text": "Hello."})) as upstream:
        catalogue = tmp_path / "catalogue.toml"
        catalogue.write_text(CATALOGUE.format(base_url=upstream.base_url))
        environ = environment(tmp_path / "data", QUILLGATE_CONFIG=str(catalogue))
        with serving(["--new-key"], environ, ready=r"^Your key") as running:
            await _measure(running, upstream)


async def _measure(running: Any, upstream: ScriptedUpstream) -> None:
    process = psutil.Process(running.process.pid)
    key = running.find("Your key")
    sound = wav_of_size(25 * MIB)

    async def post(session: aiohttp.ClientSession, body: bytes) -> int:
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("file", io.BytesIO(body), filename="a.wav")
        form.add_field("model", SPEECH_MODEL)
        async with session.post(f"{running.base_url}/audio/transcriptions", data=form) as response:
            await response.read()
            return response.status

    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        assert await post(session, wav(1)) == 200
        before = most = process.memory_info().rss
        uploads = [asyncio.create_task(post(session, sound)) for _ in range(10)]
        while not all(upload.done() for upload in uploads):
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.01)
        assert [upload.result() for upload in uploads] == [200] * 10
    assert most - before < 64 * MIB, f"it grew by {(most - before) / MIB:.0f} MiB"
