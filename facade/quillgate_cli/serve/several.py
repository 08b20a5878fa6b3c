"""Runs the service in several processes behind the same ports, and stays their parent.

What exists once is the parent's: the ports, the embedded database, migrations and first secrets. Each worker is a whole
service of its own, with its own writer, lease and journal, as another replica would be; they meet in the database.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from quillgate_cli.serve.doorman import Doorman
from quillgate_cli.serve.new_keys import NewKeys
from quillgate_cli.serve.opening import database_of
from quillgate_cli.serve.ports import grpc_port, rest_port
from quillgate_cli.serve.supervisor import Supervisor
from quillgate_cli.serve.worker_link import WorkerLink
from quillgate_core.config import Config
from quillgate_facade.config import FacadeConfig


def all_in_one(new_keys: NewKeys, workers: int) -> int:
    """Runs workers with facade and core until a signal comes, and returns the exit code."""
    config, facade = Config.from_environ(os.environ), FacadeConfig.from_environ(os.environ)
    with ExitStack() as stack:
        address = stack.enter_context(grpc_port(config.grpc_address))
        sockets = stack.enter_context(rest_port(facade.host, facade.port))
        database = stack.enter_context(database_of(config, cores=workers))
        settings = {
            "QUILLGATE_GRPC_ADDRESS": address,
            "QUILLGATE_DATABASE_URL": database.url,
            "QUILLGATE_FACADE_PORT": str(sockets[0].getsockname()[1]),
        }
        database.engine.dispose()  # the parent asks nothing more
        return _supervise(["all"], settings, Doorman(sockets), new_keys, workers, facade.unready_s)


def core_alone(new_keys: NewKeys, workers: int) -> int:
    """Runs workers with core until a signal comes, and returns the exit code."""
    config = Config.from_environ(os.environ)
    with grpc_port(config.grpc_address) as address, database_of(config, cores=workers) as database:
        settings = {"QUILLGATE_GRPC_ADDRESS": address, "QUILLGATE_DATABASE_URL": database.url}
        database.engine.dispose()
        return _supervise(["core"], settings, Doorman(()), new_keys, workers, 0.0)


def facade_alone(target: str, workers: int) -> int:
    """Runs workers with the facade until a signal comes, and returns the exit code."""
    config = FacadeConfig.from_environ(os.environ)
    with rest_port(config.host, config.port) as sockets:
        settings = {"QUILLGATE_FACADE_PORT": str(sockets[0].getsockname()[1])}
        return _supervise(["facade", target], settings, Doorman(sockets), NewKeys(), workers, config.unready_s)


def _supervise(
    shape: Sequence[str],
    settings: Mapping[str, str],
    doorman: Doorman,
    new_keys: NewKeys,
    workers: int,
    unready_s: float,
) -> int:
    async def run() -> int:
        start = partial(_start, shape, os.environ | settings)
        announcement = " ".join(["announce", *new_keys.words()])
        supervisor = Supervisor(start, doorman, count=workers, announcement=announcement, unready_s=unready_s)
        return await supervisor.run()

    return asyncio.run(run())


async def _start(shape: Sequence[str], environ: Mapping[str, str], number: int) -> WorkerLink:
    return await WorkerLink.start([str(number), *shape], environ)
