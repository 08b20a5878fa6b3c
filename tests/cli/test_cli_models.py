"""`quillgate models`."""

import pytest
from fakes.fake_admin_core import FakeAdminCore

from quillgate.v1.catalogue_service_pb2 import CatalogueModel, CatalogueUpstream
from quillgate.v1.model_service_pb2 import Model, ModelPricing, ModelPricingTier

from .conftest import Cli

ECHO = Model(id="quillgate/echo", object="model", created=7, owned_by="quillgate", description="Says it again.")
LARGE = Model(
    id="x/large",
    object="model",
    created=8,
    owned_by="x",
    context_window=1_000_000,
    max_output_tokens=8192,
    full_context_messages=63,
    pricing=ModelPricing(
        prompt="0.00000015",
        completion="0.00001",
        input_cache_read="0.000000075",
        tiers=[ModelPricingTier(above_prompt_tokens=200_000, prompt="0.0000003", completion="0.00002")],
    ),
)
SPEECH = Model(
    id="x/speech",
    object="model",
    owned_by="x",
    input_modalities=["audio", "text"],
    output_modalities=["text"],
    endpoints=["audio.transcriptions"],
)


@pytest.fixture
def core_with_models(core: FakeAdminCore) -> FakeAdminCore:
    """A core that serves two models, one of them with limits."""
    core.models.extend([ECHO, LARGE])
    return core


@pytest.mark.usefixtures("core_with_models")
@pytest.mark.parametrize("arguments", [["models"], ["models", "list"]])
def test_models_are_listed(cli: Cli, arguments: list[str]) -> None:
    """`quillgate models` lists, as `models list` does; a limit that nobody stated is unknown."""
    outcome = cli(*arguments)
    assert outcome.column("MODEL") == ["quillgate/echo", "x/large"]
    assert "Says it again." in outcome.out
    assert outcome.out.splitlines()[-1].split() == ["x/large", "1,000,000", "8,192", "0.15", "10"]
    assert outcome.out.splitlines()[-2].split()[1:5] == ["unknown"] * 4


@pytest.mark.usefixtures("core_with_models")
def test_models_as_json_are_openais(cli: Cli) -> None:
    """`--json` gives what `GET /models` gives."""
    document = cli("models", "--json").json
    assert document["object"] == "list"
    assert document["data"][1] == {
        "id": "x/large",
        "object": "model",
        "created": 8,
        "owned_by": "x",
        "context_window": 1_000_000,
        "max_output_tokens": 8192,
        "pricing": {
            "prompt": "0.00000015",
            "completion": "0.00001",
            "input_cache_read": "0.000000075",
            "tiers": [{"above_prompt_tokens": 200_000, "prompt": "0.0000003", "completion": "0.00002"}],
        },
        "full_context_messages": 63,
    }


@pytest.mark.usefixtures("core_with_models")
def test_show_one_model(cli: Cli) -> None:
    """`models show ID` shows one, for people and as JSON."""
    assert "Says it again." in cli("models", "show", "quillgate/echo").out
    assert cli("models", "show", "x/large", "--json").json["context_window"] == 1_000_000


def test_show_what_a_model_is_for(cli: Cli, core: FakeAdminCore) -> None:
    """`models show` says what a model reads, writes and can be asked through."""
    core.models.append(SPEECH)
    shown = {line.split()[0]: line for line in cli("models", "show", "x/speech").out.splitlines()}
    assert "audio, text" in shown["Reads"]
    assert "text" in shown["Writes"]
    assert "audio.transcriptions" in shown["Endpoints"]
    assert cli("models", "show", "x/speech", "--json").json["input_modalities"] == ["audio", "text"]


@pytest.mark.usefixtures("core_with_models")
def test_show_what_a_model_costs(cli: Cli) -> None:
    """`models show` tells prices for a million tokens, a line a tier, and what a full context counts."""
    lines = [" ".join(line.split()) for line in cli("models", "show", "x/large").out.splitlines()]
    assert "Price in 0.15, out 10, cached 0.075" in lines
    assert "Price, tier 1 prompts above 200,000: in 0.3, out 20" in lines
    assert "Full context 63 messages" in lines
    assert "unknown" in cli("models", "show", "quillgate/echo").out


def test_all_models_with_who_serves_them(cli: Cli, core: FakeAdminCore) -> None:
    """`models list --all` shows what is off as well, and brackets the providers that are not switched on."""
    upstreams = [CatalogueUpstream(provider="x", switched_on=True), CatalogueUpstream(provider="y")]
    for model_id, enabled, served in (("x/a", True, True), ("x/b", False, False), ("x/c", True, False)):
        core.catalogue[model_id] = CatalogueModel(
            model=Model(id=model_id), enabled=enabled, served=served, upstreams=upstreams, aliases=["a1", "a2"]
        )
    outcome = cli("models", "--all")
    assert outcome.column("STATE") == ["on", "off", "no provider"]
    assert outcome.out.splitlines()[2].split() == ["x/a", "on", *["unknown"] * 4, "x", "(y)", "a1", "a2"]
    document = cli("models", "list", "--all", "--json").json
    assert [model["served"] for model in document["models"]] == [True, False, False]
    assert document["snapshot_date"] == "2026-11-25"


@pytest.mark.usefixtures("core_with_models")
def test_an_unknown_model_is_not_found(cli: Cli) -> None:
    """An unknown model ends with code 4 and says where to look."""
    outcome = cli("models", "show", "nobody/nothing")
    told = "The model `nobody/nothing` does not exist or you do not have access to it. (`quillgate models` lists them)"
    assert (outcome.code, outcome.out, outcome.err) == (4, "", f"quillgate: {told}\n")


def test_no_models_is_an_empty_table(cli: Cli) -> None:
    """A key without models gets the titles, and in JSON an empty list."""
    assert len(cli("models").out.splitlines()) == 2
    assert cli("models", "--json").json == {"object": "list", "data": []}


def test_a_misplaced_argument_is_wrong_usage(cli: Cli, core: FakeAdminCore) -> None:
    """Words that are no command are refused rather than ignored."""
    assert cli("models", "--json", "show", "x/large").code == 2
    assert core.requests == []
