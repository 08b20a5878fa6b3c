"""Takes clients' connections from listening sockets, many in a turn of the event loop.

The event loop's own server accepts one in a turn. A busy loop turns some two hundred times a second, so that a crowd
would wait for seconds, or time out, before anybody could tell it to come back later. Knows nothing of HTTP.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable

BACKLOG = 4096
"""How many connections the kernel keeps for each socket until they are accepted; it has a limit of its own."""

_MOST_AT_ONCE = 128
_PAUSE_S = 0.05
_SILENCE_S = 10.0  # after a trouble was logged

logger = logging.getLogger(__name__)


class Acceptor:
    """Gives connections of the bound sockets to `give`, from `open` to `close`.

    `give` owns what it is given. When it returns False, or while `is_ready` does, others wait in the kernel a moment.
    """

    def __init__(
        self,
        sockets: Iterable[socket.socket],
        give: Callable[[socket.socket], bool],
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self._sockets = list(sockets)
        self._give = give
        self._is_ready = is_ready
        self._silence_time = 0.0

    def open(self) -> None:
        """Begins to listen; raises OSError when another service was faster."""
        for listening in self._sockets:
            listening.setblocking(False)
            listening.listen(BACKLOG)
            self._watch(listening)

    def close(self) -> None:
        """Takes what has come already, and then nothing more; a second call does nothing."""
        for listening in self._sockets:
            if listening.fileno() >= 0:
                for _ in range(BACKLOG // _MOST_AT_ONCE):  # what comes meanwhile must not keep this from its end
                    if not self._accept(listening):
                        break
                asyncio.get_running_loop().remove_reader(listening)
                listening.close()

    def _watch(self, listening: socket.socket) -> None:
        """Takes what is there and goes on when more comes. The kernel does not call for what `give` refused."""
        if listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)
            self._accept(listening)

    def _accept(self, listening: socket.socket) -> bool:
        """Takes some of what waits; tells whether there may be more."""
        for _ in range(_MOST_AT_ONCE):
            if not self._is_ready():
                return self._rest(listening)
            try:
                connection, _address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._log(error)
                return self._rest(listening)
            if not self._give(connection):
                return self._rest(listening)
        return True

    def _log(self, error: OSError) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._silence_time:
            self._silence_time = now + _SILENCE_S
            logger.error("no connection can be accepted for now: %s", error.strerror)

    def _rest(self, listening: socket.socket) -> bool:
        """Looks again in a moment."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(_PAUSE_S, self._watch, listening)
        return False


class Beginnings:
    """Makes protocols of connections that were accepted, in the running event loop."""

    def __init__(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self._factory = factory
        self._tasks: set[asyncio.Task[object]] = set()

    def begin(self, connection: socket.socket) -> bool:
        """Takes a connection over; its protocol is there some turns later, unless the client has left by then."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        task: asyncio.Task[object] = loop.create_task(loop.connect_accepted_socket(self._factory, connection))
        self._tasks.add(task)
        task.add_done_callback(self._begun)
        return True

    def _begun(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a client that left in between is no event
