"""Two small services behind the real gate, reached in process or over a real socket: the ground of the RPC tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import grpc
from fakes.key_ring import FakeKeyRing

from quillgate.v1 import completion_service_pb2_grpc, key_service_pb2_grpc
from quillgate.v1.completion_service_pb2 import (
    CreateChatCompletionRequest,
    CreateChatCompletionResponse,
    StreamChatCompletionRequest,
    StreamChatCompletionResponse,
)
from quillgate.v1.key_service_pb2 import GetKeyRequest, GetKeyResponse, Key
from quillgate.v1.metering_service_pb2 import Receipt
from quillgate_core.rpc.capacity import Capacity
from quillgate_core.rpc.in_process import InProcessChannel, InProcessServer
from quillgate_core.rpc.interceptor import CallInterceptor

Transport = Literal["in process", "socket"]
Metadata = tuple[tuple[str, str], ...]


def number(value: int) -> StreamChatCompletionResponse:
    """A message that can be told from others."""
    return StreamChatCompletionResponse(receipt=Receipt(counted_messages=value))


def answer(text: str = "") -> CreateChatCompletionResponse:
    """A whole answer that can be told from others."""
    return CreateChatCompletionResponse(receipt=Receipt(request_id=text))


class FakeCompletionServicer(completion_service_pb2_grpc.CompletionServiceServicer):
    """Does what the test assigns: `create` answers, `stream` yields. `ended` is set when a `watched` body ended."""

    def __init__(self) -> None:
        self.create: Callable[[CreateChatCompletionRequest], Awaitable[CreateChatCompletionResponse]] = self._create
        self.stream: Callable[[StreamChatCompletionRequest], AsyncIterator[StreamChatCompletionResponse]]
        self.stream = self._stream
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.ending: BaseException | None = None

    async def CreateChatCompletion(  # noqa: N802
        self, request: CreateChatCompletionRequest, context: Any
    ) -> CreateChatCompletionResponse:
        return await self.create(request)

    async def StreamChatCompletion(  # noqa: N802
        self, request: StreamChatCompletionRequest, context: Any
    ) -> AsyncIterator[StreamChatCompletionResponse]:
        async with aclosing(self.stream(request)) as responses:
            async for response in responses:
                yield response

    async def hang(self, request: Any = None) -> CreateChatCompletionResponse:
        """Waits until it is stopped, and notes by what."""
        try:
            self.begun.set()
            await asyncio.Event().wait()
        except BaseException as error:
            self.ending = error
            raise
        finally:
            self.ended.set()
        return answer()

    def stream_then_hang(self, count: int) -> Callable[[Any], AsyncIterator[StreamChatCompletionResponse]]:
        """Makes a stream that sends so many messages and then waits until it is stopped, noting by what."""

        async def stream(request: Any) -> AsyncIterator[StreamChatCompletionResponse]:
            try:
                for value in range(count):
                    yield number(value)
                self.begun.set()
                await asyncio.Event().wait()
            except BaseException as error:
                self.ending = error
                raise
            finally:
                self.ended.set()

        return stream

    async def _create(self, request: CreateChatCompletionRequest) -> CreateChatCompletionResponse:
        return answer(request.completion.model)

    async def _stream(self, request: StreamChatCompletionRequest) -> AsyncIterator[StreamChatCompletionResponse]:
        for value in range(3):
            yield number(value)


class FakeKeyServicer(key_service_pb2_grpc.KeyServiceServicer):
    """A plain `def` servicer: `get` runs in the gate's threads."""

    def __init__(self) -> None:
        self.get: Callable[[str], str] = lambda key_id: key_id

    def GetKey(self, request: GetKeyRequest, context: Any) -> GetKeyResponse:  # noqa: N802
        return GetKeyResponse(key=Key(key_id=self.get(request.key_id)))


@dataclass(frozen=True)
class RpcSite:
    """What a test of the gate needs: the fakes behind it, stubs before it, and a key."""

    transport: Transport
    ring: FakeKeyRing
    secret: str
    completions: FakeCompletionServicer
    keys: FakeKeyServicer
    channel: Any

    @property
    def metadata(self) -> Metadata:
        """The credentials of the site's own key."""
        return (("authorization", f"Bearer {self.secret}"),)

    def create(self, model: str = "", *, metadata: Metadata | None = None, timeout: float | None = None) -> Any:
        """Calls CreateChatCompletion."""
        request = CreateChatCompletionRequest()
        request.completion.model = model
        stub: Any = completion_service_pb2_grpc.CompletionServiceStub(self.channel)
        return stub.CreateChatCompletion(
            request, metadata=self.metadata if metadata is None else metadata, timeout=timeout
        )

    def stream(self, *, metadata: Metadata | None = None, timeout: float | None = None) -> Any:
        """Calls StreamChatCompletion."""
        stub: Any = completion_service_pb2_grpc.CompletionServiceStub(self.channel)
        metadata = self.metadata if metadata is None else metadata
        return stub.StreamChatCompletion(StreamChatCompletionRequest(), metadata=metadata, timeout=timeout)

    def get_key(self, key_id: str = "", *, metadata: Metadata | None = None) -> Any:
        """Calls GetKey."""
        stub: Any = key_service_pb2_grpc.KeyServiceStub(self.channel)
        return stub.GetKey(GetKeyRequest(key_id=key_id), metadata=self.metadata if metadata is None else metadata)


@asynccontextmanager
async def open_site(transport: Transport, *, places: int = 64, wait_s: float = 0.05) -> AsyncIterator[RpcSite]:
    """Serves the fakes; `places` is how many completions, and how many other calls, are served at once."""
    ring, completions, keys = FakeKeyRing(), FakeCompletionServicer(), FakeKeyServicer()
    with ThreadPoolExecutor(4) as threads:
        interceptor = CallInterceptor(
            ring.keys,
            threads,
            completions=Capacity(places, wait_s=wait_s),
            admin=Capacity(places, wait_s=wait_s),
        )
        async with open_channel(transport, interceptor, lambda server: _add(server, completions, keys)) as channel:
            yield RpcSite(transport, ring, ring.add()[1], completions, keys, channel)


@asynccontextmanager
async def open_channel(
    transport: Transport, interceptor: CallInterceptor, add: Callable[[Any], None]
) -> AsyncIterator[Any]:
    """Serves what `add` adds to a server behind the gate, and yields a channel to it."""
    if transport == "in process":
        local = InProcessServer(interceptor)
        channel = InProcessChannel(local)
        add(local)
        yield channel
        return
    server = grpc.aio.server(interceptors=(interceptor,))
    add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as remote:
        yield remote
    await server.stop(None)


def _add(server: Any, completions: FakeCompletionServicer, keys: FakeKeyServicer) -> None:
    completion_service_pb2_grpc.add_CompletionServiceServicer_to_server(completions, server)
    key_service_pb2_grpc.add_KeyServiceServicer_to_server(keys, server)
