"""The call that is being served: who asks, under which ids. Set by the interceptor, read by servicers and metering."""

from collections.abc import Callable
from contextvars import ContextVar

import msgspec

from quillgate_core.principal import Principal
from quillgate_core.reservation import Idempotency


class Call(msgspec.Struct, frozen=True):
    """One RPC as the servicers see it: they never touch gRPC's context."""

    request_id: str
    principal: Principal
    idempotency: Callable[[], Idempotency | None] = lambda: None
    """What the caller said about repeats; asked when the request is reserved, by when its first message was read."""
    session: str = ""
    """The conversation that it belongs to, as the caller names it; empty: it did not say."""


#: Returns the call that is being served; servicers get one injected, so that a test can serve without interceptor.
CurrentCall = Callable[[], Call]

_current: ContextVar[Call] = ContextVar("quillgate_call")


def current_call() -> Call:
    """Returns the call of this context; raises LookupError outside of an intercepted call."""
    return _current.get()


def current_idempotency() -> Idempotency | None:
    """Returns what the caller of this context said about repeats, None without a key or outside of a call."""
    call = _current.get(None)
    return None if call is None else call.idempotency()


def current_session() -> str:
    """Returns which conversation the caller of this context named, empty for none or outside of a call."""
    call = _current.get(None)
    return "" if call is None else call.session


def enter_call(call: Call) -> None:
    """Makes `call` the current one in this context; every RPC sets its own, so nothing needs to be reset."""
    _current.set(call)
