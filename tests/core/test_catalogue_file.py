"""The operator's file on top of the bundled one, the switches in the environment, and all that can be wrong there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quillgate_core.catalogue_file import ECHO, CatalogueFile, ConfigError, read_catalogue

Write = Callable[[str], Path]

MODEL = """
[[models]]
id = "{id}"
context_window = 100
max_output_tokens = 10
upstreams = [{{ provider = "{provider}", model = "up" }}]
"""
MINE = '[providers.mine]\nbase_url = "http://127.0.0.1:8000/v1/"\n'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the operator's file and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "quillgate.toml"
        path.write_text(text)
        return path

    return write


def _problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_catalogue(path)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return tuple(problem.replace(str(path), "FILE") for problem in caught.value.problems)


def test_bundled_file_is_sound() -> None:
    """The file that comes with the service has no problem, and every model an answerable limit."""
    bundled = read_catalogue(None)
    assert bundled.problems() == []
    assert len({model.id for model in bundled.models}) == len(bundled.models) > 1
    assert all(model.max_output_tokens <= model.context_window for model in bundled.models)
    assert all(model.description and model.created > 0 for model in bundled.models)
    assert all(entry.base_url.startswith("https://") and entry.api_key_env for entry in bundled.providers.values())


def test_without_any_key_only_echo_is_served() -> None:
    """A fresh machine has no provider on, and one model that needs none."""
    bundled = read_catalogue(None)
    assert bundled.switched_on({}) == ()
    assert [model.id for model in bundled.models if model.upstreams[0].provider == ECHO] == ["quillgate/echo"]


def test_own_file_adds_and_overrides(write: Write) -> None:
    """Providers are replaced by name and models by id; everything else stays."""
    bundled = read_catalogue(None)
    text = MINE + '[providers.openai]\nbase_url = "https://proxy.example/v1"\n'
    merged = read_catalogue(
        write(text + MODEL.format(id="openai/gpt-4o", provider="mine") + MODEL.format(id="my/m", provider="openai"))
    )
    models = {model.id: model for model in merged.models}
    assert set(models) == {model.id for model in bundled.models} | {"my/m"}
    assert [upstream.provider for upstream in models["openai/gpt-4o"].upstreams] == ["mine"]
    assert merged.providers["openai"].base_url == "https://proxy.example/v1"
    assert merged.providers["openai"].api_key_env == ""
    assert merged.providers["gemini"] == bundled.providers["gemini"]


def test_bundled_can_be_left_out(write: Write) -> None:
    """With `bundled = false` there is the operator's file and the diagnostic model, no more."""
    merged = read_catalogue(write("bundled = false\n" + MINE + MODEL.format(id="my/m", provider="mine")))
    assert list(merged.providers) == ["mine"]
    assert [model.id for model in merged.models] == ["quillgate/echo", "my/m"]


def test_own_model_may_use_echo(write: Write) -> None:
    """The built-in provider needs no section."""
    merged = read_catalogue(write("bundled = false\n" + MODEL.format(id="my/echo", provider=ECHO)))
    assert [model.id for model in merged.models] == ["quillgate/echo", "my/echo"]


def test_provider_is_switched_on_by_its_key() -> None:
    """A provider with its variable set is on, at its usual address, in the file's order; blank is not set."""
    bundled = read_catalogue(None)
    on = bundled.switched_on({"OPENAI_API_KEY": " sk-1\n", "OPENROUTER_API_KEY": "or-1", "GEMINI_API_KEY": "  "})
    assert [(provider.name, provider.base_url) for provider in on] == [
        ("openrouter", "https://openrouter.ai/api/v1"),
        ("openai", "https://api.openai.com/v1"),
    ]
    assert [provider.api_key.reveal() for provider in on if provider.api_key is not None] == ["or-1", "sk-1"]
    assert "sk-1" not in repr(on)


def test_address_can_come_from_the_environment() -> None:
    """The usual variables move a provider elsewhere; alone, without a key, they switch nothing on."""
    bundled = read_catalogue(None)
    (provider,) = bundled.switched_on({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": " http://localhost:1/v1/ "})
    assert provider.base_url == "http://localhost:1/v1"
    assert bundled.switched_on({"OPENAI_BASE_URL": "nonsense"}) == ()


def test_provider_without_a_key_is_always_on(write: Write) -> None:
    """A server on one's own machine needs no key, and is sent none."""
    (provider,) = read_catalogue(write(MINE)).switched_on({})
    assert (provider.name, provider.base_url, provider.api_key) == ("mine", "http://127.0.0.1:8000/v1", None)


def test_bad_variables_are_all_named_without_their_values() -> None:
    """Keys that no header can carry and addresses that are none are told by name at start, not at the first request."""
    environ = {
        "OPENAI_API_KEY": "sk-secret\ninjected: header",
        "OPENAI_BASE_URL": "http://user:hunter2@host/v1",
        "GEMINI_API_KEY": "clé",
        "GROQ_API_KEY": "good",
        "GROQ_BASE_URL": "localhost:8000",
    }
    with pytest.raises(ConfigError) as caught:
        read_catalogue(None).switched_on(environ)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "GEMINI_API_KEY",
        "GROQ_BASE_URL",
    ]
    assert not any(secret in str(caught.value) for secret in ("sk-secret", "hunter2", "clé", "localhost"))


def test_problems_are_told_all_at_once(write: Write) -> None:
    """Unknown providers, the built-in name, bad addresses and double models, in one report that quotes no address."""
    path = write(
        '[providers.echo]\nbase_url = "http://host/v1"\n'
        '[providers.bad]\nbase_url = "http://user:hunter2@host/v1"\n'
        + MODEL.format(id="a/m", provider="nobody")
        + MODEL.format(id="b/m", provider="echo")
        + MODEL.format(id="b/m", provider="echo")
    )
    rule = "must be an http(s) URL with a host, without user, query or fragment"
    assert sorted(_problems(path)) == [
        "FILE: model a/m: no provider named 'nobody'",
        "FILE: model b/m: it is described 2 times",
        f"FILE: provider bad: base_url {rule}",
        "FILE: provider echo: this name is built in",
    ]


def test_provider_left_out_with_the_bundled_ones_is_unknown(write: Write) -> None:
    """Without the bundled file its providers are not there for the operator's models either."""
    path = write("bundled = false\n" + MODEL.format(id="a/m", provider="openai"))
    assert _problems(path) == ("FILE: model a/m: no provider named 'openai'",)


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "host/v1",
        "ftp://host/v1",
        "http://",
        "http:///v1",
        "http://user@host/v1",
        "http://:secret@host/v1",
        "http://host/v1?key=secret",
        "http://host/v1#secret",
        "http://[::1/v1",
        "http://host:99999/v1",
        "http://host:port/v1",
    ],
)
def test_address_must_be_one(write: Write, base_url: str) -> None:
    """Only an http(s) URL with a host and nothing secret in it is taken, and the rest is never quoted."""
    (problem,) = _problems(write(f'[providers.mine]\nbase_url = "{base_url}"\n'))
    assert problem.startswith("FILE: provider mine: base_url must be")
    assert "secret" not in problem


def test_form_problems_are_told_all_at_once(write: Write) -> None:
    """Each provider and each model that is not in form is named, also when there are several."""
    problems = _problems(
        write(
            '[providers.one]\nbase_url = 3\n[providers.two]\nurl = "http://host"\n[providers.Three]\nbase_url = "x"\n'
            '[[models]]\nid = ""\n[[models]]\nid = "m"\ncontext_window = "big"\n'
        )
    )
    assert [problem.split(":")[1].strip() for problem in problems] == [
        "provider one",
        "provider two",
        "provider Three",
        "model number 1",
        "model number 2",
    ]


@pytest.mark.parametrize(
    "text", ["providers = 3", "models = 'all'", "bundled = 'no'", "model = []", "[providers]\nmine = 'http://host'"]
)
def test_file_of_another_form_is_refused(write: Write, text: str) -> None:
    """A member of the wrong kind, or one that is not known, is an error rather than ignored."""
    (problem,) = _problems(write(text))
    assert problem.startswith("FILE: ")


@pytest.mark.parametrize("data", [b"a = ", b"[[models]", b"\xff\xfe", b"a = 1\na = 2"])
def test_broken_toml_is_told_by_place(tmp_path: Path, data: bytes) -> None:
    """Text that is no TOML is one problem that names the file."""
    path = tmp_path / "broken.toml"
    path.write_bytes(data)
    (problem,) = _problems(path)
    assert problem.startswith("FILE: ")


def test_unreadable_file_is_told_by_its_variable(tmp_path: Path) -> None:
    """A missing file and a directory are problems of QUILLGATE_CONFIG, in the system's words."""
    assert _problems(tmp_path / "none.toml")[0].startswith("QUILLGATE_CONFIG: cannot read ")
    assert _problems(tmp_path) == ("QUILLGATE_CONFIG: cannot read FILE: Is a directory",)


def test_empty_file_changes_nothing(write: Write) -> None:
    """An operator may begin with an empty file."""
    bundled = read_catalogue(None)
    assert read_catalogue(write("")) == CatalogueFile(True, bundled.providers, bundled.models)


def test_waits_are_the_operator_s_to_say(write: Write) -> None:
    """How long a provider is waited for: what is not said is left to the kind of answer, and no wait is endless."""
    (silent,) = read_catalogue(write(MINE)).switched_on({})
    assert (silent.first_byte_s, silent.stall_s) == (None, None)
    (said,) = read_catalogue(write(MINE + "first_byte_s = 300\nstall_s = 0.5\n")).switched_on({})
    assert (said.first_byte_s, said.stall_s) == (300, 0.5)
    for wrong in ("first_byte_s = 0", "stall_s = 601"):
        (problem,) = _problems(write(MINE + wrong))
        assert wrong.split(" =")[0] in problem
