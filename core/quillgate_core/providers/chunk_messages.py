"""Makes messages of the chunks of one stream. Pure.

One that differs from the chunk before in nothing but its words is a copy of that one's message with other words, which
takes 1.3 µs where decoding, cleaning and filling it anew takes 3.
"""

from collections.abc import Callable
from typing import Any

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk
from quillgate_codec import load_json, provider_chat_chunk
from quillgate_core.providers.same_frame import SameFrame


class ChunkMessages:
    """The state of one stream; `decode` returns a chunk's cleaned JSON value, or raises what it stands for."""

    def __init__(self, decode: Callable[[bytes], dict[str, Any]]) -> None:
        self._decode = decode
        self._frame = SameFrame()
        self._last = ChatCompletionChunk()

    def read(self, data: bytes) -> ChatCompletionChunk:
        """Returns the message of a chunk, which is the caller's to change; raises JsonError and as `decode` does."""
        words = self._frame.words(data)
        if words is not None:
            return self._with(words.decode() if b"\\" not in words else load_json(b'"%b"' % words))
        value = self._decode(data)
        chunk = provider_chat_chunk.from_value(value)
        if self._frame.learn(data, value):
            self._last.CopyFrom(chunk)
        return chunk

    def _with(self, words: str) -> ChatCompletionChunk:
        chunk = ChatCompletionChunk()
        chunk.CopyFrom(self._last)
        chunk.choices[0].delta.content = words
        return chunk
