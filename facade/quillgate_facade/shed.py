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
_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,8})(?:\r\n|\Z)")
_UNUSUAL = (b"transfer-encoding", b"expect:", b"upgrade:", b"\r\norigin:", b"\r\n ", b"\r\n\t", b"\0")
_KEEP_ALIVE = b"\r\nconnection: keep-alive"

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
    end = data.find(b"\r\n\r\n")
    if end < 0 or not data.startswith(b"POST "):
        return None
    head = data[:end].lower()
    if not head.endswith(b" http/1.1", 0, head.find(b"\r\n")) or head.count(b"content-length") != 1:
        return None
    if head.count(b"connection:") != head.count(_KEEP_ALIVE) or any(sign in head for sign in _UNUSUAL):
        return None
    length = _LENGTH.search(head)
    rest = int(length[1]) - (len(data) - end - 4) if length is not None else -1
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
