"""The outermost layer of every request: gives it an id, turns whatever is raised into an answer, stamps the answer.

The log gets the place of an unexpected error and never its text, which may hold a prompt or a credential.
"""

import logging
import traceback
from collections.abc import Awaitable, Callable
from itertools import chain

from aiohttp import web
from aiohttp.typedefs import Middleware

from quillgate_facade.config import FacadeConfig
from quillgate_facade.drain import Drain
from quillgate_facade.errors import INVALID_REQUEST, ApiError, internal
from quillgate_facade.exchange import EXCHANGE, Exchange, RequestIds
from quillgate_facade.shed import Refusals, overloaded

logger = logging.getLogger(__name__)

JSON_HEADERS = {"content-type": "application/json"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error_answer(error: ApiError) -> web.Response:
    """Returns the error as a response that is not stamped yet."""
    response = web.Response(status=error.status, body=error.to_json(), headers={**error.headers, **JSON_HEADERS})
    if error.close:
        response.force_close()
    return response


def unexpected(error: BaseException, exchange: Exchange) -> ApiError:
    """Logs where an error that nobody foresaw came from, and returns what the client may know of it."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s: %s at\n%s", exchange.request_id, type(error).__name__, frames)
    return internal(exchange.request_id)


def answering(config: FacadeConfig, drain: Drain, refusals: Refusals) -> Middleware:
    """Returns the middleware that every request passes through, unknown routes included."""

    ids = RequestIds()

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        exchange = request[EXCHANGE] = Exchange(ids.new())
        drain.enter()
        try:
            if refusals.unmark(request.protocol):
                response: web.StreamResponse = error_answer(overloaded())
            else:
                response = await _respond(request, handler, exchange, config)
            if not response.prepared:
                exchange.stamp(response.headers)
                if drain.draining:
                    response.force_close()
            return response
        finally:
            drain.leave()

    return answer


async def _respond(
    request: web.Request, handler: Handler, exchange: Exchange, config: FacadeConfig
) -> web.StreamResponse:
    try:
        _check_head_size(request, config)
        return await handler(request)
    except ApiError as error:
        return error_answer(error)
    except web.HTTPException as error:  # raised by aiohttp itself for what is no path at all
        return error_answer(ApiError(error.status, error.reason, kind=INVALID_REQUEST))
    except Exception as error:  # the last resort of every request
        return error_answer(unexpected(error, exchange))


def _check_head_size(request: web.Request, config: FacadeConfig) -> None:
    """The parser bounds each header; their sum is bounded here."""
    size = sum(map(len, chain.from_iterable(request.raw_headers)))
    if size > config.head_max_bytes:
        raise ApiError(431, f"The request headers are larger than {config.head_max_bytes} bytes.", close=True)
