"""Reads a multipart form with one file, piece by piece: the file goes to a temporary file, the fields are kept.

Fields may come in any order, also after the file. What they mean is not decided here.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import IO, Final

from aiohttp import BodyPartReader, MultipartReader, hdrs, web

from quillgate_facade.body import say_continue
from quillgate_facade.config import FacadeConfig
from quillgate_facade.errors import ApiError

MAX_FILE_BYTES: Final = 25 * 1024 * 1024
"""Most bytes of the file, as OpenAI has it."""

MAX_FIELDS: Final = 256
MAX_FIELD_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of all fields together; a reference voice is a field too."""

PIECE_BYTES: Final = 256 * 1024
"""In what pieces the file is written and read."""

_OVERHEAD_BYTES: Final = 64 * 1024
_MAX_BODY_BYTES: Final = MAX_FILE_BYTES + MAX_FIELD_BYTES + _OVERHEAD_BYTES
_FILE: Final = "file"
_READ_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class Form:
    """What was sent: the fields in order, and the file."""

    file: IO[bytes]
    fields: list[tuple[str, str]] = field(default_factory=list)
    filename: str | None = None
    """None until the file has come."""
    content_type: str = ""

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields the file from its beginning."""
        await asyncio.to_thread(self.file.seek, 0)
        while piece := await asyncio.to_thread(self.file.read, PIECE_BYTES):
            yield piece


@asynccontextmanager
async def received_form(request: web.Request, config: FacadeConfig) -> AsyncIterator[Form]:
    """Reads the body and gives the form for the time of the block; its file is gone afterwards.

    Raises ApiError 400, 408, 413 or 415. Whether a file came, the caller must see.
    """
    _check_head(request)
    with tempfile.TemporaryFile(prefix="quillgate-form-") as file:
        form = Form(file)
        try:
            await say_continue(request)
            await _Reader(request, config, form).read()
        except TimeoutError:
            raise ApiError(HTTPStatus.REQUEST_TIMEOUT, "The request body arrived too slowly.", close=True) from None
        except (web.RequestPayloadError, ValueError, LookupError, AssertionError):
            raise ApiError(400, "The request body is not the form that its head announces.", close=True) from None
        yield form


def _check_head(request: web.Request) -> None:
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise ApiError(415, "Compressed request bodies are not accepted. Send the body without Content-Encoding.")
    if request.content_type != "multipart/form-data":
        raise ApiError(400, "This endpoint takes a form with a file (Content-Type: multipart/form-data).", close=True)
    if request.content_length is not None and request.content_length > _MAX_BODY_BYTES:
        raise _too_large(request.content_length)


def _too_large(size: int) -> ApiError:
    message = f"Maximum content size limit ({MAX_FILE_BYTES}) exceeded ({size} bytes read)"
    return ApiError(413, message, code="request_too_large", close=True)


class _Reader:
    """Reads one form within its limits of size, time and speed."""

    def __init__(self, request: web.Request, config: FacadeConfig, form: Form) -> None:
        self._request = request
        self._config = config
        self._form = form
        self._read_bytes = 0
        self._field_bytes = 0
        self._start_s = asyncio.get_running_loop().time()

    async def read(self) -> None:
        """Reads every part; raises TimeoutError for a client that sends more slowly than the slowest allowed."""
        multipart = MultipartReader(self._request.headers, self._request.content, max_field_size=8190, max_headers=16)
        async with asyncio.timeout_at(self._start_s + self._config.body_timeout_s) as deadline:
            while (part := await multipart.next()) is not None:
                if not isinstance(part, BodyPartReader):
                    raise ApiError(400, "The form must not hold another form.", close=True)
                if hdrs.CONTENT_ENCODING in part.headers or hdrs.CONTENT_TRANSFER_ENCODING in part.headers:
                    raise ApiError(400, "The parts of the form must not be encoded.", close=True)
                if part.name == _FILE:
                    await self._read_file(part, deadline)
                else:
                    await self._read_field(part, deadline)

    async def _read_file(self, part: BodyPartReader, deadline: asyncio.Timeout) -> None:
        if self._form.filename is not None:
            raise ApiError(400, "The form must hold one file.", param=_FILE, close=True)
        self._form.filename = part.filename or _FILE
        self._form.content_type = part.headers.get(hdrs.CONTENT_TYPE, "")
        size = 0
        waiting = bytearray()
        while piece := await self._read_some(part, deadline):
            size += len(piece)
            if size > MAX_FILE_BYTES:
                raise _too_large(max(size, self._request.content_length or 0))
            waiting += piece
            if len(waiting) >= PIECE_BYTES:
                await asyncio.to_thread(self._form.file.write, waiting)
                waiting = bytearray()
        await asyncio.to_thread(self._form.file.write, waiting)

    async def _read_field(self, part: BodyPartReader, deadline: asyncio.Timeout) -> None:
        name, value = part.name or "", bytearray()
        while piece := await self._read_some(part, deadline):
            self._field_bytes += len(piece)
            if self._field_bytes > MAX_FIELD_BYTES:
                raise ApiError(413, f"The fields of the form are larger than {MAX_FIELD_BYTES} bytes.", close=True)
            value += piece
        if len(self._form.fields) >= MAX_FIELDS:
            raise ApiError(400, f"The form has more than {MAX_FIELDS} fields.", close=True)
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise ApiError(400, "The fields of the form must be text in UTF-8.", param=name[:100], close=True)
        self._form.fields.append((name, text))

    async def _read_some(self, part: BodyPartReader, deadline: asyncio.Timeout) -> bytes:
        """Each piece moves the deadline on by the time that it may have taken at the slowest speed."""
        piece = bytes(await part.read_chunk(_READ_BYTES))
        self._read_bytes += len(piece)
        earned_s = self._read_bytes / self._config.body_min_bytes_per_s
        deadline.reschedule(self._start_s + self._config.body_timeout_s + earned_s)
        return piece
