"""Recognises a chunk that differs from the one before in nothing but its words, so that it need not be decoded. Pure.

Nearly every chunk of a text is so, from nearly every server: id, model, time and all else are said again each time.
Where they are not, as where a server pads its chunks at random, that is noticed and not tried for long.
"""

import re
from typing import Any, Final

from quillgate_codec import load_json

MAX_FRAME_BYTES: Final = 4_096
"""Longer chunks are not worth to be remembered."""

MAX_MISSES: Final = 8
"""How many may be remembered in a row for nothing, before no more are."""

#: JSON text as everybody writes it: with no escapes but the short ones.
_TEXT: Final = rb'(?:[^"\\\x00-\x1f]|\\["\\bfnrt])+'
_WORDS: Final = re.compile(_TEXT)
_CONTENT: Final = re.compile(rb'"content" ?: ?"(%b)"' % _TEXT)
_SILENT: Final = (None, "")


class SameFrame:
    """What surrounds the words in the chunks of one stream."""

    def __init__(self) -> None:
        self._before = self._after = b""
        self._frame_bytes = 0
        self._misses = 0

    def words(self, data: bytes) -> bytes | None:
        """Returns the words of a chunk that is else the one learnt last, as JSON text without quotes; else None."""
        if not self._frame_bytes or not data.startswith(self._before) or not data.endswith(self._after):
            return None
        words = data[len(self._before) : -len(self._after)]
        if len(data) <= self._frame_bytes or _WORDS.fullmatch(words) is None or not _is_utf8(words):
            return None
        self._misses = 0
        return words

    def learn(self, data: bytes, chunk: dict[str, Any]) -> bool:
        """Remembers what surrounds the words of a chunk, given as text and cleaned, if it says words and no more.

        Returns whether it did.
        """
        self._frame_bytes = 0
        if self._misses >= MAX_MISSES or len(data) > MAX_FRAME_BYTES:
            return False
        said = _words_only(chunk)
        if not said or data.count(b'"content"') != 1:
            return False
        found = _CONTENT.search(data)
        if found is None or load_json(b'"%b"' % found[1]) != said:
            return False
        self._misses += 1
        begin, end = found.span(1)
        self._before, self._after, self._frame_bytes = data[:begin], data[end:], len(data) - len(found[1])
        return True


def _words_only(chunk: dict[str, Any]) -> str:
    """Returns the words of a chunk with one choice that goes on and says nothing else; empty for any other."""
    choices = chunk.get("choices")
    if type(choices) is not list or len(choices) != 1 or chunk.get("usage") is not None or "x_groq" in chunk:
        return ""
    choice = choices[0]
    delta = choice.get("delta") if type(choice) is dict else None
    if type(delta) is not dict or choice.get("finish_reason") or choice.get("logprobs") is not None:
        return ""
    words = delta.get("content")
    if type(words) is not str or any(
        item not in _SILENT for name, item in delta.items() if name not in ("content", "role")
    ):
        return ""
    return words


def _is_utf8(words: bytes) -> bool:
    if words.isascii():
        return True
    try:
        words.decode()
    except UnicodeDecodeError:
        return False
    return True
