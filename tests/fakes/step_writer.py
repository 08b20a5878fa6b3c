"""Metering's surroundings without a database: a writer that answers as told, and stores that remember calls."""

from datetime import UTC, date, datetime

from quillgate_core.errors import Overloaded
from quillgate_core.reservation import DailyCount, Outcome, Release, Settle, Step, Today


class FakeTicket:
    """An answer that is there at once."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    async def outcome(self) -> Outcome:
        """Answer."""
        return self._outcome


class FakeStepWriter:
    """Answers each submitted step with `outcome` and remembers what it was given."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.submitted: list[Step] = []
        self.posted: list[Settle | Release] = []

    def submit(self, step: Step) -> FakeTicket:
        """Remember the step and answer it."""
        self.submitted.append(step)
        return FakeTicket(self.outcome)

    def post(self, step: Settle | Release) -> None:
        """Remember the step."""
        self.posted.append(step)


class FakeDailyStore:
    """One day's count, whatever is asked for."""

    def __init__(self, remaining_messages: int | None, *, monthly_remaining_messages: int | None = None) -> None:
        self._remaining_messages = remaining_messages
        self._monthly_remaining_messages = monthly_remaining_messages
        self.unlimited = False
        self.asked: list[tuple[str, date | None, date | None]] = []

    def daily(self, workspace_id: str, start_day: date | None, end_day: date | None) -> list[DailyCount]:
        """Remember the question; the answer is one day."""
        self.asked.append((workspace_id, start_day, end_day))
        return [DailyCount(workspace_id, date(2030, 1, 1), 1, 0, 10, 0, 5, 1)]

    def today(self, workspace_id: str) -> Today:
        """What is left, as told."""
        monthly = self._monthly_remaining_messages
        return Today(
            date(2030, 1, 1),
            None if self.unlimited else 100,
            self._remaining_messages,
            datetime(2030, 1, 2, tzinfo=UTC),
            monthly_allowance=None if monthly is None else 1_000,
            monthly_remaining_messages=monthly,
        )


class FakeLeaseStore:
    """A lease that holds as long as the test says so; `abandoned` are counts that recoveries find, one each."""

    lease_s = 30.0

    def __init__(self) -> None:
        self.holds = False
        self.is_away = False
        self.limits: list[int] = []
        self.ended: list[str] = []
        self.abandoned = [3]
        self.owners: list[str | None] = []

    def renew(self, instance_id: str) -> bool:
        """Say whether the lease still held; it holds from now on."""
        held, self.holds = self.holds, True
        return held

    def end(self, instance_id: str) -> None:
        """End the lease."""
        if self.is_away:
            raise Overloaded("away")
        self.ended.append(instance_id)
        self.holds = False

    def recover(self, limit: int, *, owner: str | None = None) -> int:
        """Remember what was asked."""
        self.limits.append(limit)
        self.owners.append(owner)
        return self.abandoned.pop(0) if self.abandoned else 0
