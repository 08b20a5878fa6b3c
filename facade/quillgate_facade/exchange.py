"""One request and its answer: the id that ties them together, and the headers that every answer carries.

Ids are made here and never taken from the client, so that nobody can make two requests share one.
"""

import secrets
import time
from collections.abc import MutableMapping

from aiohttp import web

SERVER_NAME = "quillgate"
API_VERSION = "2020-10-01"

_ID_BYTES = 16
_IDS_AT_ONCE = 256


class RequestIds:
    """Makes ids of 128 random bits. Belongs to one event loop.

    It asks the system for many at once: each such call hands the interpreter to another thread, and getting it back
    takes longer than everything else about an id.
    """

    def __init__(self) -> None:
        self._digits: list[str] = []

    def new(self) -> str:
        """Returns an id that nobody has had."""
        if not self._digits:
            digits = secrets.token_hex(_ID_BYTES * _IDS_AT_ONCE)
            self._digits = [digits[place : place + 2 * _ID_BYTES] for place in range(0, len(digits), 2 * _ID_BYTES)]
        return "req_" + self._digits.pop()


class Exchange:
    """The id of a request and when it began; `stamp` is called once, just before the answer's head is sent."""

    __slots__ = ("request_id", "start_s")

    def __init__(self, request_id: str | None = None) -> None:
        self.request_id = request_id or f"req_{secrets.token_hex(_ID_BYTES)}"
        self.start_s = time.perf_counter()

    def stamp(self, headers: MutableMapping[str, str]) -> None:
        """Adds the headers of every answer; OpenAI's clients read the id and print it in their errors."""
        headers["x-request-id"] = self.request_id
        headers["openai-processing-ms"] = str(int((time.perf_counter() - self.start_s) * 1000))
        headers["openai-version"] = API_VERSION
        headers["server"] = SERVER_NAME


EXCHANGE = web.RequestKey("exchange", Exchange)
"""Where a request keeps its exchange; the first thing that is set on it."""
