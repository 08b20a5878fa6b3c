"""Accepts clients' connections and passes them to workers in turn, so that each has as many as the others.

A connection goes over the worker's Unix socket as one byte with the descriptor beside it.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Iterable

_BACKLOG = 1024
_MOST_AT_ONCE = 64
_PAUSE_S = 0.05

logger = logging.getLogger(__name__)


class Doorman:
    """Serves the bound sockets from `open` to `close`; workers come and go with `add` and `remove`."""

    def __init__(self, sockets: Iterable[socket.socket]) -> None:
        self._sockets = list(sockets)
        self._workers: deque[socket.socket] = deque()

    def open(self) -> None:
        """Begins to listen; raises OSError when another service was faster."""
        for listening in self._sockets:
            listening.setblocking(False)
            listening.listen(_BACKLOG)
            self._watch(listening)

    def close(self) -> None:
        """Accepts nothing more; a second call does nothing."""
        for listening in self._sockets:
            if listening.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(listening)
                listening.close()

    def add(self, worker: socket.socket) -> None:
        """From now on passes connections to this worker too."""
        worker.setblocking(False)
        self._workers.append(worker)

    def remove(self, worker: socket.socket) -> None:
        """Passes nothing more to this worker."""
        if worker in self._workers:
            self._workers.remove(worker)

    def _watch(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_MOST_AT_ONCE):
            if not self._workers:
                return self._rest(listening)  # connections wait in the kernel until somebody serves
            try:
                connection, _address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return None
            except OSError as error:
                logger.error("no connection can be accepted for now: %s", error.strerror)
                return self._rest(listening)
            with connection:
                if not self._pass_on(connection):
                    logger.warning("no worker takes connections; one was closed")
                    return self._rest(listening)
        return None

    def _pass_on(self, connection: socket.socket) -> bool:
        """Gives the connection to the worker whose turn it is, or to the next one that takes it."""
        for _ in range(len(self._workers)):
            worker = self._workers[0]
            self._workers.rotate(-1)
            try:
                socket.send_fds(worker, [b"c"], [connection.fileno()])
            except OSError:  # it is dead, or has not taken hundreds yet
                continue
            return True
        return False

    def _rest(self, listening: socket.socket) -> None:
        """Looks again in a moment."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(_PAUSE_S, self._watch, listening)
