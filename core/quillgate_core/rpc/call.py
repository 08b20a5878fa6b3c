"""The call that is being served: who asks, and under which id. Set by the interceptor, read by servicers."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from quillgate_core.principal import Principal


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC as the servicers see it: they never touch gRPC's context."""

    request_id: str
    principal: Principal


#: Returns the call that is being served; servicers get one injected, so that a test can serve without interceptor.
CurrentCall = Callable[[], Call]

_current: ContextVar[Call] = ContextVar("quillgate_call")


def current_call() -> Call:
    """Returns the call of this context; raises LookupError outside of an intercepted call."""
    return _current.get()


def enter_call(call: Call) -> None:
    """Makes `call` the current one in this context; every RPC sets its own, so nothing needs to be reset."""
    _current.set(call)
