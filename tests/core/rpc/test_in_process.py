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


async def _read_all(call: Any) -> list[int]:
    return [response.receipt.counted_messages async for response in call]


async def _wait(event: asyncio.Event) -> None:
    async with asyncio.timeout(BOUND_S):
        await event.wait()


async def test_unary_call_returns_the_response(site: RpcSite) -> None:
    """The servicer gets the request and the caller its response, with status OK."""
    call = site.create("m")
    assert (await call).receipt.request_id == "m"
    assert call.done()
    assert await call.code() == grpc.StatusCode.OK


async def test_call_is_served_once_however_often_it_is_awaited(site: RpcSite) -> None:
    """Awaiting a call again gives the same outcome and starts nothing."""
    served: list[str] = []

    async def create(request: Any) -> Any:
        served.append(request.completion.model)
        if request.completion.model == "bad":
            raise ModelNotFound("bad")
        return answer("a")

    site.completions.create = create
    good, bad = site.create("good"), site.create("bad")
    assert (await good) == (await good)
    assert (await refusal_of(bad)) == (await refusal_of(bad))
    assert served == ["good", "bad"]


async def test_stream_keeps_order_and_ends(site: RpcSite) -> None:
    """Messages arrive as they were sent, by iteration or by reading, and then the end, again and again."""
    assert await _read_all(site.stream()) == [0, 1, 2]
    call = site.stream()
    assert [(await call.read()).receipt.counted_messages for _ in range(3)] == [0, 1, 2]
    assert await call.read() is EOF
    assert await call.read() is EOF
    assert call.done()


async def test_error_carries_reason_and_metadata(site: RpcSite) -> None:
    """A raised error reaches the caller as its code, its text and an exact ErrorInfo."""

    async def create(request: Any) -> Any:
        raise ScopeMissing("inference")

    site.completions.create = create
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.create()
    expected = Refusal(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", {"scope": "inference"})
    assert read_refusal(caught.value) == expected
    assert caught.value.details() == "This key lacks the scope 'inference' that the call needs."


@pytest.mark.parametrize("sent", [0, 2])
async def test_error_in_a_stream_comes_after_what_was_sent(site: RpcSite, sent: int) -> None:
    """Messages before the error arrive, then the error with its ErrorInfo."""

    async def stream(request: Any) -> AsyncIterator[Any]:
        for value in range(sent):
            yield number(value)
        raise ModelNotFound("m")

    site.completions.stream = stream
    call = site.stream()
    for value in range(sent):
        assert (await call.read()).receipt.counted_messages == value
    refusal = await refusal_of(call.read())
    assert refusal == Refusal(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", {"model": "m"})
    assert call.done()


async def test_long_names_do_not_break_the_status(site: RpcSite) -> None:
    """An error that quotes a huge id still arrives as itself, cut to fit into gRPC's trailers."""

    def get(key_id: str) -> str:
        raise KeyNotFound("漢" * 100_000)

    site.keys.get = get
    refusal = await refusal_of(site.get_key())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "KEY_NOT_FOUND")
    assert refusal.metadata == {"key_id": "漢" * 199 + "…"}


@pytest.mark.parametrize("method", ["create", "stream", "get"])
async def test_unknown_error_tells_nothing(site: RpcSite, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of ours is INTERNAL with the request id; its text and trace are in the log only."""

    async def fail(request: Any = None) -> Any:
        raise RuntimeError("password=hunter2")

    async def fail_in_stream(request: Any) -> AsyncIterator[Any]:
        yield number(0)
        await fail()

    def fail_in_thread(key_id: str) -> str:
        raise RuntimeError("password=hunter2")

    site.completions.create, site.completions.stream, site.keys.get = fail, fail_in_stream, fail_in_thread
    metadata = (*site.metadata, ("x-request-id", "r-1"))
    calls = {
        "create": lambda: site.create(metadata=metadata),
        "stream": lambda: _read_all(site.stream(metadata=metadata)),
        "get": lambda: site.get_key(metadata=metadata),
    }
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calls[method]()
    assert read_refusal(caught.value) == Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", {"request_id": "r-1"})
    assert "hunter2" not in str(caught.value.details()) + repr(caught.value.trailing_metadata())
    assert caught.value.__cause__ is None
    assert "hunter2" in caplog.text and "r-1" in caplog.text


async def test_deadline_of_a_unary_call_stops_the_servicer(site: RpcSite) -> None:
    """At its deadline the call fails with DEADLINE_EXCEEDED and the servicer is cancelled."""
    site.completions.create = site.completions.hang
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.create(timeout=0.2)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await _wait(site.completions.ended)
    assert isinstance(site.completions.ending, asyncio.CancelledError)
    assert _own_task().cancelling() == 0


async def test_deadline_of_a_stream_stops_the_servicer(site: RpcSite) -> None:
    """A stream that stalls fails at its deadline, after the messages that came before."""
    site.completions.stream = site.completions.stream_then_hang(2)
    call = site.stream(timeout=0.3)
    assert [(await call.read()).receipt.counted_messages for _ in range(2)] == [0, 1]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await _wait(site.completions.ended)
    assert _own_task().cancelling() == 0


async def test_deadline_passes_while_nobody_reads(site: RpcSite) -> None:
    """A reader that stopped reading does not keep the servicer beyond the deadline."""
    site.completions.stream = site.completions.stream_then_hang(1)
    call = site.stream(timeout=0.3)
    await call.read()
    await _wait(site.completions.ended)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_answer_within_the_deadline_is_not_disturbed(site: RpcSite) -> None:
    """A deadline that is met leaves no trace, also when it passes later."""
    assert await _read_all(site.stream(timeout=0.2)) == [0, 1, 2]
    call = site.create("m", timeout=0.2)
    await call
    await asyncio.sleep(0.3)
    assert await call.code() == grpc.StatusCode.OK


async def test_cancelling_a_unary_call_stops_the_servicer(site: RpcSite) -> None:
    """`cancel` from elsewhere ends the wait with CancelledError and runs the servicer's clean-up."""
    site.completions.create = site.completions.hang
    call = site.create()
    outcomes: list[object] = []

    async def wait_for_it() -> None:
        try:
            await call
        except asyncio.CancelledError:
            outcomes.append(_own_task().cancelling())

    waiter = asyncio.create_task(wait_for_it())
    await _wait(site.completions.begun)
    assert call.cancel()
    await waiter
    assert outcomes == [0]
    await _wait(site.completions.ended)
    assert call.cancelled() and call.done()
    assert not call.cancel()
    assert await call.code() == grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("method", ["create", "stream"])
async def test_cancelling_the_waiting_task_stops_the_servicer(site: RpcSite, method: str) -> None:
    """A task that is cancelled while it waits takes the call with it, and stays cancelled."""
    site.completions.create = site.completions.hang
    site.completions.stream = site.completions.stream_then_hang(0)
    call = site.create() if method == "create" else site.stream()

    async def wait_for_it() -> None:
        await (call if method == "create" else call.read())

    waiter = asyncio.create_task(wait_for_it())
    await _wait(site.completions.begun)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert waiter.cancelled()
    await _wait(site.completions.ended)


async def test_cancelling_before_the_first_await_starts_nothing(site: RpcSite) -> None:
    """A call that is cancelled at once raises CancelledError when it is awaited."""
    for call in (site.create(), site.stream()):
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await (call if hasattr(call, "__await__") else call.read())


async def test_cancelling_a_stream_between_messages(site: RpcSite) -> None:
    """The servicer is ended although nobody waits for it, and the next read says that the call was cancelled."""
    site.completions.stream = site.completions.stream_then_hang(3)
    call = site.stream()
    await call.read()
    assert call.cancel()
    await _wait(site.completions.ended)
    with pytest.raises(asyncio.CancelledError):
        await call.read()


async def test_cancelling_a_stream_while_waiting(site: RpcSite) -> None:
    """A reader that waits for the next message gets CancelledError, and may go on with something else."""
    site.completions.stream = site.completions.stream_then_hang(1)
    call = site.stream()
    await call.read()
    reader = asyncio.create_task(call.read())
    await _wait(site.completions.begun)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await _wait(site.completions.ended)


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_leaving_a_loop_ends_the_stream(timeout: float | None) -> None:
    """A reader that breaks out of `async for` ends the servicer; in process only, gRPC itself wants a `cancel`."""
    async with open_site("in process") as site:
        site.completions.stream = site.completions.stream_then_hang(3)
        async for _ in site.stream(timeout=timeout):
            break
        gc.collect()
        await _wait(site.completions.ended)


async def test_unknown_method_is_unimplemented(site: RpcSite) -> None:
    """A method that no service has fails as gRPC says, in calls of either kind."""
    unary = site.channel.unary_unary("/quillgate.v1.KeyService/Nothing", bytes, bytes)
    stream = site.channel.unary_stream("/quillgate.v1.NoService/Nothing", bytes, bytes)
    for call in (unary(b""), stream(b"").read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_plain_servicers_run_side_by_side_in_threads(site: RpcSite) -> None:
    """A blocking servicer blocks neither the loop nor another call."""
    barrier = threading.Barrier(2, timeout=BOUND_S)

    def get(key_id: str) -> str:
        barrier.wait()
        return threading.current_thread().name

    site.keys.get = get
    names = [response.key.key_id for response in await asyncio.gather(site.get_key(), site.get_key())]
    assert len(set(names)) == 2
    assert threading.current_thread().name not in names


async def test_concurrent_calls_see_their_own_caller(site: RpcSite) -> None:
    """Calls at the same time, in coroutines and in threads, each see their own request id and key."""
    secrets = [site.ring.add(workspace_id=f"ws_{index}")[1] for index in range(5)]

    async def create(request: Any) -> Any:
        await asyncio.sleep(0.01)
        call = current_call()
        return answer(f"{call.request_id} {call.principal.workspace_id}")

    def get(key_id: str) -> str:
        return f"{current_call().request_id} {current_call().principal.workspace_id}"

    site.completions.create, site.keys.get = create, get

    async def ask(index: int) -> tuple[str, str]:
        metadata = (("authorization", f"Bearer {secrets[index]}"), ("x-request-id", f"r{index}"))
        first = await site.create(metadata=metadata)
        second = await site.get_key(metadata=metadata)
        return first.receipt.request_id, second.key.key_id

    answers = await asyncio.gather(*(ask(index) for index in range(5)))
    assert answers == [(f"r{index} ws_{index}",) * 2 for index in range(5)]


async def test_slow_reader_slows_the_servicer() -> None:
    """In process nothing is made before it is asked for, so a slow reader needs no buffer."""
    async with open_site("in process") as site:
        made: list[int] = []

        async def stream(request: Any) -> AsyncIterator[Any]:
            for value in range(10):
                made.append(value)
                yield number(value)

        site.completions.stream = stream
        call = site.stream()
        for count in range(1, 6):
            await call.read()
            await asyncio.sleep(0.01)
            assert len(made) == count
        call.cancel()


async def test_channel_is_always_ready() -> None:
    """What waits for a channel to connect does not wait in process."""
    async with open_site("in process") as site, site.channel as channel:
        await channel.channel_ready()
        assert channel.get_state(try_to_connect=True) == grpc.ChannelConnectivity.READY


def _own_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
