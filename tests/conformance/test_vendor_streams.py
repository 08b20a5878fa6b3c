"""Every vendor's streams, cut at every frame and in every way: nothing is made up, held back or left open."""

import asyncio
from contextlib import aclosing

import pytest
from conformance.trial import MODEL, Outcome, Trial, asking, held_by, without_time
from conformance.vendor import Call, Content
from fakes.scripted_upstream import BodyStep, Step

from quillgate_core.errors import ProviderUnavailable

WORDS = ["Alpha", "Beta", "Gamma", "Delta"]
#: An end that nobody would make up.
CONTENT = Content(words=WORDS, end="length")
CALLING = Content(
    words=["Alpha"],
    thought="Well then.",
    calls=[Call("call_1", "weather", '{"city": "Zürich"}'), Call("call_2", "clock", "{}")],
    end="tool_calls",
)
A_MOMENT_S = 0.03
"""Lets what was written arrive before the connection is reset."""


async def cut(trial: Trial, frames: list[bytes], *ends: BodyStep) -> Outcome:
    """A stream that ends as told after some frames, which have arrived by then."""
    return await trial.run(trial.vendor.stream([*frames, *ends]), stream=True)


@pytest.mark.parametrize("end", [None, Step.CLOSE, Step.RESET], ids=["ended", "closed", "reset"])
async def test_a_cut_stream_passes_on_what_came_and_makes_nothing_up(trial: Trial, end: Step | None) -> None:
    """Cut after any frame, the chunks are those of the whole stream so far, and the end is told only if it came."""
    frames = trial.vendor.frames(CONTENT)
    whole = without_time((await cut(trial, frames)).raw)
    for count in range(len(frames)):
        outcome = await cut(trial, frames[:count], *([] if end is None else [A_MOMENT_S, end]))
        chunks = without_time(outcome.raw)
        assert chunks == whole[: len(chunks)], f"after frame {count}"
        assert outcome.said.text == held_by(WORDS, frames[:count])
        if outcome.said.text != "".join(WORDS):
            assert not outcome.said.ends
        assert outcome.said.ends in ([], ["length"])
        if not outcome.said.ends or end is not None:
            assert type(outcome.failure) is ProviderUnavailable or _is_over(trial, frames, count)


def _is_over(trial: Trial, frames: list[bytes], count: int) -> bool:
    """Whether a vendor's stream means the same without the frames that are missing, as one that says `[DONE]` does."""
    return all(word.encode() in b"".join(frames[:count]) for word in WORDS)


async def test_a_frame_cut_in_the_middle_is_not_passed_on(trial: Trial) -> None:
    """Half a frame at the end of a stream is no frame."""
    frames = trial.vendor.frames(CONTENT)
    for count, frame in enumerate(frames):
        if not any(word.encode() in frame for word in WORDS):
            continue
        outcome = await cut(trial, [*frames[:count], frame[: len(frame) // 2]], A_MOMENT_S, Step.CLOSE)
        assert outcome.said.text == held_by(WORDS, frames[:count])
        assert not outcome.said.ends
        assert type(outcome.failure) is ProviderUnavailable


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("content", [CONTENT, CALLING], ids=["text", "calls"])
async def test_bytes_in_other_pieces_say_the_same(trial: Trial, size: int, content: Content) -> None:
    """The network may cut a stream anywhere, also within a character."""
    frames = trial.vendor.frames(content)
    whole = await cut(trial, frames)
    data = b"".join(frames)
    pieces: list[BodyStep] = []
    for start in range(0, len(data), size):
        pieces += [data[start : start + size], 0]
    outcome = await trial.run(trial.vendor.stream(pieces), stream=True)
    assert outcome.failure is None
    assert without_time(outcome.clean) == without_time(whole.clean)
    assert outcome.usage == whole.usage


async def test_chunks_are_not_held_back(trial: Trial) -> None:
    """Each word reaches the client before the vendor has written the next."""
    frames = trial.vendor.frames(CONTENT)
    gates = [asyncio.Event() for _ in frames]
    steps = [step for frame, gate in zip(frames, gates, strict=True) for step in (gate, frame)]
    trial.upstream.script(trial.vendor.stream(steps))
    provider = trial.provider()
    prepared = provider.prepare_chat(asking(), model=MODEL, stream=True, max_output_tokens=None)
    text, opened = "", 0
    async with asyncio.timeout(10), aclosing(provider.stream_chat(prepared)) as batches:  # type: ignore[type-var]
        while text != "".join(WORDS):
            while held_by(WORDS, frames[:opened]) == text:
                gates[opened].set()
                opened += 1
            chunks = await anext(batches)
            text += "".join(choice.delta.content for chunk in chunks for choice in chunk.choices)


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_hanging_up_closes_the_connection(trial: Trial, how: str) -> None:
    """Whoever stops listening, at any frame, ends the vendor's work within a second."""
    frames = trial.vendor.frames(CONTENT)
    last = max(index for index, frame in enumerate(frames) if any(word.encode() in frame for word in WORDS))
    for count in range(last + 1):
        trial.upstream.script(trial.vendor.stream([*frames[:count], Step.HANG]))
        await _hang_up(trial, closing=how == "closed", text=held_by(WORDS, frames[:count]))


async def _hang_up(trial: Trial, *, closing: bool, text: str) -> None:
    """Reads so much text of the next stream, then hangs up, and sees the vendor's side end."""
    provider = trial.provider()
    prepared = provider.prepare_chat(asking(), model=MODEL, stream=True, max_output_tokens=None)
    number = len(trial.upstream.requests) + 1
    seen = asyncio.Event()

    async def read() -> None:
        heard = ""
        async with aclosing(provider.stream_chat(prepared)) as batches:  # type: ignore[type-var]
            async for chunks in batches:
                heard += "".join(choice.delta.content for chunk in chunks for choice in chunk.choices)
                if heard == text:
                    seen.set()
                    if closing:
                        return

    task = asyncio.create_task(read())
    request = await trial.upstream.wait_for_requests(number)
    if text:
        await asyncio.wait_for(seen.wait(), 10)
    else:
        await asyncio.sleep(A_MOMENT_S)
    task.cancel()
    async with asyncio.timeout(1):
        await request.disconnected.wait()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_hanging_up_before_the_head_closes_the_connection(trial: Trial, stream: bool) -> None:
    """A vendor that still thinks is told at once that nobody waits."""
    answer = trial.vendor.stream([])
    trial.upstream.script(type(answer)(answer.status, answer.headers, before=[Step.HANG]))
    task = asyncio.create_task(trial.run(None, stream=stream))
    request = await trial.upstream.wait_for_requests()
    task.cancel()
    async with asyncio.timeout(1):
        await request.disconnected.wait()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_whole_stream_keeps_its_connection(trial: Trial) -> None:
    """What was read to its end frees the connection for the next request."""
    for _ in range(3):
        outcome = await cut(trial, trial.vendor.frames(CONTENT))
        assert outcome.failure is None
        await asyncio.sleep(A_MOMENT_S)
    assert trial.upstream.connections == 1
