"""The HTTP side of a provider: requests bounded in time and size, with every failure as one of our errors.

Connections are kept and reused. An answer that is not read to its end costs its connection: closing is how a provider
learns that nobody listens any more. It must not know what a body means, nor log one; it never retries and never
follows a redirect, because both would send a prompt where nobody decided to send it.
"""

import asyncio
import io
import logging
import re
from collections.abc import Mapping
from typing import Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from quillgate_core.deadlines import Deadlines
from quillgate_core.errors import ProviderUnavailable
from quillgate_core.providers.address_guard import url_denial
from quillgate_core.providers.http_answer import HttpAnswer, NotHttp
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.http_post import CompressedAnswer, PostAddress
from quillgate_core.providers.provider_error import ProviderErrors
from quillgate_core.providers.provider_limits import ProviderLimits

_VERSION: Final = re.compile(r"/v[0-9][0-9a-z]*$")
_logger = logging.getLogger(__name__)

_DRAIN_S: Final = 1.0
_DRAIN_BYTES: Final = 64 * 1024
_ONE_PIECE_BYTES: Final = 1024 * 1024
_MAX_ADDRESSES: Final = 1_000


class ProviderResponse:
    """A response whose headers have arrived; whoever holds it must `close` or `finish` it."""

    def __init__(
        self,
        response: aiohttp.ClientResponse | HttpAnswer | CompressedAnswer,
        limits: ProviderLimits,
        errors: ProviderErrors,
        expire_time: float,
    ) -> None:
        self._response = response
        self._limits = limits
        self._errors = errors
        self._loop = asyncio.get_running_loop()
        self._expire_time = expire_time
        self._waits_since: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._read_bytes = 0
        self.status: Final = response.status
        self.content_type: Final = response.headers.get("content-type", "").lower()
        self.retry_after: Final = response.headers.get("retry-after")

    async def read_some(self) -> bytes:
        """Returns what has arrived, waiting for it if need be; empty at the end.

        Raises ProviderTimeout and ProviderUnavailable. Time counts only while waiting, so a slow consumer never makes
        a provider look stalled.
        """
        content = self._response.content
        try:
            # Most whole answers have arrived at once and need no timer.
            data = content.read_nowait() if self._watch is None else b""
            if not data and (self._watch is not None or not content.at_eof()):
                # A timer watches, which is set anew only when it fires, so that a read costs none.
                self._waits_since = self._loop.time()
                if self._watch is None:
                    self._look(content)
                data = await content.readany()
        except TimeoutError as error:
            raise self._errors.timeout("stopped in the middle of its answer") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._errors.unavailable("cut its answer short") from error
        finally:
            self._waits_since = None
        self._read_bytes += len(data)
        if self._read_bytes > self._limits.response_bytes:
            raise self._errors.unavailable("sent more than this gateway reads")
        return data

    def _look(self, content: aiohttp.StreamReader | HttpAnswer) -> None:
        """Ends a wait that has taken too long, and looks again when the present or the next one can have."""
        now = self._loop.time()
        since = now if self._waits_since is None else self._waits_since
        left_s = min(since + self._limits.stall_s, self._expire_time) - now
        if left_s > 0:
            self._watch = self._loop.call_later(left_s, self._look, content)
        elif self._waits_since is None:
            self._watch = None  # the whole call's time is up: the next read that has to wait says so
        else:
            content.set_exception(TimeoutError())

    async def read_all(self) -> bytes:
        """Returns the whole body; raises as read_some does."""
        pieces = []
        while data := await self.read_some():
            pieces.append(data)
            if self._read_bytes > self._limits.whole_bytes:
                raise self._errors.unavailable("sent more than this gateway reads")
            if self.is_at_end():
                break
        return b"".join(pieces)

    async def read_refusal(self) -> bytes:
        """Returns what can be had of a refusal's body within its small limits; never fails."""
        body = b""
        try:
            async with asyncio.timeout(self._limits.error_body_s):
                while len(body) < self._limits.error_body_bytes and (data := await self._response.content.readany()):
                    body += data
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass  # the status says enough
        return body[: self._limits.error_body_bytes]

    def close(self) -> None:
        """Closes the connection unless the body was read to its end, which has freed it for reuse."""
        if self._watch is not None:
            self._watch.cancel()
        self._response.close()

    def is_at_end(self) -> bool:
        """Tells whether the body was read to its end."""
        return self._response.content.at_eof()

    async def drain(self) -> None:
        """Reads a few bytes that should be the last, so that the connection can be reused; never fails.

        The end of a chunked body often comes in a packet of its own after the last event.
        """
        rest = 0
        try:
            async with asyncio.timeout(_DRAIN_S):
                while rest < _DRAIN_BYTES and (data := await self._response.content.readany()):
                    rest += len(data)
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass  # only the reuse is lost


class ProviderHttp:
    """Sends requests to one provider with the headers of one account; `is_trusted` as HttpPool has it."""

    def __init__(
        self,
        headers: Mapping[str, str],
        limits: ProviderLimits,
        errors: ProviderErrors,
        *,
        pool: HttpPool,
        is_trusted: bool = True,
    ) -> None:
        self._headers = CIMultiDict(headers)
        self._limits = limits
        self._errors = errors
        self._pool = pool
        self._timeout = aiohttp.ClientTimeout(total=None, connect=limits.connect_s)
        self._is_trusted = is_trusted
        self._heads = Deadlines(limits.head_s(whole=False))
        self._whole_heads = Deadlines(limits.head_s(whole=True))
        self._addresses: dict[str, PostAddress] = {}

    async def post(self, url: str, body: bytes | aiohttp.FormData, *, whole: bool = False) -> ProviderResponse:
        """Sends the body and returns once headers have arrived; raises ProviderTimeout or ProviderUnavailable.

        `whole` asks for an answer in one piece, which may take longer to begin. Cancelling closes the connection.
        """
        return await self._send("POST", url, _payload(body), whole=whole)

    async def get(self, url: str) -> ProviderResponse:
        """Asks for what is at the address, as `post` does."""
        return await self._send("GET", url, None)

    async def ask(
        self, url: str, body: bytes | aiohttp.FormData | None = None, *, whole: bool = False
    ) -> ProviderResponse:
        """Sends the body, or asks for what is at the address, and returns a response with a good status.

        Every other status is raised as the error that it means, beside what `post` raises.
        """
        response = await (self.get(url) if body is None else self.post(url, body, whole=whole))
        if 200 <= response.status < 300:
            return response
        try:
            raise self._errors.for_status(
                response.status,
                await response.read_refusal(),
                content_type=response.content_type,
                retry_after=response.retry_after,
            )
        finally:
            response.close()

    async def _send(
        self, method: str, url: str, payload: bytes | io.BytesIO | aiohttp.FormData | None, *, whole: bool = False
    ) -> ProviderResponse:
        reason = None if self._is_trusted else url_denial(url)
        if reason is not None:
            raise self._unreachable(url, reason)
        start_time = asyncio.get_running_loop().time()
        response = None
        try:
            with (self._whole_heads if whole else self._heads).limit():
                response = await self._request(method, url, payload)
        except TimeoutError as error:
            raise self._errors.timeout("did not answer in time") from error
        except (aiohttp.ClientResponseError, NotHttp):
            pass  # not chained to ours: it holds the request's headers, and with them the key
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(url, error) from error
        if response is None:
            raise self._errors.unavailable("sent an answer that is no HTTP")
        return ProviderResponse(response, self._limits, self._errors, start_time + self._limits.total_s)

    async def _request(
        self, method: str, url: str, payload: bytes | io.BytesIO | aiohttp.FormData | None
    ) -> aiohttp.ClientResponse | HttpAnswer | CompressedAnswer:
        session = self._pool.session(is_trusted=self._is_trusted)
        if type(payload) is bytes and method == "POST":
            assert session.connector is not None
            return await self._address(url).post(session.connector, payload, self._timeout)
        return await session.request(
            method, url, data=payload, headers=self._headers, allow_redirects=False, timeout=self._timeout
        )

    def _address(self, url: str) -> PostAddress:
        found = self._addresses.get(url)
        if found is None:
            if len(self._addresses) >= _MAX_ADDRESSES:
                self._addresses.clear()
            found = self._addresses[url] = PostAddress(url, self._headers, asyncio.get_running_loop())
        return found

    def _unreachable(self, url: str, reason: str | Exception) -> ProviderUnavailable:
        """Returns the error for the caller, and tells the operator why a host that he did not name is out of reach.

        The caller hears no more than that: answers that differ would make the gateway a scanner of its own network.
        """
        error = self._errors.unavailable("could not be reached")
        if not self._is_trusted:
            cause = getattr(reason, "os_error", reason)
            _logger.warning("%s Host %r: %s", error.message, _host(url), cause if _is_plain(cause) else type(cause))
        return error

    def finish(self, response: ProviderResponse) -> None:
        """Gives up a response whose meaning is complete, keeping its connection if it ends at once."""
        if response.is_at_end():
            response.close()
            return
        self._pool.drain(response, response.drain())


def checked_base_url(base_url: str) -> str:
    """Returns what paths are appended to; raises ValueError for an address that no request could be sent to."""
    url = URL(base_url)
    if url.scheme not in ("http", "https") or not url.host or url.user or url.password or url.query or url.fragment:
        raise ValueError("a provider's base URL must be http(s) with a host, without credentials, query or fragment")
    return base_url.rstrip("/")


def versioned_base_url(base_url: str, version: str) -> str:
    """Returns a checked base URL that ends with a version of the API, which vendors' own clients add to theirs."""
    base_url = checked_base_url(base_url)
    return base_url if _VERSION.search(base_url) else f"{base_url}/{version}"


def request_headers(credentials: Mapping[str, str], extra_headers: Mapping[str, str]) -> dict[str, str]:
    """Returns what every request is sent with; `extra_headers` win over ours."""
    headers = {
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",  # compression would hold chunks back
        "content-type": "application/json",
        "user-agent": "quillgate",
    }
    return headers | dict(credentials) | {header.lower(): value for header, value in extra_headers.items()}


def _host(url: str) -> str:
    try:
        return URL(url).raw_host or ""
    except ValueError:
        return ""


def _is_plain(cause: object) -> bool:
    """Tells whether a cause can be logged: an error of the HTTP client may hold the request and its key."""
    return isinstance(cause, str) or (isinstance(cause, OSError) and not isinstance(cause, aiohttp.ClientError))


def _payload(body: bytes | aiohttp.FormData) -> bytes | io.BytesIO | aiohttp.FormData:
    """Returns what aiohttp sends piece by piece, for bodies that would hold up the event loop in one piece."""
    if isinstance(body, aiohttp.FormData) or len(body) <= _ONE_PIECE_BYTES:
        return body
    return io.BytesIO(body)
