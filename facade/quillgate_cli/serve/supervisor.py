"""The parent of workers: starts them, announces them once all serve, replaces those that die, and stops all of them.

It serves nothing itself and imports nothing of what they serve.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from quillgate_cli.serve.doorman import Doorman
from quillgate_cli.serve.worker_link import WorkerLink

FIRST_PAUSE_S: Final = 0.1
MOST_PAUSE_S: Final = 5.0
STEADY_S: Final = 30.0
_INTERRUPTED: Final = 130

logger = logging.getLogger(__name__)


class Supervisor:
    """Keeps `count` workers that `start` makes; `run` returns the exit code when all are gone.

    After SIGTERM connections are still accepted for `unready_s`, as workers still take new requests for so long.

    Until they are announced the end of any ends the whole. Later a worker is replaced, after a pause that grows while
    they die young, and the whole ends only when one fails to start while no other serves.
    """

    def __init__(
        self,
        start: Callable[[int], Awaitable[WorkerLink]],
        doorman: Doorman,
        *,
        count: int,
        announcement: str,
        unready_s: float = 0.0,
    ) -> None:
        self._start = start
        self._doorman = doorman
        self._count = count
        self._announcement = announcement
        self._unready_s = unready_s
        self._workers: dict[int, WorkerLink] = {}
        self._serving: dict[int, WorkerLink] = {}
        self._all_serve = asyncio.Event()
        self._is_announced = False
        self._last_word = ""
        self._ending = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Runs until a signal comes or nothing can be served; a second signal ends everything at once."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._signalled, "terminate")
        loop.add_signal_handler(signal.SIGINT, self._signalled, "interrupt")
        announcing = loop.create_task(self._announce())
        keeping = [loop.create_task(self._keep(number)) for number in range(1, self._count + 1)]
        try:
            await asyncio.gather(*keeping)
        finally:
            announcing.cancel()
            self._doorman.close()
            for task in keeping:
                task.cancel()
            for worker in self._workers.values():
                worker.kill()
        await asyncio.gather(announcing, return_exceptions=True)
        return self._code

    def _signalled(self, word: str) -> None:
        if self._ending.is_set():
            self._code = _INTERRUPTED
            for worker in self._workers.values():
                worker.kill()
        else:
            self._end(word)

    def _end(self, word: str, *, code: int = 0) -> None:
        """Accepts nothing more, now or when workers do not, and asks all of them to stop."""
        if self._ending.is_set():
            return
        self._last_word, self._code = word, code
        self._ending.set()
        if word == "terminate" and self._is_announced and not code:
            asyncio.get_running_loop().call_later(self._unready_s, self._doorman.close)
        else:
            self._doorman.close()
        for worker in self._workers.values():
            worker.say(word)

    async def _announce(self) -> None:
        """Opens the door when all serve, and lets one worker print where, with keys that are made only now."""
        await self._all_serve.wait()
        first = self._workers.get(1)
        if self._ending.is_set() or first is None:  # its end ends the whole
            return
        try:
            self._doorman.open()
        except OSError as error:
            logger.error("cannot serve REST: %s", error.strerror)
            self._end("terminate", code=1)
            return
        first.say(self._announcement)
        self._is_announced = await first.says("announced")

    async def _keep(self, number: int) -> None:
        """Has a worker of this number run until the end."""
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while not self._ending.is_set():
            begin_s = loop.time()
            code, has_served = await self._live(number)
            if self._ending.is_set():
                return
            if not self._is_announced or not (has_served or self._serving):
                self._end("terminate", code=code if code > 0 else 1)
                return
            logger.error("worker %d ended with %d; another takes its place in %.1f s", number, code, pause_s)
            await self._pause(pause_s)
            pause_s = FIRST_PAUSE_S if loop.time() - begin_s > STEADY_S else min(2 * pause_s, MOST_PAUSE_S)

    async def _live(self, number: int) -> tuple[int, bool]:
        """Sees one worker from its start to its end; returns its exit code and whether it ever served."""
        try:
            worker = await self._start(number)
        except OSError as error:
            logger.error("worker %d cannot be started: %s", number, error)
            return 1, False
        self._workers[number] = worker
        if self._ending.is_set():
            worker.say(self._last_word)
        has_served = await worker.says("ready")
        if has_served:
            self._serving[number] = worker
            self._doorman.add(worker.connections)
            if len(self._serving) == self._count:
                self._all_serve.set()
        code = await worker.ended()
        self._doorman.remove(worker.connections)
        self._workers.pop(number)
        self._serving.pop(number, None)
        return code, has_served

    async def _pause(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._ending.wait()
        except TimeoutError:
            pass
