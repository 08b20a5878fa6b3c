"""Turns a request away with as little work as can be: its head is searched and never parsed.

Under three times the load that can be served, two requests of three end here, so each costs what the others lack. What
is unusual in any way is left to the HTTP parser, and refused behind it.
"""

import random
import re

from quillgate_facade.errors import SERVER_ERROR, ApiError
from quillgate_facade.exchange import Exchange

MAX_SKIPPED_BYTES = 8 * 1024 * 1024
"""Largest body that is read and dropped to keep a connection; the rest of a larger one is the parser's matter."""

_PROBES = (b"GET /healthz", b"GET /readyz", b"HEAD /healthz", b"HEAD /readyz")
#: Any header but those that change where a request ends, or what its answer must be.
_FIELD = (
    rb"(?!content-length:|transfer-encoding:|expect:|upgrade:|origin:|connection:(?! keep-alive\r))"
    rb"[\w!#$%&'*+.^`|~-]+:[^\r\n\0]*\r\n"
)
_HEAD = re.compile(
    rb"POST [!-~]+ HTTP/1\.1\r\n(?i:(?:%b)*content-length: ?(\d{1,8})\r\n(?:%b)*)\r\n" % (_FIELD, _FIELD)
)

_MESSAGE = "The server is at its capacity. Please retry shortly."
_RETRY_AFTER_S = (1, 2, 3)


def overloaded() -> ApiError:
    """The answer to whom there is no time for; the clients that come back are spread over some seconds."""
    headers = {"retry-after": str(random.choice(_RETRY_AFTER_S))}  # noqa: S311 (no secret)
    return ApiError(503, _MESSAGE, kind=SERVER_ERROR, headers=headers)


def is_probe(data: bytes) -> bool:
    """Tells whether this begins a request for /healthz or /readyz, which must be answered whatever comes besides."""
    return data.startswith(_PROBES)


def rest_of(data: bytes) -> int | None:
    """Returns how many bytes are to come of a request that begins with `data`, None when only a parser can tell."""
    head = _HEAD.match(data)
    if head is None:
        return None
    rest = int(head[1]) - (len(data) - head.end())
    return rest if 0 <= rest <= MAX_SKIPPED_BYTES else None


class Refusals:
    """Makes whole answers of 503, ready to be sent, and remembers who is to get one from its handler instead."""

    def __init__(self) -> None:
        self._marked: set[object] = set()
        self._heads: list[bytes] = []
        self._tail = b""
        for seconds in _RETRY_AFTER_S:
            head, self._tail = _answer(str(seconds))
            self._heads.append(head)

    def next(self) -> bytes:
        """Returns an answer, with an id of its own."""
        head = self._heads[int(random.random() * len(self._heads))]  # noqa: S311 (no secret)
        return b"%b%032x%b" % (head, random.getrandbits(128), self._tail)

    def mark(self, connection: object) -> None:
        """Notes that the next request of a connection is to be refused by its handler."""
        self._marked.add(connection)

    def unmark(self, connection: object) -> bool:
        """Forgets that, and tells whether it was noted."""
        if connection not in self._marked:
            return False
        self._marked.remove(connection)
        return True


def _answer(retry_after: str) -> tuple[bytes, bytes]:
    """Returns an answer without the digits of its id, as what is before them and what is after."""
    exchange = Exchange()
    body = overloaded().to_json()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "retry-after": retry_after,
    }
    exchange.stamp(headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    whole = f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode() + body
    before, _, after = whole.partition(exchange.request_id.removeprefix("req_").encode())
    return before, after
