"""The metering use case: what it refuses, how it answers, and what it passes on."""

import logging
from datetime import date

import pytest
from fakes.clock import FakeClock
from fakes.step_writer import FakeDailyStore, FakeLeaseStore, FakeStepWriter
from msgspec.structs import replace

from quillgate_core.errors import AllowanceExhausted, InvalidRequest, ReservationClosed
from quillgate_core.metering import (
    KeyStale,
    Metering,
    Receipt,
    Record,
    Release,
    Reservation,
    Reserve,
    Settle,
    Usage,
)
from quillgate_core.reservation import Outcome

RESERVATION = Reservation("ws", "r", date(2030, 1, 1), 2, "open", None, False)
RECEIPT = Receipt("ws", "r", date(2030, 1, 1), 1, Usage(10, 0, 5), "provider", None)
RESERVE = Reserve(workspace_id="ws", request_id="r", hold_messages=2, owner="a")
SETTLE = Settle(workspace_id="ws", request_id="r", usage=Usage(10, 0, 5), usage_source="provider", owner="a")
RELEASE = Release(workspace_id="ws", request_id="r", owner="a")
RECORD = Record(workspace_id="ws", request_id="r", usage=Usage(10, 0, 5))
BAD_IDS = ["", "a b", "a\x00", "ä", "\ud800", "x" * 129, "a\n"]


class Site:
    """A metering on fakes."""

    def __init__(self, outcome: Outcome, remaining_messages: int | None = 7) -> None:
        self.writer = FakeStepWriter(outcome)
        self.daily_store = FakeDailyStore(remaining_messages)
        self.lease_store = FakeLeaseStore()
        self.clock = FakeClock()
        self.metering = Metering(
            writer=self.writer,
            daily_store=self.daily_store,
            lease_store=self.lease_store,
            instance_id="core-1",
            clock=self.clock,
        )

    def hold_lease(self, *, for_s: float) -> None:
        """Renew every ten seconds, as a core does."""
        self.metering.renew_lease()
        for _ in range(int(for_s // 10)):
            self.clock.now_s += 10
            self.metering.renew_lease()


async def test_steps_are_passed_on_and_answered() -> None:
    """Each step reaches the writer as it is, and its answer comes back."""
    assert await Site(RESERVATION).metering.reserve(RESERVE) == RESERVATION
    site = Site(RECEIPT)
    assert await site.metering.settle(SETTLE) == RECEIPT
    assert await site.metering.release(RELEASE) == RECEIPT
    assert await site.metering.record(RECORD) == RECEIPT
    assert site.writer.submitted == [SETTLE, RELEASE, RECORD]


async def test_refusals_are_raised() -> None:
    """An answer that is an exception is raised to the caller."""
    with pytest.raises(AllowanceExhausted):
        await Site(AllowanceExhausted("")).metering.reserve(RESERVE)
    with pytest.raises(KeyStale):
        await Site(KeyStale()).metering.reserve(RESERVE)
    closed = Site(ReservationClosed("r", "recovered")).metering
    with pytest.raises(ReservationClosed) as caught:
        await closed.settle(SETTLE)
    assert caught.value.metadata == {"request_id": "r", "state": "recovered"}


@pytest.mark.parametrize("bad_id", BAD_IDS)
@pytest.mark.parametrize("param", ["request_id", "workspace_id"])
async def test_ids_that_cannot_be_stored_are_refused(bad_id: str, param: str) -> None:
    """Ids are 1 to 128 visible ASCII characters in every step; others never reach the writer."""
    site = Site(RECEIPT)
    attempts = [
        site.metering.reserve(replace(RESERVE, **{param: bad_id})),
        site.metering.settle(replace(SETTLE, **{param: bad_id})),
        site.metering.release(replace(RELEASE, **{param: bad_id})),
        site.metering.record(replace(RECORD, **{param: bad_id})),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidRequest) as caught:
            await attempt
        assert caught.value.metadata == {"param": param}
    assert site.writer.submitted == []


@pytest.mark.parametrize("request_id", ["x", "x" * 128, "!~-_.:/"])
async def test_ids_at_the_limits_are_accepted(request_id: str) -> None:
    """The shortest and the longest id, and any visible character, are accepted."""
    assert await Site(RESERVATION).metering.reserve(replace(RESERVE, request_id=request_id)) == RESERVATION


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"hold_messages": 0}, "hold_messages"),
        ({"hold_messages": -1, "min_hold_messages": -1}, "hold_messages"),
        ({"min_hold_messages": 0}, "hold_messages"),
        ({"min_hold_messages": 3}, "hold_messages"),
        ({"hold_messages": 10**9 + 1}, "hold_messages"),
        ({"expire_s": 0}, "expire_s"),
        ({"expire_s": 86_401}, "expire_s"),
    ],
)
async def test_numbers_out_of_range_are_refused(change: dict[str, int], param: str) -> None:
    """A hold is 1 to 10^9 messages and not below its minimum; a reservation lives at most a day."""
    site = Site(RESERVATION)
    with pytest.raises(InvalidRequest) as caught:
        await site.metering.reserve(replace(RESERVE, **change))
    assert caught.value.metadata == {"param": param}
    assert site.writer.submitted == []


def test_each_reserve_has_a_nonce_of_its_own() -> None:
    """Two Reserves with the same id differ, and the nonce fits a signed 64-bit column."""
    nonces = {Reserve(workspace_id="ws", request_id="r", hold_messages=1).nonce for _ in range(100)}
    assert len(nonces) == 100
    assert all(0 <= nonce < 2**63 for nonce in nonces)


def test_ends_without_waiting_are_posted() -> None:
    """A caller that is being cancelled hands its end over without a loop."""
    site = Site(RECEIPT)
    site.metering.settle_nowait(SETTLE)
    site.metering.release_nowait(RELEASE)
    assert site.writer.posted == [SETTLE, RELEASE]


def test_a_lost_lease_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """The first renewal and each in time are fine; one after a gap says so, once, and is logged."""
    site = Site(RECEIPT)
    assert [site.metering.renew_lease(), site.metering.renew_lease()] == [True, True]
    site.lease_store.holds = False
    with caplog.at_level(logging.WARNING):
        assert [site.metering.renew_lease(), site.metering.renew_lease()] == [False, True]
    assert [record.getMessage() for record in caplog.records] == [
        "the lease of core-1 had run out; its open reservations may be charged"
    ]


def test_a_lease_is_given_up_even_when_the_database_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """At shutdown a database that is away is logged and stops nothing."""
    site = Site(RECEIPT)
    site.metering.renew_lease()
    site.lease_store.is_away = True
    with caplog.at_level(logging.WARNING):
        site.metering.end_lease()
    assert [record.getMessage() for record in caplog.records] == [
        "the lease of core-1 is left to run out: the database is away"
    ]


def test_recovery_is_bounded() -> None:
    """A round of recovery is limited, so that it never holds its locks for long; full rounds are followed by more."""
    site = Site(RECEIPT)
    site.hold_lease(for_s=30)
    site.lease_store.abandoned = [500, 500, 3]
    assert site.metering.recover() == 1_003
    assert (site.lease_store.limits, site.lease_store.owners) == ([500] * 3, [None] * 3)


def test_others_are_judged_after_a_lease_without_a_break() -> None:
    """A process that holds its lease for less than 30 s recovers nobody: others may only now come back."""
    site = Site(RECEIPT)
    assert site.metering.recover() == 0
    site.hold_lease(for_s=20)
    site.clock.now_s += 9
    assert site.metering.recover() == 0
    site.clock.now_s += 1
    assert site.metering.recover() == 3


@pytest.mark.parametrize("away_s", [16, 25, 100])
@pytest.mark.parametrize("is_lost", [False, True])
def test_after_an_outage_others_get_the_time_to_come_back(away_s: float, is_lost: bool) -> None:
    """A gap in which any other's lease may have run out closes recovery, before the next renewal and for 30 s after."""
    site = Site(RECEIPT)
    site.hold_lease(for_s=60)
    site.clock.now_s += away_s
    site.lease_store.holds = not is_lost
    assert site.metering.recover() == 0
    site.hold_lease(for_s=20)
    assert site.metering.recover() == 0
    site.hold_lease(for_s=10)
    assert site.metering.recover() == 3


def test_a_lost_lease_closes_recovery_though_this_process_saw_no_gap() -> None:
    """Recovery asks the database first: a machine that slept, or a step of its clock, ended the others' leases too."""
    site = Site(RECEIPT)
    site.hold_lease(for_s=60)
    site.lease_store.holds = False
    assert site.metering.recover() == 0
    site.hold_lease(for_s=30)
    assert site.metering.recover() == 3


def test_without_a_lease_nobody_is_judged() -> None:
    """Before the start and after the end of a process recovery does nothing, and makes no lease that would linger."""
    site = Site(RECEIPT)
    assert site.metering.recover() == 0
    assert not site.lease_store.holds
    site.hold_lease(for_s=60)
    site.metering.end_lease()
    assert site.metering.recover() == 0
    assert not site.lease_store.holds
    assert site.lease_store.limits == []


def test_a_process_known_to_be_dead_is_recovered_at_once() -> None:
    """Its lease ends and all its rows are recovered, however many rounds that takes and however new this process is."""
    site = Site(RECEIPT)
    site.lease_store.abandoned = [500, 20]
    assert site.metering.recover_instance("core-0") == 520
    assert site.lease_store.ended == ["core-0"]
    assert site.lease_store.owners == ["core-0"] * 3


@pytest.mark.parametrize("remaining_messages", [7, 0, None])
def test_reads_come_from_the_store(remaining_messages: int | None) -> None:
    """Days and what is left are read for the workspace that was asked for."""
    site = Site(RECEIPT, remaining_messages)
    assert site.metering.remaining("ws") == remaining_messages
    assert site.metering.today("ws").allowance == 100
    (count,) = site.metering.daily("ws", end_day=date(2030, 1, 2))
    assert count.message_count == 1
    assert site.daily_store.asked == [("ws", None, date(2030, 1, 2))]
