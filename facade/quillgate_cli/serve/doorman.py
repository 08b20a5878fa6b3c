"""Accepts clients' connections and passes them to workers in turn, so that each has as many as the others.

A connection goes over the worker's Unix socket as one byte with the descriptor beside it.
"""

import logging
import socket
from collections import deque
from collections.abc import Iterable

from quillgate_facade.accepting import Acceptor

logger = logging.getLogger(__name__)


class Doorman:
    """Serves the bound sockets from `open` to `close`; workers come and go with `add` and `remove`."""

    def __init__(self, sockets: Iterable[socket.socket]) -> None:
        self._workers: deque[socket.socket] = deque()
        # Without workers, connections wait in the kernel until somebody serves.
        self._acceptor = Acceptor(sockets, self._pass_on, lambda: bool(self._workers))

    def open(self) -> None:
        """Begins to listen; raises OSError when another service was faster."""
        self._acceptor.open()

    def close(self) -> None:
        """Passes on what has come already, and then accepts nothing more; a second call does nothing."""
        self._acceptor.close()

    def add(self, worker: socket.socket) -> None:
        """From now on passes connections to this worker too."""
        worker.setblocking(False)
        self._workers.append(worker)

    def remove(self, worker: socket.socket) -> None:
        """Passes nothing more to this worker."""
        if worker in self._workers:
            self._workers.remove(worker)

    def _pass_on(self, connection: socket.socket) -> bool:
        """Gives the connection to the worker whose turn it is, or to the next one that takes it."""
        with connection:
            for _ in range(len(self._workers)):
                worker = self._workers[0]
                self._workers.rotate(-1)
                try:
                    socket.send_fds(worker, [b"c"], [connection.fileno()])
                except OSError:  # it is dead, or has not taken hundreds yet
                    continue
                return True
        logger.warning("no worker takes connections; one was closed")
        return False
