"""The Gemini provider against a scripted server: addresses, headers, streams that end by closing, and its models."""

import asyncio
import json
from typing import Any

import pytest
from fakes.gemini_site import GeminiSite, ends_of, request_of, response, text_of
from fakes.scripted_upstream import Step, bytes_answer, json_answer, sse_answer, sse_event

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk
from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.errors import (
    Overloaded,
    ProviderCredentialRejected,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.gemini import Gemini
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.secret import Secret
from quillgate_core.upstream import ListedModel

WHOLE = response({"text": "Hello"}, reason="STOP", usageMetadata={"promptTokenCount": 3, "candidatesTokenCount": 1})
STRAY = json.dumps([{"error": {"code": 429, "message": "slow", "details": [{"retryDelay": "7s"}]}}], indent=2).encode()


async def test_a_whole_answer_is_asked_for_at_the_models_address(gemini_site: GeminiSite) -> None:
    """The model is in the path, the key in its header and nowhere else."""
    gemini_site.upstream.script(json_answer(200, WHOLE))
    answer = await gemini_site.create()
    assert answer.choices[0].message.content.text == "Hello"
    (request,) = gemini_site.upstream.requests
    assert (request.method, request.path) == ("POST", "/v1/models/gemini-2.5-flash:generateContent")
    assert request.headers["x-goog-api-key"] == "house-key-42"
    assert "authorization" not in request.headers
    assert set(request.json) == {"contents", "generationConfig"}


async def test_a_stream_ends_when_it_closes(gemini_site: GeminiSite) -> None:
    """There is no `[DONE]`; the end of the body is the end, and its connection is used again."""
    for _ in range(2):
        gemini_site.upstream.script(
            sse_answer(sse_event(response({"text": "Hel"})), 0.01, sse_event(response({"text": "lo"}, reason="STOP")))
        )
        chunks = await gemini_site.stream()
        assert (text_of(chunks), ends_of(chunks)) == ("Hello", ["stop"])
        assert {chunk.id for chunk in chunks} == {"r1"}
    assert gemini_site.upstream.requests[0].path == "/v1/models/gemini-2.5-flash:streamGenerateContent"
    assert gemini_site.upstream.connections == 1


async def test_a_stream_asks_for_events(gemini_site: GeminiSite) -> None:
    """Without `alt=sse` Gemini answers with one long array."""
    gemini_site.upstream.script(sse_answer(sse_event(WHOLE)), json_answer(200, WHOLE))
    await gemini_site.stream()
    await gemini_site.create()
    assert [request.query for request in gemini_site.upstream.requests] == ["alt=sse", ""]


@pytest.mark.parametrize("value", [WHOLE, [response({"text": "Hel"}), response({"text": "lo"}, reason="STOP")]])
async def test_a_server_that_cannot_stream_is_understood(gemini_site: GeminiSite, value: Any) -> None:
    """A proxy that drops the query answers with an array, or with one response."""
    gemini_site.upstream.script(json_answer(200, value))
    chunks = await gemini_site.stream()
    assert (text_of(chunks), ends_of(chunks)) == ("Hello", ["stop"])


async def test_an_event_that_says_nothing_is_no_chunk(gemini_site: GeminiSite) -> None:
    """Gemini sends events with nothing but the model's version."""
    gemini_site.upstream.script(sse_answer(sse_event({"modelVersion": "m"}), 0.01, sse_event(WHOLE)))
    assert len(await gemini_site.stream()) == 2


async def test_an_error_that_is_no_event_ends_a_stream(gemini_site: GeminiSite) -> None:
    """Gemini writes what went wrong as bare JSON after the events; the caller hears when to come back."""
    into: list[ChatCompletionChunk] = []
    gemini_site.upstream.script(sse_answer(sse_event(response({"text": "Hel"})), STRAY[:20], 0.01, STRAY[20:]))
    with pytest.raises(Overloaded) as caught:
        await gemini_site.stream(into)
    assert (text_of(into), ends_of(into)) == ("Hel", [])
    assert caught.value.metadata == {"retry_after_s": "7"}


@pytest.mark.parametrize("stray", [b"{broken", b"5", b"[]", b"oops\n"])
async def test_other_words_in_a_stream_mean_nothing(gemini_site: GeminiSite, stray: bytes) -> None:
    """What is neither event nor error is passed over."""
    gemini_site.upstream.script(sse_answer(sse_event(WHOLE), stray))
    assert ends_of(await gemini_site.stream()) == ["stop"]


async def test_a_stream_that_is_cut_gets_no_end(gemini_site: GeminiSite) -> None:
    """Closed without a reason, a stream says only what came; cut off after the reason, it fails all the same."""
    gemini_site.upstream.script(sse_answer(sse_event(response({"text": "Hel"}))))
    assert ends_of(await gemini_site.stream()) == []
    gemini_site.upstream.script(sse_answer(sse_event(WHOLE), 0.02, Step.RESET))
    into: list[ChatCompletionChunk] = []
    with pytest.raises(ProviderUnavailable):
        await gemini_site.stream(into)
    assert (text_of(into), ends_of(into)) == ("Hello", [])


async def test_a_stream_that_never_closes_is_a_timeout(gemini_site: GeminiSite) -> None:
    """Only closing ends a stream, and waiting for it is bounded."""
    gemini_site.upstream.script(sse_answer(sse_event(WHOLE), Step.HANG))
    with pytest.raises(ProviderTimeout):
        await gemini_site.stream(limits=ProviderLimits(stall_s=0.1))


async def test_a_connection_that_is_waited_for_is_closed_on_cancel(gemini_site: GeminiSite) -> None:
    """A client that hangs up ends the provider's work."""
    gemini_site.upstream.script(sse_answer(sse_event(response({"text": "Hel"})), Step.HANG))
    task = asyncio.create_task(gemini_site.stream())
    request = await gemini_site.upstream.wait_for_requests()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait_for(request.disconnected.wait(), 1)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-2.5-flash", "/v1/models/gemini-2.5-flash:generateContent"),
        ("models/gemini-2.5-flash", "/v1/models/gemini-2.5-flash:generateContent"),
        ("tunedModels/mine 1", "/v1/tunedModels/mine 1:generateContent"),
        ("a?key=b#c", "/v1/models/a?key=b#c:generateContent"),
    ],
)
async def test_a_models_name_is_a_path_and_nothing_else(gemini_site: GeminiSite, model: str, path: str) -> None:
    """A name can neither add a query nor a fragment; one with a collection is not put into another."""
    gemini_site.upstream.script(json_answer(200, WHOLE))
    provider = gemini_site.provider()
    await provider.create_chat(provider.prepare_chat(request_of({}), model=model, stream=False, max_output_tokens=None))
    assert gemini_site.upstream.requests[0].path == path


async def test_parallel_calls_can_be_forbidden(gemini_site: GeminiSite) -> None:
    """The prepared request remembers what its body cannot say."""
    calls = [{"functionCall": {"name": name, "args": {}}} for name in "ab"]
    gemini_site.upstream.script(json_answer(200, response(*calls, reason="STOP")))
    answer = await gemini_site.create({"parallel_tool_calls": False})
    assert [(call.id, call.function.name) for call in answer.choices[0].message.tool_calls] == [("made-0", "a")]


async def test_made_up_ids_differ(gemini_site: GeminiSite) -> None:
    """Two calls never share an id, in one answer or in two."""
    call = {"functionCall": {"name": "f"}}
    provider = Gemini(name="gemini", base_url=gemini_site.upstream.base_url, pool=gemini_site.pool)
    prepared = provider.prepare_chat(request_of({}), model="m", stream=False, max_output_tokens=None)
    gemini_site.upstream.script(*[json_answer(200, response(call, call, reason="STOP"))] * 2)
    answers = [await provider.create_chat(prepared) for _ in range(2)]
    ids = {made.id for answer in answers for made in answer.choices[0].message.tool_calls}
    assert len(ids) == 4
    assert all(call_id.startswith("call_") for call_id in ids)


async def test_models_are_listed_page_by_page(gemini_site: GeminiSite) -> None:
    """Only what can chat is listed, with its limits, and a page token is sent back as it came."""
    flash = {
        "name": "models/gemini-2.5-flash",
        "description": "Fast.",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
    embedding = {"name": "models/e", "supportedGenerationMethods": ["embedContent"]}
    odd = {"name": "models/odd", "supportedGenerationMethods": ["generateContent"], "inputTokenLimit": -1}
    gemini_site.upstream.script(
        json_answer(200, {"models": [flash, embedding, 5, {}], "nextPageToken": "a&b="}),
        json_answer(200, {"models": [odd]}),
    )
    assert await gemini_site.provider().list_models() == [
        ListedModel("gemini-2.5-flash", 1_048_576, 65_536, description="Fast."),
        ListedModel("odd"),
    ]
    assert [(request.method, request.path, request.query) for request in gemini_site.upstream.requests] == [
        ("GET", "/v1/models", "pageSize=1000"),
        ("GET", "/v1/models", "pageSize=1000&pageToken=a%26b%3D"),
    ]
    assert gemini_site.upstream.requests[0].headers["x-goog-api-key"] == "house-key-42"


async def test_a_list_without_end_is_not_read_for_ever(gemini_site: GeminiSite) -> None:
    """A server that always has a next page is asked a bounded number of times."""
    page = json_answer(200, {"models": [], "nextPageToken": "again"})
    gemini_site.upstream.script(*[page] * 30)
    assert await gemini_site.provider().list_models() == []
    assert len(gemini_site.upstream.requests) == 20


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (json_answer(400, {"error": {"code": 400, "message": "API key not valid."}}), ProviderUnavailable),
        (json_answer(400, {"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}), ProviderRejected),
        (bytes_answer(b"<html>"), ProviderUnavailable),
        (json_answer(200, [1]), ProviderUnavailable),
        (json_answer(200, {"error": {"code": 429, "message": "m"}}), Overloaded),
    ],
)
async def test_a_list_that_is_refused_is_one_of_our_errors(
    gemini_site: GeminiSite, answer: Any, expected: type[Exception]
) -> None:
    """Asking for the models is also how a key is tried."""
    gemini_site.upstream.script(answer)
    with pytest.raises(expected):
        await gemini_site.provider().list_models()


async def test_a_workspaces_own_key_that_is_refused_is_told_as_such(gemini_site: GeminiSite) -> None:
    """The workspace can do something about its own key, and nothing about the gateway's."""
    refusal = json_answer(400, {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}})
    config = ProviderConfig("gemini", gemini_site.upstream.base_url, Secret("k"), protocol="gemini", is_trusted=True)
    for byok, expected in ((True, ProviderCredentialRejected), (False, ProviderUnavailable)):
        gemini_site.upstream.script(refusal)
        account = make_account(config, gemini_site.pool, byok=byok)
        assert account.lister is not None
        with pytest.raises(expected):
            await account.lister.list_models()


def test_an_account_has_chat_and_models() -> None:
    """Gemini's protocol has neither text completions nor responses of its own."""
    account = make_account(ProviderConfig("gemini", "https://host/v1beta", Secret("k"), protocol="gemini"), HttpPool())
    assert isinstance(account.chat, Gemini)
    assert account.lister is account.chat
    assert (account.text, account.responses, account.transcriptions) == (None, None, None)
