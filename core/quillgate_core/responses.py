"""Responses: check, find what is continued, choose a way, and let `Metered` reserve, serve and settle; then keep it.

A response is kept when it is settled and before its maker sees the end of it. One that failed, or whose maker left, is
not kept at all; one that could not be kept says `store: false`, because an answer that was paid for is worth more than
its copy.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItem, ResponseRequest
from quillgate_core.catalogue import Model, Models
from quillgate_core.chat_rules import check_chat
from quillgate_core.errors import QuillgateError, ResponseNotFound
from quillgate_core.holds import chat_hold
from quillgate_core.metered import SETTLE_WAIT_S, Batch, Metered
from quillgate_core.metering import Metering
from quillgate_core.model_access import usable_model
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt, Reservation
from quillgate_core.response_answer import opened
from quillgate_core.response_chat import to_chat
from quillgate_core.response_dispatch import ChatDispatch, Dispatch, NativeDispatch
from quillgate_core.response_input import (
    by_id,
    history_of,
    new_response_id,
    own_items,
    references,
    resolve,
    response_id_of,
)
from quillgate_core.response_rules import check_endpoint, check_response
from quillgate_core.response_tally import ChatResponseTally, NativeResponseTally
from quillgate_core.routing import attempts
from quillgate_core.stored_response import MAX_STORED_BYTES, ResponseStore, StoredResponse, require_storable
from quillgate_core.upstream import ChatProvider, ResponseProvider

log = logging.getLogger(__name__)

ENDPOINT = "responses"

MAX_LOOKUPS = 16
"""Most kept responses that the references of one request are looked for in; the latest usually holds all of them."""

Blocking = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs what blocks elsewhere and awaits its result."""


@dataclass(frozen=True, slots=True)
class ResponseBatch:
    """Events that are passed on at once; `ignored` names what of the request is left out, with the first ones only."""

    batch: Batch[ResponseEvent]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What the model reads: earlier turns, then from `own_from` this one's input."""

    items: list[ResponseItem]
    own_from: int


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A request that is reserved and ready to be sent."""

    workspace_id: str
    reservation: Reservation
    dispatch: Dispatch
    conversation: _Conversation


class Responses:
    """The use case behind the response RPCs of CompletionService.

    `response_providers` are those of the `providers` that speak the Responses API themselves: they are preferred.
    """

    def __init__(
        self,
        catalogue: Models,
        providers: Mapping[str, ChatProvider],
        metering: Metering,
        store: ResponseStore,
        *,
        response_providers: Mapping[str, ResponseProvider],
        blocking: Blocking = asyncio.to_thread,
        clock: Callable[[], float] = time.time,
        settle_wait_s: float = SETTLE_WAIT_S,
    ) -> None:
        self._catalogue = catalogue
        self._providers = providers
        self._response_providers = response_providers
        self._metered = Metered(metering, settle_wait_s=settle_wait_s)
        self._store = store
        self._blocking = blocking
        self._clock = clock
        self._save_wait_s = settle_wait_s

    async def create(
        self, principal: Principal, request_id: str, request: ResponseRequest
    ) -> tuple[Response, Receipt, tuple[str, ...]]:
        """Answers in one piece, with the receipt and what of the request was left out."""
        admitted = await self._admit(principal, request_id, request, stream=False)
        async with aclosing(self._serve(admitted)) as batches:
            async for batch in batches:
                if batch.receipt is not None:
                    return admitted.dispatch.response, batch.receipt, admitted.dispatch.ignored
        raise AssertionError("a metered stream ends with its receipt or an exception")

    async def stream(
        self, principal: Principal, request_id: str, request: ResponseRequest
    ) -> AsyncGenerator[ResponseBatch, None]:
        """Answers in events; a failure after the first of them is told in events and then raised."""
        admitted = await self._admit(principal, request_id, request, stream=True)
        ignored = admitted.dispatch.ignored
        async with aclosing(self._serve(admitted)) as batches:
            async for batch in batches:
                yield ResponseBatch(batch, ignored)
                ignored = ()

    def _serve(self, admitted: _Admitted) -> AsyncGenerator[Batch[ResponseEvent], None]:
        return admitted.dispatch.serve(self._metered, admitted.reservation, before_last=partial(self._keep, admitted))

    async def _admit(
        self, principal: Principal, request_id: str, request: ResponseRequest, *, stream: bool
    ) -> _Admitted:
        """Checks, finds the history, chooses, translates, and reserves last: until then a refusal costs nothing."""
        principal.require(INFERENCE)
        check_response(request)
        model = usable_model(self._catalogue, principal, request.model)
        check_endpoint(model)
        conversation = await self._conversation(principal, request)
        keeps = await self._keeps(principal, request)
        if keeps:
            require_storable(conversation.items)
        dispatch = self._dispatch(request, model, conversation, keeps=keeps)
        reservation = await self._reserve(principal, request_id, model, dispatch, stream=stream)
        return _Admitted(principal.workspace_id, reservation, dispatch, conversation)

    def _dispatch(
        self, request: ResponseRequest, model: Model, conversation: _Conversation, *, keeps: bool
    ) -> Dispatch:
        upstream = attempts(model, preferred=self._response_providers)[0]
        translation = to_chat(request, conversation.items, own_from=conversation.own_from)
        response = opened(request, response_id=new_response_id(), created_at=int(self._clock()), store=keeps)
        native = self._response_providers.get(upstream.provider)
        if native is not None:
            native_tally = NativeResponseTally(
                response, prompt_bytes=translation.request.ByteSize(), provider=upstream.provider
            )
            return NativeDispatch(native, upstream.model, request, conversation.items, translation, native_tally)
        tally = ChatResponseTally(response, translation, provider=upstream.provider, clock=self._clock)
        dispatch = ChatDispatch(self._providers[upstream.provider], upstream.model, translation, tally)
        check_chat(translation.request)
        return dispatch

    async def _reserve(
        self, principal: Principal, request_id: str, model: Model, dispatch: Dispatch, *, stream: bool
    ) -> Reservation:
        hold = chat_hold(dispatch.bound, model)
        dispatch.prepare(stream=stream, max_output_tokens=hold.lowered_output_tokens)
        reservation = await self._metered.reserve(
            principal,
            request_id,
            endpoint=ENDPOINT,
            model=model.id,
            upstream=dispatch.provider,
            hold_messages=hold.hold_messages,
            min_hold_messages=hold.min_hold_messages,
        )
        limit = hold.output_tokens_within(reservation.held_messages)
        if limit is not None:
            try:
                dispatch.prepare(stream=stream, max_output_tokens=limit)
            except Exception:
                await self._metered.release(reservation)
                raise
        return reservation

    async def _conversation(self, principal: Principal, request: ResponseRequest) -> _Conversation:
        """Returns what is continued and what is new; raises ResponseNotFound and InvalidRequest."""
        history: list[ResponseItem] = []
        if request.previous_response_id:
            history = history_of(await self._get(principal, request.previous_response_id))
        own = own_items(request)
        known = by_id([*history, *own])
        tried: set[str] = set()
        while (missing := references(own, known)) and len(tried) < MAX_LOOKUPS:
            response_id = response_id_of(missing[-1])
            if not response_id or response_id in tried:
                break
            tried.add(response_id)
            try:
                known |= by_id(history_of(await self._get(principal, response_id)))
            except ResponseNotFound:
                break
        return _Conversation([*history, *resolve(own, known)], len(history))

    async def _get(self, principal: Principal, response_id: str) -> StoredResponse:
        found = await self._blocking(partial(self._store.get, principal.workspace_id, response_id))
        assert isinstance(found, StoredResponse)
        return found

    async def _keeps(self, principal: Principal, request: ResponseRequest) -> bool:
        if request.HasField("store") and not request.store:
            return False
        return bool(await self._blocking(partial(self._store.keeps, principal.workspace_id)))

    async def _keep(self, admitted: _Admitted) -> None:
        """Keeps a whole response, or makes it say that it is not kept; raises nothing."""
        response = admitted.dispatch.response
        if response.store and not await self._save(admitted, response):
            response.store = False

    async def _save(self, admitted: _Admitted, response: Response) -> bool:
        conversation = admitted.conversation
        if response.ByteSize() + sum(item.ByteSize() for item in conversation.items) > MAX_STORED_BYTES:
            log.warning("response %s is not kept: it is too large", response.id)
            return False
        copy = Response()
        copy.CopyFrom(response)
        stored = StoredResponse(copy, tuple(conversation.items), conversation.own_from)
        try:
            async with asyncio.timeout(self._save_wait_s):
                await self._blocking(partial(self._store.save, admitted.workspace_id, stored))
        except TimeoutError:
            log.warning("response %s is not kept: the database is away", response.id)
        except QuillgateError as error:
            log.warning("response %s is not kept: %s", response.id, error.message)
        except Exception:
            log.exception("response %s is not kept", response.id)
        else:
            return True
        return False
