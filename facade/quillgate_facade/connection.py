"""One client connection: the limits that hold below HTTP requests, and JSON for what the HTTP parser refuses.

aiohttp's own protocol has no limit on connections, on slow heads or on clients that stop reading, and answers what it
cannot parse with text.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import LineTooLong

from quillgate_facade.answers import Handler, error_answer, unexpected
from quillgate_facade.config import FacadeConfig
from quillgate_facade.door import Door
from quillgate_facade.errors import SERVER_ERROR, ApiError
from quillgate_facade.exchange import Exchange
from quillgate_facade.plain_answer import is_plain, written
from quillgate_facade.shed import Refusals, is_probe, rest_of

logger = logging.getLogger(__name__)

#: A stalled client is looked at this many times before it is cut.
_STALL_CHECKS = 6

#: A connection that waits at the door is not read any further when it has sent this much.
_MAX_HELD_BYTES = 65_536


class ConnectionFactory:
    """Makes the protocol of each connection and counts those that are open; what `loop.create_server` calls."""

    def __init__(
        self,
        server: web.Server,
        config: FacadeConfig,
        door: Door,
        refusals: Refusals,
        at_once: Mapping[tuple[str, str], Handler],
    ) -> None:
        self._server = server
        self.at_once = at_once
        self.config = config
        self.door = door
        self.refusals = refusals
        self.open_connections = 0

    def __call__(self) -> "Connection":
        """Returns the protocol for a connection that is being accepted."""
        config = self.config
        return Connection(
            self._server,
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=config.idle_timeout_s,
            logger=logger,
            access_log=None,
            max_line_size=config.head_max_bytes,
            max_field_size=config.head_max_bytes,
            lingering_time=config.linger_timeout_s,
            auto_decompress=False,
        )


class Connection(web.RequestHandler):
    """aiohttp's protocol with the facade's limits; everything else is inherited."""

    __slots__ = (
        "_answered",
        "_factory",
        "_head_timer",
        "_held",
        "_in_head",
        "_payload",
        "_refused",
        "_skip",
        "_stall_timer",
        "waiting_bytes",
    )

    def __init__(self, manager: web.Server, factory: ConnectionFactory, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._factory = factory
        self._refused = False
        self._in_head = False
        self._answered = 0
        self._payload: StreamReader | None = None
        self._held = bytearray()
        self._skip = 0
        self.waiting_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuses the connection when too many are open."""
        factory = self._factory
        factory.open_connections += 1
        if factory.open_connections > factory.config.max_connections:
            self._refused = True
            assert isinstance(transport, asyncio.Transport)
            transport.write(_too_many_connections())
            transport.close()
            return
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forgets the connection and its timers."""
        self._factory.open_connections -= 1
        self._stop_head_timer()
        self._stop_stall_timer()
        self._take_held()
        self._factory.refusals.unmark(self)
        super().connection_lost(exc)
        # Both hold this connection, which would wait for the garbage collector. Whoever reads them is cancelled by now.
        self._payload = None
        self._messages.clear()

    def data_received(self, data: bytes) -> None:
        """Passes requests on to the parser; one that begins goes through the door, where it may wait or end."""
        if self._refused:
            return
        if self._in_head or self._is_busy():
            self._parse(data)
        elif self.waiting_bytes:
            self._hold(data)
        elif self._skip:
            self._drop(data)
        elif self._factory.door.enter():
            self._parse(data)
        elif self._factory.door.is_shut():
            self._turn_away(data)
        elif is_probe(data):
            self._parse(data)
        else:
            self._hold(data)
            self._factory.door.line_up(self)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Reads on after a pause; aiohttp asks for it after each piece of a body, paused or not, and then parses."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def let_in(self) -> None:
        """Begins the request that waited at the door."""
        data = self._take_held()
        if len(data) >= _MAX_HELD_BYTES and self.transport is not None:
            self.transport.resume_reading()
        self._parse(data)

    async def _handle_request(
        self, request: web.BaseRequest, start_time: float | None, request_handler: Any
    ) -> tuple[web.StreamResponse, bool]:
        handler = self._factory.at_once.get((request.method, request.raw_path), request_handler)
        try:
            return await super()._handle_request(request, start_time, handler)
        finally:
            self._answered += 1

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends an answer, and tells whether the client has gone before it was."""
        if self._upgraded or not is_plain(resp, request):
            return await super().finish_response(request, resp, start_time)
        request._finish()
        await request._prepare_hook(resp)
        transport = self.transport
        if transport is None or transport.is_closing():
            return resp, True
        transport.write(written(resp))
        return resp, False

    def _is_busy(self) -> bool:
        """Tells whether a request is not answered yet, or answered without having been read to its end."""
        return self._answered != self._request_count or not (self._payload is None or self._payload.is_eof())

    def _parse(self, data: bytes) -> None:
        """Parses; a head that is begun has `head_timeout_s` to arrive as a whole."""
        super().data_received(data)
        if self._messages:
            self._payload = self._messages[-1][1]
        self._in_head = not self._is_busy()
        waiter = self._waiter  # set while the protocol waits for the head of a request
        if waiter is None or waiter.done():
            self._stop_head_timer()
        elif self._head_timer is None:
            self._start_head_timer()

    def _hold(self, data: bytes) -> None:
        """Keeps what a connection sends that waits at the door."""
        self._held += data
        self._factory.door.waiting_bytes += len(data)
        self.waiting_bytes += len(data)
        self._be_busy()
        if self.waiting_bytes >= _MAX_HELD_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _take_held(self) -> bytes:
        data, self._held = bytes(self._held), bytearray()
        self._factory.door.waiting_bytes -= self.waiting_bytes
        self.waiting_bytes = 0
        return data

    def _turn_away(self, data: bytes) -> None:
        """Answers 503 and keeps the connection; what is unusual is parsed first and refused by its handler."""
        rest = rest_of(data)
        if rest is None and is_probe(data):
            self._parse(data)
            return
        self._factory.door.note_refusal()
        if rest is None or self._paused or self.transport is None:
            self._factory.refusals.mark(self)
            self._parse(data)
            return
        self._skip = rest
        self._be_busy()
        self.transport.write(self._factory.refusals.next())

    def _drop(self, data: bytes) -> None:
        """Drops what is still to come of a request that was turned away."""
        rest = data[self._skip :]
        self._skip -= len(data) - len(rest)
        if rest:
            self.data_received(rest)

    def _be_busy(self) -> None:
        """Counts the connection as one that just had a request, for the timers of idle ones and slow heads."""
        self._stop_head_timer()
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def pause_writing(self) -> None:
        """Begins to watch a client that does not read."""
        super().pause_writing()
        self._watch_stall(checks_left=_STALL_CHECKS, size=self._unsent_bytes())

    def resume_writing(self) -> None:
        """Ends the watch: the client has read most of what was waiting."""
        super().resume_writing()
        self._stop_stall_timer()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what could not be parsed, and closes; the parser's own words may hold what the client sent."""
        exchange = Exchange()
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        if isinstance(exc, LineTooLong):
            limit = self._factory.config.head_max_bytes
            error = ApiError(431, f"The request line or a header is longer than {limit} bytes.", close=True)
        elif status == 400:
            error = ApiError(400, "The request could not be parsed as HTTP/1.1.", close=True)
        else:
            error = unexpected(exc or RuntimeError(), exchange)
            error.close = True
        response = error_answer(error)
        exchange.stamp(response.headers)
        return response

    def _start_head_timer(self) -> None:
        self._head_timer = self._loop.call_later(self._factory.config.head_timeout_s, self.force_close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _watch_stall(self, *, checks_left: int, size: int) -> None:
        """Cuts the client when nothing of `size` waiting bytes was read for `write_stall_timeout_s`."""
        if checks_left == 0:
            if self.transport is not None:
                self.transport.abort()
            return

        def check() -> None:
            waiting = self._unsent_bytes()
            left = checks_left - 1 if waiting >= size else _STALL_CHECKS
            self._watch_stall(checks_left=left, size=waiting)

        self._stall_timer = self._loop.call_later(self._factory.config.write_stall_timeout_s / _STALL_CHECKS, check)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size() if self.transport is not None else 0


def _too_many_connections() -> bytes:
    exchange = Exchange()
    message = "The server has too many open connections. Please try again."
    body = ApiError(503, message, kind=SERVER_ERROR).to_json()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "retry-after": "1",
        "connection": "close",
    }
    exchange.stamp(headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode() + body
