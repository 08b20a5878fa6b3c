"""Workers without processes, for a supervisor that is tested by itself."""

import asyncio
import socket
from collections.abc import Callable


class FakeWorker:
    """Has the shape of a WorkerLink; it lives until the test, or a word of its parent if it `obeys`, ends it."""

    def __init__(self, *, serves: bool = True, announces: bool = True, obeys: bool = True) -> None:
        self.connections, self.other_end = socket.socketpair()
        self.heard: list[str] = []
        self.is_killed = False
        self._obeys = obeys
        self._answers = {"ready": serves, "announced": announces}
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._code.done()

    def end(self, code: int) -> None:
        """Ends it with an exit code."""
        if not self._code.done():
            self._code.set_result(code)

    def say(self, line: str) -> None:
        """Hears it."""
        self.heard.append(line)
        if self._obeys and line in ("terminate", "interrupt"):
            self.end(0)

    async def says(self, word: str) -> bool:
        """Says what it is made to say; what it will never say ends it."""
        await asyncio.sleep(0)
        if not self._answers[word]:
            self.end(1)
        return self._answers[word]

    async def ended(self) -> int:
        """Waits for the end."""
        code = await self._code
        self.connections.close()
        self.other_end.close()
        return code

    def kill(self) -> None:
        """Ends it at once."""
        self.is_killed = True
        self.end(-9)


class FakeCrew:
    """Starts fake workers for a supervisor, as `make` makes them, and remembers all."""

    def __init__(self, make: Callable[[int], FakeWorker] = lambda number: FakeWorker()) -> None:
        self.started: list[tuple[int, FakeWorker]] = []
        self._make = make

    async def start(self, number: int) -> FakeWorker:
        """Starts a worker of this number."""
        worker = self._make(number)
        self.started.append((number, worker))
        return worker

    async def wait_for(self, count: int) -> FakeWorker:
        """Returns the newest worker when so many were started."""
        async with asyncio.timeout(10):
            while len(self.started) < count:
                await asyncio.sleep(0.005)
        return self.started[-1][1]
