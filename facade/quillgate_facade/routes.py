"""The table of everything that is served, and the answers to what is not."""

from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web

from quillgate_facade.answers import Handler
from quillgate_facade.chat import ChatHandler
from quillgate_facade.errors import ApiError
from quillgate_facade.health import HealthHandler
from quillgate_facade.models import ModelsHandler

#: Where the API lives; the first is the one that the documentation names.
PREFIXES = ("/api/openai/v1", "/v1")

_MAX_SHOWN_PATH = 200


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path, its only method (GET serves HEAD too), and who answers it."""

    method: str
    path: str
    handler: Handler


def api_endpoints(chat: ChatHandler, models: ModelsHandler) -> tuple[Endpoint, ...]:
    """The API, relative to a prefix."""
    return (
        Endpoint("GET", "/models", models.list),
        Endpoint("GET", "/models/{model:.+}", models.get),
        Endpoint("POST", "/chat/completions", chat.create),
    )


def probe_endpoints(health: HealthHandler) -> tuple[Endpoint, ...]:
    """What a load balancer asks; at the root."""
    return (Endpoint("GET", "/healthz", health.live), Endpoint("GET", "/readyz", health.ready))


def add_routes(app: web.Application, api: Iterable[Endpoint], probes: Iterable[Endpoint]) -> None:
    """Fills the router, the answers for wrong methods and unknown paths included."""
    api = tuple(api)
    for prefix in PREFIXES:
        for endpoint in api:
            _add(app, prefix + endpoint.path, endpoint)
    for endpoint in probes:
        _add(app, endpoint.path, endpoint)
    served = ", ".join(f"{endpoint.method} {endpoint.path.replace(':.+', '')}" for endpoint in api)
    app.router.add_route("*", "/{path:.*}", _unknown_url(served), expect_handler=_expect_nothing)


def _add(app: web.Application, path: str, endpoint: Endpoint) -> None:
    resource = app.router.add_resource(path)
    methods = ("GET", "HEAD") if endpoint.method == "GET" else (endpoint.method,)
    for method in methods:
        resource.add_route(method, endpoint.handler, expect_handler=_expect_nothing)
    resource.add_route("*", _wrong_method(methods), expect_handler=_expect_nothing)


async def _expect_nothing(request: web.Request) -> None:
    """Leaves `100 Continue` to whoever reads the body, so that a refusal comes before the upload."""


def _wrong_method(methods: tuple[str, ...]) -> Handler:
    allowed = ", ".join(methods)

    async def refuse(request: web.Request) -> web.StreamResponse:
        message = f"Not allowed to {request.method} on {_shown(request)} (HINT: allowed are {allowed})."
        raise ApiError(405, message, code="method_not_supported", headers={"allow": allowed})

    return refuse


def _unknown_url(served: str) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        message = (
            f"Unknown request URL: {request.method} {_shown(request)}. Please check the URL for typos. "
            f"This service has {served}, under {' and '.join(PREFIXES)}."
        )
        raise ApiError(404, message, code="unknown_url")

    return refuse


def _shown(request: web.Request) -> str:
    path = request.rel_url.raw_path
    return path if len(path) <= _MAX_SHOWN_PATH else path[:_MAX_SHOWN_PATH] + "…"
