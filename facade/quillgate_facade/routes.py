"""The table of everything that is served, and the answers to what is not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Middleware

from quillgate_facade.answers import Handler
from quillgate_facade.chat import ChatHandler
from quillgate_facade.errors import ApiError
from quillgate_facade.health import HealthHandler
from quillgate_facade.models import ModelsHandler
from quillgate_facade.responses import ResponsesHandler
from quillgate_facade.text_completions import TextHandler
from quillgate_facade.transcriptions import TranscriptionsHandler
from quillgate_facade.usage import UsageHandler

#: Where the API lives; the first is the one that the documentation names.
PREFIXES = ("/api/openai/v1", "/v1")

_MAX_SHOWN_PATH = 200


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path, one of its methods (GET serves HEAD too), and who answers it; OPTIONS is answered on every path."""

    method: str
    path: str
    handler: Handler


def api_endpoints(
    chat: ChatHandler,
    models: ModelsHandler,
    text: TextHandler,
    responses: ResponsesHandler,
    transcriptions: TranscriptionsHandler,
    usage: UsageHandler,
) -> tuple[Endpoint, ...]:
    """The API, relative to a prefix."""
    return (
        Endpoint("GET", "/models", models.list),
        Endpoint("GET", "/models/{model:.+}", models.get),
        Endpoint("POST", "/chat/completions", chat.create),
        Endpoint("POST", "/completions", text.create),
        Endpoint("POST", "/responses", responses.create),
        Endpoint("GET", "/responses/{response_id}", responses.get),
        Endpoint("DELETE", "/responses/{response_id}", responses.delete),
        Endpoint("GET", "/responses/{response_id}/input_items", responses.list_input_items),
        Endpoint("POST", "/responses/{response_id}/cancel", responses.cancel),
        Endpoint("POST", "/audio/transcriptions", transcriptions.create),
        Endpoint("GET", "/key", usage.key),
        Endpoint("GET", "/usage", usage.usage),
    )


def probe_endpoints(health: HealthHandler) -> tuple[Endpoint, ...]:
    """What a load balancer asks; at the root."""
    return (Endpoint("GET", "/healthz", health.live), Endpoint("GET", "/readyz", health.ready))


def add_routes(app: web.Application, api: Iterable[Endpoint], probes: Iterable[Endpoint]) -> None:
    """Fills the router, the answers for wrong methods and unknown paths included."""
    api = tuple(api)
    for prefix in PREFIXES:
        _add(app, prefix, api)
    _add(app, "", tuple(probes))
    served = ", ".join(f"{endpoint.method} {endpoint.path.replace(':.+', '')}" for endpoint in api)
    app.router.add_route("*", "/{path:.*}", _unknown_url(served), expect_handler=_expect_nothing)


def at_once(api: Iterable[Endpoint], around: Middleware) -> dict[tuple[str, str], Handler]:
    """Returns who answers the methods and paths that have no variable part, each with `around` around it.

    aiohttp's router would find the same, by a thirtieth of the instructions of a whole request.
    """
    return {
        (endpoint.method, prefix + endpoint.path): partial(around, handler=endpoint.handler)
        for prefix in PREFIXES
        for endpoint in api
        if "{" not in endpoint.path
    }


def _add(app: web.Application, prefix: str, endpoints: Sequence[Endpoint]) -> None:
    for path in dict.fromkeys(endpoint.path for endpoint in endpoints):
        handlers: dict[str, Handler] = {}
        for endpoint in endpoints:
            if endpoint.path == path:
                handlers[endpoint.method] = endpoint.handler
        if "GET" in handlers:
            handlers["HEAD"] = handlers["GET"]
        allowed = ", ".join((*handlers, "OPTIONS"))
        resource = app.router.add_resource(prefix + path)
        for method, handler in handlers.items():
            resource.add_route(method, handler, expect_handler=_expect_nothing)
        resource.add_route("OPTIONS", _options(allowed), expect_handler=_expect_nothing)
        resource.add_route("*", _wrong_method(allowed), expect_handler=_expect_nothing)


async def _expect_nothing(request: web.Request) -> None:
    """Leaves `100 Continue` to whoever reads the body, so that a refusal comes before the upload."""


def _options(allowed: str) -> Handler:
    async def tell(request: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers={"allow": allowed})

    return tell


def _wrong_method(allowed: str) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        message = f"Not allowed to {request.method} on {_shown(request)} (HINT: allowed are {allowed})."
        raise ApiError(405, message, code="method_not_supported", headers={"allow": allowed})

    return refuse


def _unknown_url(served: str) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        message = (
            f"Unknown request URL: {request.method} {_shown(request)}. Please check the URL for typos. "
            "This service does not have all of OpenAI's API. "
            f"It has {served}, under {' and '.join(PREFIXES)}."
        )
        raise ApiError(404, message, code="unknown_url")

    return refuse


def _shown(request: web.Request) -> str:
    path = request.rel_url.raw_path
    return path if len(path) <= _MAX_SHOWN_PATH else path[:_MAX_SHOWN_PATH] + "…"
