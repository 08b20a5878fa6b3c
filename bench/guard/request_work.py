"""What one request costs the whole service: facade, in-process channel, core and the ledger's writer, all real.

Only the client, the provider and PostgreSQL are elsewhere. Figures are medians of several requests, since once a second
a chore of the service gets in between.
"""

import asyncio
import gc
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from one_request import TIMEOUT_S, Conversation, provider_socket
from work_counter import Work, WorkCounter

from quillgate_core.app import Core
from quillgate_core.config import Config
from quillgate_core.storage.database import Database
from quillgate_facade.app import build_app, serve
from quillgate_facade.config import FacadeConfig

REQUESTS = 9
CHUNKS = 20
WRITER_THREAD = "quillgate-writer"

CATALOGUE = """
[providers.guard]
base_url = "http://127.0.0.1:{port}/v1"

[[models]]
id = "guard/model"
context_window = 128000
max_output_tokens = 8192
upstreams = [{{ provider = "guard", model = "mock" }}]
"""


@dataclass
class Running:
    """A service that runs in a thread of its own."""

    loop: asyncio.AbstractEventLoop
    port: int
    key: str
    stop: asyncio.Event


def request_work(counter: WorkCounter) -> dict[str, Work]:
    """Returns the work of a request and of a chunk."""
    with (
        provider_socket() as provider,
        tempfile.TemporaryDirectory(prefix="quillgate-guard-") as folder,
        _service(Path(folder), provider.getsockname()[1], counter) as running,
    ):
        conversation = Conversation(running.loop, running.port, provider, running.key)
        try:
            return _measure(counter, conversation)
        finally:
            conversation.close()


def _measure(counter: WorkCounter, conversation: Conversation) -> dict[str, Work]:
    whole = _median(counter, conversation.whole)
    empty = _median(counter, lambda: conversation.stream(0))
    slow = _median(counter, lambda: conversation.stream(CHUNKS))
    fast = _median(counter, lambda: conversation.stream(CHUNKS, at_once=True))
    return {
        "request: whole answer": whole,
        "request: stream without its chunks": empty,
        "request: chunk that comes alone": (slow - empty) / CHUNKS,
        "request: chunk that comes with others": (fast - empty) / CHUNKS,
    }


def _median(counter: WorkCounter, request: Callable[[], None]) -> Work:
    works = []
    for number in range(REQUESTS + 2):
        counter.begin()
        request()
        if number >= 2:  # the first ones fill caches
            works.append(counter.end())
    return Work(statistics.median(work.instructions for work in works), statistics.median(work.calls for work in works))


@contextmanager
def _service(folder: Path, provider_port: int, counter: WorkCounter) -> Iterator[Running]:
    """Runs the service, watched, for the time of a block."""
    catalogue = folder / "models.toml"
    catalogue.write_text(CATALOGUE.format(port=provider_port))
    config = Config.from_environ(
        {
            "QUILLGATE_CONFIG": str(catalogue),
            "QUILLGATE_DATA_DIR": str(folder / "data"),
            "QUILLGATE_GRPC_ADDRESS": "127.0.0.1:0",
        }
    )
    started: list[Running] = []
    is_up = threading.Event()

    async def run(database: Database) -> None:
        counter.hook_new_threads()
        core = Core(config, database)
        await core.start()
        counter.leave_new_threads()
        server = await serve(build_app(core.channel, FacadeConfig(port=0)))
        core.keys.bootstrap()
        key = await core.issue_key("guard")
        started.append(Running(asyncio.get_running_loop(), server.port, key, asyncio.Event()))
        counter.hook()
        is_up.set()
        await started[0].stop.wait()
        counter.unhook()
        await server.stop(1)
        await core.stop(1)

    with Database("", data_dir=config.data_dir) as database:
        thread = threading.Thread(target=lambda: uvloop.run(run(database)), name="service", daemon=True)
        thread.start()
        if not is_up.wait(TIMEOUT_S):
            raise TimeoutError("the service does not start")
        _watch(counter, thread)
        gc.disable()
        try:
            yield started[0]
        finally:
            gc.enable()
            started[0].loop.call_soon_threadsafe(started[0].stop.set)
            thread.join(TIMEOUT_S)


def _watch(counter: WorkCounter, service: threading.Thread) -> None:
    """Counts the event loop's thread and the ledger writer's."""
    writers = [thread for thread in threading.enumerate() if thread.name == WRITER_THREAD]
    if len(writers) != 1:
        raise LookupError(f"{len(writers)} threads are named {WRITER_THREAD}; the guard must know the ledger's writer")
    for thread in (service, *writers):
        assert thread.ident is not None
        counter.watch(thread.ident)
