"""A server that writes bytes as they are told, HTTP or not, to whoever has sent it a request."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from fakes.scripted_upstream import BodyStep, Step


class RawUpstream:
    """Answers every request with the same bytes; an async context manager."""

    def __init__(self, steps: Sequence[BodyStep]) -> None:
        self._steps = steps
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests = 0
        self.base_url = ""

    async def __aenter__(self) -> "RawUpstream":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._handle(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                self.requests += 1
                for step in self._steps:
                    await self._perform(step, writer)
        finally:
            writer.close()

    @staticmethod
    async def _perform(step: BodyStep, writer: asyncio.StreamWriter) -> None:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, float | int):
            await asyncio.sleep(step)
        elif step is Step.HANG:
            await asyncio.Event().wait()
        elif step is Step.RESET:
            # A linger time of zero makes the close a TCP reset.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
