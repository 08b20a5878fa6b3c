"""Takes the messages of an upload apart: the options come first, then the sound. It must not keep the sound."""

from collections.abc import AsyncIterator

from quillgate.v1.completion_service_pb2 import CreateTranscriptionRequest, StreamTranscriptionRequest
from quillgate.v1.transcription_pb2 import TranscriptionOptions
from quillgate_core.errors import InvalidRequest

Upload = AsyncIterator[CreateTranscriptionRequest | StreamTranscriptionRequest]


async def read_upload(messages: Upload) -> tuple[TranscriptionOptions, AsyncIterator[bytes]]:
    """Returns the options and the sound that follows; raises InvalidRequest for messages in another order."""
    first = await anext(messages, None)
    if first is None or first.WhichOneof("value") != "options":
        raise InvalidRequest("The first message must have the options.", param="options")
    return first.options, _sound(messages)


async def _sound(messages: Upload) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.WhichOneof("value") != "audio":
            raise InvalidRequest("Every message but the first must have a piece of the sound.", param="audio")
        yield message.audio
