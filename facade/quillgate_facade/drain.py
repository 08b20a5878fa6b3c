"""What is under way, so that a stop can wait for it and then end it. Holds no socket and closes none."""

import asyncio

import grpc.aio


class Drain:
    """Counts requests and remembers calls to the core; `draining` turns true once and for ever when a stop begins."""

    def __init__(self) -> None:
        self.draining = False
        self._requests = 0
        self._calls: set[grpc.aio.Call] = set()
        self._ended = False
        self._idle = asyncio.Event()

    def enter(self) -> None:
        """Counts a request that has begun."""
        self._requests += 1

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
        """Begins the stop."""
        self.draining = True

    async def wait(self, timeout_s: float) -> bool:
        """Begins the stop and waits until no request runs; False when some still do after `timeout_s`."""
        self.begin()
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
