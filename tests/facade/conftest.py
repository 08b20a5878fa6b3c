"""A facade on a free port in front of a scripted core, with clients that are closed at the end."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc.aio
import pytest
from aiohttp import ClientSession
from fakes.facade_site import KEY, StartFacade, client_of, config
from fakes.fake_core import FakeCore
from openai import AsyncOpenAI

from quillgate_facade.app import FacadeServer, build_app, serve
from quillgate_facade.config import FacadeConfig


@pytest.fixture
async def core() -> AsyncIterator[FakeCore]:
    """A core that does what its script says."""
    async with FakeCore() as fake:
        yield fake


@pytest.fixture
async def start(core: FakeCore) -> AsyncIterator[StartFacade]:
    """Starts facades in front of the core and stops them at the end."""
    async with AsyncExitStack() as stack:

        async def start_facade(settings: FacadeConfig) -> FacadeServer:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{core.port}")
            stack.push_async_callback(channel.close)
            server = await serve(build_app(channel, settings))
            stack.push_async_callback(server.stop)
            return server

        yield start_facade


@pytest.fixture
async def facade(start: StartFacade) -> FacadeServer:
    """A facade with the default limits."""
    return await start(config())


@pytest.fixture
async def http(facade: FacadeServer) -> AsyncIterator[ClientSession]:
    """An HTTP client of the facade that presents a key."""
    async with client_of(facade) as session:
        yield session


@pytest.fixture
async def openai(facade: FacadeServer) -> AsyncIterator[AsyncOpenAI]:
    """The official client, pointed at the facade."""
    client = AsyncOpenAI(base_url=f"http://127.0.0.1:{facade.port}/api/openai/v1", api_key=KEY, timeout=20)
    yield client
    await client.close()
