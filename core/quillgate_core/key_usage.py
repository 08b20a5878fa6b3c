"""What a key may use, has used and has left, for whoever presents it and for those who manage it.

Enforces who may see which key's. It only reads: what a limit refuses is decided where requests are reserved. Knows no
SQL and no gRPC; the composition root passes the stores.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from quillgate_core.key import Key, KeyLimits
from quillgate_core.keys import Keys
from quillgate_core.limits import LimitName, LimitState
from quillgate_core.principal import Principal
from quillgate_core.reservation import DailyStore, Today

WINDOW_S: Final = 60
"""A second counts until this many whole seconds have passed after it, so that no 60 seconds see more than the limit."""

_REQUESTS: Final = 1
_TOKENS: Final = 2


@dataclass(frozen=True, slots=True)
class KeyCount:
    """What a key used in a span of days; tokens are LLM tokens of ended requests, cached ones included.

    Messages that the workspace's own provider keys served are in `byok_message_count` alone; tokens and requests are of
    both.
    """

    message_count: int = 0
    held_messages: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    request_count: int = 0
    byok_message_count: int = 0


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """A key's sums at `now` by the database clock: of the UTC day, of its month, and of the last minute."""

    now: datetime
    today: KeyCount
    month: KeyCount
    open_requests: int
    window: tuple[int, ...] = ()
    """Second since 1970, its requests, their LLM tokens, and so on, oldest first; may begin more than a minute ago."""


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """A key with what it used, and every limit of it and of its workspace, the workspace's first."""

    key: Key
    today: KeyCount
    month: KeyCount
    limits: tuple[LimitState, ...]
    remaining_messages: int | None
    """Messages that it can use now at most, None without a limit in messages that would refuse more."""


class KeyUsageStore(Protocol):
    """Reads of what keys used; blocking."""

    def read(self, key_id: str) -> KeyFigures:
        """Return the sums as they are committed now; zeros for a key that was never used."""


class KeyUsages:
    """Shows what keys may use and have used on behalf of a caller; blocking."""

    def __init__(self, keys: Keys, daily_store: DailyStore, store: KeyUsageStore) -> None:
        self._keys = keys
        self._daily_store = daily_store
        self._store = store

    def get(self, principal: Principal, key_id: str = "") -> KeyUsage:
        """Return the usage of the caller's own key (the default), or of one that the caller may manage.

        Raises ScopeMissing or KeyNotFound.
        """
        is_own = key_id in ("", principal.key_id)
        key = self._keys.own(principal) if is_own else self._keys.get(principal, key_id)
        today = self._daily_store.today(key.workspace_id)
        figures = self._store.read(key.key_id)
        of_workspace = tuple(_workspace_states(today))
        of_key = tuple(_message_states(key.limits, figures))
        binding = of_key if today.allows_overage else of_workspace + of_key
        return KeyUsage(
            key,
            figures.today,
            figures.month,
            (*of_workspace, *of_key, *_rate_states(key.limits, figures)),
            min((state.remaining for state in binding), default=None),
        )


def _workspace_states(today: Today) -> Iterator[LimitState]:
    if today.allowance is not None:
        left = today.remaining_messages or 0
        yield LimitState("daily_message_allowance", today.allowance, left, today.reset_time)
    if today.monthly_allowance is not None:
        left = today.monthly_remaining_messages or 0
        midnight = today.reset_time - timedelta(days=1)
        yield LimitState("monthly_message_allowance", today.monthly_allowance, left, _next_month(midnight))


def _message_states(limits: KeyLimits, figures: KeyFigures) -> Iterator[LimitState]:
    midnight = figures.now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if limits.daily_messages is not None:
        used = figures.today.message_count + figures.today.held_messages
        yield _state("key_daily_messages", limits.daily_messages, used, midnight + timedelta(days=1))
    if limits.monthly_messages is not None:
        used = figures.month.message_count + figures.month.held_messages
        yield _state("key_monthly_messages", limits.monthly_messages, used, _next_month(midnight))


def _rate_states(limits: KeyLimits, figures: KeyFigures) -> Iterator[LimitState]:
    if limits.requests_per_minute is not None:
        yield _rate("key_requests_per_minute", limits.requests_per_minute, figures, _REQUESTS)
    if limits.tokens_per_minute is not None:
        yield _rate("key_tokens_per_minute", limits.tokens_per_minute, figures, _TOKENS)
    if limits.concurrent_requests is not None:
        yield _state("key_concurrent_requests", limits.concurrent_requests, figures.open_requests, None)


def _rate(name: LimitName, value: int, figures: KeyFigures, index: int) -> LimitState:
    """Return how far a limit by the minute is used; it is whole again when its last second does not count any more."""
    first = int(figures.now.timestamp()) - WINDOW_S
    entries = [figures.window[at : at + 3] for at in range(0, len(figures.window), 3)]
    alive = [entry for entry in entries if entry[0] >= first and entry[index]]
    free_time = datetime.fromtimestamp(alive[-1][0] + WINDOW_S + 1, UTC) if alive else figures.now.astimezone(UTC)
    return _state(name, value, sum(entry[index] for entry in alive), free_time)


def _state(name: LimitName, value: int, used: int, reset_time: datetime | None) -> LimitState:
    return LimitState(name, value, max(0, value - used), reset_time)


def _next_month(midnight: datetime) -> datetime:
    """Return the UTC midnight that ends the month."""
    return midnight.replace(year=midnight.year + midnight.month // 12, month=midnight.month % 12 + 1, day=1)
