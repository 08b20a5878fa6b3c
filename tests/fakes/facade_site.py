"""A real facade for tests: its settings, a key that looks right, and a client that presents it."""

from collections.abc import Awaitable, Callable

from aiohttp import ClientSession

from quillgate_facade.app import FacadeServer
from quillgate_facade.config import FacadeConfig

KEY = "qg_live_" + "a" * 32 + "wxyz"

StartFacade = Callable[[FacadeConfig], Awaitable[FacadeServer]]


def config(**changes: float) -> FacadeConfig:
    """The defaults, on a free port, with a short drain."""
    return FacadeConfig(**{"port": 0, "drain_timeout_s": 0.2, **changes})  # type: ignore[arg-type]


def client_of(server: FacadeServer) -> ClientSession:
    """Another HTTP client that presents a key."""
    return ClientSession(f"http://127.0.0.1:{server.port}", headers={"authorization": f"Bearer {KEY}"})
