"""A worker as its parent sees it: a process, words back and forth, and a way for connections.

The parent says `announce …`, `terminate` and `interrupt`, the worker `ready` and `announced`, a line each. When one of
the two dies, the other reads the end.
"""

import asyncio
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from typing import Self

_MODULE = "quillgate_cli.serve.worker"


class WorkerLink:
    """One worker; made by `start`, over when `ended` has returned."""

    def __init__(
        self, process: Process, words: tuple[asyncio.StreamReader, asyncio.StreamWriter], connections: socket.socket
    ) -> None:
        self.connections = connections
        self._process = process
        self._reader, self._writer = words

    @classmethod
    async def start(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> Self:
        """Starts a fresh interpreter: gRPC does not survive a fork. Raises OSError when the system cannot.

        It is in a session of its own, where a Ctrl-C in our terminal reaches us alone.
        """
        ours, theirs = socket.socketpair()
        connections, their_connections = socket.socketpair()
        with theirs, their_connections:
            descriptors = (theirs.fileno(), their_connections.fileno())
            command = [sys.executable, "-P", "-m", _MODULE, *map(str, descriptors), *arguments]
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, env=environ, stdin=DEVNULL, pass_fds=descriptors, start_new_session=True
                )
            except BaseException:
                ours.close()
                connections.close()
                raise
        return cls(process, await asyncio.open_unix_connection(sock=ours), connections)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def say(self, line: str) -> None:
        """Tells it something; a dead one does not hear it."""
        self._writer.write(f"{line}\n".encode())

    async def says(self, word: str) -> bool:
        """Returns when it has said the word, or False when it died before."""
        try:
            return await self._reader.readline() == f"{word}\n".encode()
        except ConnectionError:
            return False

    async def ended(self) -> int:
        """Returns its exit code when it is gone: minus the signal that killed it."""
        code = await self._process.wait()
        self._writer.close()
        self.connections.close()
        return code

    def kill(self) -> None:
        """Ends it at once."""
        if self._process.returncode is None:
            self._process.kill()
