"""How many calls are served at once. Beyond that a call waits a moment and is then turned away."""

import asyncio
from types import TracebackType

from quillgate_core.errors import Overloaded


class Capacity:
    """A bounded number of places; `async with capacity` takes one or raises Overloaded after `wait_s` seconds."""

    def __init__(self, places: int, *, wait_s: float) -> None:
        self._places = asyncio.Semaphore(places)
        self._wait_s = wait_s

    async def __aenter__(self) -> None:
        if self._places.locked():
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._places.acquire()
            except TimeoutError:
                raise Overloaded("The server is at its capacity. Please retry shortly.") from None
        else:
            await self._places.acquire()  # a free place is taken without suspending

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.release()
