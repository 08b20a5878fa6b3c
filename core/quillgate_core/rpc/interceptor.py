"""The one gate that every RPC passes: request id, key, capacity, and errors translated to a gRPC status.

Servicers behind it raise and return; they never see gRPC's context. It wraps each method once and serves real gRPC and
the in-process channel alike. Plain `def` servicers run in a small thread pool.
"""

import asyncio
import contextlib
import contextvars
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any

import grpc

from quillgate_core.errors import Overloaded, QuillgateError
from quillgate_core.keys import Keys
from quillgate_core.principal import Principal
from quillgate_core.reservation import KeyStale
from quillgate_core.rpc.asked import Asked
from quillgate_core.rpc.call import Call, enter_call
from quillgate_core.rpc.capacity import Capacity
from quillgate_core.rpc.credentials import idempotency_key_of, presented_key, request_id_of, session_of
from quillgate_core.rpc.status import grpc_code, status_text, trailing_metadata

log = logging.getLogger(__name__)

UPSTREAM_KEY = "x-quillgate-upstream"

READ_OUT_S = 2.0
"""How long the rest of a refused upload is read."""

#: The only methods that anybody may call without a key.
PUBLIC_METHODS = frozenset(
    {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List"}
)

#: Services whose every request reserves, which checks the key's state again: a key read up to 30 s ago is good enough.
_RESERVING_SERVICES = ("/quillgate.v1.CompletionService/",)

_Unary = Callable[[Any, Any], Awaitable[Any]]
_Stream = Callable[[Any, Any], AsyncIterator[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Authenticates, admits and translates; `threads` runs everything that touches the database."""

    def __init__(self, keys: Keys, threads: Executor, *, completions: Capacity, admin: Capacity) -> None:
        self._keys = keys
        self._threads = threads
        self._completions = completions
        self._admin = admin
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Returns the wrapped handler of the method, or None for a method that does not exist."""
        handler = await continuation(handler_call_details)
        return None if handler is None else self.wrap(handler_call_details.method, handler)

    def wrap(self, method: str, handler: Any) -> Any:
        """Returns the handler with the gate around it; the same one for the same handler."""
        if method in PUBLIC_METHODS:
            return handler
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        wrapped = self._build(method, handler)
        self._wrapped[method] = (handler, wrapped)
        return wrapped

    def _build(self, method: str, handler: Any) -> Any:
        serializers = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        reserving = method.startswith(_RESERVING_SERVICES)
        repeatable = not handler.request_streaming  # messages that were read are gone
        if handler.response_streaming:
            serve = handler.stream_stream if handler.request_streaming else handler.unary_stream
            gate: Any = self._stream_gate(method, serve, reserving=reserving, repeatable=repeatable)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(gate, **serializers)
        serve = handler.stream_unary if handler.request_streaming else handler.unary_unary
        if not inspect.iscoroutinefunction(serve):
            serve = self._in_thread(serve)
        gate = self._unary_gate(method, serve, reserving=reserving, repeatable=repeatable)
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(gate, **serializers)

    def _unary_gate(self, method: str, serve: _Unary, *, reserving: bool, repeatable: bool) -> _Unary:
        capacity = self._completions if reserving else self._admin

        async def gate(request: Any, context: Any) -> Any:
            request_id = ""
            try:
                request_id = request_id_of(context.invocation_metadata())
                asked = Asked(method, idempotency_key_of(context.invocation_metadata()))
                request = asked.note(request)
                async with capacity:
                    await self._enter(context, request_id, asked, cached=reserving and repeatable)
                    try:
                        return _told(context, await serve(request, context))
                    except KeyStale:
                        if not repeatable:
                            raise
                        await self._enter(context, request_id, asked, cached=False)
                        return _told(context, await serve(request, context))
            except Exception as error:
                if not repeatable:
                    await _read_out(request)
                await _abort(context, error, request_id)

        return gate

    def _stream_gate(self, method: str, serve: _Stream, *, reserving: bool, repeatable: bool) -> _Stream:
        capacity = self._completions if reserving else self._admin

        async def gate(request: Any, context: Any) -> AsyncIterator[Any]:
            request_id, is_first = "", True
            try:
                request_id = request_id_of(context.invocation_metadata())
                asked = Asked(method, idempotency_key_of(context.invocation_metadata()))
                request = asked.note(request)
                async with capacity:
                    await self._enter(context, request_id, asked, cached=reserving and repeatable)
                    try:
                        async with aclosing(serve(request, context)) as responses:  # type: ignore[type-var]
                            async for response in responses:
                                if is_first and reserving:
                                    _told(context, response)
                                is_first = False
                                yield response
                    except KeyStale:  # raised by the reservation, so before the first response
                        if not repeatable:
                            raise
                        await self._enter(context, request_id, asked, cached=False)
                        async with aclosing(serve(request, context)) as responses:  # type: ignore[type-var]
                            async for response in responses:
                                if is_first and reserving:
                                    _told(context, response)
                                is_first = False
                                yield response
            except Exception as error:
                if not repeatable:
                    await _read_out(request)
                await _abort(context, error, request_id)

        return gate

    async def _enter(self, context: Any, request_id: str, asked: Asked, *, cached: bool) -> None:
        metadata = context.invocation_metadata()
        principal = await self._principal(metadata, cached=cached)
        enter_call(Call(request_id, principal, asked.idempotency, session_of(metadata)))

    async def _principal(self, metadata: Any, *, cached: bool) -> Principal:
        secret = presented_key(metadata)
        principal = self._keys.authenticate_cached(secret) if cached else None
        if principal is None:
            loop = asyncio.get_running_loop()
            principal = await loop.run_in_executor(self._threads, self._keys.authenticate, secret)
        self._keys.touch(principal.key_id)
        return principal

    def _in_thread(self, serve: Callable[[Any, Any], Any]) -> _Unary:
        async def threaded(request: Any, context: Any) -> Any:
            run = contextvars.copy_context().run
            return await asyncio.get_running_loop().run_in_executor(self._threads, run, serve, request, context)

        return threaded


def _told(context: Any, response: Any) -> Any:
    """Puts who answered into the trailing metadata, for callers that look there, and returns the response."""
    upstream = getattr(response, "upstream", "")
    if upstream:
        context.set_trailing_metadata(((UPSTREAM_KEY, upstream),))
    return response


async def _read_out(requests: Any) -> None:
    """Reads what a caller still sends, a moment long: its gRPC may report a broken write instead of our status."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(READ_OUT_S):
            async for _ in requests:
                pass


async def _abort(context: Any, error: Exception, request_id: str) -> None:
    """Ends the RPC with the status of the error; a fault of ours is logged with its trace and told without it."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, KeyStale):  # again, after it was authenticated afresh
        error = Overloaded("The key is being changed. Please retry shortly.")
    if not isinstance(error, QuillgateError) or error.reason == QuillgateError.reason:
        log.error("request %s failed", request_id, exc_info=error)
        error = QuillgateError(
            f"The server had an error while processing your request (id {request_id}).", request_id=request_id
        )
    await context.abort(grpc_code(error), status_text(error), trailing_metadata(error))
