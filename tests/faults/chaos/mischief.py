"""Kills processes and restarts the database at random, and starts again at once whatever has died."""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field

from faults.chaos.record import Record
from faults.chaos.site import Served, Site

WATCH_S = 0.05
MOMENT_S = 1.0
"""How long a kill waits for its moment."""


@dataclass
class Mischief:
    """Faults until `stopped`: a kill each `kill_s` seconds and a restart each `restart_s`, on average."""

    site: Site
    record: Record
    chance: random.Random
    kill_s: float
    restart_s: float
    kills: int = 0
    restarts: int = 0
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Do it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kill())
            group.create_task(self._restart())

    async def _kill(self) -> None:
        while await self._goes_on(self.kill_s):
            victim = self.chance.choice(await self._victims())
            if victim.is_alive:
                victim.kill()
                self.kills += 1

    async def _victims(self) -> list[Served]:
        """Wait for the moment, and return who may die then.

        Two of three kills are for a core just when a provider was asked, or a caller saw an end: what was not durable
        by then is lost.
        """
        moment = self.chance.choice((None, self.record.asked, self.record.ended))
        if moment is None:
            return self.site.processes
        moment.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(MOMENT_S):
                await moment.wait()
        return self.site.cores

    async def _restart(self) -> None:
        while await self._goes_on(self.restart_s):
            await asyncio.to_thread(self.site.postgres.restart_at_once)
            self.restarts += 1

    async def _goes_on(self, period_s: float) -> bool:
        """Wait around so long; False when it is enough."""
        try:
            async with asyncio.timeout(period_s * self.chance.uniform(0.5, 1.5)):
                await self.stopped.wait()
        except TimeoutError:
            return True
        return False


async def watch(site: Site) -> None:
    """Start what does not run, for ever."""
    while True:
        for process in site.processes:
            process.start()
        await asyncio.sleep(WATCH_S)
