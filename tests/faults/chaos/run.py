"""One run: faults under load for so long, then quiet, then the comparison."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from faults.chaos.books import Watcher, read_books
from faults.chaos.load import Caller
from faults.chaos.metering_load import ChatService
from faults.chaos.mischief import Mischief, watch
from faults.chaos.provider import AilingProvider
from faults.chaos.record import Record
from faults.chaos.site import Site, Tenancy, admin_secret_of, opened
from faults.chaos.verdict import Verdict, judge

PROGRESS_S = 30.0
FINISH_S = 90.0
"""How long callers may take to end once faults have stopped: a step of metering is repeated for a minute."""

QUIET_S = 75.0
"""How long something may stay held after that: 45 s are promised, the rest is for a busy machine."""

WAVE_S = 20.0
WAVE_ALLOWANCES = (1, 7, 20, 45)
WAVE_CALLERS = 3
OPEN_CALLERS = 6
KEY_LIMIT = 12
"""Messages a day that one key of each workspace may use."""


@dataclass(frozen=True)
class Plan:
    """How long, how hard, and by which dice."""

    duration_s: float
    kill_s: float = 3.0
    restart_s: float = 40.0
    seed: int = 0
    cores: int = 2
    facades: int = 2


@dataclass
class Run:
    """The run's parts, and how far it is."""

    plan: Plan
    site: Site
    record: Record
    mischief: Mischief
    watcher: Watcher
    chance: random.Random
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def progress(self) -> str:
        """One line."""
        done = sum(attempt.is_done for attempt in self.record.attempts)
        return (
            f"asked {len(self.record.attempts)} answered {done} dispatched {self.record.dispatched} "
            f"kills {self.mischief.kills} restarts {self.mischief.restarts} held {self.watcher.held_messages}"
        )

    async def load(self) -> None:
        """All callers: some in workspaces without limit, and waves of them in workspaces that are soon used up."""
        first = await self.site.tenancies(allowance=None, keys=OPEN_CALLERS, key_limit=KEY_LIMIT)
        second = await self.site.tenancies(allowance=None, keys=3, key_limit=KEY_LIMIT)
        async with asyncio.TaskGroup() as group:
            for tenancy in (*first[1:], *second[1:]):
                group.create_task(self._caller(tenancy, self.stopped).run())
            for tenancy in (first[0], second[0]):
                group.create_task(self._chat_service(tenancy, self.stopped).run())
            group.create_task(self._waves())

    async def _waves(self) -> None:
        """Use one small allowance up after the other, by several callers at once."""
        while not self.stopped.is_set():
            allowance = self.chance.choice(WAVE_ALLOWANCES)
            tenancies = await self.site.tenancies(allowance=allowance, keys=WAVE_CALLERS + 1, key_limit=KEY_LIMIT)
            ended = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for tenancy in tenancies[1:]:
                    group.create_task(self._caller(tenancy, ended).run())
                group.create_task(self._chat_service(tenancies[0], ended).run())
                try:
                    async with asyncio.timeout(WAVE_S):
                        await self.stopped.wait()
                except TimeoutError:
                    pass
                ended.set()

    def _caller(self, tenancy: Tenancy, ended: asyncio.Event) -> Caller:
        return Caller(tenancy, self.site.base_urls, self.record, self._dice(), ended)

    def _chat_service(self, tenancy: Tenancy, ended: asyncio.Event) -> ChatService:
        return ChatService(tenancy, self.site.core_addresses, self.record, self._dice(), ended)

    def _dice(self) -> random.Random:
        return random.Random(self.chance.random())


def _statuses(record: Record) -> str:
    """How often callers heard what; 0: nothing, as from a facade that was killed."""
    counts = Counter(attempt.status for attempt in record.attempts if attempt.kind != "metering")
    fates = Counter(dispatch.fate for found in record.dispatches.values() for dispatch in found)
    return f"statuses {dict(sorted(counts.items()))} fates {dict(fates.most_common())}"


async def chaos(plan: Plan, say: Callable[[str], None]) -> tuple[Verdict, Mischief]:
    """Do it all and return what was found; progress and every violation's story are said."""
    async with _running(plan) as (run, provider):
        load = asyncio.create_task(run.load())
        mischief = asyncio.create_task(run.mischief.run())
        await _pass_time(run, [load, mischief], say)
        run.mischief.stopped.set()
        await mischief
        provider.is_ailing = False
        run.stopped.set()
        async with asyncio.timeout(FINISH_S):
            await load
        await _quiet(run, say)
        verdict = judge(run.record, await read_books(run.site.postgres.url), run.watcher.excesses)
        say(run.progress())
        say(_statuses(run.record))
    for story in (*verdict.lost, *verdict.doubled, *verdict.excesses):
        say(story)
    say(f"{verdict} kills {run.mischief.kills} restarts {run.mischief.restarts}")
    return verdict, run.mischief


@asynccontextmanager
async def _running(plan: Plan) -> AsyncIterator[tuple[Run, AilingProvider]]:
    chance = random.Random(plan.seed)
    record = Record()
    with tempfile.TemporaryDirectory(prefix="quillgate-chaos-") as name:
        Path(name).chmod(0o711)
        async with AilingProvider(record, random.Random(chance.random())) as provider:
            with opened(Path(name), provider.base_url, cores=plan.cores, facades=plan.facades) as site:
                site.admin_secret = await admin_secret_of(site.processes[0])
                watcher = Watcher(site.postgres.url)
                mischief = Mischief(site, record, random.Random(chance.random()), plan.kill_s, plan.restart_s)
                chores = [asyncio.create_task(watch(site)), asyncio.create_task(watcher.run())]
                try:
                    await site.wait_ready()
                    yield Run(plan, site, record, mischief, watcher, chance), provider
                finally:
                    for chore in chores:
                        chore.cancel()
                    await asyncio.gather(*chores, return_exceptions=True)


async def _pass_time(run: Run, tasks: list[asyncio.Task[None]], say: Callable[[str], None]) -> None:
    """Wait for the end of the time, saying how far it is; raises what a task raises."""
    deadline = time.monotonic() + run.plan.duration_s
    while (left_s := deadline - time.monotonic()) > 0:
        done, _ = await asyncio.wait(tasks, timeout=min(PROGRESS_S, left_s), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
            raise AssertionError("the load ended by itself")
        say(run.progress())


async def _quiet(run: Run, say: Callable[[str], None]) -> None:
    """Wait until nothing is held any more, or for as long as is put up with: the rest is then found in the books."""
    start = time.monotonic()
    while time.monotonic() - start < QUIET_S:
        looks = run.watcher.looks
        await asyncio.sleep(0.3)
        if run.watcher.looks > looks + 1 and run.watcher.held_messages == 0:
            break
    say(f"nothing held after {time.monotonic() - start:.0f} s" if not run.watcher.held_messages else "still held")
