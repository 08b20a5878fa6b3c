"""One contract for both channels: the in-process one behaves as gRPC's own, as far as stubs and servicers can see."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from core.rpc.refusal import Refusal, read_refusal, refusal_of
from fakes.rpc_site import RpcSite, answer, number, open_site
from grpc.aio import EOF

from quillgate_core.errors import KeyNotFound, ModelNotFound, ScopeMissing
from quillgate_core.rpc.call import current_call

BOUND_S = 5.0
"""How long anything here may take before it counts as hanging."""
DEADLINE_S = 1.0
"""A deadline before which something must come: 0.3 s passed once before the first message, on a busy machine."""


async def _read_all(call: Any) -> list[int]:
    return [response.receipt.counted_messages async for response in call]


async def _wait(event: asyncio.Event) -> None:
    async with asyncio.timeout(BOUND_S):
        await event.wait()


async def test_unary_call_returns_the_response(rpc: RpcSite) -> None:
    """The servicer gets the request and the caller its response, with status OK."""
    call = rpc.create("m")
    assert (await call).receipt.request_id == "m"
    assert call.done()
    assert await call.code() == grpc.StatusCode.OK


async def test_call_is_served_once_however_often_it_is_awaited(rpc: RpcSite) -> None:
    """Awaiting a call again gives the same outcome and starts nothing."""
    served: list[str] = []

    async def create(request: Any) -> Any:
        served.append(request.completion.model)
        if request.completion.model == "bad":
            raise ModelNotFound("bad")
        return answer("a")

    rpc.completions.create = create
    good, bad = rpc.create("good"), rpc.create("bad")
    assert (await good) == (await good)
    assert (await refusal_of(bad)) == (await refusal_of(bad))
    assert sorted(served) == ["bad", "good"]


async def test_stream_keeps_order_and_ends(rpc: RpcSite) -> None:
    """Messages arrive as they were sent, by iteration or by reading, and then the end, again and again."""
    assert await _read_all(rpc.stream()) == [0, 1, 2]
    call = rpc.stream()
    assert [(await call.read()).receipt.counted_messages for _ in range(3)] == [0, 1, 2]
    assert await call.read() is EOF
    assert await call.read() is EOF
    assert call.done()


async def test_error_carries_reason_and_metadata(rpc: RpcSite) -> None:
    """A raised error reaches the caller as its code, its text and an exact ErrorInfo."""

    async def create(request: Any) -> Any:
        raise ScopeMissing("inference")

    rpc.completions.create = create
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.create()
    expected = Refusal(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", {"scope": "inference"})
    assert read_refusal(caught.value) == expected
    assert caught.value.details() == "This key lacks the scope 'inference' that the call needs."


@pytest.mark.parametrize("sent", [0, 2])
async def test_error_in_a_stream_comes_after_what_was_sent(rpc: RpcSite, sent: int) -> None:
    """Messages before the error arrive, then the error with its ErrorInfo."""

    async def stream(request: Any) -> AsyncIterator[Any]:
        for value in range(sent):
            yield number(value)
        raise ModelNotFound("m")

    rpc.completions.stream = stream
    call = rpc.stream()
    for value in range(sent):
        assert (await call.read()).receipt.counted_messages == value
    refusal = await refusal_of(call.read())
    assert refusal == Refusal(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", {"model": "m"})
    assert call.done()


async def test_long_names_do_not_break_the_status(rpc: RpcSite) -> None:
    """An error that quotes a huge id still arrives as itself, cut to fit into gRPC's trailers."""

    def get(key_id: str) -> str:
        raise KeyNotFound("漢" * 100_000)

    rpc.keys.get = get
    refusal = await refusal_of(rpc.get_key())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
    assert refusal.metadata == {"key_id": "漢" * 199 + "…"}


@pytest.mark.parametrize("method", ["create", "stream", "get"])
async def test_unknown_error_tells_nothing(rpc: RpcSite, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of ours is INTERNAL with the request id; its text and trace are in the log only."""

    async def fail(request: Any = None) -> Any:
        raise RuntimeError("password=hunter2")

    async def fail_in_stream(request: Any) -> AsyncIterator[Any]:
        yield number(0)
        await fail()

    def fail_in_thread(key_id: str) -> str:
        raise RuntimeError("password=hunter2")

    rpc.completions.create, rpc.completions.stream, rpc.keys.get = fail, fail_in_stream, fail_in_thread
    metadata = (*rpc.metadata, ("x-request-id", "r-1"))
    calls = {
        "create": lambda: rpc.create(metadata=metadata),
        "stream": lambda: _read_all(rpc.stream(metadata=metadata)),
        "get": lambda: rpc.get_key(metadata=metadata),
    }
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calls[method]()
    assert read_refusal(caught.value) == Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", {"request_id": "r-1"})
    assert "hunter2" not in str(caught.value.details()) + repr(caught.value.trailing_metadata())
    assert caught.value.__cause__ is None
    assert "hunter2" in caplog.text and "r-1" in caplog.text


async def test_deadline_of_a_unary_call_stops_the_servicer(rpc: RpcSite) -> None:
    """At its deadline the call fails with DEADLINE_EXCEEDED and the servicer is cancelled."""
    rpc.completions.create = rpc.completions.hang
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc.create(timeout=0.2)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await _wait(rpc.completions.ended)
    assert isinstance(rpc.completions.ending, asyncio.CancelledError)
    assert _own_task().cancelling() == 0


async def test_deadline_of_a_stream_stops_the_servicer(rpc: RpcSite) -> None:
    """A stream that stalls fails at its deadline, after the messages that came before."""
    rpc.completions.stream = rpc.completions.stream_then_hang(2)
    call = rpc.stream(timeout=DEADLINE_S)
    assert [(await call.read()).receipt.counted_messages for _ in range(2)] == [0, 1]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await _wait(rpc.completions.ended)
    assert _own_task().cancelling() == 0


async def test_deadline_passes_while_nobody_reads(rpc: RpcSite) -> None:
    """A reader that stopped reading does not keep the servicer beyond the deadline."""
    rpc.completions.stream = rpc.completions.stream_then_hang(1)
    call = rpc.stream(timeout=DEADLINE_S)
    await call.read()
    await _wait(rpc.completions.ended)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_answer_within_the_deadline_is_not_disturbed(rpc: RpcSite) -> None:
    """A deadline that is met leaves no trace, also when it passes later."""
    assert await _read_all(rpc.stream(timeout=DEADLINE_S)) == [0, 1, 2]
    call = rpc.create("m", timeout=DEADLINE_S)
    await call
    await asyncio.sleep(DEADLINE_S + 0.1)
    assert await call.code() == grpc.StatusCode.OK


async def test_cancelling_a_unary_call_stops_the_servicer(rpc: RpcSite) -> None:
    """`cancel` from elsewhere ends the wait with CancelledError and runs the servicer's clean-up."""
    rpc.completions.create = rpc.completions.hang
    call = rpc.create()
    outcomes: list[object] = []

    async def wait_for_it() -> None:
        try:
            await call
        except asyncio.CancelledError:
            outcomes.append(_own_task().cancelling())

    waiter = asyncio.create_task(wait_for_it())
    await _wait(rpc.completions.begun)
    assert call.cancel()
    await waiter
    assert outcomes == [0]
    await _wait(rpc.completions.ended)
    assert call.cancelled() and call.done()
    assert not call.cancel()
    assert await call.code() == grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("method", ["create", "stream"])
async def test_cancelling_the_waiting_task_stops_the_servicer(rpc: RpcSite, method: str) -> None:
    """A task that is cancelled while it waits takes the call with it, and stays cancelled."""
    rpc.completions.create = rpc.completions.hang
    rpc.completions.stream = rpc.completions.stream_then_hang(0)
    call = rpc.create() if method == "create" else rpc.stream()

    async def wait_for_it() -> None:
        await (call if method == "create" else call.read())

    waiter = asyncio.create_task(wait_for_it())
    await _wait(rpc.completions.begun)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert waiter.cancelled()
    await _wait(rpc.completions.ended)


async def test_cancelling_before_the_first_await_starts_nothing(rpc: RpcSite) -> None:
    """A call that is cancelled at once raises CancelledError when it is awaited."""
    for call in (rpc.create(), rpc.stream()):
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await (call if hasattr(call, "__await__") else call.read())


async def test_cancelling_a_stream_between_messages(rpc: RpcSite) -> None:
    """The servicer is ended although nobody waits for it, and the next read says that the call was cancelled."""
    rpc.completions.stream = rpc.completions.stream_then_hang(3)
    call = rpc.stream()
    await call.read()
    assert call.cancel()
    await _wait(rpc.completions.ended)
    with pytest.raises(asyncio.CancelledError):
        await call.read()


async def test_cancelling_a_stream_while_waiting(rpc: RpcSite) -> None:
    """A reader that waits for the next message gets CancelledError, and may go on with something else."""
    rpc.completions.stream = rpc.completions.stream_then_hang(1)
    call = rpc.stream()
    await call.read()
    reader = asyncio.create_task(call.read())
    await _wait(rpc.completions.begun)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await _wait(rpc.completions.ended)


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_leaving_a_loop_ends_the_stream(timeout: float | None) -> None:
    """A reader that breaks out of `async for` ends the servicer; in process only, gRPC itself wants a `cancel`."""
    async with open_site("in process") as rpc:
        rpc.completions.stream = rpc.completions.stream_then_hang(3)
        async for _ in rpc.stream(timeout=timeout):
            break
        gc.collect()
        await _wait(rpc.completions.ended)


async def test_unknown_method_is_unimplemented(rpc: RpcSite) -> None:
    """A method that no service has fails as gRPC says, in calls of either kind."""
    unary = rpc.channel.unary_unary("/quillgate.v1.KeyService/Nothing", bytes, bytes)
    stream = rpc.channel.unary_stream("/quillgate.v1.NoService/Nothing", bytes, bytes)
    for call in (unary(b""), stream(b"").read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_plain_servicers_run_side_by_side_in_threads(rpc: RpcSite) -> None:
    """A blocking servicer blocks neither the loop nor another call."""
    barrier = threading.Barrier(2, timeout=BOUND_S)

    def get(key_id: str) -> str:
        barrier.wait()
        return threading.current_thread().name

    rpc.keys.get = get
    names = [response.key.key_id for response in await asyncio.gather(rpc.get_key(), rpc.get_key())]
    assert len(set(names)) == 2
    assert threading.current_thread().name not in names


async def test_concurrent_calls_see_their_own_caller(rpc: RpcSite) -> None:
    """Calls at the same time, in coroutines and in threads, each see their own request id and key."""
    secrets = [rpc.ring.add(workspace_id=f"ws_{index}")[1] for index in range(5)]

    async def create(request: Any) -> Any:
        await asyncio.sleep(0.01)
        call = current_call()
        return answer(f"{call.request_id} {call.principal.workspace_id}")

    def get(key_id: str) -> str:
        return f"{current_call().request_id} {current_call().principal.workspace_id}"

    rpc.completions.create, rpc.keys.get = create, get

    async def ask(index: int) -> tuple[str, str]:
        metadata = (("authorization", f"Bearer {secrets[index]}"), ("x-request-id", f"r{index}"))
        first = await rpc.create(metadata=metadata)
        second = await rpc.get_key(metadata=metadata)
        return first.receipt.request_id, second.key.key_id

    answers = await asyncio.gather(*(ask(index) for index in range(5)))
    assert answers == [(f"r{index} ws_{index}",) * 2 for index in range(5)]


async def test_slow_reader_slows_the_servicer() -> None:
    """In process nothing is made before it is asked for, so a slow reader needs no buffer."""
    async with open_site("in process") as rpc:
        made: list[int] = []

        async def stream(request: Any) -> AsyncIterator[Any]:
            for value in range(10):
                made.append(value)
                yield number(value)

        rpc.completions.stream = stream
        call = rpc.stream()
        for count in range(1, 6):
            await call.read()
            await asyncio.sleep(0.01)
            assert len(made) == count
        call.cancel()


async def test_channel_is_always_ready() -> None:
    """What waits for a channel to connect does not wait in process."""
    async with open_site("in process") as rpc, rpc.channel as channel:
        await channel.channel_ready()
        assert channel.get_state(try_to_connect=True) == grpc.ChannelConnectivity.READY


def _own_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
