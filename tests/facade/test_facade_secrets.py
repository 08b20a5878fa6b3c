"""What must never be in a log or an answer: prompts, credentials and the core's internals."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from fakes.facade_site import KEY, client_of, config

from quillgate_facade.app import build_app, serve

PROMPT = "a very private prompt"


class FakeBrokenChannel(grpc.aio.Channel):
    """A channel whose calls fail in a way that nobody foresaw, quoting what they were given."""

    def _fail(self, *_: Any, **__: Any) -> Any:
        def call(request: Any, *, metadata: Any = (), **_: Any) -> Any:
            raise RuntimeError(f"{request} {metadata}")

        return call

    unary_unary = unary_stream = stream_unary = stream_stream = _fail

    async def __aenter__(self) -> "FakeBrokenChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def close(self, grace: float | None = None) -> None:
        """Nothing to close."""

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Always ready."""
        return grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Never changes."""

    async def channel_ready(self) -> None:
        """Always ready."""


@pytest.fixture
async def http() -> AsyncIterator[Any]:
    """A client of a facade whose channel is broken."""
    server = await serve(build_app(FakeBrokenChannel(), config()))
    async with client_of(server) as session:
        yield session
    await server.stop()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unexpected_error(http: Any, caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    """The client gets the request id, the log its trace, and neither gets what the error quotes."""
    body = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
    with caplog.at_level(logging.DEBUG):
        async with http.post("/v1/chat/completions", json=body) as answer:
            text = await answer.text()
    request_id = answer.headers["x-request-id"]
    assert answer.status == 500
    assert request_id in text
    assert f"{request_id}: RuntimeError at" in caplog.text
    assert "chat.py" in caplog.text
    for secret in (PROMPT, KEY):
        assert secret not in text + caplog.text


async def test_probes_survive(http: Any) -> None:
    """A probe on a broken channel says so instead of hanging."""
    async with http.get("/readyz") as answer:
        assert answer.status == 500
    async with http.get("/healthz") as answer:
        assert answer.status == 200
