"""Asking providers afterwards: who is asked, how often, how many at once, and that nothing stops it."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from quillgate_core.adjustment import Adjustment, UnsureRow
from quillgate_core.counting import Usage
from quillgate_core.errors import Overloaded, ProviderCredentialRejected, ProviderUnavailable
from quillgate_core.late_truth import FIRST_PAUSE_S, MAX_LOOK_UPS, MAX_LOOK_UPS_AT_ONCE, MAX_PAUSE_S, LateTruth
from quillgate_core.own_keys import OwnKey, WorkspaceKeys
from quillgate_core.upstream import Account, FoundUsage

TRUTH = FoundUsage(Usage(10, 0, 5), 7)
Answer = FoundUsage | Exception | asyncio.Event | None


def row(
    request_id: str = "r", *, byok: bool = False, workspace_id: str = "ws", provider: str = "openrouter"
) -> UnsureRow:
    """A row that can be asked about."""
    return UnsureRow(workspace_id, request_id, provider, f"gen-{request_id}", byok, datetime(2030, 5, 1, tzinfo=UTC))


@dataclass
class FakeAdjustmentStore:
    """Keeps rows until they are adjusted; `rows` has the newest first."""

    rows: list[UnsureRow] = field(default_factory=list)
    failure: Exception | None = None
    adjusted: list[tuple[str, str, str, Usage, int | None]] = field(default_factory=list)
    asked_for: list[Sequence[str]] = field(default_factory=list)

    def unsure(self, providers: Sequence[str], limit: int) -> list[UnsureRow]:
        """Return the rows, or fail."""
        self.asked_for.append(providers)
        if self.failure is not None:
            raise self.failure
        return [row for row in self.rows if row.provider in providers][:limit]

    def adjust(
        self, workspace_id: str, request_id: str, *, source: str, usage: Usage, cost_picodollars: int | None
    ) -> Adjustment:
        """Note the adjustment, or fail."""
        if self.failure is not None:
            raise self.failure
        self.adjusted.append((workspace_id, request_id, source, usage, cost_picodollars))
        self.rows = [row for row in self.rows if (row.workspace_id, row.request_id) != (workspace_id, request_id)]
        return Adjustment(0, 0, 0, 0)


@dataclass
class FakeLookup:
    """Answers each id with what is scripted for it, else with `default`; waits for an event and knows nothing then."""

    default: Answer = None
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    running: int = 0
    most_at_once: int = 0

    async def look_up(self, upstream_request_id: str) -> FoundUsage | None:
        """Answer as scripted."""
        self.asked.append(upstream_request_id)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            await asyncio.sleep(0)
            answer = self.answers.get(upstream_request_id, self.default)
            if isinstance(answer, asyncio.Event):
                await answer.wait()
                return None
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.running -= 1


@dataclass
class FakeOwnKeys:
    """The keys of workspaces, as a test sets them."""

    keys: dict[str, WorkspaceKeys] = field(default_factory=dict)

    def of(self, workspace_id: str) -> WorkspaceKeys:
        """Return a workspace's keys."""
        return self.keys.get(workspace_id, WorkspaceKeys())

    def refresh(self) -> None:
        """Nothing changes by itself."""

    def put(self, workspace_id: str, open_account: Callable[[], Account]) -> None:
        """Give a workspace a key with the provider."""
        key = OwnKey("openrouter", allow_fallback=False, open=open_account)
        self.keys[workspace_id] = WorkspaceKeys(1, {"openrouter": key})


class LateTruthSite:
    """The chore with a store, a provider, keys of workspaces and a clock of its own."""

    def __init__(self) -> None:
        self.store = FakeAdjustmentStore()
        self.lookup = FakeLookup()
        self.own_keys = FakeOwnKeys()
        self.now = 1_000.0
        self.late_truth = self.open()

    def open(self, *, look_up_s: float = 5.0) -> LateTruth:
        """Make the chore of another process."""
        accounts = {
            "openrouter": Account("openrouter", usage_lookup=self.lookup),
            "openai": Account("openai"),
        }
        return LateTruth(
            self.store,
            accounts,
            self.own_keys,
            providers={"openrouter"},
            blocking=_call,
            clock=lambda: self.now,
            look_up_s=look_up_s,
        )

    async def learn(self, pass_s: float = 10.0) -> int:
        """One round, some time after the one before."""
        self.now += pass_s
        return await self.late_truth.learn()


async def _call(call: Callable[[], Any]) -> Any:
    return call()


@pytest.fixture
def site() -> LateTruthSite:
    """A site of this test alone."""
    return LateTruthSite()


async def test_what_the_provider_knows_is_recorded(site: LateTruthSite) -> None:
    """The usage and the cost that it tells, under its own name; then nothing is left to ask."""
    site.store.rows = [row()]
    site.lookup.default = TRUTH
    assert await site.learn() == 1
    assert site.store.adjusted == [("ws", "r", "openrouter", TRUTH.usage, 7)]
    assert await site.learn() == 0
    assert site.lookup.asked == ["gen-r"]


async def test_only_providers_that_keep_records_are_asked_about(site: LateTruthSite) -> None:
    """Rows of others are not even read; with none that keeps records the database is left alone."""
    await site.learn()
    assert site.store.asked_for == [["openrouter"]]
    nobody = LateTruth(site.store, {}, site.own_keys, providers=(), blocking=_call)
    assert await nobody.learn() == 0
    assert site.store.asked_for == [["openrouter"]]


async def test_what_is_not_known_is_asked_again_with_growing_pauses(site: LateTruthSite) -> None:
    """10 s, 20 s, 40 s and so on, up to ten minutes."""
    site.store.rows = [row()]
    times = []
    for _ in range(600):
        asked = len(site.lookup.asked)
        await site.learn(10.0)
        if len(site.lookup.asked) > asked:
            times.append(site.now)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[:7] == [FIRST_PAUSE_S * 2**number for number in range(6)] + [MAX_PAUSE_S]
    assert set(pauses[7:]) == {MAX_PAUSE_S}
    site.lookup.default = TRUTH
    assert await site.learn(MAX_PAUSE_S) == 1


async def test_a_failure_puts_off_only_its_own_row(site: LateTruthSite) -> None:
    """Whatever is raised for one row, the others are made true and the row is asked about later."""
    failures: list[Exception] = [
        ProviderUnavailable("down", provider="openrouter"),
        Overloaded("slow down", retry_after_s=7),
        TimeoutError(),
        RuntimeError("a bug"),
    ]
    site.store.rows = [row(f"bad{number}") for number in range(len(failures))] + [row("good")]
    site.lookup.answers = {f"gen-bad{number}": failure for number, failure in enumerate(failures)}
    site.lookup.default = TRUTH
    assert await site.learn() == 1
    site.lookup.answers = {}
    assert await site.learn(FIRST_PAUSE_S - 1) == 0
    assert await site.learn(1) == len(failures)


async def test_a_database_that_is_away_is_told_or_waited_for(site: LateTruthSite) -> None:
    """Without rows the round fails, for the chore to log; a correction that cannot be written is tried again."""
    site.store.failure = Overloaded("away")
    with pytest.raises(Overloaded):
        await site.learn()
    site.store.failure = None
    site.store.rows = [row()]
    site.lookup.default = TRUTH

    class FailingStore(FakeAdjustmentStore):
        """Reads and cannot write."""

        def adjust(self, workspace_id: str, request_id: str, **_: Any) -> Adjustment:
            """Fail."""
            raise Overloaded("away")

    failing = FailingStore(rows=[row()])
    accounts = {"openrouter": Account("openrouter", usage_lookup=site.lookup)}
    late_truth = LateTruth(failing, accounts, site.own_keys, providers={"openrouter"}, blocking=_call)
    assert await late_truth.learn() == 0
    assert await site.learn() == 1


async def test_a_look_up_is_bounded_in_time(site: LateTruthSite) -> None:
    """A provider that never answers holds up a round no longer than one look-up may take."""
    site.store.rows = [row("hangs"), row("good")]
    site.lookup.answers = {"gen-hangs": asyncio.Event()}
    site.lookup.default = TRUTH
    async with asyncio.timeout(5):
        assert await site.open(look_up_s=0.05).learn() == 1
    assert site.lookup.running == 0


async def test_a_round_is_bounded_in_number(site: LateTruthSite) -> None:
    """At most 20 are asked about in a round and 4 at once; the oldest come first and every row has its turn."""
    site.store.rows = [row(f"r{number}") for number in reversed(range(50))]
    site.lookup.default = TRUTH
    assert await site.learn() == MAX_LOOK_UPS
    assert site.lookup.most_at_once == MAX_LOOK_UPS_AT_ONCE
    assert sorted(site.lookup.asked) == sorted(f"gen-r{number}" for number in range(20))
    assert [await site.learn(), await site.learn(), await site.learn()] == [20, 10, 0]


async def test_records_that_never_appear_do_not_keep_out_the_others(site: LateTruthSite) -> None:
    """Half of a round is for those that were asked about before, and half for the new ones."""
    lost = [row(f"lost{number}") for number in range(100)]
    site.store.rows = list(lost)
    for _ in range(20):
        await site.learn(MAX_PAUSE_S)
    site.store.rows = [*(row(f"new{number}") for number in range(30)), *lost]
    site.lookup.answers = {f"gen-new{number}": TRUTH for number in range(30)}
    assert [await site.learn(MAX_PAUSE_S) for _ in range(4)] == [10, 10, 10, 0]


async def test_a_crowd_of_new_rows_does_not_keep_out_those_asked_before(site: LateTruthSite) -> None:
    """A record that appears late is found even when more requests are cut off than can be asked about."""
    site.store.rows = [row("late")]
    await site.learn()
    site.lookup.answers = {"gen-late": TRUTH}
    for number in range(5):
        site.store.rows = [*(row(f"new{number}.{other}") for other in range(40)), *site.store.rows]
    assert await site.learn(FIRST_PAUSE_S) == 1


async def test_what_an_own_key_served_is_asked_with_that_key(site: LateTruthSite) -> None:
    """The gateway's account knows nothing of it, and a workspace's answers count for its own rows alone."""
    own = FakeLookup(TRUTH)
    site.own_keys.put("ws", lambda: Account("openrouter", byok=True, usage_lookup=own))
    site.store.rows = [row("own", byok=True), row("house"), row("other", byok=True, workspace_id="other")]
    assert await site.learn() == 1
    assert own.asked == ["gen-own"]
    assert site.lookup.asked == ["gen-house"]
    assert [adjusted[:2] for adjusted in site.store.adjusted] == [("ws", "own")]


async def test_a_provider_that_only_workspaces_have_a_key_with_is_asked(site: LateTruthSite) -> None:
    """The gateway needs no account of its own; what an account served that is gone since is put off."""
    site.own_keys.put("ws", lambda: Account("openrouter", byok=True, usage_lookup=FakeLookup(TRUTH)))
    site.store.rows = [row("own", byok=True), row("house")]
    late_truth = LateTruth(site.store, {}, site.own_keys, providers={"openrouter"}, blocking=_call)
    assert await late_truth.learn() == 1
    assert [left.request_id for left in site.store.rows] == ["house"]


async def test_an_own_key_that_is_gone_or_cannot_be_opened_is_waited_for(site: LateTruthSite) -> None:
    """The row is put off as any other; a new key may still know it."""

    def refuse() -> Account:
        raise ProviderCredentialRejected("openrouter")

    site.store.rows = [row(byok=True)]
    assert await site.learn() == 0
    site.own_keys.put("ws", refuse)
    assert await site.learn(FIRST_PAUSE_S) == 0
    site.own_keys.put("ws", lambda: Account("openrouter", byok=True))
    assert await site.learn(2 * FIRST_PAUSE_S) == 0
    site.own_keys.put("ws", lambda: Account("openrouter", byok=True, usage_lookup=FakeLookup(TRUTH)))
    assert await site.learn(4 * FIRST_PAUSE_S) == 1


async def test_a_row_that_is_gone_is_forgotten(site: LateTruthSite) -> None:
    """Pauses are kept for rows that can still be asked about, and so for no more than are read."""
    site.store.rows = [row()]
    await site.learn()
    site.store.rows = []
    await site.learn()
    site.store.rows = [row()]
    site.lookup.default = TRUTH
    assert await site.learn(0.0) == 1


async def test_cancelling_stops_every_look_up(site: LateTruthSite) -> None:
    """A process that stops leaves nothing running."""
    site.store.rows = [row(f"r{number}") for number in range(10)]
    site.lookup.default = asyncio.Event()
    task = asyncio.create_task(site.learn())
    while site.lookup.running < MAX_LOOK_UPS_AT_ONCE:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert site.lookup.running == 0
