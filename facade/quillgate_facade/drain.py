"""What is under way, so that a stop can wait for it and then end it. Holds no socket and closes none."""

import asyncio
from collections.abc import Callable

import grpc.aio

#: How long nothing must have begun on connections that are kept alive until they may be closed, in seconds.
QUIET_S = 1.0
_LOOK_S = 0.02


class Drain:
    """Counts requests and remembers calls to the core; `draining` turns true once and for ever when a stop begins."""

    def __init__(self) -> None:
        self.draining = False
        self._requests = 0
        self._begun = 0
        self._calls: set[grpc.aio.Call] = set()
        self._ended = False
        self._idle = asyncio.Event()

    def enter(self) -> None:
        """Counts a request that has begun."""
        self._requests += 1
        self._begun += 1

    def leave(self) -> None:
        """Counts a request that has its answer, or whose client has gone."""
        self._requests -= 1
        if self.draining and not self._requests:
            self._idle.set()

    def add(self, call: grpc.aio.Call) -> None:
        """Remembers a call that was made for a request."""
        self._calls.add(call)

    def remove(self, call: grpc.aio.Call) -> None:
        """Forgets a call that is over."""
        self._calls.discard(call)

    def has_ended(self, call: grpc.aio.Call) -> bool:
        """Tells whether the stop ended this call, and not its client."""
        return self._ended and call in self._calls

    def begin(self) -> None:
        """Begins the stop; whatever comes is still served."""
        self.draining = True

    async def wait_quiet(self, timeout_s: float, *, is_connected: Callable[[], bool]) -> bool:
        """Waits until no request runs and, while a client is connected, none has begun for a second; else as `wait`.

        A client may send its next request in the very moment in which its connection is closed, and never learn what
        became of it. One that has just been answered is likely to; one that has been silent for a while is not.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        begun, quiet_time = -1, 0.0
        while loop.time() < deadline and (self._requests or is_connected()):
            if self._requests or begun != self._begun:
                begun, quiet_time = self._begun, loop.time() + QUIET_S
            elif loop.time() >= quiet_time:
                break
            await asyncio.sleep(_LOOK_S)
        return not self._requests

    async def wait(self, timeout_s: float) -> bool:
        """Waits until no request runs; False when some still do after `timeout_s`."""
        if not self._requests:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def cancel_calls(self) -> None:
        """Ends every call; their handlers tell the clients that the server stops."""
        self._ended = True
        for call in list(self._calls):
            call.cancel()
