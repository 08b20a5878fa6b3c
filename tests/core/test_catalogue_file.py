"""The operator's file on top of the bundled one, the switches in the environment, and all that can be wrong there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quillgate_core.catalogue_basis import CatalogueBasis, read_catalogue
from quillgate_core.catalogue_file import ECHO, ConfigError
from quillgate_core.pricing import Price

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
    for entry in bundled.providers.values():
        # Nothing of a workspace goes to a host that neither we nor the operator named, or without a key to a vendor.
        assert entry.base_url_env
        assert (entry.base_url.startswith("https://") and entry.api_key_env) or not entry.base_url


def test_a_server_of_ones_own_is_switched_on_by_its_address() -> None:
    """vLLM and Ollama need nothing but an address; Azure needs a key too, and lists no models."""
    bundled = read_catalogue(None)
    (vllm,) = bundled.switched_on({"VLLM_BASE_URL": "http://gpu:8000/v1/"})
    assert (vllm.name, vllm.base_url, vllm.api_key, vllm.is_trusted) == ("vllm", "http://gpu:8000/v1", None, True)
    azure = {"AZURE_OPENAI_ENDPOINT": "https://me.openai.azure.com/"}
    assert bundled.switched_on(azure) == ()
    assert bundled.switched_on({"AZURE_OPENAI_API_KEY": "k"}) == ()
    (found,) = bundled.switched_on({**azure, "AZURE_OPENAI_API_KEY": "k"})
    assert (found.name, found.base_url, found.discover) == ("azure", "https://me.openai.azure.com", False)


def test_an_address_must_come_from_somewhere(write: Write) -> None:
    """A provider without an address, and without a variable for one, is a mistake."""
    assert _problems(write("[providers.mine]\n")) == (
        "FILE: provider mine: base_url must be an http(s) URL with a host, without user, query or fragment",
    )
    assert read_catalogue(write('[providers.mine]\nbase_url_env = "MINE"\n')).switched_on({}) == ()


def test_a_dialect_must_be_one_that_is_known(write: Write) -> None:
    """A dialect that does not exist is a typing mistake and would be found only by refusals."""
    (problem,) = _problems(write(MINE + 'dialect = "opneai"\n'))
    assert problem.startswith("FILE: provider mine: Invalid enum value 'opneai'")


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


@pytest.mark.parametrize(
    ("environ", "base_url", "protocol"),
    [
        ({}, "https://generativelanguage.googleapis.com/v1beta", "gemini"),
        ({"GEMINI_BASE_URL": "https://proxy.example/v1beta"}, "https://proxy.example/v1beta", "gemini"),
        ({"GEMINI_BASE_URL": "https://host/v1beta/openai/"}, "https://host/v1beta/openai", "openai"),
        ({"GEMINI_BASE_URL": "https://host/openai/v1"}, "https://host/openai/v1", "gemini"),
    ],
)
def test_geminis_openai_endpoint_is_told_by_its_name(environ: dict[str, str], base_url: str, protocol: str) -> None:
    """An address of one's own keeps Google's protocol, unless it is Google's OpenAI endpoint or named like it."""
    (provider,) = read_catalogue(None).switched_on({"GEMINI_API_KEY": "k", **environ})
    assert (provider.base_url, provider.protocol) == (base_url, protocol)


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
    assert read_catalogue(write("")) == read_catalogue(None)


def _ids(basis: CatalogueBasis) -> set[str]:
    return {model.id for model in basis.models}


def test_single_members_are_overridden(write: Write) -> None:
    """An override changes what it states of a bundled model and leaves the rest, and the file knows what it stated."""
    before = {model.id: model for model in read_catalogue(None).models}["openai/gpt-4o"]
    merged = read_catalogue(
        write(
            '[overrides."openai/gpt-4o"]\nmax_output_tokens = 4096\n'
            'price = { input = "1", output = "2" }\n'
            '[overrides."openai/gpt-4.1"]\nupstreams = [{ provider = "openai", model = "mine" }]\n'
        )
    )
    models = {model.id: model for model in merged.models}
    after = models["openai/gpt-4o"]
    assert after.max_output_tokens == 4096
    assert [upstream.price for upstream in after.upstreams] == [Price("1", "2")] * len(before.upstreams)
    assert (after.context_window, after.description) == (before.context_window, before.description)
    assert [upstream.model for upstream in models["openai/gpt-4.1"].upstreams] == ["mine"]
    assert merged.stated["openai/gpt-4o"] == {"max_output_tokens", "price"}
    assert merged.source("openai/gpt-4o") == "bundled"


def test_overrides_must_mean_a_model(write: Write) -> None:
    """An override of what is not there, or of a whole description in the same file, is a mistake."""
    path = write(
        '[overrides."a/none"]\ncontext_window = 9\n[overrides."my/m"]\ncontext_window = 9\n'
        + MODEL.format(id="my/m", provider=ECHO)
    )
    assert _problems(path) == (
        "FILE: overrides of a/none: no such model",
        "FILE: overrides of my/m: it is described whole as well",
    )


@pytest.mark.parametrize(
    "member", ["max_tokens = 1", "context_window = 0", 'id = "x"', "upstreams = []", 'price = { input = "1" }']
)
def test_overrides_have_a_form(write: Write, member: str) -> None:
    """A member that no model has, or out of its range, is told with the model."""
    (problem,) = _problems(write(f'[overrides."openai/gpt-4o"]\n{member}\n'))
    assert problem.startswith("FILE: overrides of openai/gpt-4o: ")


def test_models_are_hidden_by_pattern(write: Write) -> None:
    """`hide` takes models out, `only` leaves no others in; a whole model of the file's own is in whatever they say."""
    bundled = _ids(read_catalogue(None))
    hidden = read_catalogue(write('hide = ["openai/*", "google/gemini-2.5-pro"]\n'))
    assert _ids(hidden) == {
        name for name in bundled if not name.startswith("openai/") and name != "google/gemini-2.5-pro"
    }
    text = 'only = ["anthropic/*", "openai/gpt-4o"]\nhide = ["*haiku*"]\n' + MODEL.format(id="my/m", provider=ECHO)
    chosen = read_catalogue(write(text))
    assert _ids(chosen) == {"my/m", "openai/gpt-4o"} | {
        name for name in bundled if name.startswith("anthropic/") and "haiku" not in name
    }
    assert (chosen.shows("openai/gpt-9"), chosen.shows("anthropic/claude-9")) == (False, True)


def test_aliases_of_the_file(write: Write) -> None:
    """The file may name models once more; an alias of what is not there or hidden, or of a model's id, is a mistake."""
    assert read_catalogue(write('[aliases]\nfast = "google/gemini-2.5-flash"\n')).aliases == {
        "fast": "google/gemini-2.5-flash"
    }
    path = write(
        'hide = ["openai/gpt-4.1"]\n[aliases]\nfast = "a/none"\nold = "openai/gpt-4.1"\n'
        '"openai/gpt-4o" = "google/gemini-2.5-flash"\n'
    )
    assert _problems(path) == (
        "FILE: alias openai/gpt-4o: it is the id of a model",
        "FILE: alias fast: no model a/none",
        "FILE: alias old: no model openai/gpt-4.1",
    )


def test_every_provider_is_there_for_own_keys(write: Write) -> None:
    """Workspaces may bring keys for providers that are off; their addresses are those of the environment."""
    basis = read_catalogue(write(MINE))
    environ = {"OPENAI_API_KEY": "k", "GROQ_BASE_URL": "http://127.0.0.1:1/v1"}
    found = {provider.name: provider for provider in basis.for_own_keys(environ)}
    assert set(basis.providers) - set(found) == {"azure", "ollama", "vllm"}, "they have no address of their own"
    assert {provider.api_key for provider in found.values()} == {None}
    assert (found["groq"].base_url, found["groq"].is_trusted) == ("http://127.0.0.1:1/v1", True)
    assert (found["openai"].base_url, found["openai"].is_trusted) == ("https://api.openai.com/v1", False)
    with pytest.raises(ConfigError) as caught:
        basis.for_own_keys({"GROQ_BASE_URL": "hunter2"})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["GROQ_BASE_URL"]


ALLOWED = 'allowed_hosts = ["vllm.internal", "10.1.2.3:8000", "[FD00:0::5]:8000", "[fd00::6]", "Ollama.Local.:11434"]'


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("vllm.internal", 80),
        ("vllm.internal", 65_535),
        ("vllm.internal", None),
        ("VLLM.internal.", 443),
        ("10.1.2.3", 8000),
        ("fd00::5", 8000),
        ("[fd00:0:0::5]", 8000),
        ("fd00::6", 443),
        ("ollama.local", 11_434),
    ],
)
def test_a_host_that_the_operator_allows_is_allowed(write: Write, host: str, port: int | None) -> None:
    """A host stands for any port of it, `host:port` for that one; case, a last dot and zeros make no difference."""
    assert read_catalogue(write(ALLOWED)).is_allowed_host(host, port)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("", 80),
        ("internal", 80),
        ("a.vllm.internal", 80),
        ("vllm.internal.example", 80),
        ("vllm.internal:80", 80),
        ("10.1.2.3", 8001),
        ("10.1.2.3", None),
        ("10.1.515", 8000),
        ("0x0a010203", 8000),
        ("::ffff:10.1.2.3", 8000),
        ("10.1.2.3:8000", None),
        ("fd00::5", 443),
        ("fd00::5%eth0", 8000),
        ("fd00::7", 443),
        ("ｖllm.internal", 80),
        ("vllm\u3002internal", 80),
        ("127.0.0.1", 80),
    ],
)
def test_what_is_not_exactly_an_allowed_host_is_not_allowed(write: Write, host: str, port: int | None) -> None:
    """Neither a name above or below it nor another spelling of its address is allowed."""
    assert not read_catalogue(write(ALLOWED)).is_allowed_host(host, port)


def test_no_host_is_allowed_unless_the_operator_says_so() -> None:
    """The bundled file allows none."""
    assert not read_catalogue(None).is_allowed_host("localhost", 80)
    assert read_catalogue(None).allowed_hosts == ()


def test_what_is_no_host_cannot_be_allowed(write: Write) -> None:
    """Every entry that could never match, or that somebody may believe to match more, is a problem of its own."""
    entries = [
        "http://vllm",
        "vllm/v1",
        "*.internal",
        "10.0.0.0/8",
        "a:0",
        "a:65536",
        "a:b",
        "fd00::5",
        "[1.2.3.4]",
        "",
    ]
    entries += ["", "a..b", ".a", "bücher.example", "user@a", "a b", "[fe80::1%lo]"]
    problems = _problems(write(f"allowed_hosts = {entries}"))
    assert len(problems) == len(entries)
    assert problems[0] == (
        "FILE: allowed_hosts: 'http://vllm' must be a host or host:port, such as vllm.internal or 10.1.2.3:8000, "
        "IPv6 in brackets, other letters as xn--"
    )


def test_waits_are_the_operator_s_to_say(write: Write) -> None:
    """How long a provider is waited for: what is not said is left to the kind of answer, and no wait is endless."""
    (silent,) = read_catalogue(write(MINE)).switched_on({})
    assert (silent.first_byte_s, silent.stall_s) == (None, None)
    (said,) = read_catalogue(write(MINE + "first_byte_s = 300\nstall_s = 0.5\n")).switched_on({})
    assert (said.first_byte_s, said.stall_s) == (300, 0.5)
    for wrong in ("first_byte_s = 0", "stall_s = 601"):
        (problem,) = _problems(write(MINE + wrong))
        assert wrong.split(" =")[0] in problem
