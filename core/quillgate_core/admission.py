"""The way of every request from its check to its reservation: choose candidates, translate, reserve last.

Until the reservation a refusal costs nothing; what it returns is ready to be sent and must be ended by Metered. It
knows no endpoint: these bring what is particular to them as an Ask.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from quillgate_core.catalogue import Endpoint, Model
from quillgate_core.errors import AllowanceExhausted, InvalidRequest, Overloaded
from quillgate_core.failover import Failover
from quillgate_core.metered import Metered
from quillgate_core.principal import Principal
from quillgate_core.reservation import CredentialsStale, Reservation
from quillgate_core.router import Route, Router
from quillgate_core.routing import Candidate

MAX_STALE: Final = 3
"""How often a request chooses anew because its workspace's provider keys have changed meanwhile."""

Blocking = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs what blocks elsewhere and awaits its result."""

PlanT = TypeVar("PlanT")


class Hold(Protocol):
    """The bounds of one request, as `holds.py` has them."""

    @property
    def hold_messages(self) -> int:
        """An upper bound of what it counts."""

    @property
    def min_hold_messages(self) -> int:
        """What is enough near the end of the allowance."""

    @property
    def output_tokens(self) -> int:
        """The output limit: the request's own, or the model's."""

    @property
    def lowered_output_tokens(self) -> int | None:
        """The output limit to send instead of the request's own; None: that one is good."""

    @property
    def hold_tokens(self) -> int:
        """An upper bound of its LLM tokens; 0: nobody can tell."""

    @property
    def min_hold_tokens(self) -> int:
        """What is enough near the end of a key's tokens per minute."""

    def output_tokens_within(self, held_messages: int, held_tokens: int | None = None) -> int | None:
        """Returns the output limit that keeps the request within smaller holds; None if they are the whole ones."""


class Ask(msgspec.Struct, Generic[PlanT], frozen=True):
    """One request as admission sees it."""

    principal: Principal
    request_id: str
    endpoint: Endpoint
    models: Sequence[Model]
    """Never none; those after the first may answer when it cannot."""
    hold: Callable[[Candidate], Hold]
    plan: Callable[[Candidate, int | None], PlanT]
    """Translates for a candidate with an output limit (None: the request's own); raises InvalidRequest."""
    session: str = ""
    """Which conversation it belongs to, as the request says."""
    may_drain: bool = True
    """Whether a provider may be read on when the caller leaves: not where more would be sent to it after that."""


class Admission:
    """Admits requests; `session` returns what the caller's metadata says of the conversation, empty for nothing."""

    def __init__(
        self,
        router: Router,
        metered: Metered,
        *,
        blocking: Blocking = asyncio.to_thread,
        session: Callable[[], str] = lambda: "",
    ) -> None:
        self._router = router
        self._metered = metered
        self._blocking = blocking
        self._session = session

    def models(self, principal: Principal, ids: Sequence[str]) -> tuple[Model, ...]:
        """Returns the models that a key asks for; raises ModelNotAllowed and ModelNotFound."""
        return tuple(self._router.usable_model(principal, model_id) for model_id in ids)

    async def admit(self, ask: Ask[PlanT]) -> tuple[Reservation, Failover[PlanT]]:
        """Chooses, translates, and reserves last.

        Raises InvalidRequest when no candidate can serve the request, Overloaded when none can be asked now, and as
        Metered.reserve does.
        """
        for _ in range(MAX_STALE):
            session = ask.session or self._session()
            route = self._router.route(ask.principal.workspace_id, ask.models, ask.endpoint, session=session)
            try:
                return await self._reserve(ask, route)
            except CredentialsStale:
                await self._blocking(self._router.own_keys.refresh)
        raise Overloaded("The workspace's provider keys are being changed. Please retry shortly.")

    async def _reserve(self, ask: Ask[PlanT], route: Route) -> tuple[Reservation, Failover[PlanT]]:
        """An own key needs no allowance; where the gateway's may follow, it is held, if there is enough left."""
        own = tuple(candidate for candidate in route.candidates if candidate.owner)
        if not own or len(own) == len(route.candidates):
            return await self._reserve_for(ask, route.candidates, route.credential_revision)
        try:
            return await self._reserve_for(ask, route.candidates, route.credential_revision)
        except AllowanceExhausted:
            return await self._reserve_for(ask, own, route.credential_revision)

    async def _reserve_for(
        self, ask: Ask[PlanT], candidates: Sequence[Candidate], credential_revision: int
    ) -> tuple[Reservation, Failover[PlanT]]:
        holds = _Holds(ask)
        rest = iter(candidates)
        candidate, plan = _first(ask, rest, holds)
        hold = holds.of(candidate)
        most_messages, most_tokens = holds.most(candidates)
        reservation = await self._metered.reserve(
            ask.principal,
            ask.request_id,
            endpoint=ask.endpoint,
            model=ask.models[0].id,
            upstream=candidate.upstream.provider,
            hold_messages=most_messages,
            min_hold_messages=hold.min_hold_messages,
            hold_tokens=most_tokens,
            min_hold_tokens=hold.min_hold_tokens,
            byok=all(other.owner for other in candidates),
            credential_revision=credential_revision,
        )
        try:
            limit = hold.output_tokens_within(reservation.held_messages, reservation.held_tokens)
            if limit is not None:
                plan = ask.plan(candidate, limit)
            failover = Failover(
                self._router,
                candidate,
                plan,
                rest,
                lambda other: _plan(ask, other, holds, reservation),
                may_drain=ask.may_drain and any(other.account.drains for other in candidates),
            )
        except Exception:
            await self._metered.release(reservation)
            raise
        return reservation, failover


class _Holds(Generic[PlanT]):
    """The bounds of a request for each model and way; a fallback may have other limits than the first."""

    def __init__(self, ask: Ask[PlanT]) -> None:
        self._ask = ask
        self._known: dict[tuple[str, bool], Hold] = {}

    def of(self, candidate: Candidate) -> Hold:
        key = (candidate.model.id, candidate.is_native)
        hold = self._known.get(key)
        if hold is None:
            hold = self._known[key] = self._ask.hold(candidate)
        return hold

    def limit(self, candidate: Candidate) -> int | None:
        """Returns the output limit to send; None: the request's own is good, or none at all."""
        hold, chat = self.of(candidate), candidate.account.chat
        if hold.lowered_output_tokens is None and chat is not None and chat.traits.needs_output_limit:
            return hold.output_tokens
        return hold.lowered_output_tokens

    def most(self, candidates: Sequence[Candidate]) -> tuple[int, int]:
        """Returns how many messages and tokens the request is at most, whoever serves it; some may not be able to."""
        messages = tokens = 0
        for candidate in candidates:
            try:
                hold = self.of(candidate)
            except InvalidRequest:
                continue
            messages, tokens = max(messages, hold.hold_messages), max(tokens, hold.hold_tokens)
        return messages, tokens


def _first(ask: Ask[PlanT], candidates: Iterator[Candidate], holds: _Holds[PlanT]) -> tuple[Candidate, PlanT]:
    """Returns the first candidate that the request can be translated for; raises the first one's InvalidRequest."""
    refusal: InvalidRequest | None = None
    for candidate in candidates:
        try:
            return candidate, ask.plan(candidate, holds.limit(candidate))
        except InvalidRequest as error:
            refusal = refusal or error
    assert refusal is not None  # a route has candidates
    raise refusal


def _plan(ask: Ask[PlanT], candidate: Candidate, holds: _Holds[PlanT], reservation: Reservation) -> PlanT | None:
    """Translates for a further candidate within what is held; None when that is not enough for it."""
    hold, held_tokens = holds.of(candidate), reservation.held_tokens
    if reservation.held_messages < hold.min_hold_messages:
        return None
    if held_tokens is not None and held_tokens < hold.min_hold_tokens:
        return None
    limit = hold.output_tokens_within(reservation.held_messages, held_tokens)
    return ask.plan(candidate, holds.limit(candidate) if limit is None else limit)
