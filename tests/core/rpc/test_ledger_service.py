"""LedgerService: who may ask for what, and that everything an auditor reads arrives as it is."""

from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any

import pytest
from fakes.fake_audit_stores import MOMENT, TODAY, FakeAuditStores, blocking, entry
from fakes.sync_rpc import FakeCaller, SyncRpc

from quillgate.v1 import ledger_service_pb2 as pb
from quillgate.v1 import metering_service_pb2
from quillgate_core.adjustment import Adjustment
from quillgate_core.counting import Usage
from quillgate_core.errors import (
    InvalidRequest,
    LedgerDayKept,
    Overloaded,
    ReservationNotFound,
    ScopeMissing,
    WorkspaceNotFound,
)
from quillgate_core.ledger_audit import LedgerAudit
from quillgate_core.ledger_entry import CheckedDay, LedgerDiscrepancy
from quillgate_core.ledger_reconciliation import LedgerReconciliation
from quillgate_core.own_keys import WorkspaceKeys
from quillgate_core.principal import INFERENCE, PLATFORM_ADMIN, USAGE_READ, Principal
from quillgate_core.rpc.ledger_service import LedgerService
from quillgate_core.upstream import Account, FoundUsage
from quillgate_core.usage_lookups import UsageLookups

SERVICE = pb.DESCRIPTOR.services_by_name["LedgerService"]
YESTERDAY = TODAY - timedelta(days=1)


class _Records:
    """A provider that recorded one and the same usage for every request."""

    async def look_up(self, upstream_request_id: str) -> FoundUsage | None:
        return FoundUsage(Usage(10, 0, 5), 3)


class _NoOwnKeys:
    def of(self, workspace_id: str) -> WorkspaceKeys:
        return WorkspaceKeys()

    def refresh(self) -> None:
        pass


class _Audits:
    """The servicer on stores in memory, asked by a key of `ws` with the scopes."""

    def __init__(self, *scopes: str) -> None:
        self.stores = FakeAuditStores([entry(), entry("theirs", workspace_id="other")])
        audit = LedgerAudit(self.stores, self.stores, self.stores, blocking=blocking)
        lookups = UsageLookups({"openrouter": Account("openrouter", usage_lookup=_Records())}, _NoOwnKeys())
        reconciliation = LedgerReconciliation(
            self.stores, self.stores, self.stores, lookups, providers={"openrouter"}, blocking=blocking
        )
        principal = Principal("key_admin", 1, "ws", frozenset(scopes or (PLATFORM_ADMIN,)))
        self.servicer = LedgerService(audit, reconciliation, FakeCaller(principal))
        self.call = SyncRpc(SERVICE, self.servicer)


async def _all(stream: AsyncIterator[Any]) -> list[Any]:
    return [message async for message in stream]


def test_an_entry_tells_everything() -> None:
    """Each member of a request has its field, and the count its steps."""
    response = _Audits(USAGE_READ).call("GetLedgerEntry", pb.GetLedgerEntryRequest(request_id="r"))
    moment_us = int(MOMENT.timestamp()) * 10**6
    expected = metering_service_pb2.LedgerEntry(
        workspace_id="ws",
        request_id="r",
        day=YESTERDAY.isoformat(),
        state=metering_service_pb2.RESERVATION_STATE_SETTLED,
        key_id="key",
        endpoint="chat.completions",
        model="some/model",
        upstream="openrouter",
        upstream_request_id="gen-r",
        held_messages=5,
        counted_messages=4,
        prompt_tokens=40_000,
        cached_tokens=10_000,
        completion_tokens=20_000,
        usage_source=metering_service_pb2.USAGE_SOURCE_PROVIDER,
        cost_picodollars=7,
        overage_messages=1,
        outcome="complete",
        reserve_time_us=moment_us,
        settle_time_us=moment_us + 2_000_000,
    )
    assert response.entry == expected
    assert (response.count.cached_discount, response.count.effective_input) == (5_000, 35_000)
    assert (response.count.counted_messages, response.count.tokens_per_message) == (4, 16_000)
    assert response.charged_messages == 4


def test_an_entry_that_runs_has_neither_end_nor_count() -> None:
    """Absent is not zero."""
    audits = _Audits(USAGE_READ)
    audits.stores.entries = [entry(state="open", settle_time=None, charge=Adjustment(0, 0, 0, 0))]
    response = audits.call("GetLedgerEntry", pb.GetLedgerEntryRequest(request_id="r"))
    assert response.entry.settle_time_us == 0
    assert not response.entry.HasField("cost_picodollars")
    assert not response.HasField("count")


def test_an_entry_is_shown_to_its_workspace_only() -> None:
    """A key sees requests of its own workspace; those of another are unknown, and so is the other workspace."""
    servicer = _Audits(USAGE_READ).servicer
    with pytest.raises(ReservationNotFound) as missing:
        servicer.GetLedgerEntry(pb.GetLedgerEntryRequest(request_id="theirs"), None)
    assert missing.value.metadata == {"request_id": "theirs"}
    with pytest.raises(WorkspaceNotFound) as unknown:
        servicer.GetLedgerEntry(pb.GetLedgerEntryRequest(request_id="theirs", workspace_id="other"), None)
    assert unknown.value.metadata == {"workspace_id": "other"}


def test_the_admin_finds_an_entry_anywhere() -> None:
    """Without a workspace every one is looked through, the own one first; with one, that one alone."""
    audits = _Audits()
    found = audits.call("GetLedgerEntry", pb.GetLedgerEntryRequest(request_id="theirs"))
    assert found.entry.workspace_id == "other"
    audits.stores.entries.insert(0, entry(workspace_id="other"))
    assert audits.call("GetLedgerEntry", pb.GetLedgerEntryRequest(request_id="r")).entry.workspace_id == "ws"
    with pytest.raises(ReservationNotFound):
        audits.servicer.GetLedgerEntry(pb.GetLedgerEntryRequest(request_id="r", workspace_id="third"), None)
    assert audits.stores.asked == [("anywhere", "theirs")]


@pytest.mark.parametrize("request_id", ["", "r" * 129, "r\x00"])
def test_an_id_that_can_be_none_is_refused(request_id: str) -> None:
    """It is not looked for."""
    with pytest.raises(InvalidRequest) as caught:
        _Audits().servicer.GetLedgerEntry(pb.GetLedgerEntryRequest(request_id=request_id), None)
    assert caught.value.metadata == {"param": "request_id"}


async def test_every_scope_is_needed() -> None:
    """Reading a request needs `usage.read`, all else the platform's admin, before anything is looked at."""
    audits = _Audits(INFERENCE)
    with pytest.raises(ScopeMissing) as reading:
        audits.servicer.GetLedgerEntry(pb.GetLedgerEntryRequest(request_id="r"), None)
    assert reading.value.metadata == {"scope": USAGE_READ}
    audits = _Audits(USAGE_READ)
    for call in (
        lambda: _all(audits.servicer.VerifyLedger(pb.VerifyLedgerRequest(), None)),
        lambda: _all(audits.servicer.ReconcileLedger(pb.ReconcileLedgerRequest(upstream="openrouter"), None)),
        lambda: audits.servicer.DropLedgerDay(pb.DropLedgerDayRequest(day="2030-05-01"), None),
        lambda: blocking(lambda: audits.servicer.ListLedgerDays(pb.ListLedgerDaysRequest(), None)),
        lambda: blocking(
            lambda: audits.servicer.VoidLedgerEntry(pb.VoidLedgerEntryRequest(request_id="r", note="n"), None)
        ),
    ):
        with pytest.raises(ScopeMissing) as caught:
            await call()
        assert caught.value.metadata == {"scope": PLATFORM_ADMIN}
    assert audits.stores.asked == []


async def test_verifying_streams_a_message_a_day() -> None:
    """Every day that is kept is compared by default, oldest first, and what is wrong is told."""
    audits = _Audits()
    wrong = LedgerDiscrepancy("ws", "key", "message_count", 5, 4)
    audits.stores.checked[TODAY] = CheckedDay(TODAY, 1, 9, (wrong,))
    messages = await _all(audits.servicer.VerifyLedger(pb.VerifyLedgerRequest(), None))
    assert [message.day for message in messages] == ["2030-04-30", "2030-05-08", "2030-05-09"]
    assert messages[0] == pb.VerifyLedgerResponse(day="2030-04-30", workspace_count=2, row_count=3)
    assert (messages[2].workspace_count, messages[2].row_count) == (1, 9)
    assert list(messages[2].discrepancies) == [
        pb.LedgerDiscrepancy(workspace_id="ws", key_id="key", column="message_count", daily_value=5, ledger_value=4)
    ]


async def test_verifying_some_days_of_a_workspace() -> None:
    """A range and a workspace are what is compared; days whose rows were dropped are left out."""
    audits = _Audits()
    request = pb.VerifyLedgerRequest(workspace_id="other", start_day="2030-05-02", end_day="2030-05-08")
    await _all(audits.servicer.VerifyLedger(request, None))
    assert audits.stores.asked == [("check", YESTERDAY, "other")]


@pytest.mark.parametrize(("start_day", "end_day"), [("2030-05-09", "2030-05-08"), ("yesterday", ""), ("", "2030-5-8")])
async def test_a_range_must_be_one(start_day: str, end_day: str) -> None:
    """Days that are none, or that run backwards, are refused by both streams."""
    audits = _Audits()
    for stream in (
        audits.servicer.VerifyLedger(pb.VerifyLedgerRequest(start_day=start_day, end_day=end_day), None),
        audits.servicer.ReconcileLedger(
            pb.ReconcileLedgerRequest(upstream="openrouter", start_day=start_day, end_day=end_day), None
        ),
    ):
        with pytest.raises(InvalidRequest):
            await _all(stream)
    assert audits.stores.asked == []


async def test_a_day_that_cannot_be_compared_ends_the_stream() -> None:
    """A database that is away is told; nobody hears that a day agrees that was not compared."""
    audits = _Audits()
    audits.stores.failure = Overloaded("The database is away.")
    with pytest.raises(Overloaded):
        await _all(audits.servicer.VerifyLedger(pb.VerifyLedgerRequest(), None))


def test_voiding_is_in_the_admins_name() -> None:
    """The answer has the adjustment with who did it and why, and the key's own workspace is the default."""
    audits = _Audits()
    request = pb.VoidLedgerEntryRequest(request_id="r", note="our fault")
    response = audits.call("VoidLedgerEntry", request)
    (adjustment,) = response.entry.adjustments
    assert (adjustment.source, adjustment.actor_key_id, adjustment.note) == ("void", "key_admin", "our fault")
    assert (adjustment.counted_messages, adjustment.cost_picodollars) == (-4, -7)
    assert adjustment.create_time.ToSeconds() == int(MOMENT.timestamp()) + 3_600
    shown = audits.call("GetLedgerEntry", pb.GetLedgerEntryRequest(request_id="r"))
    assert (shown.charged_messages, shown.HasField("count")) == (0, False)
    with pytest.raises(ReservationNotFound):
        audits.servicer.VoidLedgerEntry(pb.VoidLedgerEntryRequest(request_id="theirs", note="n"), None)
    request = pb.VoidLedgerEntryRequest(request_id="theirs", workspace_id="other", note="n")
    assert audits.call("VoidLedgerEntry", request).entry.workspace_id == "other"


@pytest.mark.parametrize("note", ["", "  ", "n" * 201, "two\nlines"])
def test_a_note_says_something_on_one_line(note: str) -> None:
    """Nothing is voided without a reason of 1 to 200 characters."""
    audits = _Audits()
    with pytest.raises(InvalidRequest) as caught:
        audits.servicer.VoidLedgerEntry(pb.VoidLedgerEntryRequest(request_id="r", note=note), None)
    assert caught.value.metadata == {"param": "note"}
    assert audits.stores.entries[0].adjustments == ()


async def test_reconciling_tells_what_differs() -> None:
    """Both usages, what they count, and whether the charge was made true."""
    audits = _Audits()
    for apply in (False, True):
        request = pb.ReconcileLedgerRequest(upstream="openrouter", apply=apply)
        (message,) = await _all(audits.servicer.ReconcileLedger(request, None))
        assert (message.compared_count, message.unknown_count) == (2, 0)
        assert message.differences[1] == pb.LedgerDifference(
            workspace_id="ws",
            request_id="r",
            upstream_request_id="gen-r",
            ledger_usage=metering_service_pb2.TokenUsage(
                prompt_tokens=40_000, cached_tokens=10_000, completion_tokens=20_000
            ),
            upstream_usage=metering_service_pb2.TokenUsage(prompt_tokens=10, completion_tokens=5),
            ledger_messages=4,
            upstream_messages=1,
            adjusted=apply,
        )


def test_days_are_listed() -> None:
    """A day has its size and about how many rows it has."""
    response = _Audits().call("ListLedgerDays", pb.ListLedgerDaysRequest())
    assert [day.day for day in response.days] == ["2030-04-30", "2030-05-08", "2030-05-09"]
    assert response.days[0] == pb.LedgerDay(day="2030-04-30", size_bytes=8_192, estimated_row_count=3)


async def test_a_day_is_dropped_by_its_number_of_rows() -> None:
    """The day and how many rows were exported go down, how many were dropped comes back."""
    audits = _Audits()
    response = await audits.servicer.DropLedgerDay(pb.DropLedgerDayRequest(day="2030-05-01", row_count=3), None)
    assert response.row_count == 3
    assert audits.stores.asked == [("drop", date(2030, 5, 1), 3)]
    audits.stores.failure = LedgerDayKept("kept", day="2030-05-01", cause="row_count")
    with pytest.raises(LedgerDayKept):
        await audits.servicer.DropLedgerDay(pb.DropLedgerDayRequest(day="2030-05-01", row_count=3), None)


@pytest.mark.parametrize(("day", "code"), [("", "missing_required_parameter"), ("today", "invalid_value")])
async def test_a_day_to_drop_must_be_one(day: str, code: str) -> None:
    """None is never guessed."""
    with pytest.raises(InvalidRequest) as caught:
        await _Audits().servicer.DropLedgerDay(pb.DropLedgerDayRequest(day=day), None)
    assert caught.value.metadata == {"param": "day", "code": code}
