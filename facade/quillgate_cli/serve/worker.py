"""One of several processes that serve behind the same ports; `worker_link.py` starts it and says what it hears.

    python -m quillgate_cli.serve.worker WORDS CONNECTIONS NUMBER all|core|facade [TARGET]

The first two are descriptors of Unix sockets. Everything else comes from the environment, as for a service alone.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable

import uvloop

from quillgate_cli.serve.announcement import say
from quillgate_cli.serve.guard import guarded
from quillgate_cli.serve.new_keys import NewKeys
from quillgate_cli.serve.opening import database_of
from quillgate_cli.serve.services import AllInOne, CoreAlone, FacadeAlone, Service, freeze
from quillgate_cli.serve.stop import Stop
from quillgate_core.config import Config
from quillgate_facade.config import FacadeConfig


def main(arguments: list[str]) -> int:
    """Runs until the parent says so, or is gone, and returns the exit code."""
    words, connections, number, shape, *target = arguments
    run = _core if shape in ("all", "core") else _facade
    with socket.socket(fileno=int(words)) as parent, socket.socket(fileno=int(connections)) as passed:
        return guarded(lambda: run(parent, passed, [shape, *target]), name=f"worker {number}")


def _core(parent: socket.socket, passed: socket.socket, shape: list[str]) -> int:
    config = Config.from_environ(os.environ)
    facade_config = FacadeConfig.from_environ(os.environ) if shape == ["all"] else None
    with database_of(config) as database:

        def make() -> Service:
            if facade_config is None:
                return CoreAlone(config, database, shares_port=True)
            return AllInOne(config, facade_config, database, passed)

        uvloop.run(_work(make, parent, config.drain_s))
    return 0


def _facade(parent: socket.socket, passed: socket.socket, shape: list[str]) -> int:
    config = FacadeConfig.from_environ(os.environ)
    uvloop.run(_work(lambda: FacadeAlone(config, shape[1], passed), parent, config.drain_timeout_s))
    return 0


async def _work(make: Callable[[], Service], parent: socket.socket, drain_s: float) -> None:
    stop = Stop(drain_s)
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
        await service.stop(stop.drain_s)


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
