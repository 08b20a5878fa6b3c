"""The TOML form of providers and models: the bundled file, and the operator's on top of it.

    [providers.my-vllm]
    base_url = "http://127.0.0.1:8000/v1"
    # api_key_env = "VLLM_API_KEY"     # the variable that holds the key; without it no key is sent
    # base_url_env = "VLLM_BASE_URL"   # the variable that overrides base_url

and models as `catalogue.py` shows them. At the top, `bundled = false` leaves the bundled providers and models out, but
for `quillgate/echo`, and

    allowed_hosts = ["vllm.internal", "10.1.2.3:8000"]

names the hosts that workspaces may bring as well, with http or a private address; all others must be public and https.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from quillgate_core import allowed_hosts
from quillgate_core.catalogue import Endpoint, Model
from quillgate_core.secret import Secret

ECHO = "echo"
"""Name of the built-in provider of `quillgate/echo`."""

POCKETSPHINX = "pocketsphinx"
"""Name of the built-in provider of `quillgate/pocketsphinx`, which needs the extra `speech`."""

BUILT_IN = (ECHO, POCKETSPHINX)

CHAT_ONLY: frozenset[Endpoint] = frozenset({"chat.completions"})
"""What every OpenAI-compatible server speaks; other endpoints are translated to it."""

_BASE_URL_RULE = "must be an http(s) URL with a host, without user, query or fragment"
_HEADER_VALUE = re.compile(r"[!-~]*")


class ConfigError(Exception):
    """The settings cannot be used; `problems` has a line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


Protocol = Literal["openai", "anthropic", "gemini"]
"""What a provider speaks; each is a file in `providers/`."""

DialectName = Literal[
    "",
    "azure",
    "deepseek",
    "fireworks",
    "groq",
    "mistral",
    "ollama",
    "openai",
    "openrouter",
    "together",
    "vllm",
    "xai",
]
"""Whose OpenAI a provider speaks; each is an entry of `providers/dialects.py`."""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """A provider as it can be reached."""

    name: str
    base_url: str
    api_key: Secret | None
    """The gateway's own key; None: the provider needs none, or serves only workspaces that bring theirs."""
    native_endpoints: frozenset[Endpoint] = CHAT_ONLY
    protocol: Protocol = "openai"
    dialect: str = ""
    """How its OpenAI differs, by the name of a vendor. Empty: by `name`, if that is one."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request."""
    is_trusted: bool = False
    """Whether the operator named its host, which then may be plain http and have a private address."""
    max_in_flight: int = 0
    """Most requests that one core process has under way there; 0: no limit."""
    discover: bool = True
    """Whether its own list of models is read."""


class ProviderEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A provider as TOML describes it."""

    base_url: str = ""
    """Empty: there is none but the variable's, which then switches the provider on."""
    api_key_env: str = ""
    base_url_env: str = ""
    native_endpoints: tuple[Endpoint, ...] = ("chat.completions",)
    protocol: Protocol = "openai"
    dialect: DialectName = ""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    max_in_flight: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    discover: bool = True

    def switch_on(self, name: str, environ: Mapping[str, str], *, is_bundled: bool = False) -> ProviderConfig | None:
        """Returns the provider with its key from the environment, None if it needs one that is not there, or an address.

        The host of one that `is_bundled` is trusted only if the environment names it.
        Raises ConfigError, without any value, for a variable that cannot be used.
        """
        key = environ.get(self.api_key_env, "").strip() if self.api_key_env else ""
        if self.api_key_env and not key:
            return None
        base_url = environ.get(self.base_url_env, "").strip() if self.base_url_env else ""
        if not (base_url or self.base_url):
            return None
        problems = []
        if not _HEADER_VALUE.fullmatch(key):
            problems.append(f"{self.api_key_env}: must be visible ASCII characters")
        if base_url and not _is_base_url(base_url):
            problems.append(f"{self.base_url_env}: {_BASE_URL_RULE}")
        if problems:
            raise ConfigError(problems)
        # Whoever puts another server in the provider's place rarely puts one that speaks everything it does.
        native = CHAT_ONLY if base_url else frozenset(self.native_endpoints)
        return ProviderConfig(
            name,
            (base_url or self.base_url).rstrip("/"),
            Secret(key) if key else None,
            native,
            protocol=self.protocol,
            dialect=self.dialect,
            headers=self.headers,
            is_trusted=bool(base_url) or not is_bundled,
            max_in_flight=self.max_in_flight,
            discover=self.discover,
        )


_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class CatalogueFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of providers and models."""

    bundled: bool = True
    providers: dict[_Name, ProviderEntry] = msgspec.field(default_factory=dict)
    models: tuple[Model, ...] = ()
    allowed_hosts: tuple[str, ...] = ()

    def over(self, bundled: "CatalogueFile") -> "CatalogueFile":
        """Returns this file on top of the bundled one: providers by name, models by id."""
        kept = [model for model in bundled.models if self.bundled or _is_echo(model)]
        models = {model.id: model for model in (*kept, *self.models)}
        providers = (bundled.providers if self.bundled else {}) | self.providers
        return CatalogueFile(self.bundled, providers, tuple(models.values()), self.allowed_hosts)

    def is_allowed_host(self, host: str, port: int | None) -> bool:
        """Tells whether workspaces may bring base URLs with a host that is not public, or http.

        `port` is the one that is connected to: that of the scheme where a URL has none.
        """
        return allowed_hosts.allows(self.allowed_hosts, host, port)

    def switched_on(self, environ: Mapping[str, str]) -> tuple[ProviderConfig, ...]:
        """Returns the providers that have what they need; raises ConfigError for variables that cannot be used."""
        found: list[ProviderConfig] = []
        problems: list[str] = []
        for name, entry in self.providers.items():
            try:
                provider = entry.switch_on(name, environ, is_bundled=entry == _bundled().providers.get(name))
            except ConfigError as error:
                problems.extend(error.problems)
                continue
            if provider is not None:
                found.append(provider)
        if problems:
            raise ConfigError(problems)
        return tuple(found)

    def problems(self) -> list[str]:
        """Returns what is wrong with it beyond the form."""
        known = {*self.providers, *BUILT_IN}
        unknown = {
            f"model {model.id}: no provider named '{upstream.provider}'"
            for model in self.models
            for upstream in model.upstreams
            if upstream.provider not in known
        }
        urls = [
            f"provider {name}: base_url {_BASE_URL_RULE}"
            for name, entry in self.providers.items()
            if not (_is_base_url(entry.base_url) or (entry.base_url_env and not entry.base_url))
        ]
        taken = [f"provider {name}: this name is built in" for name in BUILT_IN if name in self.providers]
        hosts = [
            f"allowed_hosts: '{entry}' {allowed_hosts.RULE}"
            for entry in self.allowed_hosts
            if not allowed_hosts.is_entry(entry)
        ]
        return sorted(unknown) + urls + taken + hosts


def read_catalogue(path: Path | None) -> CatalogueFile:
    """Reads the bundled catalogue and the operator's file on top; raises ConfigError."""
    bundled = _bundled()
    if path is None:
        return bundled
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"QUILLGATE_CONFIG: cannot read {path}: {error.strerror}"]) from None
    own = _parse(data, str(path))
    catalogue = own.over(bundled)
    problems = _repeated(own) + catalogue.problems()
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return catalogue


@cache
def _bundled() -> CatalogueFile:
    return _parse(files("quillgate_core").joinpath("models.toml").read_bytes(), "models.toml")


def _parse(data: bytes, name: str) -> CatalogueFile:
    """Decodes a file; raises ConfigError with every provider and model that is not as it must be."""
    try:
        value = msgspec.toml.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError([f"{name}: {error}"]) from None
    problems: list[str] = []
    providers, models = value.get("providers"), value.get("models")
    if isinstance(providers, dict):
        for provider, entry in providers.items():
            _note_problem(problems, {provider: entry}, dict[_Name, ProviderEntry], f"{name}: provider {provider[:64]}")
    if isinstance(models, list):
        for number, model in enumerate(models, 1):
            _note_problem(problems, model, Model, f"{name}: model number {number}")
    if not problems:
        try:
            return msgspec.convert(value, CatalogueFile)
        except msgspec.ValidationError as error:
            problems.append(f"{name}: {error}")
    raise ConfigError(problems)


def _note_problem(problems: list[str], value: object, kind: object, where: str) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(f"{where}: {error}")


def _repeated(file: CatalogueFile) -> list[str]:
    """Returns the models that one file describes twice: which of the two is meant, nobody knows."""
    counts = Counter(model.id for model in file.models)
    return [f"model {model_id}: it is described {count} times" for model_id, count in counts.items() if count > 1]


def _is_echo(model: Model) -> bool:
    return any(upstream.provider == ECHO for upstream in model.upstreams)


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    has_more = "@" in parts.netloc or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not has_more
