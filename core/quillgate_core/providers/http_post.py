"""Posts small bodies to one address over the HTTP client's kept connections, without its request machinery.

aiohttp builds each request anew: merges headers, wraps the body, starts a task that writes it. All requests of one
account to one address differ in their body alone, so their head is built once, and head and body go out in one write.
Connections, TLS and names stay aiohttp's.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp import http
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from quillgate_core.providers.http_answer import HttpAnswer, NotHttp

_LINE_BREAK: Final = re.compile(r"[\r\n\0]")
_MAX_CONNECTS: Final = 8
_NO_TRACES: Final[list[aiohttp.tracing.Trace]] = []


class CompressedAnswer:
    """An answer that aiohttp unpacks, which nobody asked for; whoever holds it must `close` it, and its connection."""

    def __init__(self, connection: Connection, message: http.RawResponseMessage, content: aiohttp.StreamReader) -> None:
        self.status: Final[int] = message.code
        self.headers: Final[CIMultiDictProxy[str]] = message.headers
        self.content: Final = content
        self.close: Final = connection.close


class PostAddress:
    """One address and the headers that everything is posted there with; raises ValueError for an impossible one."""

    def __init__(self, url: str, headers: Mapping[str, str], loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        # Names the connections that can be used; it is never sent itself.
        self._request = ClientRequest("POST", URL(url), loop=loop)
        fields = CIMultiDict(headers)
        fields.setdefault("host", self._request.headers["host"])
        lines = [f"POST {self._request.url.raw_path_qs} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
        if any(_LINE_BREAK.search(line) for line in lines):
            raise ValueError("a header must not contain a line break")
        self._head = "\r\n".join((*lines, "content-length: ")).encode()

    async def post(
        self, connector: aiohttp.BaseConnector, body: bytes, limits: aiohttp.ClientTimeout
    ) -> HttpAnswer | CompressedAnswer:
        """Returns the answer once its head has arrived; cancelling closes the connection.

        `limits` bound the time that connecting takes. Raises aiohttp.ClientError, OSError and TimeoutError as aiohttp
        does, and NotHttp.
        """
        connection = await self._connect(connector, limits)
        answer = HttpAnswer(connection, self._loop)
        try:
            answer.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
            return answer if await answer.read_head() else await _compressed(connection)
        except BaseException:
            answer.close()
            connection.close()
            raise

    async def _connect(self, connector: aiohttp.BaseConnector, limits: aiohttp.ClientTimeout) -> Connection:
        """Returns a connection, made or reused, on which nothing has come yet: that would be no answer to us."""
        for _ in range(_MAX_CONNECTS):
            connection = await connector.connect(self._request, _NO_TRACES, limits)
            protocol = connection.protocol
            if protocol is not None and protocol.transport is not None and not protocol.should_close:
                return connection
            connection.close()
        raise NotHttp("it speaks before it is asked")


async def _compressed(connection: Connection) -> CompressedAnswer:
    """Returns the answer that was left to aiohttp's protocol."""
    assert connection.protocol is not None
    try:
        message, content = await connection.protocol.read()
        while 100 <= message.code < 200:
            message, content = await connection.protocol.read()
    except http.HttpProcessingError as error:
        raise NotHttp(error.message) from error
    return CompressedAnswer(connection, message, content)
