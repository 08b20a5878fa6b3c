"""The process's connections to providers, kept and reused, for all of them and for every key.

A host that the operator named is trusted: it may be plain http and have a private address. Any other may not, which is
checked on the address that is connected to, when it is connected to: there is no second look-up that could answer
differently. The two kinds have sessions of their own and so share no connection. Neither ever follows a redirect or
looks at proxies of the environment.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver

from quillgate_core.providers.address_guard import denial
from quillgate_core.providers.name_resolver import NameResolver

_DNS_CACHE_S: Final = 60

Deny = Callable[[str], str | None]
"""Says why an address must not be connected to, None if it may."""


class Closable(Protocol):
    """A response, as far as it is known here."""

    def close(self) -> None:
        """Gives its connection up, unless it was read to its end."""


class AddressDenied(OSError):
    """A host that is not trusted has an address that must not be connected to."""


class HttpPool:
    """The sessions, made at the first request in the loop that runs then; `close` ends them.

    `resolver` makes what looks names up, `deny` judges the addresses of hosts that are not trusted, and `certificates`
    are whom to believe, None for the system's; arguments, so that a test can bring a small internet of its own.
    """

    def __init__(
        self,
        *,
        resolver: Callable[[], AbstractResolver] = NameResolver,
        deny: Deny = denial,
        certificates: ssl.SSLContext | None = None,
    ) -> None:
        self._resolver = resolver
        self._deny = deny
        self._certificates = certificates
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._resolvers: list[AbstractResolver] = []
        self._drains: set[asyncio.Task[None]] = set()

    def session(self, *, is_trusted: bool) -> aiohttp.ClientSession:
        """Returns the session for hosts that the operator named, or the one for all others."""
        session = self._sessions.get(is_trusted)
        if session is None:
            session = self._sessions[is_trusted] = self._open(is_trusted)
        return session

    def drain(self, response: Closable, reading: Any) -> None:
        """Runs `reading`, which should find the end of the response soon, and closes the response after it."""
        task = asyncio.get_running_loop().create_task(reading)
        self._drains.add(task)
        # A callback, because a task that is cancelled before it starts runs no `finally` of its own.
        task.add_done_callback(partial(self._end_drain, response))

    async def close(self) -> None:
        """Closes every connection. Nothing may be under way."""
        for task in self._drains:
            task.cancel()
        await asyncio.gather(*self._drains, return_exceptions=True)
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        for resolver in self._resolvers:
            await resolver.close()
        self._resolvers.clear()

    def _end_drain(self, response: Closable, task: asyncio.Task[None]) -> None:
        self._drains.discard(task)
        response.close()

    def _open(self, is_trusted: bool) -> aiohttp.ClientSession:
        resolver = self._resolver()
        self._resolvers.append(resolver)
        return aiohttp.ClientSession(
            # No limit on connections: how many requests run at once is decided before a provider is asked.
            connector=aiohttp.TCPConnector(
                limit=0,
                ttl_dns_cache=_DNS_CACHE_S,
                resolver=resolver,
                ssl=self._certificates or True,
                socket_factory=None if is_trusted else partial(guarded_socket, self._deny),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )


def guarded_socket(deny: Deny, address: tuple[Any, ...]) -> socket.socket:
    """Makes the socket for one address that a host resolved to; raises AddressDenied, before anything is sent."""
    family, kind, protocol, _, socket_address = address
    reason = deny(str(socket_address[0]))
    if reason is not None:
        raise AddressDenied(f"its address {socket_address[0]} is {reason}")
    return socket.socket(family, kind, protocol)
