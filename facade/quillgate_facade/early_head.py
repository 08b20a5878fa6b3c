"""Opens a stream whose core says nothing for long, so that its client hears comments instead of silence.

Usually the head waits for the core's first message, and a refusal gets a status of its own. A model that thinks for
longer than proxies and clients wait is worth more than that: from then on a refusal is told inside the stream.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web

from quillgate_facade.sse import COMMENT, EventStream


class EarlyHead:
    """Waits `after_s` seconds and then opens the stream that `make` returns; `settle` ends the wait, `stop` all."""

    def __init__(self, request: web.Request, make: Callable[[], EventStream], *, after_s: float) -> None:
        self._request = request
        self._make = make
        self._stream: EventStream | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(after_s, self._begin)

    async def settle(self) -> EventStream | None:
        """Returns the stream if it was opened; from now on it is the caller's to write to."""
        self._timer.cancel()
        if self._opening is not None:
            await self._opening
        return self._stream

    def stop(self) -> None:
        """Opens and comments nothing any more. May be called at any time, more than once."""
        self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self._stream is not None:
            self._stream.stop()

    def _begin(self) -> None:
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        self._stream = self._make()
        try:
            await self._stream.open(self._request)
            await self._stream.write(COMMENT)
        except ConnectionError:
            pass  # the client has gone, and its handler is being cancelled
