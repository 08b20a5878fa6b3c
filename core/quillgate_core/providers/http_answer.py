"""Reads one answer from a connection of the HTTP client, and gives the connection back when it can be used again.

aiohttp turns each piece of a body into a stream of HTTP chunks, which nobody here asks for. Most of a stream's cost is
that, so for the time of an answer this takes the place of aiohttp's protocol on its connection. The format is llhttp's
(httptools), as aiohttp's is. What is compressed, which we never ask for, goes back to aiohttp from its first byte.
"""

import asyncio
from typing import Final

import aiohttp
from aiohttp.connector import Connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_OVERHEAD_BYTES: Final = 64 * 1024
"""Most bytes in a row that are no body: heads with their interim answers, sizes of chunks, trailers."""

HIGH_WATER_BYTES: Final = 256 * 1024
"""From so much on that nobody has read, the connection is not read either."""

_KEPT_HEADERS: Final = {b"content-type": "content-type", b"retry-after": "retry-after"}


class NotHttp(aiohttp.ClientError):
    """What came is no answer in HTTP, or stopped to be one."""


class HttpAnswer(asyncio.Protocol):
    """An answer to what is sent next; whoever holds it must read it to its end or `close` it.

    `status` and `headers`, of which only those that are used are kept, are there after `read_head`.
    """

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        assert connection.protocol is not None
        assert connection.transport is not None
        self.status = 0
        self.headers: Final[dict[str, str]] = {}
        self._loop = loop
        self._connection: Connection | None = connection
        self._client: Final = connection.protocol
        self._transport: Final = connection.transport
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # as aiohttp reads what servers send
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._head: list[bytes] | None = []  # all that came, until the head is complete
        self._overhead_bytes = 0
        self._is_interim = False
        self._is_compressed = False
        self._says_its_end = False
        self._is_complete = False
        self._is_reusable = False
        self._is_paused = False
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content(self) -> "HttpAnswer":
        """What the body is read from: this."""
        return self

    def send(self, request: bytes) -> None:
        """Takes the connection over and sends the request."""
        self._transport.set_protocol(self)
        self._transport.write(request)

    async def read_head(self) -> bool:
        """Waits for the head; False if the answer was left to aiohttp's protocol, because it is compressed.

        Raises NotHttp, and aiohttp.ClientError when the connection breaks.
        """
        while self._head is not None:
            if self._error is not None:
                raise self._take_error()
            await self._wait()
        return not self._is_compressed

    async def readany(self) -> bytes:
        """Returns what of the body was not read yet, waiting for it if need be; empty at its end.

        Raises aiohttp.ClientError, NotHttp too, when the answer breaks off, and what `set_exception` was given.
        """
        while not (self._pieces or self._is_complete or self._error):
            await self._wait()
        return self.read_nowait()

    def read_nowait(self) -> bytes:
        """Returns what has come of the body and was not read yet, as `readany` does but without waiting."""
        pieces = self._pieces
        if not pieces:
            if self._error is not None:
                raise self._take_error()
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unread_bytes = 0
        if self._is_paused:
            self._resume()
        return data

    def at_eof(self) -> bool:
        """Tells whether the whole body has come and was read."""
        return self._is_complete and not self._pieces

    def set_exception(self, error: Exception) -> None:
        """Makes the read that waits, or the next that would, raise the error."""
        self._error = error
        self._wake()

    def close(self) -> None:
        """Closes the connection, unless the answer has come to its end, which has freed it for reuse."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._parser = None  # it refers to this
            if self._transport.get_write_buffer_size():
                self._transport.abort()  # it would wait for a server that may never read the rest of the request
            connection.close()

    def data_received(self, data: bytes) -> None:
        """Is called by the transport."""
        parser = self._parser
        if parser is None:
            return
        if self._head is not None:
            self._head.append(data)
        self._overhead_bytes += len(data)
        try:
            parser.feed_data(data)
        except HttpParserUpgrade:
            self._is_reusable = False
        except HttpParserError as error:
            self._is_reusable = False
            if not self._is_complete:
                self._break_off(NotHttp(str(error)))
        if self._parser is None:
            pass  # it was broken off
        elif self._is_compressed:
            self._hand_back()
        elif self._is_complete:
            self._end()
        elif self._overhead_bytes > MAX_OVERHEAD_BYTES:
            self._break_off(NotHttp("too much in a row that is no body"))
        elif self._unread_bytes > HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        if self._waiter is not None:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Is called by the transport."""
        self._client.connection_lost(error)
        if self._parser is None:
            return
        if self._head is None and not self._says_its_end and error is None:
            self._is_complete = True
            self.close()
        else:
            self._break_off(aiohttp.ServerDisconnectedError())
        self._wake()

    def on_message_begin(self) -> None:
        """Is called by the parser: refuses what follows the end of the answer."""
        if self._is_complete:
            self._is_reusable = False
            raise HttpParserError("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Is called by the parser, for trailers too."""
        if self._head is None:
            return
        name = name.lower()
        if name in _KEPT_HEADERS:
            self.headers.setdefault(_KEPT_HEADERS[name], value.decode("latin-1"))
        elif name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower()):
            self._says_its_end = True
        elif name == b"content-encoding":
            self._is_compressed = value.strip().lower() not in (b"", b"identity")

    def on_headers_complete(self) -> None:
        """Is called by the parser."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200 and status != 101
        if self._is_interim:
            self.headers.clear()
            self._says_its_end = self._is_compressed = False
        else:
            self.status = status
            self._head = self._head if self._is_compressed else None

    def on_body(self, piece: bytes) -> None:
        """Is called by the parser."""
        self._pieces.append(piece)
        self._unread_bytes += len(piece)
        self._overhead_bytes = 0

    def on_message_complete(self) -> None:
        """Is called by the parser."""
        if not self._is_interim:
            assert self._parser is not None
            self._is_complete = True
            self._is_reusable = self._parser.should_keep_alive()

    def _take_error(self) -> Exception:
        """Returns what to raise. Its trace will hold this, which must not hold it, or both wait to be collected."""
        error, self._error = self._error, aiohttp.ClientConnectionError("the answer broke off before")
        assert error is not None
        return error

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _break_off(self, error: Exception) -> None:
        self._error = self._error or error
        self.close()

    def _end(self) -> None:
        """Keeps the connection, unless the server closes it or answered before all of the request was sent."""
        if not self._is_reusable or self._transport.is_closing() or self._transport.get_write_buffer_size():
            self.close()
            return
        connection, self._connection, self._parser = self._connection, None, None
        if connection is not None:
            self._resume()
            self._transport.set_protocol(self._client)
            connection.release()

    def _hand_back(self) -> None:
        """Gives the connection and all that has come back to aiohttp's protocol."""
        assert self._head is not None
        self._parser = self._connection = None
        self._pieces.clear()
        data, self._head = b"".join(self._head), None
        self._client.set_response_params(read_until_eof=True)
        self._transport.set_protocol(self._client)
        self._client.data_received(data)

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
