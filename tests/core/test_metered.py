"""Metered ends every request, also when the fault is ours."""

import pytest
from fakes.fake_ledger_writer import FakeLedgerWriter
from fakes.step_writer import FakeDailyStore, FakeLeaseStore

from quillgate_core.catalogue import Catalogue, Model, ModelUpstream
from quillgate_core.counting import Usage
from quillgate_core.failover import Failover
from quillgate_core.metered import Metered
from quillgate_core.metering import Metering
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Release
from quillgate_core.router import Router
from quillgate_core.routing import Candidate
from quillgate_core.tally import Used
from quillgate_core.upstream import Account

PRINCIPAL = Principal("key_1", 1, "ws_1", frozenset({INFERENCE}))


async def test_answer_that_cannot_be_counted_costs_nothing() -> None:
    """A fault of ours between the answer and its settlement does not leave the hold open."""
    writer = FakeLedgerWriter()
    metering = Metering(
        writer=writer, daily_store=FakeDailyStore(None), lease_store=FakeLeaseStore(), instance_id="core_1"
    )
    metered = Metered(metering)
    upstream = ModelUpstream("fake", "up")
    candidate = Candidate(Model("m", 10, 5, (upstream,)), upstream, Account("fake"))
    failover = Failover(Router(Catalogue([], providers=[]), {}), candidate, "a plan", iter(()), lambda _: None)

    async def work(plan: str) -> str:
        return "an answer"

    def used(_: str) -> Used:
        raise RuntimeError("a bug of ours")

    reservation = await metered.reserve(
        PRINCIPAL, "r", endpoint="e", model="m", upstream="u", hold_messages=1, min_hold_messages=1
    )
    with pytest.raises(RuntimeError):
        await metered.answer(reservation, failover, work, used=used, observed=Usage())
    (end,) = writer.ends
    assert isinstance(end, Release)
