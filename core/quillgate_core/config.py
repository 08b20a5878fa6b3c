"""What an operator can set, read from the environment, a TOML file and a file of secrets; only here.

Every problem is reported at once, by the name that the operator wrote, and never with the value of a secret.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec

from quillgate_core.catalogue_basis import CatalogueBasis, read_catalogue
from quillgate_core.catalogue_file import ConfigError, ProviderConfig
from quillgate_core.secret import Secret
from quillgate_core.secrets_file import read_private_text, read_secrets
from quillgate_core.webhook_target import SECRET_VARIABLE, URL_VARIABLE, WebhookTarget

__all__ = ["Config", "ConfigError", "ProviderConfig"]

PREFIX = "QUILLGATE_"

_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_Days = Annotated[int, msgspec.Meta(ge=1, le=3_650)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of a core; each field is the environment variable QUILLGATE_ and its name in capitals."""

    data_dir: Path = Path(".quillgate")
    """Directory for all state on this machine: the embedded database, the pepper, the master key and the journals.
    Default: `.quillgate` here."""
    database_url: Secret = field(default=Secret(""))
    """PostgreSQL as `postgresql://user:password@host/name`. Default: an embedded one in the data directory."""
    grpc_address: str = "127.0.0.1:8788"
    """Where gRPC is served: `host:port` (port 0: any free one) or `unix:/path`. Default: loopback, port 8788."""
    config: Path | None = None
    """TOML file with providers and models that add to the bundled ones. Default: none."""
    secrets_file: Path | None = None
    """File of `NAME=value` lines that stand in for variables of providers, such as OPENROUTER_API_KEY, that the
    environment lacks. Only its owner may read it, unless root owns it. Default: none."""
    discovery_s: _Seconds = 3_600.0
    """Seconds between two readings of a provider's own list of models, by all replicas together; 0: never. Default:
    3600."""
    pepper_file: Path | None = None
    """File with the 32 bytes that key digests depend on; replicas must share it. Default: `pepper` in the data
    directory, made at the first start."""
    master_key_file: Path | None = None
    """File with the keys that seal workspaces' provider keys, one a line, the first the current one; replicas must
    share it. Default: `master-key` in the data directory, made at the first start."""
    master_key: Secret = field(default=Secret(""))
    """The same keys in place of the file, with commas between them. Default: none, the file is read."""
    max_completions: _Count = 1_024
    """Completions served at once by this process; more wait 0.1 s and are then refused. Default: 1024."""
    max_admin_calls: _Count = 64
    """Other calls served at once by this process; more wait 0.1 s and are then refused. Default: 64."""
    response_retention_days: _Days = 30
    """Days that a response is kept, 1 to 3650; a change holds for responses made from then on. Default: 30."""
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 2
    """Upstreams that one request is sent to at most, as long as none has given output. Default: 2."""
    webhook_url: Secret = field(default=Secret(""))
    """Where events are posted to when a workspace has used 50, 80 or 100 % of an allowance; replicas should share it.
    Default: none, no events are made."""
    webhook_secret: Secret = field(default=Secret(""))
    """What events are signed with, `whsec_` and the base64 of 24 to 64 bytes; of several, with spaces between them,
    each signs. Needed where there is a URL. Default: none, the file is read."""
    webhook_secret_file: Path | None = None
    """File with the same. Only its owner may read it, unless root owns it. Default: none."""
    unready_s: _Seconds = 0.0
    """Seconds after SIGTERM in which the health service says NOT_SERVING and new requests are still served, so that
    callers and load balancers can notice. Default: 0."""
    drain_s: _Seconds = 60.0
    """Seconds that running requests may take to finish after SIGTERM. Default: 60."""
    catalogue: CatalogueBasis = field(default_factory=CatalogueBasis)
    """The bundled models and those of the TOML file."""
    providers: tuple[ProviderConfig, ...] = ()
    """The providers that are switched on, with their keys from the environment."""
    byok_providers: tuple[ProviderConfig, ...] = ()
    """Every provider that is known, without a key: for workspaces that bring theirs."""
    webhook: WebhookTarget | None = None
    """The URL and the secrets of the webhook, where there is one."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Config":
        """Reads the settings; raises ConfigError that lists every problem."""
        problems: list[str] = []
        settings = _settings(environ, problems)
        webhook = _webhook(settings, problems)
        catalogue = CatalogueBasis()
        providers: list[tuple[ProviderConfig, ...]] = [(), ()]
        try:
            catalogue = read_catalogue(settings.get("config"))
            known = read_secrets(settings.get("secrets_file"), catalogue.variables()) | _filled(environ)
            providers = [catalogue.switched_on(known), catalogue.for_own_keys(known)]
        except ConfigError as error:
            problems.extend(error.problems)
        if problems:
            raise ConfigError(problems)
        return cls(
            **settings, catalogue=catalogue, providers=providers[0], byok_providers=providers[1], webhook=webhook
        )


_DERIVED = frozenset({"catalogue", "providers", "byok_providers", "webhook"})


def _filled(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that are set; a blank one counts as absent."""
    return {name: value for name, value in environ.items() if value.strip()}


def _settings(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    hints = get_type_hints(Config, include_extras=True)
    settings: dict[str, Any] = {}
    for item in dataclasses.fields(Config):
        variable = PREFIX + item.name.upper()
        text = environ.get(variable, "")
        if item.name in _DERIVED or not text:
            continue
        try:
            settings[item.name] = _convert(text, hints[item.name])
        except (msgspec.ValidationError, RuntimeError) as error:
            problems.append(f"{variable}: {error}")
    return settings


def _webhook(settings: Mapping[str, Any], problems: list[str]) -> WebhookTarget | None:
    """Returns where events are sent, None without a URL."""
    url, secret, path = (settings.get(name) for name in ("webhook_url", "webhook_secret", "webhook_secret_file"))
    if url is None:
        return None
    try:
        if secret is None and path is not None:
            secret = Secret(read_private_text(path, f"{SECRET_VARIABLE}_FILE"))
        if secret is None:
            raise ConfigError([f"{URL_VARIABLE}: needs a secret, in {SECRET_VARIABLE} or {SECRET_VARIABLE}_FILE"])
        return WebhookTarget(url, secret)
    except ConfigError as error:
        problems.extend(error.problems)
        return None


def _convert(text: str, hint: Any) -> Any:
    if hint is Secret:
        return Secret(text)
    if hint in (Path, Path | None):
        return Path(text).expanduser()  # raises RuntimeError for the home of nobody
    return msgspec.convert(text, hint, strict=False)
