"""When a process that serves shall stop, and how long running requests may then take."""

import asyncio
import os
import signal
from collections.abc import Callable

INTERRUPT_DRAIN_S = 2.0


class Stop:
    """Waits for SIGINT or SIGTERM, or for whoever calls what they call; `drain_s` is what running requests then get."""

    def __init__(self, drain_s: float) -> None:
        self.drain_s = drain_s
        self._event = asyncio.Event()

    def listen(self, *, insist: bool = True) -> None:
        """Takes the two signals; a second one ends the process at once, unless it is not to `insist`.

        A worker does not: a service manager may signal it beside its parent, which then asks it to stop too.
        """
        loop = asyncio.get_running_loop()
        for kind, stop in ((signal.SIGTERM, self.terminate), (signal.SIGINT, self.interrupt)):
            loop.add_signal_handler(kind, self._signalled, stop, insist)

    def _signalled(self, stop: Callable[[], None], insist: bool) -> None:
        if insist and self._event.is_set():
            os._exit(130)
        stop()

    def terminate(self) -> None:
        """Gives running requests all of their time."""
        self._event.set()

    def interrupt(self) -> None:
        """Gives running requests 2 s, also where they were given more before."""
        self.drain_s = min(self.drain_s, INTERRUPT_DRAIN_S)
        self._event.set()

    async def wait(self) -> None:
        """Returns when the service shall stop."""
        await self._event.wait()
