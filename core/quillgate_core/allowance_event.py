"""What is told when a workspace has used 50, 80 or 100 % of an allowance, and what telling needs. Pure declarations."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal, Protocol

import msgspec

EVENT_TYPE: Final = "allowance.reached"

_DAY_FORM: Final = len("2030-05-01")


@dataclass(frozen=True, slots=True)
class AllowanceEvent:
    """One percentage of one allowance that was reached in one period, which happens once, whatever comes after."""

    event_id: str
    workspace_id: str
    workspace_name: str
    period: str
    """The UTC day YYYY-MM-DD of the daily allowance, or the month YYYY-MM of the monthly one."""
    percent: int
    allowance_messages: int
    """The allowance when it was noticed, as the count below."""
    message_count: int
    create_time: datetime
    attempt_count: int
    """Attempts to deliver it that failed."""

    @property
    def limit(self) -> Literal["daily_message_allowance", "monthly_message_allowance"]:
        """Which allowance it is, in the word that the error ALLOWANCE_EXHAUSTED has for it."""
        return "daily_message_allowance" if len(self.period) == _DAY_FORM else "monthly_message_allowance"

    @property
    def reset_time(self) -> datetime:
        """When the period ends, UTC."""
        if self.limit == "daily_message_allowance":
            return _midnight(date.fromisoformat(self.period) + timedelta(days=1))
        next_month = date.fromisoformat(f"{self.period}-01") + timedelta(days=31)
        return _midnight(next_month.replace(day=1))


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt to deliver an event ended."""

    is_delivered: bool = False
    is_final: bool = False
    """Whether the receiver wants to hear no more of it."""
    cause: str = ""
    """Why it was not delivered, for the log."""
    retry_after_s: float = 0.0
    """How long the receiver asks to be left alone."""


class EventSender(Protocol):
    """Who brings events to the operator."""

    async def send(self, event: AllowanceEvent) -> Attempt:
        """Tries once, for a bounded time; every failure is an answer."""


class EventStore(Protocol):
    """The events of all replicas; blocking, raises Overloaded."""

    def notice(self, limit: int) -> int:
        """Makes the events that are missing, up to a number, and returns how many."""

    def claim(self, limit: int) -> list[AllowanceEvent]:
        """Returns events that are due, which nobody else is given for a while."""

    def mark_delivered(self, event_id: str) -> None:
        """Notes that it was delivered."""

    def put_off(self, event_id: str, pause_s: float) -> bool:
        """Notes a failed attempt; False when the event is too old to be tried again."""

    def give_up(self, event_id: str) -> None:
        """Notes that it is never to be tried again."""


def event_body(event: AllowanceEvent) -> bytes:
    """Returns the event as JSON, in the form that the Standard Webhooks specification recommends."""
    data: dict[str, Any] = {
        "workspace_id": event.workspace_id,
        "workspace_name": event.workspace_name,
        "limit": event.limit,
        "period": event.period,
        "percent": event.percent,
        "allowance_messages": event.allowance_messages,
        "message_count": event.message_count,
        "reset_time": event.reset_time,
    }
    return msgspec.json.encode({"type": EVENT_TYPE, "timestamp": event.create_time.astimezone(UTC), "data": data})


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
