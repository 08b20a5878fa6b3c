"""A core that dies in the middle of an answer: its hold is charged, and becomes what OpenRouter tells later."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psycopg
import pytest
from fakes.scripted_upstream import (
    RecordedRequest,
    ScriptedAnswer,
    ScriptedUpstream,
    Step,
    chat_chunk,
    json_answer,
    sse_answer,
)
from serve_process import ServeProcess, environment, serving

CATALOGUE = """
[providers.openrouter]
base_url = "{base_url}"
api_key_env = "HOUSE_KEY"

[[models]]
id = "scripted/routed"
context_window = 128000
max_output_tokens = 64000
upstreams = [{{ provider = "openrouter", model = "some/model" }}]
"""
READY = r"^Your key +\S+.*\n"


def record(request: RecordedRequest) -> ScriptedAnswer:
    """OpenRouter's record of the answer."""
    if (request.path, request.query) != ("/v1/generation", "id=gen-1"):
        return json_answer(404, {"error": {"message": "No such path.", "code": 404}})
    tokens = {"native_tokens_prompt": 100, "native_tokens_cached": 0, "native_tokens_completion": 7}
    return json_answer(200, {"data": {"id": "gen-1", **tokens, "total_cost": 0.0055}})


@asynccontextmanager
async def hearing(core: ServeProcess) -> AsyncIterator[None]:
    """Reads a stream until it says something, and stays."""
    body = {"model": "scripted/routed", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    headers = {"authorization": f"Bearer {core.find('Your key')}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{core.base_url}/chat/completions", json=body) as response,
    ):
        while b"Hello" not in await response.content.readline():
            pass
        yield


async def wait_for(connection: psycopg.AsyncConnection[tuple[object, ...]], query: str, *, timeout_s: float) -> None:
    """Waits until the query finds a row."""
    async with asyncio.timeout(timeout_s):
        while await (await connection.execute(query)).fetchone() is None:
            await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_crash_is_corrected(database_url: str, tmp_path: Path) -> None:
    """Killed after the first words: the restarted core charges the hold at once, then learns the truth of the rest."""
    async with ScriptedUpstream(fallback=record) as upstream:
        upstream.script(sse_answer(chat_chunk({"role": "assistant", "content": "Hello"}, id="gen-1"), Step.HANG))
        catalogue = tmp_path / "catalogue.toml"
        catalogue.write_text(CATALOGUE.format(base_url=upstream.base_url))
        settings = {"QUILLGATE_DATABASE_URL": database_url, "QUILLGATE_CONFIG": str(catalogue), "HOUSE_KEY": "sk-or"}
        environ = environment(tmp_path, **settings)
        connection = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
        async with connection:
            with serving(["--new-key"], environ, ready=READY) as core:
                async with hearing(core):
                    noted = "SELECT FROM ledger WHERE state = 'open' AND upstream_request_id = 'gen-1'"
                    await wait_for(connection, noted, timeout_s=5)
                    core.process.send_signal(signal.SIGKILL)
                    core.process.wait(10)
            with serving(["--new-key"], environ, ready=READY):
                await wait_for(connection, "SELECT FROM ledger WHERE state = 'recovered'", timeout_s=10)
                # What the provider's first 5 s would bring.
                await connection.execute("UPDATE ledger SET settle_time = settle_time - interval '6 s'")
                held = await (await connection.execute("SELECT message_count FROM daily_message_count")).fetchone()
                assert held == (5,)
                await wait_for(connection, "SELECT FROM ledger_adjustments", timeout_s=25)
            columns = (
                "message_count, held_messages, input_tokens, output_tokens, request_count, cost_picodollars::bigint"
            )
            day = await (await connection.execute(f"SELECT {columns} FROM daily_message_count")).fetchone()
    assert day == (1, 0, 100, 7, 1, 5_500_000_000)
