"""The models that come with the service: enough of them with one key, each sound, whoever serves it."""

import re
from collections.abc import Set
from datetime import date
from decimal import Decimal

import msgspec
import pytest

from quillgate_core.catalogue import Catalogue, Model
from quillgate_core.catalogue_basis import CatalogueBasis, read_catalogue
from quillgate_core.counting import TOKENS_PER_MESSAGE
from quillgate_core.model_names import MAKERS, is_model_id
from quillgate_core.pricing import Price, per_token

OPENROUTER_KEY = {"OPENROUTER_API_KEY": "k"}
_LANGUAGE = ("chat.completions", "completions", "responses")


@pytest.fixture(scope="module")
def basis() -> CatalogueBasis:
    """What comes with the service."""
    return read_catalogue(None)


def _served(basis: CatalogueBasis, environ: dict[str, str], own: Set[str] = frozenset()) -> dict[str, Model]:
    providers = [provider.name for provider in basis.switched_on(environ)]
    models = Catalogue(basis.models, providers=providers).list(own)
    assert len({model.id for model in models}) == len(models)
    return {model.id: model for model in models}


def test_openrouter_alone_serves_hundreds(basis: CatalogueBasis) -> None:
    """One key with OpenRouter is enough for 200 models, of all of the great makers, each under OpenRouter's name."""
    models = _served(basis, OPENROUTER_KEY)
    assert len(models) >= 200
    assert {"openai", "anthropic", "google", "meta-llama", "mistralai", "deepseek", "qwen", "x-ai"} <= {
        model.owner for model in models.values()
    }
    for model in models.values():
        (upstream,) = model.upstreams
        assert (upstream.provider, upstream.model) == ("openrouter", model.id)


@pytest.mark.parametrize(
    "environ",
    [
        OPENROUTER_KEY,
        OPENROUTER_KEY | {"OPENAI_API_KEY": "k"},
        OPENROUTER_KEY | {"ANTHROPIC_API_KEY": "k", "GEMINI_API_KEY": "k"},
    ],
    ids=lambda environ: "+".join(environ),
)
def test_more_keys_serve_more(basis: CatalogueBasis, environ: dict[str, str]) -> None:
    """Every further key only adds models and upstreams; limits and modalities are told for each model."""
    alone, models = _served(basis, OPENROUTER_KEY), _served(basis, environ)
    assert set(alone) <= set(models)
    for model in models.values():
        assert 1 <= model.max_output_tokens <= model.context_window
        assert model.full_context_messages == max(1, -(-model.context_window // TOKENS_PER_MESSAGE))
        assert "text" in model.input_modalities or model.endpoints == ("audio.transcriptions",)
        assert model.output_modalities == ("text",)
        assert model.endpoints in (_LANGUAGE, ("audio.transcriptions",))
        if model.id in alone:
            assert {"openrouter"} <= {upstream.provider for upstream in model.upstreams}


def test_a_makers_key_serves_its_models(basis: CatalogueBasis) -> None:
    """Each maker's own key alone serves models of that maker, under the maker's own names for them."""
    for provider, maker in MAKERS.items():
        models = _served(basis, {f"{provider.upper()}_API_KEY": "k"})
        own = [model for model in models.values() if model.id.startswith(f"{maker}/")]
        assert own, provider
        assert {upstream.provider for model in own for upstream in model.upstreams} == {provider}
        assert not any(upstream.model.startswith(f"{maker}/") for model in own for upstream in model.upstreams)


def test_every_model_is_well_formed(basis: CatalogueBasis) -> None:
    """Ids are `vendor/model` and unique, also but for their case; each model is described and dated."""
    ids = [model.id for model in basis.models]
    assert len({model_id.lower() for model_id in ids}) == len(ids)
    assert [name for name in ids if not is_model_id(name)] == ["quillgate/echo", "quillgate/pocketsphinx"]
    assert [model.id for model in basis.models if not model.description or model.created <= 0] == []
    known = {*basis.providers, "echo", "pocketsphinx"}
    for model in basis.models:
        pairs = [(upstream.provider, upstream.model) for upstream in model.upstreams]
        assert len(set(pairs)) == len(pairs)
        assert {provider for provider, _ in pairs} <= known
    assert date.fromisoformat(basis.snapshot_date) >= date(2026, 11, 25)


def test_every_price_is_exact(basis: CatalogueBasis) -> None:
    """Every price parses, into whole picodollars without rounding; nearly every language model has one."""
    upstreams = [(model, upstream) for model in basis.models for upstream in model.upstreams]
    priced = [upstream.price for _, upstream in upstreams if upstream.price is not None]
    assert len(priced) > 0.9 * len(upstreams)
    for price in priced:
        assert msgspec.convert(msgspec.to_builtins(price), Price) == price
        rates = [rate for part in (price, *price.tiers) for rate in (part.input, part.output, part.cached_input)]
        for rate in rates:
            if rate is not None:
                assert Decimal(per_token(rate)) == Decimal(rate) * 10**6
                assert re.fullmatch(r"\d+(\.\d*[1-9])?", rate)
        thresholds = [tier.above_prompt_tokens for tier in price.tiers]
        assert thresholds == sorted(set(thresholds))


def test_the_cheaper_way_is_asked_first(basis: CatalogueBasis) -> None:
    """Where two upstreams hold as much, the one that charges less stands first; at one price the maker does."""
    models = {model.id: model for model in basis.models}
    mini = models["openai/gpt-4o-mini"].upstreams
    assert [upstream.provider for upstream in mini] == ["openai", "openrouter"]
    dear = [
        model.id
        for model in basis.models
        if len(model.upstreams) == 2
        and model.upstreams[0].provider in MAKERS
        and _blend(model.upstreams[0].price) > _blend(model.upstreams[1].price)
    ]
    assert dear == []


def _blend(price: Price | None) -> Decimal:
    return Decimal(0) if price is None else 3 * Decimal(price.input) + Decimal(price.output)


def test_variants_that_make_no_sense_are_left_out(basis: CatalogueBasis) -> None:
    """There are free variants, but neither batch prices nor names whose model moves."""
    ids = [model.id for model in basis.models]
    assert any(model_id.endswith(":free") for model_id in ids)
    assert not any(model_id.endswith(":batch") or model_id.startswith(("~", "openrouter/")) for model_id in ids)
    free = [model for model in basis.models if model.id.endswith(":free")]
    assert all(upstream.price == Price("0", "0") for model in free for upstream in model.upstreams)
