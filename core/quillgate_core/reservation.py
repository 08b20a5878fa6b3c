"""The steps of a reservation's life and their answers, as plain values, and what metering needs from storage.

A request is reserved, then settled or released; a caller that knows its usage already records it in one step. Every
step carries the workspace and the caller's request id, which together make it repeatable. Nothing here does I/O.
"""

import random
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from quillgate_core.counting import Usage
from quillgate_core.limits import LimitState

ReservationState: TypeAlias = Literal["open", "settled", "released", "recovered"]
"""Where a reservation stands; all but open are final."""

UsageSource: TypeAlias = Literal["", "provider", "estimate", "caller", "hold"]
"""Where a charged usage comes from; empty: nothing was charged."""

LIFETIME_S: Final = 600
"""How long a reservation without owner may stay open unless its caller says otherwise, in seconds."""

NONCE_BITS: Final = 63


def new_nonce() -> int:
    """Make the number that tells a repeated step from another request with the same id; fits a signed 64-bit column.

    It is no secret, so it need not cost a system call.
    """
    return random.getrandbits(NONCE_BITS)


class Idempotency(msgspec.Struct, frozen=True):
    """What makes two requests of a workspace the same one: the caller's key, and a SHA-256 of what was asked."""

    key: str
    request_hash: bytes


class Reserve(msgspec.Struct, frozen=True, kw_only=True):
    """Set messages aside, of today's allowance and of every other limit, before the provider is asked.

    `hold_messages` is an upper bound of what the request can count. When less is left, the hold shrinks to what is
    left, as long as that is at least `min_hold_messages`. With a `key_id` the key must still be live and its revision
    the one that the caller saw. `owner` is the core instance that serves the request; without one, the row is
    recovered after `expire_s` seconds. With `idempotency` it is refused while another row that was or may be charged
    has the same key. With `byok` the workspace's own provider key serves it: nothing is drawn from the allowance, the
    hold is only noted. With a `credential_revision` the workspace's provider keys must be those that the caller saw.
    `hold_tokens` is the same bound in LLM tokens, for a key's tokens per minute: it shrinks like the messages do, down
    to `min_hold_tokens`. 0: nobody can tell.
    """

    workspace_id: str
    request_id: str
    hold_messages: int
    min_hold_messages: int = 1
    key_id: str | None = None
    key_revision: int | None = None
    owner: str | None = None
    expire_s: int = LIFETIME_S
    endpoint: str = ""
    model: str = ""
    upstream: str = ""
    idempotency: Idempotency | None = None
    byok: bool = False
    credential_revision: int | None = None
    hold_tokens: int = 0
    min_hold_tokens: int = 0
    nonce: int = msgspec.field(default_factory=new_nonce)


class Settle(msgspec.Struct, frozen=True, kw_only=True):
    """End a reservation with its usage, on the reservation's day; the usage is clamped where it is not sane.

    `owner` must be exactly the one that reserved (None: reserved through MeteringService). `day` comes from the
    Reservation and saves a look-up; without it the day is looked up. An empty `upstream` or `upstream_request_id`
    leaves the recorded one. `byok` says that the workspace's own provider key served it, though the allowance was held.
    With the `key_id` that reserved, tokens that were held of its tokens per minute and not used are given back.
    """

    workspace_id: str
    request_id: str
    usage: Usage
    usage_source: UsageSource
    owner: str | None = None
    day: date | None = None
    upstream: str = ""
    upstream_request_id: str = ""
    byok: bool = False
    cost_picodollars: int | None = None
    outcome: str = ""
    key_id: str | None = None


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Write down who is serving an open reservation, and the provider's id of the answer, in case this process dies.

    It ends nothing and answers nothing of interest; a row that has ended stays as it is.
    """

    workspace_id: str
    request_id: str
    upstream: str
    upstream_request_id: str
    owner: str | None = None


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """End a reservation without charge: the provider never gave anything for it.

    With a `nonce` only the row that this very Reserve made is released, which is how an abandoned one is undone.
    `key_id` as in Settle.
    """

    workspace_id: str
    request_id: str
    owner: str | None = None
    day: date | None = None
    outcome: str = ""
    nonce: int | None = None
    key_id: str | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Count a usage that is already known, in one step, even beyond the allowance: the work has been done."""

    workspace_id: str
    request_id: str
    usage: Usage
    usage_source: UsageSource = "caller"
    key_id: str | None = None
    owner: str | None = None
    endpoint: str = ""
    model: str = ""
    upstream: str = ""
    outcome: str = ""
    nonce: int = msgspec.field(default_factory=new_nonce)


Step: TypeAlias = Reserve | Settle | Note | Release | Record


class Reservation(msgspec.Struct, frozen=True, eq=False):
    """Messages set aside for one request.

    `remaining_messages` is what is left of today's allowance after the hold, None without a limit. `replayed` means
    that the row was made by another Reserve with the same request id, so this caller must not dispatch anything.
    """

    workspace_id: str
    request_id: str
    day: date
    held_messages: int
    state: ReservationState
    remaining_messages: int | None
    replayed: bool
    allowance_messages: int | None = None
    """The day's allowance as it was then, None without a limit; no part of what was reserved."""
    limits: tuple[LimitState, ...] = ()
    """Every limit as it stands after this, the workspace's first; none for a replayed one."""
    held_tokens: int | None = None
    """Tokens set aside of the key's tokens per minute, None without such a limit."""
    key_id: str | None = None
    """The key that asked."""
    model: str = ""
    """The model that was asked for."""
    key_revision: int = 0
    """That of the key, as the reservation saw it."""

    def __eq__(self, other: object) -> bool:
        """Tell whether the same was set aside; how limits stood then, and who asked, is no part of it."""
        return isinstance(other, Reservation) and self._reserved() == other._reserved()

    __hash__ = None  # type: ignore[assignment]

    def _reserved(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__struct_fields__[:7])


class Receipt(msgspec.Struct, frozen=True, eq=False):
    """What one request was charged, on which day; a released one was charged 0.

    `remaining_messages` is what is left of that day's allowance, at least 0, None without a limit.
    """

    workspace_id: str
    request_id: str
    day: date
    counted_messages: int
    usage: Usage
    usage_source: UsageSource
    remaining_messages: int | None
    is_pending: bool = False
    """Whether the charge is still on its way to the ledger, because the database is away."""
    byok: bool = False
    """Whether it was counted apart and not drawn from the allowance: a provider key of the workspace served it."""
    cost_picodollars: int | None = None
    """What the provider charges at its list price; None: not known."""
    upstream: str = ""
    """Who served it, for the caller: provider and model; empty where nobody knows."""
    allowance_messages: int | None = None
    """The day's allowance as it was then, None without a limit; no part of what was charged."""
    limits: tuple[LimitState, ...] = ()
    """Every limit as it stood at the reservation, for requests that the gateway serves."""
    overage_messages: int = 0
    """Those of the counted messages that are beyond the workspace's allowance."""

    def __eq__(self, other: object) -> bool:
        """Tell whether the same was charged; how limits stood then, and who served it, is no part of it."""
        return isinstance(other, Receipt) and self._charged() == other._charged()

    __hash__ = None  # type: ignore[assignment]

    def _charged(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__struct_fields__[:10])


Outcome: TypeAlias = Reservation | Receipt | Exception
"""The answer to one step: an exception is an answer too, such as AllowanceExhausted."""


@dataclass(frozen=True, slots=True)
class DailyCount:
    """One workspace's row of `daily_message_count`: tokens are LLM tokens of ended requests, cached ones included.

    What the workspace's own provider keys served is in the `byok` members alone.
    """

    workspace_id: str
    day: date
    message_count: int
    held_messages: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    request_count: int
    byok_message_count: int = 0
    byok_input_tokens: int = 0
    byok_output_tokens: int = 0
    byok_request_count: int = 0
    cost_picodollars: int = 0
    byok_cost_picodollars: int = 0
    unpriced_request_count: int = 0
    overage_message_count: int = 0
    overrun_message_count: int = 0


@dataclass(frozen=True, slots=True)
class Today:
    """What a workspace has left of the running UTC day and month; allowance and remaining are None without a limit.

    With `allows_overage` requests are served even when nothing is left.
    """

    day: date
    allowance: int | None
    remaining_messages: int | None
    reset_time: datetime
    monthly_allowance: int | None = None
    monthly_remaining_messages: int | None = None
    allows_overage: bool = False


class KeyStale(Exception):
    """The key changed since the caller authenticated: authenticate afresh and reserve again. Never shown to a user."""


class CredentialsStale(Exception):
    """The workspace's provider keys are not those that the caller saw: read them, choose anew and reserve again."""


class Ticket(Protocol):
    """A step on its way to the ledger."""

    async def outcome(self) -> Outcome:
        """Wait for the answer, on the loop that submitted; cancelling undoes an owned reserve, anything else lands."""


class StepWriter(Protocol):
    """What applies steps durably, each exactly once."""

    def submit(self, step: Step) -> Ticket:
        """Queue a step of a coroutine of the running loop; raises Overloaded when there is no room."""

    def post(self, step: Settle | Note | Release) -> None:
        """Queue the end of a reservation, or a note, from any thread, without an answer; a refusal is logged."""


class DailyStore(Protocol):
    """Reads of the daily rows; blocking."""

    def daily(self, workspace_id: str, start_day: date | None, end_day: date | None) -> list[DailyCount]:
        """Rows of the days from `start_day` to `end_day`, newest first."""

    def today(self, workspace_id: str) -> Today:
        """What is left today, by the database clock; raises WorkspaceNotFound."""


class LeaseStore(Protocol):
    """Leases of core instances and the recovery of rows that nobody will settle; blocking."""

    lease_s: float
    """How long a lease holds after it was renewed, in seconds."""

    def renew(self, instance_id: str) -> bool:
        """Extend the lease; False when there was none that still held."""

    def end(self, instance_id: str) -> None:
        """Give the lease up, so that rows left open are recovered at once."""

    def recover(self, limit: int, *, owner: str | None = None) -> int:
        """Charge the hold of up to `limit` abandoned rows, of one owner or of all, and return how many."""
