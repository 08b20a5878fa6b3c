"""One request and its answer: the id that ties them together, and the headers that every answer carries.

Ids are made here and never taken from the client, so that nobody can make two requests share one.
"""

import secrets
import time
from collections.abc import MutableMapping

from aiohttp import web

SERVER_NAME = "quillgate"
API_VERSION = "2020-10-01"


class Exchange:
    """The id of a request and when it began; `stamp` is called once, just before the answer's head is sent."""

    __slots__ = ("request_id", "start_s")

    def __init__(self) -> None:
        self.request_id = "req_" + secrets.token_hex(16)
        self.start_s = time.perf_counter()

    def stamp(self, headers: MutableMapping[str, str]) -> None:
        """Adds the headers of every answer; OpenAI's clients read the id and print it in their errors."""
        headers["x-request-id"] = self.request_id
        headers["openai-processing-ms"] = str(int((time.perf_counter() - self.start_s) * 1000))
        headers["openai-version"] = API_VERSION
        headers["server"] = SERVER_NAME


EXCHANGE = web.RequestKey("exchange", Exchange)
"""Where a request keeps its exchange; the first thing that is set on it."""
