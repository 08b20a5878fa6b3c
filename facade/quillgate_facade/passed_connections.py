"""Client connections that another process accepts and passes on, for one of several processes behind one port.

Each comes over a Unix socket as one byte with the connection's descriptor beside it. Knows nothing of HTTP.
"""

import asyncio
import os
import socket
from collections.abc import Callable

from quillgate_facade.accepting import Beginnings

_MOST_AT_ONCE = 64


class PassedConnections:
    """Takes connections from `source` instead of listening, from `open` to `close`; it closes `source`."""

    def __init__(self, source: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        self._source = source
        self._beginnings = Beginnings(factory)

    def open(self) -> None:
        """Begins to take connections; to be called in the event loop that serves them."""
        self._source.setblocking(False)
        asyncio.get_running_loop().add_reader(self._source, self._take)

    def close(self) -> None:
        """Takes what was passed on already, and then nothing more; a second call does nothing."""
        while self._is_open() and self._take():
            pass
        self._end()

    def _is_open(self) -> bool:
        return self._source.fileno() >= 0

    def _end(self) -> None:
        if self._is_open():
            asyncio.get_running_loop().remove_reader(self._source)
            self._source.close()

    def _take(self) -> bool:
        """Takes some of what waits; tells whether there may be more."""
        for _ in range(_MOST_AT_ONCE):
            try:
                byte, descriptors, _, _ = socket.recv_fds(self._source, 1, 1)
            except BlockingIOError:
                return False
            except OSError:
                byte, descriptors = b"", []
            for descriptor in descriptors:
                self._begin(descriptor)
            if not byte:
                self._end()
                return False
        return True

    def _begin(self, descriptor: int) -> None:
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:  # the client has gone already
            os.close(descriptor)
            return
        self._beginnings.begin(connection)
