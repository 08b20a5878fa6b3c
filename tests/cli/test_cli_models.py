"""`quillgate models`."""

import pytest
from fakes.fake_admin_core import FakeAdminCore

from quillgate.v1.model_service_pb2 import Model

from .conftest import Cli

ECHO = Model(id="quillgate/echo", object="model", created=7, owned_by="quillgate", description="Says it again.")
LARGE = Model(id="x/large", object="model", created=8, owned_by="x", context_window=1_000_000, max_output_tokens=8192)
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
    assert outcome.out.splitlines()[-1].split() == ["x/large", "x", "1,000,000", "8,192"]
    assert outcome.out.splitlines()[-2].split()[2:4] == ["unknown", "unknown"]


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
