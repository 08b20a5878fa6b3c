"""What providers' lists say of models, merged into what is known: who wins, and which model a name means."""

import pytest

from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.catalogue_basis import CatalogueBasis
from quillgate_core.discovered import DiscoveredModel, merged, name_ids
from quillgate_core.pricing import Price
from quillgate_core.upstream import ListedModel

OLD, NEW = Price("1", "2"), Price("3", "4")


def _model(model_id: str, *upstreams: ModelUpstream, context_window: int = 100, max_output_tokens: int = 10) -> Model:
    return Model(id=model_id, context_window=context_window, max_output_tokens=max_output_tokens, upstreams=upstreams)


KNOWN = _model("openai/gpt-9", ModelUpstream("openai", "gpt-9", price=OLD))


def _found(
    provider: str = "openai", name: str = "gpt-9", model_id: str = "openai/gpt-9", **listed: object
) -> DiscoveredModel:
    values = {"context_window": 200, **listed}
    return DiscoveredModel(provider, name, model_id, ListedModel(name, **values))  # type: ignore[arg-type]


def _basis(**members: object) -> CatalogueBasis:
    return CatalogueBasis(models=(KNOWN,), **members)  # type: ignore[arg-type]


def test_a_list_changes_limits_and_price() -> None:
    """What a provider states of a bundled model holds; what it does not state stays."""
    after = merged(_basis(), [_found(price=NEW)])["openai/gpt-9"]
    assert (after.context_window, after.max_output_tokens) == (200, 10)
    assert after.upstreams == (ModelUpstream("openai", "gpt-9", price=NEW),)
    lowered = merged(_basis(), [_found(context_window=8, max_output_tokens=5)])["openai/gpt-9"]
    assert (lowered.context_window, lowered.max_output_tokens, lowered.upstreams) == (8, 5, KNOWN.upstreams)


def test_an_answer_never_exceeds_the_window() -> None:
    """A smaller context window lowers the output limit with it; an absurd one of a list is cut."""
    assert merged(_basis(), [_found(context_window=4)])["openai/gpt-9"].max_output_tokens == 4
    assert merged(_basis(), [_found(max_output_tokens=10**12)])["openai/gpt-9"].max_output_tokens == 200


def test_of_two_lists_the_larger_limit_holds() -> None:
    """Holds depend on the limits, so no list makes them smaller than another one says, in whichever order."""
    small = _found("groq", "openai/gpt-9", context_window=50, max_output_tokens=50)
    large = _found("together", "openai/GPT-9", context_window=300, max_output_tokens=30)
    for order in ([small, large], [large, small]):
        after = merged(_basis(), order)["openai/gpt-9"]
        assert (after.context_window, after.max_output_tokens) == (300, 50)
        assert [upstream.provider for upstream in after.upstreams] == ["openai", "groq", "together"]


@pytest.mark.parametrize(
    ("provider", "context_window"), [("openai", 50), ("openrouter", 50), ("groq", 100)], ids=lambda value: str(value)
)
def test_only_who_should_know_lowers_a_limit(provider: str, context_window: int) -> None:
    """The maker and OpenRouter say what a model holds; a host of others' models may just run it smaller."""
    after = merged(_basis(), [_found(provider, "openai/gpt-9", context_window=50)])["openai/gpt-9"]
    assert after.context_window == context_window


@pytest.mark.parametrize(
    ("stated", "limits", "price"),
    [
        ({"context_window"}, (100, 50), NEW),
        ({"max_output_tokens"}, (200, 10), NEW),
        ({"price"}, (200, 50), OLD),
        ({"upstreams"}, (200, 50), OLD),
        pytest.param({"context_window", "max_output_tokens", "upstreams", "price"}, (100, 10), OLD, id="everything"),
    ],
    ids=str,
)
def test_the_operator_wins(stated: set[str], limits: tuple[int, int], price: Price) -> None:
    """What the operator's file states of a model, no list changes."""
    basis = _basis(stated={"openai/gpt-9": frozenset(stated)})
    after = merged(basis, [_found(max_output_tokens=50, price=NEW)])["openai/gpt-9"]
    assert (after.context_window, after.max_output_tokens) == limits
    assert after.upstreams == (ModelUpstream("openai", "gpt-9", price=price),)


def test_stated_upstreams_stay_alone() -> None:
    """Where the operator chose who serves a model, no further provider joins."""
    basis = _basis(stated={"openai/gpt-9": frozenset({"upstreams"})})
    assert merged(basis, [_found("groq", "openai/gpt-9")])["openai/gpt-9"].upstreams == KNOWN.upstreams


def test_a_new_model_is_added() -> None:
    """A model that nobody knew gets what its list says; an answer of unknown length may fill the context window."""
    found = _found(name="gpt-10", model_id="openai/gpt-10", price=NEW, input_modalities=("text", "image"), created=5)
    after = merged(_basis(), [found])["openai/gpt-10"]
    assert after == Model(
        id="openai/gpt-10",
        context_window=200,
        max_output_tokens=200,
        upstreams=(ModelUpstream("openai", "gpt-10", price=NEW),),
        input_modalities=("text", "image"),
        created=5,
    )


def test_openrouter_is_asked_after_its_sources() -> None:
    """A new model that several providers list is asked for at OpenRouter last."""
    found = [
        _found("openrouter", "openai/gpt-10", "openai/gpt-10"),
        _found("together", "openai/GPT-10", "openai/gpt-10"),
        _found("openai", "gpt-10", "openai/gpt-10"),
    ]
    after = merged(_basis(), found)["openai/gpt-10"]
    assert [upstream.provider for upstream in after.upstreams] == ["openai", "together", "openrouter"]


def test_nothing_is_taken_away() -> None:
    """A list without a known model, an incomplete entry, and one that is absurd, leave the models as they are."""
    absurd = [_found(context_window=limit) for limit in (None, 0, -1, 10**9)]
    assert merged(_basis(), []) == {KNOWN.id: KNOWN}
    assert merged(_basis(), absurd) == {KNOWN.id: KNOWN}


def test_hidden_models_stay_hidden() -> None:
    """What the operator's file leaves out does not come back through a list."""
    basis = _basis(hide=("openai/gpt-1*",))
    assert set(merged(basis, [_found(name="gpt-10", model_id="openai/gpt-10")])) == {"openai/gpt-9"}


MODELS = {
    model.id: model
    for model in (
        KNOWN,
        _model("anthropic/claude-x-4.5", ModelUpstream("openrouter", "anthropic/claude-x-4.5")),
        _model("z-ai/glm-4.6", ModelUpstream("openrouter", "z-ai/glm-4.6")),
        _model("z-ai/glm-4.6:free", ModelUpstream("openrouter", "z-ai/glm-4.6:free")),
        _model("meta-llama/llama", ModelUpstream("groq", "llama-versatile")),
        _model("openai/whisper", ModelUpstream("groq", "whisper")),
        _model("one/twin", ModelUpstream("openrouter", "one/twin")),
        _model("two/twin", ModelUpstream("openrouter", "two/twin")),
    )
}


@pytest.mark.parametrize(
    ("provider", "name", "model_id"),
    [
        ("openrouter", "new/model", "new/model"),
        ("openrouter", "new/model:free", "new/model:free"),
        ("openrouter", "new/model:batch", None),
        ("openrouter", "openrouter/auto", None),
        ("openrouter", "~openai/gpt-latest", None),
        ("groq", "llama-versatile", "meta-llama/llama"),
        ("groq", "whisper", "openai/whisper"),
        ("groq", "whisper-2", None),
        ("groq", "z-ai/glm-4.6", "z-ai/glm-4.6"),
        ("anthropic", "claude-x-4-5", "anthropic/claude-x-4.5"),
        ("anthropic", "claude-x-4-6", "anthropic/claude-x-4-6"),
        ("anthropic", "glm-4.6", "anthropic/glm-4.6"),
        ("gemini", "gemini-9-flash", "google/gemini-9-flash"),
        ("gemini", "models/gemini-9-flash", "google/gemini-9-flash"),
        ("openai", "text-embedding-3", None),
        ("fireworks", "accounts/fireworks/models/glm-4p6", "z-ai/glm-4.6"),
        ("fireworks", "accounts/fireworks/models/new-1", "fireworks/new-1"),
        ("together", "Qwen/Qwen9-Max", "qwen/qwen9-max"),
        ("together", "somebody/twin", "somebody/twin"),
        ("mine", "llama-local", "mine/llama-local"),
        ("mine", "bad name", None),
        ("mine", "openai/gpt-9", "mine/gpt-9"),
        ("openrouter", "quillgate/echo", None),
    ],
)
def test_a_name_means_a_model(provider: str, name: str, model_id: str | None) -> None:
    """Names of known upstreams first, then the known model of that form, then a new id, or none."""
    found = name_ids(provider, [ListedModel(name)], MODELS)
    assert found == ({} if model_id is None else {name: model_id})


@pytest.mark.parametrize(
    ("reads", "writes", "is_named"),
    [
        (("text", "image"), ("text",), True),
        (("text",), ("text", "image"), False),
        (("audio",), ("text",), False),
        (("text",), ("audio",), False),
        ((), (), True),
    ],
)
def test_only_language_models_are_new(reads: tuple[str, ...], writes: tuple[str, ...], is_named: bool) -> None:
    """What draws, speaks or only hears is no new model; where a list says nothing, its name decides."""
    entry = ListedModel("new/model", input_modalities=reads, output_modalities=writes)  # type: ignore[arg-type]
    assert bool(name_ids("openrouter", [entry], MODELS)) is is_named
