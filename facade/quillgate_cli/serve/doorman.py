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
        self._kept: socket.socket | None = None  # was accepted, and no worker has taken it yet
        self._acceptor = Acceptor(sockets, self._pass_on, self._pass_on_kept)

    def open(self) -> None:
        """Begins to listen; raises OSError when another service was faster."""
        self._acceptor.open()

    def close(self) -> None:
        """Passes on what has come already, and then accepts nothing more; a second call does nothing."""
        self._acceptor.close()
        if self._kept is not None:
            logger.warning("no worker takes connections; one was closed")
            self._kept.close()
            self._kept = None

    def add(self, worker: socket.socket) -> None:
        """From now on passes connections to this worker too."""
        worker.setblocking(False)
        self._workers.append(worker)

    def remove(self, worker: socket.socket) -> None:
        """Passes nothing more to this worker."""
        if worker in self._workers:
            self._workers.remove(worker)

    def _pass_on_kept(self) -> bool:
        """Passes on what was kept, which comes before others; False while nobody takes it or nobody is there."""
        kept, self._kept = self._kept, None
        return bool(self._workers) if kept is None else self._pass_on(kept)

    def _pass_on(self, connection: socket.socket) -> bool:
        """Gives the connection to the worker whose turn it is, or to the next one that takes it; or else keeps it."""
        for _ in range(len(self._workers)):
            worker = self._workers[0]
            self._workers.rotate(-1)
            try:
                socket.send_fds(worker, [b"c"], [connection.fileno()])
            except OSError:  # it is dead, or has not taken hundreds yet
                continue
            connection.close()
            return True
        self._kept = connection
        return False
