"""What the lists of models of OpenAI-compatible servers say, and how a key is tried with them."""

from typing import Any

import pytest
from fakes.provider_site import ProviderSite
from fakes.scripted_upstream import ScriptedAnswer, bytes_answer, json_answer

from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.errors import Overloaded, ProviderCredentialRejected, ProviderUnavailable, QuillgateError
from quillgate_core.pricing import Price
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.openai_model_list import MAX_MODELS, listed_models
from quillgate_core.secret import Secret
from quillgate_core.upstream import ListedModel, ModelLister

KEY = "house-key-canary-42"

OPENROUTER = {
    "id": "anthropic/claude-sonnet-4.5",
    "canonical_slug": "anthropic/claude-4.5-sonnet-20250929",
    "created": 1759161676,
    "description": "Claude Sonnet 4.5 is a model.",
    "context_length": 1000000,
    "architecture": {"input_modalities": ["text", "image", "file", "smell"], "output_modalities": ["text"]},
    "pricing": {
        "prompt": "0.000003",
        "completion": "0.000015",
        "input_cache_read": "0.0000003",
        "input_cache_write": "0.00000375",
        "image": "0",
    },
    "top_provider": {"context_length": 1000000, "max_completion_tokens": 64000, "is_moderated": False},
}


def lister(site: ProviderSite, *, name: str = "fake", byok: bool = False, key: str = KEY) -> ModelLister:
    """The lister of an account at the site."""
    config = ProviderConfig(name, site.upstream.base_url, Secret(key) if key else None, is_trusted=True)
    found = make_account(config, site.pool, byok=byok).lister
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            OPENROUTER,
            ListedModel(
                "anthropic/claude-sonnet-4.5",
                context_window=1_000_000,
                max_output_tokens=64_000,
                input_modalities=("text", "image", "file"),
                output_modalities=("text",),
                price=Price("3", "15", cached_input="0.3", cache_write="3.75"),
                description="Claude Sonnet 4.5 is a model.",
                created=1759161676,
            ),
        ),
        (
            {"id": "llama", "active": True, "context_window": 131072, "max_completion_tokens": 32768, "created": 1},
            ListedModel("llama", context_window=131072, max_output_tokens=32768, created=1),
        ),
        (
            {"id": "t", "type": "chat", "context_length": 8192, "pricing": {"input": 0.18, "output": 0.59, "base": 0}},
            ListedModel("t", context_window=8192, price=Price("0.18", "0.59")),
        ),
        (
            {"id": "accounts/fireworks/models/f", "supports_chat": True, "supports_image_input": True},
            ListedModel("accounts/fireworks/models/f", input_modalities=("text", "image")),
        ),
        (
            {
                "id": "mistral-small-latest",
                "max_context_length": 131072,
                "capabilities": {"completion_chat": True, "vision": False, "audio": True},
                "description": "  Small.  ",
            },
            ListedModel(
                "mistral-small-latest",
                context_window=131072,
                input_modalities=("text", "audio"),
                description="Small.",
            ),
        ),
        (
            {
                "id": "grok-4",
                "input_modalities": ["text", "image"],
                "output_modalities": ["text"],
                "prompt_text_token_price": 30000,
                "cached_prompt_text_token_price": 7500,
                "completion_text_token_price": 150000,
            },
            ListedModel(
                "grok-4",
                input_modalities=("text", "image"),
                output_modalities=("text",),
                price=Price("3", "15", cached_input="0.75"),
            ),
        ),
        ({"id": "vllm", "max_model_len": 4096}, ListedModel("vllm", context_window=4096)),
        ({"id": "plain", "object": "model", "owned_by": "library"}, ListedModel("plain")),
    ],
)
def test_what_each_vendor_says_of_a_model_is_read(entry: dict[str, Any], expected: ListedModel) -> None:
    """Limits, modalities and prices are found under every vendor's names; what is not said stays empty."""
    assert list(listed_models([entry])) == [expected]


@pytest.mark.parametrize(
    "entry",
    [
        *[{"id": "x", "type": kind} for kind in ("image", "embedding", "rerank", "audio", "moderation")],
        {"id": "x", "active": False},
        {"id": "x", "supports_chat": False},
        {"id": "x", "capabilities": {"completion_chat": False}},
        {"id": "x", "architecture": {"output_modalities": ["image"]}},
        *[{"id": name} for name in ("", "with space", "x" * 201, "é", 5, None)],
        *["text", None, 5, [], {}],
    ],
)
def test_what_cannot_be_asked_for_text_is_left_out(entry: Any) -> None:
    """Neither models of other kinds nor what is no model spoils the rest of the list."""
    assert [model.model for model in listed_models([entry, {"id": "good"}, {"id": "good"}])] == ["good"]


@pytest.mark.parametrize(
    "junk",
    [
        {"context_length": value, "max_completion_tokens": value, "created": value, "pricing": value}
        | {"architecture": value, "capabilities": value, "description": value, "top_provider": value, "type": value}
        for value in (None, -1, 0, 10**30, 1.5, "x", True, [], [None], {}, {"prompt": "x", "completion": "1"})
    ],
)
def test_junk_in_a_model_is_as_good_as_nothing(junk: dict[str, Any]) -> None:
    """Members of the wrong kind say nothing, and never stop the list."""
    (model,) = listed_models([{"id": "good", **junk}])
    assert (model.model, model.context_window, model.max_output_tokens, model.price) == ("good", None, None, None)
    assert 0 <= model.created < 2**40


@pytest.mark.parametrize(
    ("prompt", "price"),
    [
        ("-1", None),
        ("0", Price("0", "0")),
        (0.0000001, Price("0.1", "0")),
        ("1e9", None),
        ("NaN", None),
        pytest.param(10**5000, None, id="huge"),
    ],
)
def test_prices_that_are_none_are_left_out(prompt: Any, price: Price | None) -> None:
    """A negative price stands for `it depends`; a free model costs nothing, which is a price."""
    (model,) = listed_models([{"id": "m", "pricing": {"prompt": prompt, "completion": "0"}}])
    assert model.price == price


@pytest.mark.parametrize("body", [{"data": [{"id": "a"}], "object": "list"}, [{"id": "a"}]])
async def test_a_list_is_asked_for_with_the_accounts_key(site: ProviderSite, body: Any) -> None:
    """An object with `data`, or a bare array, as Together sends it."""
    site.upstream.script(json_answer(200, body))
    assert list(await lister(site).list_models()) == [ListedModel("a")]
    (request,) = site.upstream.requests
    assert (request.method, request.path, request.headers["Authorization"]) == ("GET", "/v1/models", f"Bearer {KEY}")


async def test_openrouters_key_is_tried_where_it_matters(site: ProviderSite) -> None:
    """Its list is open to everybody, so the key is looked up first; a refused one is never taken for good."""
    site.upstream.script(json_answer(200, {"data": {}}), json_answer(200, {"data": [{"id": "a"}]}))
    await lister(site, name="openrouter").list_models()
    assert [request.path for request in site.upstream.requests] == ["/v1/key", "/v1/models"]
    site.upstream.script(json_answer(401, {"error": {"code": 401, "message": "No auth"}}))
    with pytest.raises(ProviderCredentialRejected):
        await lister(site, name="openrouter", byok=True).list_models()
    site.upstream.script(json_answer(200, []))
    assert list(await lister(site, name="openrouter", key="").list_models()) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (json_answer(401, {"error": {"message": KEY}}), ProviderUnavailable),
        (json_answer(404, {"detail": "Not Found"}), QuillgateError),
        (json_answer(429, {"error": {"message": "slow"}}), Overloaded),
        (json_answer(200, {"error": {"message": "m", "code": 429}}), Overloaded),
        (json_answer(200, {"data": None}), ProviderUnavailable),
        (json_answer(200, {}), ProviderUnavailable),
        (json_answer(200, None), ProviderUnavailable),
        (bytes_answer(b"<html>"), ProviderUnavailable),
        (bytes_answer(b"[" * 100_000), ProviderUnavailable),
        (ScriptedAnswer(200, {}, [b" " * 1024**2] * 20), ProviderUnavailable),
        (ScriptedAnswer(302, {"location": "/v1/elsewhere"}), ProviderUnavailable),
    ],
)
async def test_a_list_that_is_none_is_a_failure(
    site: ProviderSite, answer: ScriptedAnswer, expected: type[QuillgateError]
) -> None:
    """Refusals, nonsense and lists beyond 16 MiB are our errors, without the key."""
    site.upstream.script(answer)
    with pytest.raises(expected) as caught:
        await lister(site).list_models()
    assert KEY not in repr(caught.value)
    assert len(site.upstream.requests) == 1


async def test_a_list_is_bounded(site: ProviderSite) -> None:
    """Only so many models are looked at."""
    site.upstream.script(json_answer(200, {"data": [{"id": f"m{number}"} for number in range(MAX_MODELS + 5)]}))
    assert len(await lister(site).list_models()) == MAX_MODELS
