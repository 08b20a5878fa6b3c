"""Reads a request body within its limits of size, time and speed. What the bytes mean is not decided here."""

import asyncio
from http import HTTPStatus

from aiohttp import web

from quillgate_facade.config import FacadeConfig
from quillgate_facade.errors import ApiError

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_body(request: web.Request, config: FacadeConfig) -> bytes:
    """Returns the whole body; raises ApiError 400, 408, 413 or 415.

    A size that the client announces is refused before anything is read, and before `100 Continue` is said.
    """
    _check_head(request, config)
    try:
        if request.content.is_eof():
            return _read_at_once(request, config)
        await say_continue(request)
        return await _read_slowly(request, config)
    except TimeoutError:
        raise ApiError(HTTPStatus.REQUEST_TIMEOUT, "The request body arrived too slowly.", close=True) from None
    except (web.RequestPayloadError, ValueError):
        raise ApiError(400, "The request body is not framed as HTTP demands.", close=True) from None


async def say_continue(request: web.Request) -> None:
    """Says `100 Continue` to a client that waits for it before it sends the body."""
    if request.headers.get("expect", "").lower() == "100-continue":
        await request.writer.write(_CONTINUE)
        request.writer.output_size = 0  # the answer itself has not begun


def _check_head(request: web.Request, config: FacadeConfig) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise ApiError(415, "Compressed request bodies are not accepted. Send the body without Content-Encoding.")
    if request.headers.get("content-type", "").lstrip().lower().startswith("multipart/"):
        raise ApiError(400, "This endpoint takes a JSON body (Content-Type: application/json), not a form.")
    size = request.content_length
    if size is not None:
        _check_size(size, config)


def _check_size(size: int, config: FacadeConfig) -> None:
    if size > config.body_max_bytes:
        message = f"Maximum content size limit ({config.body_max_bytes}) exceeded ({size} bytes read)."
        raise ApiError(413, message, code="request_too_large", close=True)


def _read_at_once(request: web.Request, config: FacadeConfig) -> bytes:
    """Takes a body that arrived with its head, which most do."""
    body = request.content.read_nowait()
    _check_size(len(body), config)
    return body


async def _read_slowly(request: web.Request, config: FacadeConfig) -> bytes:
    """Reads piece by piece; each piece moves the deadline on by the time it may have taken at the slowest speed."""
    start_s = asyncio.get_running_loop().time()
    last_s = start_s + config.body_timeout_s
    pieces: list[bytes] = []
    size = 0
    async with asyncio.timeout_at(min(last_s, start_s + config.body_grace_s)) as deadline:
        while piece := await request.content.readany():
            pieces.append(piece)
            size += len(piece)
            _check_size(size, config)
            earned_s = config.body_grace_s + size / config.body_min_bytes_per_s
            deadline.reschedule(min(last_s, start_s + earned_s))
    return b"".join(pieces)
