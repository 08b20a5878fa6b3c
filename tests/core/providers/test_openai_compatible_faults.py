"""The OpenAI-compatible provider against bad servers: every fault is one of our errors, bounded in time and memory."""

import asyncio
import dataclasses
import socket

import pytest
from fakes.provider_site import REQUEST, ProviderSite, text_of
from fakes.scripted_upstream import (
    DONE,
    BodyStep,
    ScriptedAnswer,
    Step,
    bytes_answer,
    chat_answer,
    chat_chunk,
    chat_stream,
    json_answer,
    sse_answer,
    sse_event,
)

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk
from quillgate_core.errors import Overloaded, ProviderRejected, ProviderTimeout, ProviderUnavailable, QuillgateError
from quillgate_core.providers.openai_compatible import OpenAICompatible
from quillgate_core.providers.provider_limits import ProviderLimits

SHORT = ProviderLimits(connect_s=0.3, first_byte_s=0.3, stall_s=0.3, total_s=100.0, error_body_s=0.3)
SMALL = ProviderLimits(sse_line_bytes=1000, sse_event_bytes=3000, response_bytes=20_000)
JSON_HEADERS = {"content-type": "application/json"}
A = chat_chunk({"content": "a"})


async def outcome(site: ProviderSite, *, stream: bool, limits: ProviderLimits | None = None) -> tuple[str, Exception]:
    """The text that came before the failure, and the failure."""
    chunks: list[ChatCompletionChunk] = []
    async with asyncio.timeout(30):
        with pytest.raises(QuillgateError) as caught:
            if stream:
                await site.stream(chunks, limits)
            else:
                await site.create(limits)
    if not isinstance(caught.value, Overloaded):
        assert caught.value.metadata["provider"] == "fake"
    return text_of(chunks), caught.value


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_told_in_the_providers_words(site: ProviderSite, stream: bool) -> None:
    """A 400 becomes ProviderRejected with the message, code and parameter of the provider."""
    error = {
        "message": "Too long.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    site.upstream.script(json_answer(400, {"error": error}))
    _, failure = await outcome(site, stream=stream)
    assert isinstance(failure, ProviderRejected)
    assert failure.message == "Too long."
    assert failure.metadata == {"provider": "fake", "code": "context_length_exceeded", "param": "messages"}


async def test_a_rate_limit_says_when_to_come_back(site: ProviderSite) -> None:
    """A 429 becomes Overloaded with the provider's Retry-After."""
    site.upstream.script(json_answer(429, {"error": {"message": "slow"}}, {"retry-after": "7"}))
    _, failure = await outcome(site, stream=False)
    assert isinstance(failure, Overloaded)
    assert failure.metadata == {"retry_after_s": "7"}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(site: ProviderSite, status: int) -> None:
    """A redirect would send the prompt and the key somewhere else; it is a failure and nothing more is sent."""
    site.upstream.script(ScriptedAnswer(status, {"location": site.upstream.base_url + "/elsewhere"}))
    _, failure = await outcome(site, stream=False)
    assert isinstance(failure, ProviderUnavailable)
    assert len(site.upstream.requests) == 1


async def test_cookies_are_not_kept(site: ProviderSite) -> None:
    """A cookie that the provider sets does not tie one workspace's request to the next."""
    site.upstream.script(dataclasses.replace(chat_answer(), headers={**JSON_HEADERS, "set-cookie": "a=b"}))
    # By name, because a cookie jar takes none from an address.
    base_url = site.upstream.base_url.replace("127.0.0.1", "localhost")
    provider = OpenAICompatible(name="fake", base_url=base_url, pool=site.pool)
    for _ in range(2):
        await provider.create_chat(provider.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None))
    assert "Cookie" not in site.upstream.requests[1].headers


async def test_a_refusal_whose_body_never_ends_is_told_by_its_status(site: ProviderSite) -> None:
    """The body of a refusal is waited for only briefly; the status says enough."""
    site.upstream.script(ScriptedAnswer(422, JSON_HEADERS, [b'{"error": ', Step.HANG]))
    _, failure = await outcome(site, stream=True, limits=SHORT)
    assert isinstance(failure, ProviderRejected)
    assert failure.message == "The provider `fake` refused the request with status 422."
    async with asyncio.timeout(1):
        await site.upstream.requests[0].disconnected.wait()


async def test_a_huge_refusal_is_not_read_to_its_end(site: ProviderSite) -> None:
    """Of a refusal's body only the first 64 KiB are read."""
    site.upstream.script(ScriptedAnswer(500, {}, [b"x" * 65_536] * 200))
    _, failure = await outcome(site, stream=False)
    assert isinstance(failure, ProviderUnavailable)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        bytes_answer(b"<html>Bad gateway</html>", headers={"content-type": "text/html; charset=utf-8"}),
        bytes_answer(b"not json", headers=JSON_HEADERS),
        bytes_answer(b"", headers=JSON_HEADERS),
        bytes_answer(b'{"choices": [{"message": "\xe2\x82', headers=JSON_HEADERS),
        bytes_answer(b"[" * 100_000, headers=JSON_HEADERS),
        json_answer(200, {"id": "x", "choices": []}),
        json_answer(200, {"id": "x"}),
        json_answer(200, {"choices": ["text"]}),
        json_answer(200, [1]),
        json_answer(200, {"error": {"message": "Internal", "code": 502}}),
        json_answer(200, {"error": "something"}),
    ],
)
async def test_an_answer_that_is_none_means_unavailable(
    site: ProviderSite, stream: bool, answer: ScriptedAnswer
) -> None:
    """HTML, broken JSON, no choices, or a server's error inside a 200 all mean that the provider does not work."""
    site.upstream.script(answer)
    _, failure = await outcome(site, stream=stream)
    assert isinstance(failure, ProviderUnavailable)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_inside_a_200_is_a_refusal(site: ProviderSite, stream: bool) -> None:
    """An error that blames the request is passed on even if the status says that all is well."""
    site.upstream.script(json_answer(200, {"error": {"message": "Too long.", "code": 400}}))
    _, failure = await outcome(site, stream=stream)
    assert isinstance(failure, ProviderRejected)
    assert failure.metadata == {"provider": "fake", "code": "400", "param": ""}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (sse_event({"error": {"message": "m", "type": "invalid_request_error"}}), ProviderRejected),
        (sse_event({"error": {"message": "m", "code": "context_length_exceeded"}}), ProviderRejected),
        (
            sse_event({"error": {"message": "m", "code": 502}, "choices": [{"finish_reason": "error"}]}),
            ProviderUnavailable,
        ),
        (sse_event({"error": {"message": "m", "type": "server_error"}}), ProviderUnavailable),
        (sse_event({"error": {"message": "m", "code": 429}}), Overloaded),
        (sse_event({"object": "error", "message": "m", "code": 400}), ProviderRejected),
        (b"event: error\n" + sse_event({"type": "error", "error": {"type": "overloaded_error"}}), ProviderUnavailable),
        (b'data: {"choices": [\n\n', ProviderUnavailable),
        (b"data: null\n\n", ProviderUnavailable),
        (b'data: {"id": "\xff\xfe"}\n\n', ProviderUnavailable),
        (b"data: " + b"[" * 5000 + b"\n\n", ProviderUnavailable),
        (Step.RESET, ProviderUnavailable),
        (Step.CLOSE, ProviderUnavailable),
        (Step.HANG, ProviderTimeout),
    ],
)
async def test_a_stream_that_fails_yields_what_came_before(
    site: ProviderSite, step: BodyStep, expected: type[QuillgateError]
) -> None:
    """Chunks before an error, nonsense, a reset or a stall are passed on, those after it are not."""
    site.upstream.script(sse_answer(A, A, 0.05, step, chat_chunk({"content": "late"}), DONE))
    text, failure = await outcome(site, stream=True, limits=SHORT)
    assert (text, type(failure)) == ("aa", expected)


async def test_valid_events_of_the_same_read_come_before_the_failure(site: ProviderSite) -> None:
    """Events that arrive together with a broken one are not lost."""
    site.upstream.script(sse_answer(A + A + b"data: {broken\n\n" + A))
    text, failure = await outcome(site, stream=True)
    assert (text, type(failure)) == ("aa", ProviderUnavailable)


async def test_half_a_character_at_the_end_is_dropped(site: ProviderSite) -> None:
    """A stream that closes in the middle of a character ends after its last whole event."""
    site.upstream.script(sse_answer(A, b'data: {"choices": [{"delta": {"content": "\xe2\x82'))
    assert await site.text() == "a"


@pytest.mark.parametrize("stream", [False, True])
async def test_silence_before_the_headers_is_a_timeout(site: ProviderSite, stream: bool) -> None:
    """A provider that accepts the request and says nothing is given up, and hung up on."""
    site.upstream.script(ScriptedAnswer(before=[Step.HANG]))
    _, failure = await outcome(site, stream=stream, limits=SHORT)
    assert isinstance(failure, ProviderTimeout)
    async with asyncio.timeout(1):
        await site.upstream.requests[0].disconnected.wait()


async def test_a_stalled_answer_is_a_timeout(site: ProviderSite) -> None:
    """A body that stops in the middle is given up, and hung up on."""
    site.upstream.script(ScriptedAnswer(200, JSON_HEADERS, [b'{"choices": ', Step.HANG]))
    _, failure = await outcome(site, stream=False, limits=SHORT)
    assert isinstance(failure, ProviderTimeout)
    async with asyncio.timeout(1):
        await site.upstream.requests[0].disconnected.wait()


async def test_comments_cannot_prolong_a_call_beyond_its_total(site: ProviderSite) -> None:
    """A provider that only keeps the connection alive is given up after the total time."""
    steps: list[BodyStep] = [b": ping\n\n", 0.1]
    site.upstream.script(sse_answer(*steps * 100))
    limits = dataclasses.replace(SHORT, stall_s=5.0, total_s=0.5)
    _, failure = await outcome(site, stream=True, limits=limits)
    assert isinstance(failure, ProviderTimeout)


async def test_a_slow_consumer_is_not_a_stalled_provider(site: ProviderSite) -> None:
    """Time that the consumer takes between chunks does not count against the provider."""
    site.upstream.script(chat_stream(["a", "b"], between=0.02))
    provider = site.provider(dataclasses.replace(SHORT, stall_s=0.2))
    seen = []
    async for chunks in provider.stream_chat(
        provider.prepare_chat(REQUEST, model="m", stream=True, max_output_tokens=None)
    ):
        seen += chunks
        await asyncio.sleep(0.3)
    assert text_of(seen) == "ab"


async def test_a_line_over_its_limit_is_refused_after_what_came_before(site: ProviderSite) -> None:
    """An endless line ends the stream once it passes the limit."""
    site.upstream.script(sse_answer(A + b"data: " + b"x" * 2000, Step.HANG))
    text, failure = await outcome(site, stream=True, limits=SMALL)
    assert (text, type(failure)) == ("a", ProviderUnavailable)
    async with asyncio.timeout(1):
        await site.upstream.requests[0].disconnected.wait()


async def test_an_event_over_its_limit_is_refused(site: ProviderSite) -> None:
    """An event of many lines ends the stream once it passes the limit."""
    site.upstream.script(sse_answer(A, b"data: 123456789\n" * 301, Step.HANG))
    text, failure = await outcome(site, stream=True, limits=SMALL)
    assert (text, type(failure)) == ("a", ProviderUnavailable)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_over_its_limit_is_refused(site: ProviderSite, stream: bool) -> None:
    """A body is read up to its limit, streamed or whole."""
    headers = {"content-type": "text/event-stream"} if stream else JSON_HEADERS
    site.upstream.script(ScriptedAnswer(200, headers, [b": " + b"x" * 500 + b"\n\n"] * 60))
    _, failure = await outcome(site, stream=stream, limits=SMALL)
    assert isinstance(failure, ProviderUnavailable)


async def test_the_shipped_limits_hold(site: ProviderSite) -> None:
    """By default 64 MiB are read and no more, and a line of 8 MiB is refused."""
    site.upstream.script(sse_answer(*[b": " + b"x" * 1_000_000 + b"\n\n"] * 68))
    _, failure = await outcome(site, stream=True)
    assert isinstance(failure, ProviderUnavailable)
    site.upstream.script(sse_answer(A, 0.05, *[b"x" * 1024**2] * 8))
    text, failure = await outcome(site, stream=True)
    assert (text, type(failure)) == ("a", ProviderUnavailable)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reset_before_the_headers_means_unavailable(site: ProviderSite, stream: bool) -> None:
    """A provider that cuts the connection without an answer is not asked again from here."""
    site.upstream.script(ScriptedAnswer(before=[Step.RESET]))
    _, failure = await outcome(site, stream=stream)
    assert isinstance(failure, ProviderUnavailable)
    assert len(site.upstream.requests) == 1


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:{port}/v1", "https://127.0.0.1:{upstream}/v1"])
async def test_a_provider_that_cannot_be_reached_is_unavailable(site: ProviderSite, base_url: str) -> None:
    """A refused connection and a failed TLS handshake are told in our words, without the address."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        upstream = site.upstream.base_url.rsplit(":", 1)[1].removesuffix("/v1")
        url = base_url.format(port=unused.getsockname()[1], upstream=upstream)
        provider = OpenAICompatible(name="gone", base_url=url, pool=site.pool)
        prepared = provider.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None)
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.create_chat(prepared)
    assert caught.value.message == "The provider `gone` could not be reached."
    assert caught.value.metadata == {"provider": "gone"}


async def test_a_handshake_that_hangs_is_a_timeout(site: ProviderSite) -> None:
    """A host that accepts connections and never speaks TLS is given up after the time for connecting."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        provider = OpenAICompatible(
            name="fake",
            base_url=f"https://127.0.0.1:{silent.getsockname()[1]}",
            pool=site.pool,
            limits=dataclasses.replace(SHORT, first_byte_s=30.0),
        )
        async with asyncio.timeout(10):
            with pytest.raises(ProviderTimeout):
                await provider.create_chat(
                    provider.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None)
                )


async def test_a_provider_works_again_after_a_failure(site: ProviderSite) -> None:
    """A failure spoils nothing for the next request."""
    provider = site.provider()
    site.upstream.script(ScriptedAnswer(before=[Step.RESET]), ScriptedAnswer(500))
    prepared = provider.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None)
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            await provider.create_chat(prepared)
    assert (await provider.create_chat(prepared)).usage.prompt_tokens == 10


@pytest.mark.parametrize(("factor", "is_whole"), [(2, True), (7, False)])
async def test_a_whole_answer_may_take_longer_to_begin(site: ProviderSite, factor: int, is_whole: bool) -> None:
    """It comes when it is done: five times the limit of a stream's head is allowed, and no more."""
    limits = dataclasses.replace(SHORT, first_byte_s=0.2)
    site.upstream.script(dataclasses.replace(chat_answer(), before=[limits.first_byte_s * factor]))
    if is_whole:
        assert (await site.create(limits)).choices
    else:
        with pytest.raises(ProviderTimeout):
            await site.create(limits)
