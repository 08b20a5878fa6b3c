"""Holding the ledger against a provider's records: who is asked, how much at once, and what is corrected by whom."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

import pytest
from fakes.fake_audit_stores import MOMENT, TODAY, FakeAuditStores, blocking, entry

from quillgate_core.adjustment import Adjustment
from quillgate_core.counting import Usage
from quillgate_core.errors import InvalidRequest, Overloaded, ProviderCredentialRejected, ProviderUnavailable
from quillgate_core.ledger_entry import LedgerEntry, RecordedAdjustment
from quillgate_core.ledger_reconciliation import MAX_LOOK_UPS_AT_ONCE, PAGE_ROWS, Compared, LedgerReconciliation
from quillgate_core.own_keys import OwnKey, WorkspaceKeys
from quillgate_core.upstream import Account, FoundUsage
from quillgate_core.usage_lookups import UsageLookups

SAME = FoundUsage(Usage(40_000, 10_000, 20_000), 99)
OTHER = FoundUsage(Usage(10, 0, 5), 3)
Answer = FoundUsage | Exception | None
SECOND = f"openrouter reconcile {TODAY}"


@dataclass
class FakeRecords:
    """A provider's records: `answers` by its id, else `default`; counts how many are asked for at once."""

    default: Answer = SAME
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
            await asyncio.sleep(0.001)
            answer = self.answers.get(upstream_request_id, self.default)
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
        """The keys of a workspace."""
        return self.keys.get(workspace_id, WorkspaceKeys())

    def refresh(self) -> None:
        """Nothing changes."""


class Site:
    """A reconciliation with a provider that recorded what the ledger says, unless told otherwise."""

    def __init__(self, *entries: LedgerEntry, look_ups_per_s: float = 1e6) -> None:
        self.stores = FakeAuditStores(list(entries))
        self.records = FakeRecords()
        self.own_keys = FakeOwnKeys()
        account = Account("openrouter", usage_lookup=self.records)
        self.reconciliation = LedgerReconciliation(
            self.stores,
            self.stores,
            self.stores,
            UsageLookups({"openrouter": account}, self.own_keys),
            providers={"openrouter"},
            blocking=blocking,
            look_ups_per_s=look_ups_per_s,
        )

    async def reconcile(self, *, apply: bool = False) -> list[Compared]:
        """Compare the default days."""
        return [compared async for compared in self.reconciliation.reconcile("openrouter", None, None, apply=apply)]

    def adjusted(self) -> list[tuple[str, str]]:
        """Which requests were adjusted, in whose name."""
        return [(asked[2], asked[3]) for asked in self.stores.asked if asked[0] == "adjust"]


async def test_what_agrees_is_only_counted() -> None:
    """The same tokens are no difference, whatever they cost."""
    assert await Site(entry()).reconcile(apply=True) == [Compared(1, 0, [])]


async def test_what_differs_is_told_and_left_alone() -> None:
    """Without being asked to, nothing is adjusted."""
    site = Site(entry())
    site.records.default = OTHER
    ((difference,),) = [compared.differences for compared in await site.reconcile()]
    assert (difference.entry, difference.upstream_usage) == (entry(), Usage(10, 0, 5))
    assert (difference.upstream_messages, difference.is_adjusted) == (1, False)
    assert site.adjusted() == []


async def test_what_differs_is_adjusted_in_the_providers_name() -> None:
    """The provider's usage and cost become the charge."""
    site = Site(entry())
    site.records.default = OTHER
    ((difference,),) = [compared.differences for compared in await site.reconcile(apply=True)]
    assert difference.is_adjusted
    assert ("adjust", "ws", "r", "openrouter", Usage(10, 0, 5), 3) in site.stores.asked


async def test_a_provider_that_was_heard_is_heard_once_more_a_day() -> None:
    """Its name stands for what it said first; a later correction has the date in its name."""
    first = RecordedAdjustment("openrouter", Adjustment(0, 1, 0, 0), MOMENT)
    again = RecordedAdjustment(SECOND, Adjustment(0, 1, 0, 0), MOMENT)
    site = Site(entry("one", adjustments=(first,)), entry("two", adjustments=(first, again)))
    site.records.default = OTHER
    ((one, two),) = [compared.differences for compared in await site.reconcile(apply=True)]
    assert (one.is_adjusted, two.is_adjusted) == (True, False)
    assert site.adjusted() == [("one", SECOND)]


async def test_the_ledgers_usage_is_with_its_adjustments() -> None:
    """What was corrected already agrees."""
    correction = RecordedAdjustment("openrouter", Adjustment(-3, -39_990, -10_000, -19_995), MOMENT)
    site = Site(entry(adjustments=(correction,)))
    site.records.default = OTHER
    assert await site.reconcile() == [Compared(1, 0, [])]


async def test_a_hold_of_unknown_usage_differs() -> None:
    """Tokens may agree, both being none, and the messages not."""
    site = Site(entry(state="recovered", usage_source="hold", charge=Adjustment(5, 0, 0, 0)))
    site.records.default = FoundUsage(Usage())
    ((difference,),) = [compared.differences for compared in await site.reconcile()]
    assert (difference.entry.charged().counted_messages, difference.upstream_messages) == (5, 1)


@pytest.mark.parametrize("answer", [None, ProviderUnavailable("away"), TimeoutError(), RuntimeError("broken")])
async def test_what_cannot_be_told_is_counted_and_stops_nothing(answer: Answer) -> None:
    """A record that is not there, and a provider that fails, leave that request alone and no other."""
    site = Site(entry("a"), entry("b"))
    site.records.answers["gen-a"] = answer
    site.records.default = OTHER
    (compared,) = await site.reconcile(apply=True)
    assert (compared.compared_count, compared.unknown_count) == (2, 1)
    assert site.adjusted() == [("b", "openrouter")]


async def test_a_request_of_an_own_key_is_asked_about_with_it() -> None:
    """The gateway's account is not asked about it; without the key, or with one that does not open, nobody is."""
    own = FakeRecords(default=OTHER)

    def refuse() -> Account:
        raise ProviderCredentialRejected("openrouter")

    site = Site(*(entry("r", byok=True, workspace_id=name) for name in ("gone", "has", "sealed")))
    keys = {"has": lambda: Account("openrouter", byok=True, usage_lookup=own), "sealed": refuse}
    for name, opened in keys.items():
        site.own_keys.keys[name] = WorkspaceKeys(1, {"openrouter": OwnKey("openrouter", False, opened)})
    (compared,) = await site.reconcile()
    assert (compared.compared_count, compared.unknown_count) == (3, 2)
    assert [difference.entry.workspace_id for difference in compared.differences] == ["has"]
    assert (site.records.asked, own.asked) == ([], ["gen-r"])


async def test_days_are_paged_through() -> None:
    """Yesterday and today by default, each to its end, and each request is asked about once."""
    names = [f"r{number:03}" for number in range(PAGE_ROWS + 3)]
    today = {"day": TODAY, "reserve_time": MOMENT + timedelta(days=1)}
    site = Site(*map(entry, names), entry("today", **today), entry("old", day=TODAY - timedelta(days=9)))
    answers = await site.reconcile()
    assert [answer.compared_count for answer in answers] == [PAGE_ROWS, 3, 1]
    assert sorted(site.records.asked) == sorted(f"gen-{name}" for name in [*names, "today"])
    assert site.records.most_at_once == MAX_LOOK_UPS_AT_ONCE


async def test_questions_are_paced() -> None:
    """No more are begun in a second than the provider is to bear."""
    site = Site(*(entry(f"r{number}") for number in range(6)), look_ups_per_s=50)
    start = monotonic()
    await site.reconcile()
    assert monotonic() - start >= 0.1


async def test_a_charge_that_cannot_be_adjusted_now_is_told_all_the_same() -> None:
    """A database that is away for a moment ends nothing; the difference stays one."""
    site = Site(entry())
    site.records.default = OTHER
    site.stores.failure = Overloaded("away")
    ((difference,),) = [compared.differences for compared in await site.reconcile(apply=True)]
    assert not difference.is_adjusted


async def test_a_provider_without_records_is_refused() -> None:
    """Before anything is read."""
    site = Site(entry())
    with pytest.raises(InvalidRequest) as caught:
        await anext(site.reconciliation.reconcile("openai", None, None, apply=False))
    assert caught.value.metadata == {"param": "upstream", "code": "invalid_value"}
    assert site.stores.asked == []


async def test_who_stops_listening_stops_the_questions() -> None:
    """A caller that goes away in the middle of a page leaves nothing that runs."""
    site = Site(*(entry(f"r{number}") for number in range(20)), look_ups_per_s=20)
    task = asyncio.create_task(site.reconcile())
    while not site.records.asked:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert site.records.running == 0
    asked = len(site.records.asked)
    await asyncio.sleep(0.1)
    assert len(site.records.asked) == asked
