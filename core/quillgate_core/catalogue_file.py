"""The TOML form of providers and models, in the bundled file and the operator's. What becomes of it is not told here.

    [providers.my-vllm]
    base_url = "http://127.0.0.1:8000/v1"
    # api_key_env = "VLLM_API_KEY"     # the variable that holds the key; without it no key is sent
    # base_url_env = "VLLM_BASE_URL"   # the variable that overrides base_url
    # max_in_flight = 64               # most requests that one core process has under way there
    # first_byte_s = 60.0              # longest wait for a stream's head, after which another upstream is asked; five
    #                                  # times as long for an answer in one piece. Speech: 600.0
    # stall_s = 60.0                   # longest silence after the head. Speech: 120.0
    # on_hang_up = "drain"             # when a caller leaves, read on to the usage, for providers that bill it anyway;
    #                                  # at most 60 s, and 256 at once. Else, and by default, "cancel": hang up as well

and models as `catalogue.py` shows them: one with the id of a bundled model replaces it. Less than a whole model is
changed, and left out, and named, by

    hide = ["x-ai/*"]                    # or: only = ["anthropic/*", "openai/gpt-5*"]
    [overrides."openai/gpt-4o"]
    max_output_tokens = 4096             # any member of a model; `price` is that of every upstream
    [aliases]
    fast = "google/gemini-2.5-flash"

At the top, `bundled = false` leaves the bundled providers and models out, but for `quillgate/echo`, and

    allowed_hosts = ["vllm.internal", "10.1.2.3:8000"]

names the hosts that workspaces may bring as well, with http or a private address; all others must be public and https.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from quillgate_core.catalogue import (
    AudioSeconds,
    Endpoint,
    Endpoints,
    Modalities,
    Model,
    ModelId,
    Tokens,
    Upstreams,
)
from quillgate_core.pricing import Price
from quillgate_core.secret import Secret

ECHO = "echo"
"""Name of the built-in provider of `quillgate/echo`."""

POCKETSPHINX = "pocketsphinx"
"""Name of the built-in provider of `quillgate/pocketsphinx`, which needs the extra `speech`."""

BUILT_IN = (ECHO, POCKETSPHINX)

CHAT_ONLY: frozenset[Endpoint] = frozenset({"chat.completions"})
"""What every OpenAI-compatible server speaks; other endpoints are translated to it."""

BASE_URL_RULE = "must be an http(s) URL with a host, without user, query or fragment"
_HEADER_VALUE = re.compile(r"[!-~]*")


class ConfigError(Exception):
    """The settings cannot be used; `problems` has a line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


_Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]

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


OnHangUp = Literal["cancel", "drain"]
"""What becomes of an answer whose caller leaves: the provider is hung up on, or read on to its usage."""


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
    first_byte_s: float | None = None
    """Longest wait for the head of an answer, connecting and sending included. None: what its kind of answer needs."""
    stall_s: float | None = None
    """Longest silence after that. None: what its kind of answer needs."""
    on_hang_up: OnHangUp = "cancel"
    """What becomes of an answer whose caller leaves."""
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
    first_byte_s: _Seconds | None = None
    stall_s: _Seconds | None = None
    on_hang_up: OnHangUp = "cancel"
    discover: bool = True

    def switch_on(self, name: str, environ: Mapping[str, str], *, is_bundled: bool = False) -> ProviderConfig | None:
        """Returns the provider with its key from the environment, None if it lacks a key that it needs, or an address.

        The host of one that `is_bundled` is trusted only if the environment names it. An address from the environment
        keeps the protocol, but for Gemini's OpenAI endpoint, which tells itself by its name.
        Raises ConfigError, without any value, for a variable that cannot be used.
        """
        key = environ.get(self.api_key_env, "").strip() if self.api_key_env else ""
        if self.api_key_env and not key:
            return None
        problems = [] if _HEADER_VALUE.fullmatch(key) else [f"{self.api_key_env}: must be visible ASCII characters"]
        try:
            provider = self.without_key(name, environ, is_bundled=is_bundled)
        except ConfigError as error:
            raise ConfigError([*problems, *error.problems]) from None
        if problems:
            raise ConfigError(problems)
        return provider and replace(provider, api_key=Secret(key) if key else None)

    def without_key(self, name: str, environ: Mapping[str, str], *, is_bundled: bool = False) -> ProviderConfig | None:
        """Returns the provider as those reach it who bring their own key; as switch_on in all else."""
        base_url = environ.get(self.base_url_env, "").strip() if self.base_url_env else ""
        if not (base_url or self.base_url):
            return None
        if base_url and not is_base_url(base_url):
            raise ConfigError([f"{self.base_url_env}: {BASE_URL_RULE}"])
        # Whoever puts another server in the provider's place rarely puts one that speaks everything it does.
        native = CHAT_ONLY if base_url else frozenset(self.native_endpoints)
        address = (base_url or self.base_url).rstrip("/")
        return ProviderConfig(
            name,
            address,
            None,
            native,
            protocol="openai" if _is_gemini_openai(self.protocol, address) else self.protocol,
            dialect=self.dialect,
            headers=self.headers,
            is_trusted=bool(base_url) or not is_bundled,
            max_in_flight=self.max_in_flight,
            first_byte_s=self.first_byte_s,
            stall_s=self.stall_s,
            on_hang_up=self.on_hang_up,
            discover=self.discover,
        )


ProviderName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class ModelOverride(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The members of a model that the operator's file states; the others stay as they are known."""

    context_window: Tokens | None = None
    max_output_tokens: Tokens | None = None
    upstreams: Upstreams | None = None
    endpoints: Endpoints | None = None
    input_modalities: Modalities | None = None
    output_modalities: Modalities | None = None
    description: str | None = None
    created: int | None = None
    owned_by: str | None = None
    audio_seconds_per_message: AudioSeconds | None = None
    price: Price | None = None

    def stated(self) -> frozenset[str]:
        """Returns the members that it states."""
        return frozenset(name for name in self.__struct_fields__ if getattr(self, name) is not None)

    def of(self, model: Model) -> Model:
        """Returns the model with what is stated here."""
        changes = {name: getattr(self, name) for name in self.stated() - {"price"}}
        changed = msgspec.structs.replace(model, **changes)
        if self.price is None:
            return changed
        upstreams = (msgspec.structs.replace(upstream, price=self.price) for upstream in changed.upstreams)
        return msgspec.structs.replace(changed, upstreams=tuple(upstreams))


class CatalogueFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of providers and models."""

    bundled: bool = True
    providers: dict[ProviderName, ProviderEntry] = msgspec.field(default_factory=dict)
    models: tuple[Model, ...] = ()
    overrides: dict[ModelId, ModelOverride] = msgspec.field(default_factory=dict)
    hide: tuple[ModelId, ...] = ()
    only: tuple[ModelId, ...] = ()
    aliases: dict[ModelId, ModelId] = msgspec.field(default_factory=dict)
    allowed_hosts: tuple[str, ...] = ()


def _is_gemini_openai(protocol: Protocol, base_url: str) -> bool:
    """Tells the OpenAI endpoint that Google offers beside Gemini's own, and what stands in for it."""
    return protocol == "gemini" and base_url.endswith("/openai")


def is_base_url(text: str) -> bool:
    """Tells whether a provider can be reached there: http or https, with a host and nothing secret."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    has_more = "@" in parts.netloc or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and not has_more
