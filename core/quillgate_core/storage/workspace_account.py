"""What a transaction knows of a workspace: whether it is served, its allowances, and how far they are used. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple, Self

from quillgate_core.limits import LimitName, LimitState
from quillgate_core.storage.key_account import KeyState, next_day, next_month
from quillgate_core.storage.ledger_rows import DailyRow


@dataclass(slots=True)
class WorkspaceState:
    """A workspace as the transaction read it; no allowance is no limit.

    `month_used` and `month_counted` are the messages of the month's days before today, counted and held, and counted:
    nobody can add to them any more, but what was held may turn out to be less. Read only where the month is limited.
    """

    allowance: int | None
    credential_revision: int = 0
    monthly_allowance: int | None = None
    allows_overage: bool = False
    is_disabled: bool = False
    month_used: int = 0
    month_counted: int = 0

    def overage(self, daily_row: DailyRow, *, today: date) -> int:
        """Return how many messages the day, or the month, is beyond its allowance, as it stands now; at least 0."""
        beyond = 0
        if self.allowance is not None:
            beyond = daily_row.all_messages - self.allowance
        if self.monthly_allowance is not None and daily_row.day == today:
            beyond = max(beyond, self.month_counted + daily_row.all_messages - self.monthly_allowance)
        return max(0, beyond)

    def end(self, day: date, *, held: int, counted: int, today: date) -> None:
        """Note that a request of a day before today has ended."""
        if day != today and today.replace(day=1) <= day < today:
            self.month_used += counted - held
            self.month_counted += counted


class MessageLimit(NamedTuple):
    """One limit in messages: what is used of it, counted or held, and when it begins anew."""

    name: LimitName
    value: int
    used: int
    reset_time: datetime
    is_binding: bool
    """Whether it refuses; otherwise what is beyond it is counted as overage."""

    @property
    def left(self) -> int:
        """What is left of it; below 0 if more is used."""
        return self.value - self.used

    def after(self, messages: int) -> LimitState:
        """Return how far it is used once so many messages more are."""
        return LimitState(self.name, self.value, max(0, self.left - messages), self.reset_time)


class PeriodEnds(NamedTuple):
    """When the day and the month end."""

    day: datetime
    month: datetime

    @classmethod
    def of(cls, day: date) -> Self:
        """Return those of a day."""
        return cls(next_day(day), next_month(day))


def message_limits(
    workspace: WorkspaceState, key: KeyState | None, daily_row: DailyRow, ends: PeriodEnds
) -> Iterator[MessageLimit]:
    """Yield every limit in messages that a request of today is under, the workspace's first."""
    binding = not workspace.allows_overage
    if workspace.allowance is not None:
        used = daily_row.used_messages
        yield MessageLimit("daily_message_allowance", workspace.allowance, used, ends.day, binding)
    if workspace.monthly_allowance is not None:
        used = workspace.month_used + daily_row.used_messages
        yield MessageLimit("monthly_message_allowance", workspace.monthly_allowance, used, ends.month, binding)
    if key is None:
        return
    if key.daily_messages is not None:
        yield MessageLimit("key_daily_messages", key.daily_messages, key.used_today, ends.day, True)
    if key.monthly_messages is not None:
        yield MessageLimit("key_monthly_messages", key.monthly_messages, key.used_in_month, ends.month, True)
