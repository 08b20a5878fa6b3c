"""Looks the hosts of providers up, for one session of connections: bounded in time, and apart from everybody else.

Some hosts are brought by workspaces, and their name servers may never answer. The system's look-up cannot be stopped,
so it runs in threads of this resolver alone, and a host that was found before stays found while it cannot be looked up.
It must not judge an address: that is done where it is connected to.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

LOOK_UP_S: Final = 4.0
"""Less than the time to connect, so that an old answer can still be used."""

MAX_THREADS: Final = 32
MAX_ADDRESSES: Final = 16
MAX_KNOWN_HOSTS: Final = 1_024

LookUp = Callable[..., Sequence[tuple[Any, ...]]]


class NameResolver(AbstractResolver):
    """The system's look-up; `look_up_s` bounds each, `look_up` answers as socket.getaddrinfo does."""

    def __init__(self, *, look_up: LookUp = socket.getaddrinfo, look_up_s: float = LOOK_UP_S) -> None:
        self._getaddrinfo = look_up
        self._look_up_s = look_up_s
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="quillgate-names")
        self._known: OrderedDict[tuple[str, int], list[ResolveResult]] = OrderedDict()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Returns the addresses of a host, at least one; raises OSError."""
        key = (host, port)
        try:
            found = await self._look_up(host, port, family)
        except OSError:
            if key not in self._known:
                raise
            return self._known[key]
        self._known[key] = found
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN_HOSTS:
            self._known.popitem(last=False)
        return found

    async def close(self) -> None:
        """Waits for nothing: a look-up that is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, host: str, port: int, family: int) -> list[ResolveResult]:
        call = partial(self._getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        try:
            async with asyncio.timeout(self._look_up_s):
                answers = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError:
            raise OSError("the name was not looked up in time") from None
        except UnicodeError:
            raise OSError("the name cannot be looked up") from None
        if not answers:
            raise OSError("the name has no address")
        return [_result(host, answer) for answer in answers[:MAX_ADDRESSES]]


def _result(host: str, answer: tuple[Any, ...]) -> ResolveResult:
    family, _, protocol, _, address = answer
    zone = f"%{address[3]}" if len(address) > 3 and address[3] else ""
    return ResolveResult(
        hostname=host,
        host=address[0].partition("%")[0] + zone,
        port=address[1],
        family=family,
        proto=protocol,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
