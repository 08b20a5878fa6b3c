"""Anthropic over HTTP: where and how it is asked, what it must answer, and its list of models."""

import json
from typing import Any
from urllib.parse import parse_qsl

import pytest
from conformance.vendor import Content
from conformance.vendor_anthropic import VENDOR, frame
from fakes.provider_site import REQUEST, ProviderSite, text_of
from fakes.scripted_upstream import ScriptedAnswer, bytes_answer, json_answer, sse_answer

from quillgate.v1.chat_completion_pb2 import ChatCompletionChunk
from quillgate_core.catalogue_basis import read_catalogue
from quillgate_core.errors import ProviderCredentialRejected, ProviderRejected, ProviderUnavailable
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.anthropic import MAX_PAGES, Anthropic
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.secret import Secret

JSON_HEADERS = {"content-type": "application/json"}


def provider(site: ProviderSite, **members: Any) -> Anthropic:
    """Anthropic at the site's upstream."""
    return Anthropic(
        name="anthropic", base_url=site.upstream.base_url, api_key=Secret("house-key-42"), pool=site.pool, **members
    )


async def chunks_of(site: ProviderSite, into: list[ChatCompletionChunk] | None = None) -> list[ChatCompletionChunk]:
    """Reads a whole stream."""
    asked = provider(site)
    chunks: list[ChatCompletionChunk] = [] if into is None else into
    prepared = asked.prepare_chat(REQUEST, model="m", stream=True, max_output_tokens=None)
    async for together in asked.stream_chat(prepared):
        chunks += together
    return chunks


async def test_it_is_asked_as_documented(site: ProviderSite) -> None:
    """The path, the key in its own header, the version, and JSON."""
    site.upstream.script(VENDOR.answer(Content(words=["fine"])))
    asked = provider(site, extra_headers={"Anthropic-Beta": "a-2026-01-01", "Anthropic-Version": "2030-01-01"})
    await asked.create_chat(asked.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None))
    (request,) = site.upstream.requests
    assert (request.method, request.path) == ("POST", "/v1/messages")
    assert request.headers["x-api-key"] == "house-key-42"
    assert "authorization" not in {name.lower() for name in request.headers}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["anthropic-beta"] == "a-2026-01-01"
    assert request.headers["anthropic-version"] == "2030-01-01"


async def test_the_version_is_the_one_that_is_spoken(site: ProviderSite) -> None:
    """A later version of the API has other members."""
    site.upstream.script(VENDOR.answer(Content(words=["fine"])))
    asked = provider(site)
    await asked.create_chat(asked.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None))
    assert site.upstream.requests[0].headers["anthropic-version"] == "2023-06-01"


def test_the_bundled_catalogue_speaks_its_protocol() -> None:
    """The account of the bundled provider chats and lists models, and leaves the rest to translation."""
    entry = read_catalogue(None).providers["anthropic"]
    config = entry.switch_on("anthropic", {"ANTHROPIC_API_KEY": "k"}, is_bundled=True)
    assert config is not None
    account = make_account(config, HttpPool())
    assert isinstance(account.chat, Anthropic)
    assert account.lister is account.chat
    assert (account.text, account.responses, account.transcriptions) == (None, None, None)
    assert account.chat.traits.cached_tokens == "outside"


def test_a_base_url_with_a_key_is_refused() -> None:
    """Credentials belong into the header."""
    with pytest.raises(ValueError, match="base URL"):
        Anthropic(name="anthropic", base_url="https://user:key@host/v1", pool=HttpPool())


async def test_a_cut_before_the_last_event_has_usage_but_no_end(site: ProviderSite) -> None:
    """An answer is whole when Anthropic says so; until then what it used is known, and that it ended is not."""
    frames = VENDOR.frames(Content(words=["a"], end="length"))
    site.upstream.script(sse_answer(*frames[:-1]))
    chunks = await chunks_of(site)
    assert text_of(chunks) == "a"
    assert chunks[-1].usage.completion_tokens == 5
    assert not any(choice.finish_reason for chunk in chunks for choice in chunk.choices)


async def test_an_overload_before_the_first_word_begins_no_answer(site: ProviderSite) -> None:
    """Anthropic tells the usage before it knows that it has no capacity; another provider can still answer."""
    frames = VENDOR.frames(Content(words=["a"]))
    site.upstream.script(sse_answer(frames[0], VENDOR.error_frame("overloaded")))
    chunks: list[ChatCompletionChunk] = []
    with pytest.raises(ProviderUnavailable):
        await chunks_of(site, chunks)
    assert [(len(chunk.choices), chunk.usage.prompt_tokens) for chunk in chunks] == [(0, 10)]


async def test_an_end_without_a_reason_is_no_end(site: ProviderSite) -> None:
    """A last event that nobody gave a reason for makes none up."""
    site.upstream.script(sse_answer(frame({"type": "message_start", "message": {}}), frame({"type": "message_stop"})))
    assert not any(choice.finish_reason for chunk in await chunks_of(site) for choice in chunk.choices)


async def test_a_whole_answer_to_a_stream_request_becomes_chunks(site: ProviderSite) -> None:
    """A server in between that cannot stream is understood all the same."""
    content = Content(words=["a", "b"], thought="t", end="length")
    site.upstream.script(VENDOR.answer(content))
    chunks = await chunks_of(site)
    assert text_of(chunks) == "ab"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[0].usage.prompt_tokens == 10


@pytest.mark.parametrize(
    "answer",
    [
        bytes_answer(b"", headers=JSON_HEADERS),
        bytes_answer(b"{", headers=JSON_HEADERS),
        bytes_answer(b"[" * 10_000, headers=JSON_HEADERS),
        bytes_answer(b"\xff", headers=JSON_HEADERS),
        json_answer(200, []),
        json_answer(200, {"id": "msg_1"}),
        json_answer(200, {"content": [], "stop_reason": None}),
        json_answer(200, {"content": [{}], "stop_reason": "end_turn"}),
        json_answer(200, {"content": "text", "stop_reason": "end_turn"}),
        json_answer(200, {"choices": []}),
        json_answer(200, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    ],
)
async def test_a_body_that_is_no_answer_is_a_failure(site: ProviderSite, answer: ScriptedAnswer) -> None:
    """Whatever it is, it is the provider's failure, and whole or streamed the same."""
    asked = provider(site)
    site.upstream.script(answer, answer)
    with pytest.raises(ProviderUnavailable):
        await asked.create_chat(asked.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None))
    with pytest.raises(ProviderUnavailable):
        await chunks_of(site)


async def test_an_error_with_a_good_status_is_what_it_says(site: ProviderSite) -> None:
    """Servers in between put an error into a good answer; what the caller can act on is passed on."""
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "Too many images."}}
    site.upstream.script(json_answer(200, error))
    asked = provider(site)
    with pytest.raises(ProviderRejected, match="Too many images"):
        await asked.create_chat(asked.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None))


async def test_an_answer_that_speaks_of_errors_is_no_error(site: ProviderSite) -> None:
    """The word alone is no failure."""
    site.upstream.script(VENDOR.answer(Content(words=['{"error": "none"}'])))
    asked = provider(site)
    answer = await asked.create_chat(asked.prepare_chat(REQUEST, model="m", stream=False, max_output_tokens=None))
    assert answer.choices[0].message.content.text == '{"error": "none"}'


async def test_an_id_of_anthropics_request_is_not_passed_on(site: ProviderSite) -> None:
    """What names our request at the provider is nobody else's business."""
    error = {"type": "invalid_request_error", "message": "max_tokens: too large"}
    site.upstream.script(json_answer(400, {"type": "error", "error": error, "request_id": "req_0123"}))
    with pytest.raises(ProviderRejected) as caught:
        await chunks_of(site)
    assert "req_0123" not in f"{caught.value!r} {caught.value.metadata}"
    assert caught.value.message == "max_tokens: too large"


async def test_a_workspaces_own_key_that_is_refused_is_told_as_such(site: ProviderSite) -> None:
    """The workspace can do something about its key; about the gateway's it cannot."""
    site.upstream.script(VENDOR.refusal("bad_key"))
    with pytest.raises(ProviderCredentialRejected):
        await provider(site, byok=True).list_models()


def page(*ids: str, has_more: bool = False, **members: Any) -> ScriptedAnswer:
    """One page of the list of models."""
    data = [{"type": "model", "id": model, "display_name": model.title(), **members} for model in ids]
    return json_answer(200, {"data": data, "has_more": has_more, "first_id": ids[0], "last_id": ids[-1]})


async def test_models_are_listed_page_by_page(site: ProviderSite) -> None:
    """Every page is asked for, after the last model of the one before."""
    site.upstream.script(page("a", "b", has_more=True), page("c"))
    models = await provider(site).list_models()
    assert [model.model for model in models] == ["a", "b", "c"]
    assert [(request.method, request.path) for request in site.upstream.requests] == [("GET", "/v1/models")] * 2
    queries = [dict(parse_qsl(request.query)) for request in site.upstream.requests]
    assert queries == [{"limit": "1000"}, {"limit": "1000", "after_id": "b"}]


async def test_what_the_list_tells_of_a_model_is_kept(site: ProviderSite) -> None:
    """Limits, what it reads, its name and its date; what is retired cannot be asked."""
    told = {
        "created_at": "2026-09-22T00:00:00Z",
        "max_input_tokens": 1_000_000,
        "max_tokens": 128_000,
        "lifecycle": "active",
        "capabilities": {"image_input": {"supported": True}, "pdf_input": {"supported": False}, "batch": None},
    }
    site.upstream.script(page("claude-a", has_more=True, **told), page("claude-b", **{**told, "lifecycle": "retired"}))
    (model,) = await provider(site).list_models()
    assert (model.context_window, model.max_output_tokens) == (1_000_000, 128_000)
    assert (model.input_modalities, model.output_modalities) == (("text", "image"), ("text",))
    assert (model.description, model.created) == ("Claude-A", 1_790_035_200)


async def test_a_list_may_say_little(site: ProviderSite) -> None:
    """Compatible servers tell ids and nothing else."""
    site.upstream.script(json_answer(200, {"data": [{"id": "m", "created_at": "soon"}]}))
    (model,) = await provider(site).list_models()
    assert (model.model, model.context_window, model.max_output_tokens, model.created) == ("m", None, None, 0)
    assert model.input_modalities == ()


async def test_a_list_without_end_is_bounded(site: ProviderSite) -> None:
    """A server that always has more is asked only so often."""
    site.upstream.script(*(page(f"m{number}", has_more=True) for number in range(MAX_PAGES + 5)))
    assert len(await provider(site).list_models()) == MAX_PAGES
    assert len(site.upstream.requests) == MAX_PAGES


async def test_a_list_that_repeats_itself_is_given_up(site: ProviderSite) -> None:
    """A server that does not know pages sends the first again and again."""
    site.upstream.script(*(page("a", has_more=True) for _ in range(5)))
    assert [model.model for model in await provider(site).list_models()] == ["a"]
    assert len(site.upstream.requests) == 2


async def test_a_list_that_cannot_be_read_is_a_failure(site: ProviderSite) -> None:
    """A list in another form is the provider's failure."""
    site.upstream.script(json_answer(200, {"models": []}))
    with pytest.raises(ProviderUnavailable):
        await provider(site).list_models()


def test_the_body_is_json_without_the_key(site: ProviderSite) -> None:
    """What is prepared may be kept and sent again; the key is not part of it."""
    prepared = provider(site).prepare_chat(REQUEST, model="m", stream=True, max_output_tokens=None)
    assert json.loads(prepared.body)["stream"] is prepared.stream is True
    assert b"house-key" not in prepared.body
