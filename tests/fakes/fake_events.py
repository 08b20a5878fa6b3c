"""Events without a database or a receiver: a store that remembers what was noted, and a sender that does as told."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from quillgate_core.allowance_event import AllowanceEvent, Attempt


def an_event(event_id: str = "evt", *, attempts: int = 0) -> AllowanceEvent:
    """An event that is due."""
    time = datetime(2030, 5, 1, tzinfo=UTC)
    return AllowanceEvent(event_id, "ws", "a workspace", "2030-05-01", 50, 10, 5, time, attempts)


@dataclass
class FakeEventStore:
    """Gives out `due` once, and notes what becomes of it; `failure` is raised where anything is noted.

    `on_notice` is called by every look, for instance to let time pass.
    """

    due: list[AllowanceEvent] = field(default_factory=list)
    is_too_old: bool = False
    failure: Exception | None = None
    on_notice: Callable[[], object] = bool
    notices: int = 0
    noted: list[tuple[str, str]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def notice(self, limit: int) -> int:
        """Count the look."""
        self.notices += 1
        self.on_notice()
        return 0

    def claim(self, limit: int) -> list[AllowanceEvent]:
        """Give out what is due."""
        claimed, self.due = self.due[:limit], self.due[limit:]
        return claimed

    def mark_delivered(self, event_id: str) -> None:
        """Note it."""
        self._note("delivered", event_id)

    def put_off(self, event_id: str, pause_s: float) -> bool:
        """Note it, and the pause."""
        self._note("put off", event_id)
        self.pauses.append(pause_s)
        return not self.is_too_old

    def give_up(self, event_id: str) -> None:
        """Note it."""
        self._note("given up", event_id)

    def _note(self, end: str, event_id: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.noted.append((end, event_id))


@dataclass
class FakeSender:
    """Ends each attempt as `attempts` say, then with `attempt`; an exception is raised, an event waited for."""

    attempt: Attempt | Exception | asyncio.Event = field(default_factory=lambda: Attempt(is_delivered=True))
    attempts: Sequence[Attempt | Exception] = ()
    sent: list[str] = field(default_factory=list)
    running: int = 0
    most_at_once: int = 0

    async def send(self, event: AllowanceEvent) -> Attempt:
        """End as scripted."""
        number = len(self.sent)
        self.sent.append(event.event_id)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            await asyncio.sleep(0)
            attempt = self.attempts[number] if number < len(self.attempts) else self.attempt
            if isinstance(attempt, asyncio.Event):
                await attempt.wait()
                return Attempt()
            if isinstance(attempt, Exception):
                raise attempt
            return attempt
        finally:
            self.running -= 1
