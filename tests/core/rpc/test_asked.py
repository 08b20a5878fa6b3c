"""What makes two calls the same request."""

from collections.abc import AsyncIterator, Sequence

from quillgate.v1 import completion_service_pb2 as pb
from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest
from quillgate.v1.transcription_pb2 import TranscriptionOptions
from quillgate_core.reservation import Idempotency
from quillgate_core.rpc.asked import Asked


def _chat(model: str) -> pb.CreateChatCompletionRequest:
    return pb.CreateChatCompletionRequest(completion=ChatCompletionRequest(model=model))


def _said(method: str, request: pb.CreateChatCompletionRequest) -> Idempotency | None:
    asked = Asked(method, "k")
    assert asked.note(request) is request
    return asked.idempotency()


async def _uploaded(pieces: Sequence[bytes], model: str = "m") -> Idempotency | None:
    async def messages() -> AsyncIterator[pb.CreateTranscriptionRequest]:
        yield pb.CreateTranscriptionRequest(options=TranscriptionOptions(model=model))
        for piece in pieces:
            yield pb.CreateTranscriptionRequest(audio=piece)

    asked = Asked("/t", "k")
    received = [message async for message in asked.note(messages())]
    assert [message.audio for message in received[1:]] == list(pieces)
    return asked.idempotency()


def test_without_a_key_nothing_is_the_same() -> None:
    """A call without a key has no idempotency, and its request is passed on as it is."""
    asked = Asked("/a", None)
    messages = iter(())
    assert asked.note(messages) is messages
    assert asked.idempotency() is None


def test_method_and_request_count() -> None:
    """The same request by the same method has the same 32 bytes, any other has others."""
    first = _said("/a", _chat("m"))
    assert first is not None
    assert (first.key, len(first.request_hash)) == ("k", 32)
    assert first == _said("/a", _chat("m"))
    assert first not in (_said("/b", _chat("m")), _said("/a", _chat("n")))


async def test_uploads_count_however_they_are_cut() -> None:
    """The bytes of a stream of messages count, and not where one message ends and the next begins."""
    first = await _uploaded([b"abc", b"def"])
    assert first == await _uploaded([b"a", b"bcdef"])
    assert first not in (await _uploaded([b"abc", b"deg"]), await _uploaded([b"abc", b"def"], model="n"))
