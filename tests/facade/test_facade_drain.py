"""How the facade stops behind a load balancer: first unready, then closed, and no client is cut while it asks."""

import asyncio
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientSession
from fakes.facade_site import StartFacade, client_of, config
from fakes.fake_core import FakeCore, chunk, first, last

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**BODY, "stream": True}


async def status_of(http: ClientSession, path: str) -> tuple[int, str]:
    """The status of an answer, and what its head says of the connection."""
    async with http.get(path) as answer:
        return answer.status, answer.headers.get("connection", "")


async def test_an_unready_facade_still_takes_everything(core: FakeCore, start: StartFacade) -> None:
    """While a balancer has not noticed, new connections are served, and told that they end; then none are taken."""
    facade = await start(config())
    stopping = asyncio.ensure_future(facade.stop(unready_s=1.0))
    await asyncio.sleep(0.05)
    async with client_of(facade) as http:
        assert await status_of(http, "/readyz") == (503, "close")
        async with http.post(CHAT, json=BODY) as answer:
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        core.script.steps = [first(chunk("Hel")), last(chunk(finish="stop"))]
        async with http.post(CHAT, json=STREAM) as answer:
            assert answer.headers["connection"] == "close"
            assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")
        await asyncio.wait_for(stopping, 10)
        with pytest.raises(ClientConnectionError):
            await http.get("/healthz")


async def test_a_stop_serves_who_was_told_that_the_connection_stays(core: FakeCore, start: StartFacade) -> None:
    """A client whose stream began before the stop asks again on the same connection, and is answered and then told."""
    facade = await start(config(drain_timeout_s=20))
    core.script.steps = [first(chunk("Hel")), 0.3, last(chunk(finish="stop"))]
    async with client_of(facade) as http:
        async with http.post(CHAT, json=STREAM) as answer:
            await answer.content.readany()
            stopping = asyncio.ensure_future(facade.stop())
            await answer.content.read()
        await asyncio.sleep(0.2)  # nothing runs any more, and nothing new can connect
        assert await status_of(http, "/healthz") == (200, "close")
        await asyncio.wait_for(stopping, 10)


async def test_a_stop_does_not_wait_for_a_silent_connection(start: StartFacade) -> None:
    """A connection that is kept alive and not used holds the stop up for a moment, not for the time to drain."""
    facade = await start(config(drain_timeout_s=600))
    async with client_of(facade) as http:
        assert await status_of(http, "/healthz") == (200, "")
        await asyncio.wait_for(facade.stop(), 20)
