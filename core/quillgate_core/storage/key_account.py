"""What a transaction knows of a key: whether it works, its limits, and how far they are used. Pure.

A key's rows change only under the lock of its workspace's day, so what was read holds until the commit. Requests and
tokens a minute are counted in a `MinuteWindow`: at most the limit in any 60 seconds, whoever serves them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

import msgspec

from quillgate_core.errors import RateLimited
from quillgate_core.limits import LimitName, LimitState
from quillgate_core.storage.minute_window import Counted, MinuteWindow

AT_ONCE_S: Final = 1
"""When to come back if too many requests run, which nobody can foresee."""

_WORDS: Final[dict[LimitName, str]] = {
    "key_requests_per_minute": "requests per minute (RPM)",
    "key_tokens_per_minute": "tokens per minute (TPM)",
    "key_concurrent_requests": "requests at the same time",
}


class KeyDayRow(msgspec.Struct):
    """What to add to a key's day; members are columns. A window replaces the one that is there."""

    key_id: str
    day: date
    workspace_id: str
    message_count: int = 0
    held_messages: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    request_count: int = 0
    byok_message_count: int = 0
    open_requests: int = 0
    request_window: list[int] | None = None


@dataclass(slots=True)
class KeyState:
    """A key as the transaction read it, kept up while the batch is decided; a limit of None is none.

    `live`: neither revoked nor expired by the database clock. What is used is None where no limit needs it. `window` is
    as it was read; all of a transaction happens at one time, which is `now` of whoever asks first.
    """

    workspace_id: str
    revision: int
    live: bool
    daily_messages: int | None = None
    monthly_messages: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    used_today: int = 0
    used_in_month: int = 0
    open_requests: int = 0
    window: list[int] | None = field(default=None)
    _minute: MinuteWindow | None = field(default=None)

    @property
    def has_window(self) -> bool:
        """Whether something is limited by the minute."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None

    def minute(self, now: datetime) -> MinuteWindow:
        """Return what counts of the last minute."""
        minute = self._minute
        if minute is None:
            minute = self._minute = MinuteWindow(self.window or (), now)
        return minute

    def refusal(self, now: datetime, *, min_tokens: int) -> RateLimited | None:
        """Say why one more request of at least so many tokens may not run now; None: it may."""
        limit = self.concurrent_requests
        if limit is not None and self.open_requests >= limit:
            free_time = now + timedelta(seconds=AT_ONCE_S)
            return _refused("key_concurrent_requests", limit, self.open_requests, 1, now, free_time)
        if not self.has_window:
            return None
        minute = self.minute(now)
        limit = self.requests_per_minute
        if limit is not None and (used := minute.used("requests")) + 1 > limit:
            free_time = minute.free_time("requests", used + 1 - limit)
            return _refused("key_requests_per_minute", limit, used, 1, now, free_time)
        limit, tokens = self.tokens_per_minute, max(1, min_tokens)
        if limit is not None and (used := minute.used("tokens")) + tokens > limit:
            free_time = minute.free_time("tokens", used + tokens - limit)
            return _refused("key_tokens_per_minute", limit, used, tokens, now, free_time)
        return None

    def tokens_left(self, now: datetime) -> int | None:
        """Return the tokens that are left of this minute; None without a limit."""
        if self.tokens_per_minute is None:
            return None
        return max(0, self.tokens_per_minute - self.minute(now).used("tokens"))

    def enter(self, now: datetime, *, held_tokens: int) -> None:
        """Count a request that begins now."""
        self.open_requests += 1
        if self.has_window:
            self.minute(now).enter(tokens=held_tokens)

    def correct(self, now: datetime, reserve_s: int, *, tokens: int) -> None:
        """Add tokens, mostly fewer than none, to the second of a request's reservation, if that still counts."""
        if self.has_window:
            self.minute(now).correct(reserve_s, tokens=tokens)

    def hold(self, messages: int, *, day: date, today: date) -> None:
        """Count messages of a day, or fewer than none, towards today's and this month's."""
        if day == today:
            self.used_today += messages
            self.used_in_month += messages
        elif day.month == today.month and day.year == today.year:
            self.used_in_month += messages

    def rates(self, now: datetime) -> Iterator[LimitState]:
        """Yield how far each limit is used that is not in messages."""
        if self.requests_per_minute is not None:
            yield self._rate("key_requests_per_minute", self.requests_per_minute, "requests", now)
        if self.tokens_per_minute is not None:
            yield self._rate("key_tokens_per_minute", self.tokens_per_minute, "tokens", now)
        if self.concurrent_requests is not None:
            remaining = max(0, self.concurrent_requests - self.open_requests)
            yield LimitState("key_concurrent_requests", self.concurrent_requests, remaining, None)

    def _rate(self, name: LimitName, value: int, counted: Counted, now: datetime) -> LimitState:
        minute = self.minute(now)
        return LimitState(name, value, max(0, value - minute.used(counted)), minute.empty_time(counted))


def next_day(day: date) -> datetime:
    """Return the UTC midnight that ends a day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)


def next_month(day: date) -> datetime:
    """Return the UTC midnight that ends a day's month."""
    return datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)


def _refused(name: LimitName, value: int, used: int, requested: int, now: datetime, free_time: datetime) -> RateLimited:
    """Return the refusal in OpenAI's words; the wait is rounded up to a whole second, so that coming back helps."""
    retry_after_s = max(1, -int(-(free_time - now).total_seconds() // 1))
    reset_time = (now + timedelta(seconds=retry_after_s)).replace(microsecond=0)
    if requested > value:
        message = f"Request too large for {_WORDS[name]}: Limit {value}, Requested {requested}. It never fits."
    else:
        message = (
            f"Rate limit reached for {_WORDS[name]}: Limit {value}, Used {used}, Requested {requested}. "
            f"Please try again in {retry_after_s}s."
        )
    return RateLimited(
        message,
        limit=name,
        value=value,
        remaining=max(0, value - used),
        reset_time=reset_time.isoformat().replace("+00:00", "Z"),
        retry_after_s=retry_after_s,
    )
