"""`quillgate client-config`: what it prints is what the client reads, and it never holds a key."""

import ast
import json
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from fakes.fake_admin_core import ADMIN_SECRET, FakeAdminCore

from quillgate.v1.model_service_pb2 import Model

from .conftest import Cli, CliProcess

CLIENTS = ("opencode", "aider", "llm", "codex", "continue", "curl", "python", "node")
URL = "http://127.0.0.1:8080/api/openai/v1"
ECHO = Model(id="quillgate/echo", owned_by="quillgate", endpoints=["chat.completions", "responses"])
LARGE = Model(
    id="x/large",
    owned_by="x",
    context_window=1_000_000,
    max_output_tokens=8192,
    endpoints=["chat.completions", "responses"],
)
OTHER = Model(id="y/it's", owned_by="y", context_window=32_000, max_output_tokens=4096)
EAR = Model(id="quillgate/pocketsphinx", owned_by="quillgate", endpoints=["audio.transcriptions"])


@pytest.fixture(autouse=True)
def core_with_models(core: FakeAdminCore, monkeypatch: pytest.MonkeyPatch) -> FakeAdminCore:
    """A core with a diagnostic model, two real ones, one of them oddly named, and one that does not chat."""
    for variable in ("QUILLGATE_BASE_URL", "CODEX_HOME", "LLM_USER_PATH"):
        monkeypatch.delenv(variable, raising=False)
    core.models.extend([ECHO, EAR, LARGE, OTHER])
    return core


@pytest.mark.parametrize("client", CLIENTS)
def test_no_configuration_holds_a_key(cli: Cli, client: str) -> None:
    """Every client's configuration has the base URL and the default model, and names a variable for the key."""
    outcome = cli("client-config", client)
    assert outcome.code == 0
    assert URL in outcome.out
    assert "x/large" in outcome.out
    assert ADMIN_SECRET not in outcome.out + outcome.err
    assert "developer key" in outcome.err


@pytest.mark.parametrize("client", CLIENTS)
def test_the_server_and_model_are_chosen(cli: Cli, client: str) -> None:
    """`--base-url` and `--model` say where and what; a slash at the end goes."""
    outcome = cli("client-config", client, "--base-url", "https://models.example/v1/", "--model", "quillgate/echo")
    assert outcome.code == 0
    assert "https://models.example/v1" in outcome.out
    assert "https://models.example/v1//" not in outcome.out
    assert "quillgate/echo" in outcome.out


def test_opencode(cli: Cli) -> None:
    """OpenCode gets a provider with the models that chat, and limits where both are known."""
    value = cli("client-config", "opencode").json
    provider = value["provider"]["gateway"]
    assert value["model"] == "gateway/x/large"
    assert provider["npm"] == "@ai-sdk/openai-compatible"
    assert provider["options"] == {"baseURL": URL, "apiKey": "{env:QUILLGATE_API_KEY}"}
    assert provider["models"] == {
        "x/large": {"name": "x/large", "limit": {"context": 1_000_000, "output": 8192}},
        "y/it's": {"name": "y/it's", "limit": {"context": 32_000, "output": 4096}},
        "quillgate/echo": {"name": "quillgate/echo"},
    }


def test_codex(cli: Cli) -> None:
    """Codex gets a provider that speaks responses, and the default model's context window."""
    value = tomllib.loads(cli("client-config", "codex").out)
    assert (value["model"], value["model_provider"], value["model_context_window"]) == (
        "x/large",
        "quillgate",
        1_000_000,
    )
    assert value["model_providers"]["quillgate"] == {
        "name": "Quillgate",
        "base_url": URL,
        "env_key": "QUILLGATE_API_KEY",
        "wire_api": "responses",
    }


def test_aider(cli: Cli, tmp_path: Path) -> None:
    """Aider gets its settings and a table of limits under the names by which it asks."""
    assert cli("client-config", "aider", "--write", str(tmp_path)).code == 0
    settings = (tmp_path / ".aider.conf.yml").read_text().splitlines()
    assert settings == [f'openai-api-base: "{URL}"', 'model: "openai/x/large"', 'weak-model: "openai/x/large"']
    limits = json.loads((tmp_path / ".aider.model.metadata.json").read_text())
    assert limits["openai/x/large"] == {
        "max_tokens": 8192,
        "max_input_tokens": 1_000_000,
        "max_output_tokens": 8192,
        "litellm_provider": "openai",
        "mode": "chat",
    }
    assert limits["openai/quillgate/echo"] == {"litellm_provider": "openai", "mode": "chat"}


def test_continue(cli: Cli) -> None:
    """Continue gets a model block each, with limits where they are known and the key as a secret."""
    text = cli("client-config", "continue").out
    assert text.count("provider: openai") == 3
    assert "apiKey: ${{ secrets.QUILLGATE_API_KEY }}" in text
    assert "contextLength: 1000000\n      maxTokens: 8192" in text
    assert text.count("defaultCompletionOptions") == 2


def test_examples_are_programs(cli: Cli, tmp_path: Path) -> None:
    """The printed programs are what their languages accept, also for a model with a quote in its id."""
    ast.parse(cli("client-config", "python", "--model", "y/it's").out)
    script = cli("client-config", "curl", "--model", "y/it's").out
    printed = subprocess.run(
        ["sh", "-c", script.replace("curl ", "printf '%s|' ", 1)], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(printed.split("|")[-2])["model"] == "y/it's"
    program = tmp_path / "program.mjs"
    program.write_text(cli("client-config", "node", "--model", "y/it's").out)
    assert 'model: "y/it\'s"' in program.read_text()


@pytest.mark.parametrize("client", CLIENTS)
def test_written_where_the_client_looks(
    cli_process: CliProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    """`--write` without a path writes into the project or the home, never over a file unless forced."""
    home, project = tmp_path / "home", tmp_path / "project"
    project.mkdir()
    environ = cli_process.environment | {"HOME": str(home), "PYTHONPATH": ""}
    environ.pop("XDG_CONFIG_HOME", None)
    run = CliProcess(environ)
    monkeypatch.chdir(project)
    assert run("client-config", client, "--write").code == 0
    written = {path.name: path for path in tmp_path.rglob("*") if path.is_file()}
    expected = {
        "opencode": {"opencode.json"},
        "aider": {".aider.conf.yml", ".aider.model.metadata.json"},
        "llm": {"extra-openai-models.yaml"},
        "codex": {"config.toml"},
        "continue": {"config.yaml"},
        "curl": {"quillgate.sh"},
        "python": {"quillgate_example.py"},
        "node": {"quillgate_example.mjs"},
    }
    assert set(written) == expected[client]
    assert all((home in path.parents) == (client in ("llm", "codex", "continue")) for path in written.values())


def test_nothing_is_overwritten_unless_forced(cli: Cli, tmp_path: Path) -> None:
    """A file in the way stops the whole write; `--force` replaces it."""
    table = tmp_path / ".aider.model.metadata.json"
    table.write_text("mine")
    outcome = cli("client-config", "aider", "--write", str(tmp_path))
    assert (outcome.code, outcome.out) == (1, "")
    assert "--force" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == [table.name]
    assert table.read_text() == "mine"
    assert cli("client-config", "aider", "--force", "--write", str(tmp_path)).code == 0
    assert json.loads(table.read_text())


def test_write_to_a_path(cli: Cli, tmp_path: Path) -> None:
    """One file goes to the path given, or under its own name into a folder that exists, and prints nothing."""
    outcome = cli("client-config", "opencode", "--write", str(tmp_path / "new" / "mine.json"))
    assert (outcome.code, outcome.out) == (0, "")
    assert cli("client-config", "opencode", "--write", str(tmp_path)).code == 0
    assert (tmp_path / "new" / "mine.json").read_text() == (tmp_path / "opencode.json").read_text()
    assert stat.S_ISREG((tmp_path / "opencode.json").stat().st_mode)


def test_a_folder_that_cannot_be_is_told(cli: Cli, tmp_path: Path) -> None:
    """A path below a file is one line, not a traceback."""
    (tmp_path / "file").write_text("")
    outcome = cli("client-config", "opencode", "--write", str(tmp_path / "file" / "x.json"))
    assert outcome.code == 1
    assert "cannot write" in outcome.err


def test_the_clients_own_variable_moves_its_folder(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CODEX_HOME and LLM_USER_PATH say where Codex and llm look."""
    monkeypatch.setenv("CODEX_HOME", str(tmp_path / "codex"))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    assert cli("client-config", "codex", "--write").code == 0
    assert cli("client-config", "llm", "--write").code == 0
    assert (tmp_path / "codex" / "config.toml").exists()
    assert (tmp_path / "llm" / "extra-openai-models.yaml").exists()


def test_list_needs_no_server(cli: Cli, core: FakeAdminCore) -> None:
    """`--list` names every client without a call."""
    outcome = cli("client-config", "--list")
    assert outcome.code == 0
    assert outcome.column("CLIENT") == list(CLIENTS)
    assert core.requests == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["vim"],
        ["opencode", "--base-url", "127.0.0.1:8080"],
        ["opencode", "--base-url", "http://me:secret@host/v1"],
        ["opencode", "--force"],
    ],
)
def test_wrong_usage(cli: Cli, core: FakeAdminCore, arguments: list[str]) -> None:
    """No client, an unknown one, a base URL that is none or holds a secret, and force without a file end with 2."""
    outcome = cli("client-config", *arguments)
    assert (outcome.code, outcome.out, core.requests) == (2, "", [])


@pytest.mark.parametrize("model", ["nobody/nothing", "quillgate/pocketsphinx"])
def test_a_default_model_must_chat(cli: Cli, model: str) -> None:
    """A default model that the key may not use, or that does not chat, ends with 4."""
    outcome = cli("client-config", "opencode", "--model", model)
    assert (outcome.code, outcome.out) == (4, "")


def test_without_chat_models_there_is_nothing_to_configure(cli: Cli, core: FakeAdminCore) -> None:
    """A key without any model that chats ends with 4."""
    core.models[:] = [EAR]
    assert cli("client-config", "opencode").code == 4


def _add_many(core: FakeAdminCore, count: int) -> None:
    """As many models as a key with OpenRouter has, and a few that everybody knows."""
    core.models.extend(Model(id=f"a/m{number:03}", owned_by="a", created=9) for number in range(count))
    for model_id, created in (
        ("openai/gpt-5-mini", 5),
        ("google/gemini-2.5-flash", 1),
        ("google/gemini-3.8-flash", 2),
        ("google/gemini-9-flash-lite", 3),
    ):
        core.models.append(Model(id=model_id, owned_by="g", created=created))


def test_the_default_suits_most(cli: Cli, core: FakeAdminCore) -> None:
    """Where nobody chose, the newest model of a common family is the default, whatever comes first by its id."""
    _add_many(core, 3)
    assert cli("client-config", "opencode").json["model"] == "gateway/google/gemini-3.8-flash"
    chosen = cli("client-config", "opencode", "--model", "a/m001", "--only", "openai/*").json
    assert chosen["model"] == "gateway/a/m001"
    assert list(chosen["provider"]["gateway"]["models"]) == ["a/m001", "openai/gpt-5-mini"]


def test_only_some_models(cli: Cli) -> None:
    """`--only` leaves out what no pattern matches, and says so when that is everything."""
    models = cli("client-config", "opencode", "--only", "x/*", "--only", "quillgate/*").json["provider"]["gateway"]
    assert list(models["models"]) == ["x/large", "quillgate/echo"]
    assert cli("client-config", "opencode", "--only", "z/*").code == 4


@pytest.mark.parametrize("client", CLIENTS)
def test_hundreds_of_models_stay_usable(cli: Cli, core: FakeAdminCore, client: str) -> None:
    """With 400 models a configuration is what the client can read, and a picker or comment shows a few."""
    _add_many(core, 400)
    outcome = cli("client-config", client)
    assert outcome.code == 0
    assert len(outcome.out) < 200_000
    if client == "opencode":
        assert len(outcome.json["provider"]["gateway"]["models"]) == 407
    if client == "continue":
        assert outcome.out.count("provider: openai") == 25
        assert "25 of 407 models with --only" in outcome.err
    if client == "codex":
        assert outcome.out.count("# codex") == 24
        assert tomllib.loads(outcome.out)["model"] == "google/gemini-3.8-flash"
