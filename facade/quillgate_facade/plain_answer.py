"""Writes the common kind of whole answer, head and body, in one step: as aiohttp would, in a third of its instructions.

What is unusual in any way is left to aiohttp.
"""

from typing import TypeGuard

from aiohttp import HttpVersion11, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_writer import _serialize_headers

_BODILESS = frozenset({204, 205, 304})


def is_plain(answer: web.StreamResponse, request: web.BaseRequest) -> TypeGuard[web.Response]:
    """Tells an answer that is there as a whole, on a connection that stays open after it."""
    return (
        type(answer) is web.Response
        and answer.keep_alive is None
        and request.version == HttpVersion11
        and request.keep_alive
        and request.method != "HEAD"
        and type(answer.body) is bytes
        and answer.status not in _BODILESS
        and not (answer.prepared or answer.compression or answer.chunked or answer._cookies)
    )


def written(answer: web.Response) -> bytes:
    """Returns a plain answer as it is sent, and takes note that it was."""
    body, headers = answer.body, answer.headers
    assert type(body) is bytes
    headers["content-length"] = str(len(body))
    headers.setdefault("content-type", "application/octet-stream")
    headers["date"] = rfc822_formatted_time()
    answer._keep_alive = answer._eof_sent = True
    return _serialize_headers(f"HTTP/1.1 {answer.status} {answer.reason}", headers) + body
