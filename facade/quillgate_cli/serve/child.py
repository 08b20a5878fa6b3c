"""A service that does what its parent says, and ends when the parent is gone."""

import asyncio
import socket
from collections.abc import Callable

import uvloop

from quillgate_cli.serve.announcement import say
from quillgate_cli.serve.new_keys import NewKeys
from quillgate_cli.serve.services import Service, freeze
from quillgate_cli.serve.stop import Stop


def run_under(parent: socket.socket, make: Callable[[], Service], unready_s: float, drain_s: float) -> None:
    """Runs a service until the parent at the other end of the socket says so, or has died, or a signal comes."""
    uvloop.run(_work(parent, make, unready_s, drain_s))


async def _work(parent: socket.socket, make: Callable[[], Service], unready_s: float, drain_s: float) -> None:
    stop = Stop(unready_s, drain_s)
    stop.listen(insist=False)
    reader, writer = await asyncio.open_unix_connection(sock=parent)
    service = make()
    try:
        await service.start()
        freeze()
        writer.write(b"ready\n")
        obeying = asyncio.create_task(_obey(service, stop, reader, writer))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({obeying, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if obeying.done():
            obeying.result()
    finally:
        await service.stop(stop)


async def _obey(service: Service, stop: Stop, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Does what the parent says; a parent that is gone is one that wants no more."""
    while words := await _words(reader):
        match words[0]:
            case "announce":
                say(*await service.announcement(NewKeys.of(words[1:])))
                writer.write(b"announced\n")
            case "interrupt":
                stop.interrupt()
            case _:
                stop.terminate()
    stop.interrupt()


async def _words(reader: asyncio.StreamReader) -> list[str]:
    try:
        return (await reader.readline()).decode().split()
    except ConnectionError:
        return []
