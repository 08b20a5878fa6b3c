"""What a key may use, has used and has left, for whoever presents it and for those who manage it.

Enforces who may see which key's. It only reads: what a limit refuses is decided where requests are reserved. Knows no
SQL and no gRPC; the composition root passes the stores.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from quillgate_core.key import Key, KeyLimits
from quillgate_core.keys import Keys
from quillgate_core.limits import LimitName, LimitState
from quillgate_core.principal import Principal
from quillgate_core.reservation import DailyStore, Today


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
    """A key's sums at `now`, in UTC by the database clock: of the day, of its month, and how its rates are used."""

    now: datetime
    today: KeyCount
    month: KeyCount
    rates: tuple[LimitState, ...] = ()
    """The limits that are not in messages, as the reserving transaction sees them."""


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

    def read(self, key: Key) -> KeyFigures:
        """Return the sums as they are committed now, with the key's limits; zeros for a key that was never used."""


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
        figures = self._store.read(key)
        of_workspace = tuple(_workspace_states(today))
        of_key = tuple(_message_states(key.limits, figures))
        binding = of_key if today.allows_overage else of_workspace + of_key
        return KeyUsage(
            key,
            figures.today,
            figures.month,
            (*of_workspace, *of_key, *figures.rates),
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
    midnight = figures.now.replace(hour=0, minute=0, second=0, microsecond=0)
    if limits.daily_messages is not None:
        used = figures.today.message_count + figures.today.held_messages
        yield _state("key_daily_messages", limits.daily_messages, used, midnight + timedelta(days=1))
    if limits.monthly_messages is not None:
        used = figures.month.message_count + figures.month.held_messages
        yield _state("key_monthly_messages", limits.monthly_messages, used, _next_month(midnight))


def _state(name: LimitName, value: int, used: int, reset_time: datetime) -> LimitState:
    return LimitState(name, value, max(0, value - used), reset_time)


def _next_month(midnight: datetime) -> datetime:
    """Return the UTC midnight that ends the month."""
    return midnight.replace(year=midnight.year + midnight.month // 12, month=midnight.month % 12 + 1, day=1)
