"""A core that thinks for long: the client gets the head and comments, and hears of a late refusal in the stream."""

import asyncio
import json

import grpc
from fakes.facade_site import StartFacade, client_of, config
from fakes.fake_core import FakeCore, FakeFailure, hello_stream

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
REFUSAL = FakeFailure(grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNAVAILABLE", "It is down.", {"provider": "p"})


async def test_late_answer_is_whole(core: FakeCore, start: StartFacade) -> None:
    """Comments come first, then everything that comes without them."""
    core.script.steps = [0.3, *hello_stream(remaining=7)]
    async with client_of(await start(config(comment_interval_s=0.05))) as http, http.post(CHAT, json=BODY) as answer:
        text = await answer.text()
    assert answer.status == 200
    assert answer.headers["x-request-id"] == core.metadata[0]["x-request-id"]
    assert text.startswith(": keep-alive\n\n")
    assert text.endswith("data: [DONE]\n\n")
    assert next(line for line in text.split("\n\n") if line.startswith("data: {")).count('"Hel"') == 1


async def test_late_refusal_is_told_in_the_stream(core: FakeCore, start: StartFacade) -> None:
    """The head is out, so the error is the last frame, without `[DONE]`."""
    core.script.steps = [0.3, REFUSAL]
    async with client_of(await start(config(comment_interval_s=0.05))) as http, http.post(CHAT, json=BODY) as answer:
        text = await answer.text()
    assert answer.status == 200
    frames = [frame for frame in text.split("\n\n") if frame and frame != ": keep-alive"]
    assert [json.loads(frame.removeprefix("data: "))["error"]["message"] for frame in frames] == ["It is down."]


async def test_late_nothing_is_an_error(core: FakeCore, start: StartFacade) -> None:
    """A core that ends without a word after the head is a failure, not an empty answer."""
    core.script.steps = [0.3]
    async with client_of(await start(config(comment_interval_s=0.05))) as http, http.post(CHAT, json=BODY) as answer:
        text = await answer.text()
    assert '"type":"server_error"' in text
    assert "[DONE]" not in text


async def test_early_refusal_has_its_own_status(core: FakeCore, start: StartFacade) -> None:
    """Within the interval nothing is sent, and the refusal is an answer of its own."""
    core.script.steps = [0.05, REFUSAL]
    async with client_of(await start(config(comment_interval_s=30))) as http, http.post(CHAT, json=BODY) as answer:
        assert (answer.status, answer.content_type) == (502, "application/json")


async def test_hang_up_after_the_early_head(core: FakeCore, start: StartFacade) -> None:
    """A client that leaves while it hears comments ends the core's call."""
    core.script.steps = [60.0]
    async with client_of(await start(config(comment_interval_s=0.05))) as http:
        answer = await http.post(CHAT, json=BODY)
        assert await answer.content.readline() == b": keep-alive\n"
        answer.close()
        async with asyncio.timeout(5):
            await core.cancelled.wait()
