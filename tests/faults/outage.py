"""PostgreSQL away under load, and a core killed meanwhile: `PYTHONPATH=tests python -m faults.outage --seconds 120`.

Streams that run when it goes must finish; new requests must hear 503 with `retry-after` within 2.5 s; when it is back,
the books must agree with the provider and the callers, no hold charged. Ends with 1 otherwise.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout
from faults.chaos.books import read_books
from faults.chaos.load import Caller
from faults.chaos.mischief import watch
from faults.chaos.provider import AilingProvider
from faults.chaos.record import Record
from faults.chaos.site import Site, Tenancy, admin_secret_of, opened
from faults.chaos.verdict import Verdict, judge

CALLERS = 12
WARM_UP_S = 6.0
PAUSE_S = 1.5
"""Between a stream's chunks, so that it runs for some seconds into the outage."""

PROBE_S = 0.4
AFTER_S = 20.0
PATIENCE_S = 90.0
MOST_S = 2.5


@dataclass
class Finding:
    """What happened in the outage."""

    running: int = 0
    """Streams that ran when the database went."""
    finished: int = 0
    """Those of them whose caller saw their end."""
    answers: Counter[str] = field(default_factory=Counter)
    """What new requests heard, by status, and whether they were told when to come back."""
    slowest_s: float = 0.0
    verdict: Verdict | None = None
    open_after_s: float = 0.0
    """How long anything was still held after the database was back."""

    @property
    def is_good(self) -> bool:
        """Whether all of it is as promised."""
        refused = {"503 with retry-after"}
        return (
            self.finished == self.running > 0
            and set(self.answers) <= refused
            and self.slowest_s <= MOST_S
            and self.verdict is not None
            and self.verdict.is_clean
            and self.verdict.recovered == 0
        )


async def outage(outage_s: float, say: Callable[[str], None]) -> Finding:
    """Do it all and return what was found."""
    record, finding, chance = Record(), Finding(), random.Random(2)
    with tempfile.TemporaryDirectory(prefix="quillgate-outage-") as name:
        Path(name).chmod(0o711)
        async with AilingProvider(record, chance) as provider:
            provider.is_ailing, provider.pause_s = False, PAUSE_S
            with opened(Path(name), provider.base_url, cores=2, facades=2) as site:
                site.admin_secret = await admin_secret_of(site.processes[0])
                watching = asyncio.create_task(watch(site))
                try:
                    await site.wait_ready()
                    await _suffer(site, record, finding, outage_s, say)
                    finding.verdict = judge(record, await read_books(site.postgres.url), {})
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
    return finding


async def _suffer(site: Site, record: Record, finding: Finding, outage_s: float, say: Callable[[str], None]) -> None:
    tenancies = await site.tenancies(allowance=None, keys=CALLERS + 2, key_limit=10**6)
    stopped = asyncio.Event()
    calls = [
        asyncio.create_task(Caller(tenancy, site.base_urls, record, random.Random(number), stopped).run())
        for number, tenancy in enumerate(tenancies[2:])
    ]
    await asyncio.sleep(WARM_UP_S)
    # From now on callers begin nothing new; what they have begun goes on.
    stopped.set()
    running = [attempt for attempt in record.attempts if not attempt.end_time and attempt.kind == "stream"]
    await asyncio.to_thread(site.postgres.stop)
    say(f"the database is away; {len(running)} streams run")
    probing = asyncio.create_task(_probe(site, tenancies[0], finding, outage_s))
    await asyncio.gather(*calls)
    finding.running = len(running)
    finding.finished = sum(attempt.is_done for attempt in running)
    say(f"{finding.finished} of them were seen to their end")
    site.cores[0].kill()
    say("a core was killed")
    await probing
    await asyncio.to_thread(site.postgres.start)
    back_time = time.monotonic()
    say(
        f"the database is back; new requests heard {dict(finding.answers)}, the slowest after {finding.slowest_s:.2f} s"
    )
    await _wait_until_nothing_is_open(site, record)
    finding.open_after_s = time.monotonic() - back_time
    await asyncio.sleep(AFTER_S)


async def _probe(site: Site, tenancy: Tenancy, finding: Finding, outage_s: float) -> None:
    """Ask something new every moment of the outage, and note what is heard and after how long."""
    headers = {"authorization": f"Bearer {tenancy.secret}"}
    body = {"model": "chaos/one", "messages": [{"role": "user", "content": "probe"}], "max_tokens": 64}
    end_time = time.monotonic() + outage_s
    await asyncio.sleep(PROBE_S)
    number = 0
    async with ClientSession(headers=headers, timeout=ClientTimeout(total=10)) as http:
        while time.monotonic() < end_time:
            number += 1
            url = f"{site.base_urls[number % 2]}/chat/completions"
            begin = time.monotonic()
            try:
                async with http.post(url, json=body | {"stream": bool(number % 3)}) as answer:
                    await answer.read()
                    told = "with retry-after" if "retry-after" in answer.headers else "without retry-after"
                    finding.answers[f"{answer.status} {told}"] += 1
            except (ClientError, OSError, TimeoutError) as error:
                finding.answers[f"0 {type(error).__name__}"] += 1
            finding.slowest_s = max(finding.slowest_s, time.monotonic() - begin)
            await asyncio.sleep(PROBE_S)


async def _wait_until_nothing_is_open(site: Site, record: Record) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            books = await read_books(site.postgres.url)
            if not any(row.state == "open" for row in books.rows):
                return
            await asyncio.sleep(0.5)


def main() -> int:
    """Run it, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long the database is away")
    finding = asyncio.run(outage(parser.parse_args().seconds, print))
    print(f"nothing was open {finding.open_after_s:.1f} s after the database was back")
    for story in (*finding.verdict.lost, *finding.verdict.doubled) if finding.verdict else ():
        print(story)
    print(finding.verdict, "good" if finding.is_good else "NOT AS PROMISED")
    return 0 if finding.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
