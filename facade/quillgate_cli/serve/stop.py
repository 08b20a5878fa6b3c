"""When a process that serves shall stop, and how long running requests may then take."""

import asyncio
import os
import signal
from collections.abc import Callable

INTERRUPT_DRAIN_S = 2.0


class Stop:
    """Waits for SIGINT or SIGTERM, or for whoever calls what they call.

    `unready_s` is how long new requests are then still taken, `drain_s` how long those that run may take after that. A
    person who presses Ctrl-C waits for neither, and a start that fails not for the first.
    """

    def __init__(self, unready_s: float, drain_s: float) -> None:
        self._given_unready_s = unready_s
        self.unready_s = 0.0
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
        """Gives balancers time to notice, and running requests all of theirs."""
        self.unready_s = self._given_unready_s
        self._event.set()

    def interrupt(self) -> None:
        """Gives running requests 2 s, also where they were given more before."""
        self.unready_s, self.drain_s = 0.0, min(self.drain_s, INTERRUPT_DRAIN_S)
        self._event.set()

    async def wait(self) -> None:
        """Returns when the service shall stop."""
        await self._event.wait()
