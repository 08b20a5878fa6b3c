"""A `grpc.aio.Channel` without a socket: calls the servicers of the same process through the same interceptor.

Messages are handed over by reference: neither side may change one after it has passed it on. A call runs in the task
that awaits it, so cancelling that task cancels the servicer, and a stream is pulled by its reader, so a slow reader
slows the servicer. Unlike gRPC's, a call starts when it is first awaited, and a servicer must ask for the current call
before it first yields: each step runs in the context of whoever awaits it.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import Any, Final, NoReturn

import grpc
from grpc.aio import EOF

from quillgate_core.deadlines import Deadline, Deadlines
from quillgate_core.rpc.interceptor import CallInterceptor

MAX_TIMEOUTS: Final = 100
"""Most different times of calls that share their timers; there are a few."""

_OK = (grpc.StatusCode.OK, "", ())


class InProcessContext:
    """What servicers and interceptors may ask of gRPC's ServicerContext, no more."""

    __slots__ = ("_metadata", "code", "details", "trailers")

    def __init__(self, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self._metadata = metadata
        self.code, self.details, self.trailers = _OK

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Returns the caller's metadata."""
        return self._metadata

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Takes what a call that goes well says at its end."""
        self.trailers = tuple(trailing_metadata)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """Ends the call with a status."""
        self.code, self.details, self.trailers = code, details, tuple(trailing_metadata)
        raise grpc.aio.AbortError(details)

    def error(self) -> grpc.aio.AioRpcError:
        """Returns the status as the caller's exception."""
        trailers = grpc.aio.Metadata(*self.trailers)
        return grpc.aio.AioRpcError(self.code, grpc.aio.Metadata(), trailers, self.details, None)


class InProcessServer:
    """Collects the handlers that the generated `add_…Servicer_to_server` functions register."""

    def __init__(self, interceptor: CallInterceptor) -> None:
        self._interceptor = interceptor
        self._generic: list[Any] = []
        self._deadlines: dict[float, Deadlines] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Takes a service's handlers."""
        self._generic.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Takes the same handlers once more, as newer generated code gives them; nothing to do."""

    def deadlines(self, timeout_s: float | None) -> Deadlines | None:
        """Returns the deadlines of calls with such a time; None without one, as none end."""
        if timeout_s is None:
            return None
        found = self._deadlines.get(timeout_s)
        if found is None:
            found = Deadlines(timeout_s)
            if len(self._deadlines) < MAX_TIMEOUTS:
                self._deadlines[timeout_s] = found
        return found

    def handler(self, method: str) -> Any:
        """Returns the intercepted handler of a method such as `/quillgate.v1.KeyService/GetKey`, None without one."""
        details = _Details(method)
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return self._interceptor.wrap(method, handler)
        return None


class _Details:
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


class InProcessChannel(grpc.aio.Channel):
    """The channel that generated stubs take."""

    def __init__(self, server: InProcessServer) -> None:
        self._server = server

    def unary_unary(self, method: str, *_: Any, **__: Any) -> Any:
        """Returns the callable of a unary method."""
        return _UnaryCallable(self._server, method)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Returns the callable of a server-streaming method."""
        return _StreamCallable(self._server, method)

    def stream_unary(self, method: str, *_: Any, **__: Any) -> Any:
        """Returns the callable of a client-streaming method."""
        return _UnaryCallable(self._server, method)

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Returns the callable of a bidirectional method."""
        return _StreamCallable(self._server, method)

    async def __aenter__(self) -> "InProcessChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Does nothing: the server outlives its channels."""

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Returns READY, always."""
        return grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits for ever: the state never changes."""
        await asyncio.Event().wait()

    async def channel_ready(self) -> None:
        """Returns at once."""


class _Callable:
    def __init__(self, server: InProcessServer, method: str) -> None:
        self._server = server
        self._method = method
        self._serve: Callable[[Any, Any], Any] | None = None

    def _behaviour(self, unimplemented: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Looks the handler up at the first call: stubs are made before services are added."""
        if self._serve is None:
            handler = self._server.handler(self._method)
            if handler is None:
                return unimplemented
            self._serve = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        return self._serve


class _UnaryCallable(_Callable):
    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = (), **_: Any) -> "_UnaryCall":
        context = InProcessContext(tuple(metadata or ()))
        return _UnaryCall(self._behaviour(_unimplemented), request, context, self._server.deadlines(timeout))


class _StreamCallable(_Callable):
    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = (), **_: Any) -> "_StreamCall":
        context = InProcessContext(tuple(metadata or ()))
        return _StreamCall(self._behaviour(_unimplemented_stream), request, context, self._server.deadlines(timeout))


async def _unimplemented(_: Any, context: InProcessContext) -> Any:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def _unimplemented_stream(request: Any, context: InProcessContext) -> AsyncIterator[Any]:
    yield await _unimplemented(request, context)


class _Call:
    """What both kinds of call share: the deadline, the status, and the task that waits."""

    def __init__(self, context: InProcessContext, deadlines: Deadlines | None) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()  # asking for it is a system call
        self._waiting: asyncio.Task[Any] | None = None
        self._interrupted = False
        self._cancelled = False
        self._expired = False
        self._done = False
        self._timer: Deadline | None = None
        if deadlines is not None:
            # A weak reference: a call that its reader dropped must end at once, not at its deadline.
            self._timer = deadlines.call(partial(_expire, weakref.ref(self)))

    def __del__(self) -> None:
        self._finish()

    async def _wait(self, step: Any) -> Any:
        """Awaits one step of the servicer and turns its end, if it is none of ours, into the caller's exception."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        cancelling, self._waiting = task.cancelling(), task
        try:
            return await step
        except BaseException as error:
            self._raise(error, task, cancelling)
        finally:
            self._waiting = None
            self._resume(task)

    def _raise(self, error: BaseException, task: asyncio.Task[Any], cancelling: int) -> NoReturn:
        """Raises what the caller sees of an error that ended a step."""
        try:
            if isinstance(error, GeneratorExit):
                raise error
            self._finish()
            if isinstance(error, asyncio.CancelledError):
                if self._resume(task) <= cancelling and self._expired:
                    raise self._context.error() from None
                raise error
            if isinstance(error, grpc.aio.AbortError):
                raise self._context.error() from None
            if not isinstance(error, Exception):
                raise error
            # Only methods without the gate get here: it has a status for everything else.
            self._context.code = grpc.StatusCode.UNKNOWN
            self._context.details = f"Unexpected {type(error)}"
            raise self._context.error() from error
        finally:
            del error  # its trace holds this frame: the request would wait for the garbage collector

    def _resume(self, task: asyncio.Task[Any]) -> int:
        """Takes back our own cancellation of the task that waits, and returns how many of others are left."""
        if self._interrupted:
            self._interrupted = False
            return task.uncancel()
        return task.cancelling()

    def cancel(self) -> bool:
        """Cancels the call; the servicer sees CancelledError, or GeneratorExit between two messages."""
        if self._done or self._cancelled:
            return False
        self._cancelled = True
        self._stop(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        return True

    def expire(self) -> None:
        """Ends the call because its deadline has passed, as `cancel` does, with another status."""
        if not self._done and not self._cancelled:
            self._expired = True
            self._stop(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _stop(self, code: grpc.StatusCode, details: str) -> None:
        self._context.code, self._context.details = code, details
        if self._waiting is not None:
            self._interrupted = True
            self._waiting.cancel()
        else:
            self._finish()
            self._abandon()

    def _check(self) -> None:
        """Raises what a call that was stopped between two steps ends with."""
        if self._expired:
            raise self._context.error()
        if self._cancelled:
            raise asyncio.CancelledError

    def _finish(self) -> None:
        self._done = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _abandon(self) -> None:
        """Ends a call that nobody waits for."""

    def cancelled(self) -> bool:
        """Tells whether the call was cancelled here."""
        return self._cancelled

    def done(self) -> bool:
        """Tells whether the call has ended."""
        return self._done

    async def code(self) -> grpc.StatusCode:
        """Returns the status code so far."""
        return self._context.code

    async def details(self) -> str:
        """Returns the status text so far."""
        return self._context.details

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Returns the leading metadata: none."""
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Returns the trailing metadata so far."""
        return grpc.aio.Metadata(*self._context.trailers)


def _expire(call: "weakref.ref[_Call]") -> None:
    found = call()
    if found is not None:
        found.expire()


class _UnaryCall(_Call):
    def __init__(
        self, serve: Callable[[Any, Any], Any], request: Any, context: InProcessContext, deadlines: Deadlines | None
    ) -> None:
        super().__init__(context, deadlines)
        self._serve = serve
        self._request = request
        self._outcome: asyncio.Future[Any] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._run().__await__()

    async def _run(self) -> Any:
        """Serves when first awaited; awaited again, the call has the same outcome and is not served again."""
        if self._outcome is not None:
            return await asyncio.shield(self._outcome)
        self._check()
        self._outcome = self._loop.create_future()
        try:
            response = await self._wait(self._serve(self._request, self._context))
        except asyncio.CancelledError:
            self._outcome.cancel()
            raise
        except Exception:
            self._outcome.set_exception(self._context.error())  # not this one, whose trace holds the call
            self._outcome.exception()  # marks it as seen: the first awaiter gets it now
            raise
        self._finish()
        self._outcome.set_result(response)
        return response


class _StreamCall(_Call):
    def __init__(
        self, serve: Callable[[Any, Any], Any], request: Any, context: InProcessContext, deadlines: Deadlines | None
    ) -> None:
        super().__init__(context, deadlines)
        self._responses = serve(request, context)
        self._closing: asyncio.Task[None] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        response = await self.read()
        if response is EOF:
            raise StopAsyncIteration
        return response

    async def read(self) -> Any:
        """Returns the next message, or `grpc.aio.EOF` after the last."""
        self._check()
        if self._done:
            return EOF
        # As `_wait` does, without a coroutine of its own: this is done for each piece of a stream.
        task = asyncio.current_task(self._loop)
        assert task is not None
        cancelling, self._waiting = task.cancelling(), task
        try:
            response = await anext(self._responses, EOF)
        except BaseException as error:
            self._raise(error, task, cancelling)
        finally:
            self._waiting = None
            if self._interrupted:
                self._resume(task)
        if response is EOF:
            self._finish()
        return response

    def _abandon(self) -> None:
        self._closing = asyncio.ensure_future(self._responses.aclose())
