"""Cross-origin requests: which web pages' scripts may call this service from a browser. None, unless a setting says so.

Answers never allow credentials in the browser's sense (cookies): a page has to present an API key like anybody else, so
any header may be sent. Nothing here may decide who is served.
"""

import re

from aiohttp import web

from quillgate_facade.origins import ANY

#: What scripts may read beside the few headers that browsers always show.
_EXPOSED = (
    "x-request-id, openai-processing-ms, openai-version, retry-after, x-should-retry, "
    "x-quillgate-messages, x-quillgate-messages-remaining, x-quillgate-ignored, "
    "x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, "
    "x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens"
)
_METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
_MAX_AGE_S = 600
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")


class Cors:
    """Adds what browsers ask for to every answer; `origins` is a comma-separated list, `*` for any, empty for none."""

    def __init__(self, origins: str) -> None:
        self._origins = frozenset(origin.strip() for origin in origins.split(",") if origin.strip())

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Adds the headers just before an answer is sent, streams and errors included."""
        if not self._origins:
            return
        headers = response.headers
        is_any = ANY in self._origins
        if not is_any:
            headers.add("vary", "origin")
        origin = request.headers.get("origin", "")
        if not origin or not (is_any or origin in self._origins):
            return
        headers["access-control-allow-origin"] = ANY if is_any else origin
        headers["access-control-expose-headers"] = _EXPOSED
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            _allow(request, response)


def _allow(request: web.Request, response: web.StreamResponse) -> None:
    """Answers a browser's question before the request; a wrong method is still refused when it comes."""
    response.headers["access-control-allow-methods"] = _METHODS
    response.headers["access-control-max-age"] = str(_MAX_AGE_S)
    names = request.headers.get("access-control-request-headers", "")
    if _NAMES.fullmatch(names):
        response.headers["access-control-allow-headers"] = names
