"""Responses: check, find what is continued, choose a way, and let `Metered` reserve, serve and settle; then keep it.

A response is kept when it is settled and before its maker sees the end of it. One that failed, or whose maker left, is
not kept at all; one that could not be kept says `store: false`, because an answer that was paid for is worth more than
its copy.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from quillgate.v1.response_pb2 import Response, ResponseEvent, ResponseItem, ResponseRequest
from quillgate_core.admission import Admission, Ask, Blocking
from quillgate_core.chat_rules import check_chat
from quillgate_core.completions import chat_provider
from quillgate_core.errors import QuillgateError, ResponseNotFound
from quillgate_core.failover import Failover
from quillgate_core.fallback_models import named_models
from quillgate_core.holds import ChatHold, chat_hold
from quillgate_core.metered import SETTLE_WAIT_S, Batch, Metered
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.reservation import Receipt, Reservation
from quillgate_core.response_answer import opened
from quillgate_core.response_chat import bound_of, to_chat
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
from quillgate_core.response_messages import encrypted_contents
from quillgate_core.response_rules import check_endpoint, check_response
from quillgate_core.response_tally import ChatResponseTally, NativeResponseTally
from quillgate_core.routing import Candidate
from quillgate_core.stored_response import MAX_STORED_BYTES, ResponseStore, StoredResponse, require_storable

log = logging.getLogger(__name__)

MAX_LOOKUPS = 16
"""Most kept responses that the references of one request are looked for in; the latest usually holds all of them."""


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
    failover: Failover[Dispatch]
    conversation: _Conversation

    @property
    def response(self) -> Response:
        """The response as it is now."""
        return self.failover.plan.response


class Responses:
    """The use case behind the response RPCs of CompletionService; `blocking` runs what waits for the store."""

    def __init__(
        self,
        admission: Admission,
        metered: Metered,
        store: ResponseStore,
        *,
        blocking: Blocking = asyncio.to_thread,
        clock: Callable[[], float] = time.time,
        save_wait_s: float = SETTLE_WAIT_S,
    ) -> None:
        self._admission = admission
        self._metered = metered
        self._store = store
        self._blocking = blocking
        self._clock = clock
        self._save_wait_s = save_wait_s

    async def create(
        self, principal: Principal, request_id: str, request: ResponseRequest
    ) -> tuple[Response, Receipt, tuple[str, ...]]:
        """Answers in one piece, with the receipt and what of the request was left out."""
        admitted = await self._admit(principal, request_id, request, stream=False)
        async with aclosing(self._serve(admitted)) as batches:
            async for batch in batches:
                if batch.receipt is not None:
                    return admitted.response, batch.receipt, admitted.failover.plan.ignored
        raise AssertionError("a metered stream ends with its receipt or an exception")

    async def stream(
        self, principal: Principal, request_id: str, request: ResponseRequest
    ) -> AsyncGenerator[ResponseBatch, None]:
        """Answers in events; a failure after the first of them is told in events and then raised."""
        admitted = await self._admit(principal, request_id, request, stream=True)
        is_first = True
        async with aclosing(self._serve(admitted)) as batches:
            async for batch in batches:
                yield ResponseBatch(batch, admitted.failover.plan.ignored if is_first else ())
                is_first = False

    def _serve(self, admitted: _Admitted) -> AsyncGenerator[Batch[ResponseEvent], None]:
        return self._metered.stream(
            admitted.reservation,
            admitted.failover,
            lambda dispatch: dispatch.received(),
            before_last=partial(self._keep, admitted),
        )

    async def _admit(
        self, principal: Principal, request_id: str, request: ResponseRequest, *, stream: bool
    ) -> _Admitted:
        """Checks, finds the history, translates for each candidate, and reserves last."""
        principal.require(INFERENCE)
        request, ids = named_models(request)
        check_response(request)
        models = self._admission.models(principal, ids)
        for model in models:
            check_endpoint(model)
        conversation = await self._conversation(principal, request)
        keeps = await self._keeps(principal, request)
        if keeps:
            require_storable(conversation.items)
        made = _Making(request, ids, conversation, new_response_id(), stream=stream, keeps=keeps, clock=self._clock)
        ask = Ask(
            principal,
            request_id,
            "responses",
            models,
            hold=made.hold,
            plan=made.dispatch,
            session=request.prompt_cache_key,
        )
        reservation, failover = await self._admission.admit(ask)
        return _Admitted(principal.workspace_id, reservation, failover, conversation)

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
        response = admitted.response
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


class _Making:
    """One request, translated for whichever candidate is to make the response."""

    def __init__(
        self,
        request: ResponseRequest,
        ids: Sequence[str],
        conversation: _Conversation,
        response_id: str,
        *,
        stream: bool,
        keeps: bool,
        clock: Callable[[], float],
    ) -> None:
        self._request = request
        self._ids = ids
        self._items = conversation.items
        self._response_id = response_id
        self._stream = stream
        self._keeps = keeps
        self._clock = clock
        self._created_at = int(clock())
        self._translation = to_chat(request, conversation.items, own_from=conversation.own_from)

    def hold(self, candidate: Candidate) -> ChatHold:
        """Returns the bounds of the request to a candidate."""
        bound = self._translation.request
        if candidate.account.responses is not None:
            bound = bound_of(self._translation, encrypted_contents(self._items))
        return chat_hold(bound, candidate.model)

    def dispatch(self, candidate: Candidate, max_output_tokens: int | None) -> Dispatch:
        """Translates for a candidate; raises InvalidRequest."""
        provider, model = candidate.upstream.provider, candidate.upstream.model
        response = opened(self._request, response_id=self._response_id, created_at=self._created_at, store=self._keeps)
        response.model = self._ids[candidate.rank]
        native = candidate.account.responses
        if native is not None:
            prompt_bytes = self._translation.request.ByteSize()
            return NativeDispatch(
                native,
                model,
                self._request,
                self._items,
                NativeResponseTally(response, prompt_bytes=prompt_bytes, provider=provider),
                stream=self._stream,
                max_output_tokens=max_output_tokens,
            )
        dispatch = ChatDispatch(
            chat_provider(candidate),
            model,
            self._translation,
            ChatResponseTally(response, self._translation, provider=provider, clock=self._clock),
            stream=self._stream,
            max_output_tokens=max_output_tokens,
        )
        check_chat(self._translation.request)
        return dispatch
