"""PostgreSQL stops, the core is killed meanwhile, and both come back: every end is in the ledger as it was."""

import asyncio
import json
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from fakes.books import Books
from fakes.scripted_upstream import (
    DONE,
    RecordedRequest,
    ScriptedAnswer,
    ScriptedUpstream,
    Step,
    chat_chunk,
    json_answer,
    sse_answer,
    usage,
)
from serve_process import ServeProcess, environment, serving

from quillgate_core.storage.embedded import EmbeddedPostgres
from quillgate_core.storage.engine import make_engine

CATALOGUE = """
[providers.scripted]
base_url = "{base_url}"

[[models]]
id = "scripted/big"
context_window = 1000000
max_output_tokens = 64000
upstreams = [{{ provider = "scripted", model = "upstream-big" }}]
"""
READY = r"^Your key +\S+.*\n"
HELD_MESSAGES = 5
WHOLE = range(1, 7)


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A database server of this test alone, to be stopped and started; its path is short, as a socket's must be."""
    directory = Path(tempfile.mkdtemp(prefix="quillgate-test-"))
    with EmbeddedPostgres(directory) as server:
        yield server
    shutil.rmtree(directory)


class Provider:
    """Answers by what the message says: a number is a usage, told after `may_end`; `fail` fails then; `hang` hangs."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    def answer(self, request: RecordedRequest) -> ScriptedAnswer:
        """Answer a request."""
        said = request.json["messages"][0]["content"]
        hello = chat_chunk({"role": "assistant", "content": "Hello"})
        if said == "fail":
            refusal = json_answer(400, {"error": {"message": "no", "type": "invalid_request_error"}})
            return ScriptedAnswer(refusal.status, refusal.headers, refusal.steps, before=[self.may_end])
        if said == "hang":
            return sse_answer(hello, Step.HANG)
        told = chat_chunk(None, usage=usage(16_000 * int(said), int(said), 0))
        return sse_answer(hello, self.may_end, chat_chunk({}, finish_reason="stop"), told, DONE)


class Client:
    """Streams chats, and notes what it has heard."""

    def __init__(self, core: ServeProcess) -> None:
        self._url = f"{core.base_url}/chat/completions"
        self._headers = {"authorization": f"Bearer {core.find('Your key')}"}
        self.begun = 0
        self.heard: dict[str, bytes] = {}

    async def chat(self, said: str) -> None:
        """Hold one chat to its end, whatever that is."""
        body = {
            "model": "scripted/big",
            "messages": [{"role": "user", "content": said}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self.heard[said] = b""
        async with ClientSession(headers=self._headers) as session, session.post(self._url, json=body) as response:
            self.begun += 1
            async for line in response.content:
                self.heard[said] += line

    def usage(self, said: str) -> Any:
        """The usage that the client was shown."""
        events = [line[6:] for line in self.heard[said].split(b"\n") if line.startswith(b"data: {")]
        return json.loads(events[-1])["usage"]


async def until(condition: Callable[[], bool], *, timeout_s: float = 20) -> None:
    """Wait until the condition holds; raises TimeoutError when it does not."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.05)


async def dropped(chat: Awaitable[None]) -> None:
    """Wait for a chat whose core is killed."""
    await asyncio.gather(chat, return_exceptions=True)


@pytest.mark.slow
async def test_ends_outlive_the_core_while_the_database_is_away(server: EmbeddedPostgres, tmp_path: Path) -> None:
    """Answers that ended in the outage are settled with the usage that was shown, failures are free, the rest held."""
    provider = Provider()
    async with ScriptedUpstream(fallback=provider.answer) as upstream:
        catalogue = tmp_path / "catalogue.toml"
        catalogue.write_text(CATALOGUE.format(base_url=upstream.base_url))
        environ = environment(tmp_path, QUILLGATE_DATABASE_URL=server.url, QUILLGATE_CONFIG=str(catalogue))
        with serving(["--new-key"], environ, ready=READY) as core:
            client = Client(core)
            whole = [asyncio.create_task(client.chat(str(number))) for number in WHOLE]
            failing = asyncio.create_task(client.chat("fail"))
            hanging = asyncio.create_task(client.chat("hang"))
            await upstream.wait_for_requests(len(WHOLE) + 2)
            await until(lambda: client.begun == len(WHOLE) + 1)
            await asyncio.to_thread(server.stop)
            provider.may_end.set()
            await asyncio.gather(*whole, failing)
            core.process.send_signal(signal.SIGKILL)
            core.process.wait(10)
            await dropped(hanging)
        await asyncio.to_thread(server.start)
        (journal,) = (tmp_path / "journal").iterdir()
        assert len(journal.read_bytes().splitlines()) == len(WHOLE) + 1
        books = Books(make_engine(server.url))
        with serving(["--new-key"], environ, ready=READY):
            await until(lambda: "open" not in books.states())
            await until(lambda: not journal.exists())
    rows = books.read("SELECT state, counted_messages, prompt_tokens, completion_tokens, usage_source FROM ledger")
    charged = [(number + 1, 16_000 * number, number) for number in WHOLE]
    assert sorted(map(tuple, rows)) == sorted(
        [("settled", *charge, "provider") for charge in charged]
        + [("released", 0, 0, 0, ""), ("recovered", HELD_MESSAGES, 0, 0, "hold")]
    )
    for number in WHOLE:
        assert client.heard[str(number)].endswith(DONE)
        assert client.usage(str(number))["prompt_tokens"] == 16_000 * number
    books.check()
    books.engine.dispose()
    assert list((tmp_path / "journal").iterdir()) == []


@pytest.mark.slow
async def test_a_core_that_stops_in_the_outage_leaves_its_ends_to_the_next(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    """Stopped in order while the database is away, a core does not wait for ever; what it had to leave lands later."""
    provider = Provider()
    async with ScriptedUpstream(fallback=provider.answer) as upstream:
        catalogue = tmp_path / "catalogue.toml"
        catalogue.write_text(CATALOGUE.format(base_url=upstream.base_url))
        environ = environment(tmp_path, QUILLGATE_DATABASE_URL=server.url, QUILLGATE_CONFIG=str(catalogue))
        with serving(["--new-key"], environ, ready=READY) as core:
            client = Client(core)
            whole = [asyncio.create_task(client.chat(str(number))) for number in WHOLE]
            await until(lambda: client.begun == len(WHOLE))
            await asyncio.to_thread(server.stop)
            provider.may_end.set()
            await asyncio.gather(*whole)
            assert await asyncio.to_thread(core.stop, timeout_s=30) == 0
        (journal,) = (tmp_path / "journal").iterdir()
        await asyncio.to_thread(server.start)
        books = Books(make_engine(server.url))
        assert books.states() == {"open": len(WHOLE)}
        with serving(["--new-key"], environ, ready=READY):
            await until(lambda: not journal.exists())
    assert books.states() == {"settled": len(WHOLE)}
    assert books.read("SELECT message_count FROM daily_message_count") == [(sum(number + 1 for number in WHOLE),)]
    books.check()
    books.engine.dispose()
