"""One rolling restart: every facade and every core is replaced in turn, under load, and then the books are read."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from fakes.balancer import Balancer
from faults.chaos.books import read_books
from faults.chaos.record import Attempt, Record
from faults.chaos.site import Site, admin_secret_of, opened
from faults.chaos.verdict import Verdict, judge
from faults.rolling.haproxy import Haproxy
from faults.rolling.load import SteadyLoad
from faults.rolling.provider import SteadyProvider
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

KEYS = 8
EXIT_S = 90.0
READY_S = 60.0
SETTLE_S = 1.0
"""Between a replica that is ready and the end of the next one."""


@dataclass(frozen=True)
class Plan:
    """How much load, and how long its streams take."""

    rate: float = 200.0
    stream_share: float = 0.1
    least_stream_s: float = 5.0
    most_stream_s: float = 30.0
    unready_s: float = 2.0
    """How long a replica that shall stop still takes what comes: some of the balancer's looks."""
    rounds: int = 1
    in_pairs: bool = False
    """Whether a core and a facade are replaced at once, as when a new version of both is rolled out."""
    haproxy: bool = False
    """Whether the balancer is HAProxy with our configuration, instead of one that passes bytes on."""
    seed: int = 0


@dataclass
class Finding:
    """What happened."""

    attempts: list[Attempt] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    turned_away: int = 0
    most_streams: int = 0
    """Streams that ran when a replica was told to stop, at most."""
    verdict: Verdict | None = None

    @property
    def failures(self) -> list[Attempt]:
        """Requests whose caller did not see the end of the answer."""
        return [attempt for attempt in self.attempts if not attempt.is_done]

    @property
    def is_good(self) -> bool:
        """Whether nobody noticed, and every request is in the books exactly once."""
        clean = self.verdict is not None and self.verdict.is_clean and self.verdict.recovered == 0
        return clean and not self.failures and not self.turned_away and set(self.exit_codes) == {0}

    def __str__(self) -> str:
        kinds = Counter(attempt.kind for attempt in self.attempts)
        return (
            f"requests {len(self.attempts)} ({dict(kinds)}) failed {len(self.failures)} turned away {self.turned_away} "
            f"restarts {len(self.exit_codes)} most streams at a stop {self.most_streams} | {self.verdict}"
        )


async def rolling(plan: Plan, say: Callable[[str], None]) -> Finding:
    """Do it all and return what was found."""
    record, finding, chance = Record(), Finding(), random.Random(plan.seed)
    settings = {
        "QUILLGATE_UNREADY_S": str(plan.unready_s),
        "QUILLGATE_FACADE_UNREADY_S": str(plan.unready_s),
        "QUILLGATE_DRAIN_S": str(EXIT_S),
        "QUILLGATE_FACADE_DRAIN_TIMEOUT_S": str(EXIT_S),
        "QUILLGATE_MAX_COMPLETIONS": "8192",
        "QUILLGATE_FACADE_MAX_CONNECTIONS": "8192",
    }
    with tempfile.TemporaryDirectory(prefix="quillgate-rolling-") as name:
        Path(name).chmod(0o711)
        async with SteadyProvider(record, chance, plan.least_stream_s, plan.most_stream_s) as provider:
            with opened(Path(name), provider.base_url, cores=2, facades=2, settings=settings) as site:
                site.admin_secret = await admin_secret_of(site.processes[0])
                for process in site.processes:
                    process.start()
                await site.wait_ready()
                balancing = Haproxy(site.facade_urls, Path(name)) if plan.haproxy else Balancer(site.facade_urls)
                async with balancing as balancer:
                    await balancer.wait_ready()
                    await _roll(Rolling(plan, site, balancer, provider, record, finding, say))
                    finding.turned_away = balancer.turned_away
                finding.attempts = record.attempts
                finding.verdict = judge(record, await read_books(site.postgres.url), {})
    return finding


@dataclass
class Rolling:
    """The parts of a run."""

    plan: Plan
    site: Site
    balancer: Balancer | Haproxy
    provider: SteadyProvider
    record: Record
    finding: Finding
    say: Callable[[str], None]

    async def replace(self, place: int) -> None:
        """Tell one replica to stop, wait until it is gone, and start it again."""
        process, name = self.site.processes[place], self._name(place)
        streams = self.provider.running_streams
        self.finding.most_streams = max(self.finding.most_streams, streams)
        begin = time.monotonic()
        self.finding.exit_codes.append(await asyncio.to_thread(process.stop, EXIT_S + 30))
        stopped = time.monotonic()
        process.start()
        await self._wait_ready(place)
        self.say(
            f"{name}: {streams} streams ran, gone after {stopped - begin:.1f} s, "
            f"back {time.monotonic() - stopped:.1f} s later; {self._progress()}"
        )

    def _name(self, place: int) -> str:
        cores = len(self.site.cores)
        return f"core {place}" if place < cores else f"facade {place - cores}"

    def _progress(self) -> str:
        ended = [attempt for attempt in self.record.attempts if attempt.end_time]
        failed = Counter(f"{attempt.status} {attempt.note[:80]}" for attempt in ended if not attempt.is_done)
        return f"asked {len(self.record.attempts)} failed {dict(failed)}"

    async def _wait_ready(self, place: int) -> None:
        async with asyncio.timeout(READY_S):
            if place < len(self.site.cores):
                await _wait_serving(self.site.core_addresses[place])
            await self.balancer.wait_ready()


async def _wait_serving(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        health = HealthStub(channel)
        while True:
            try:
                answer = await health.Check(HealthCheckRequest(), timeout=1)
                if answer.status == HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(0.1)


async def _roll(run: Rolling) -> None:
    plan, site = run.plan, run.site
    tenancies = await site.tenancies(allowance=None, keys=KEYS + 1, key_limit=10**6)
    chance = random.Random(plan.seed + 1)
    load = SteadyLoad(tenancies[:KEYS], run.balancer.url, run.record, chance, plan.rate, plan.stream_share)
    loading = asyncio.create_task(load.run())
    try:
        await asyncio.sleep(plan.most_stream_s)  # as many streams run as ever will
        half = len(site.processes) // 2
        pairs = [(place, place + half) for place in range(half)]
        steps = pairs if plan.in_pairs else [(place,) for place in range(len(site.processes))]
        for step in steps * plan.rounds:
            await asyncio.gather(*(run.replace(place) for place in step))
            await asyncio.sleep(SETTLE_S)
    finally:
        load.stopped.set()
        await loading
