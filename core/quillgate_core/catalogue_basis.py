"""What the catalogue is made of: the bundled snapshot, the bundled file, and the operator's file on top of them.

It reads files and nothing else: what is switched on, renamed or discovered while running comes on top, elsewhere.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from quillgate_core import allowed_hosts
from quillgate_core.catalogue import Model, ModelId, Source
from quillgate_core.catalogue_file import (
    BASE_URL_RULE,
    BUILT_IN,
    ECHO,
    CatalogueFile,
    ConfigError,
    ModelOverride,
    ProviderConfig,
    ProviderEntry,
    ProviderName,
    is_base_url,
)

_WHOLE: frozenset[str] = frozenset((*Model.__struct_fields__, "price"))


@dataclass(frozen=True)
class CatalogueBasis:
    """What the catalogue is made of before anything is switched, renamed or discovered: bundled and file as one."""

    providers: Mapping[str, ProviderEntry] = field(default_factory=dict)
    models: tuple[Model, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    stated: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Members that the operator's file states, by model: no provider's list changes them."""
    hide: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    snapshot_date: str = ""
    """The date of the bundled models, YYYY-MM-DD."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that workspaces may bring although they are not public."""

    def is_allowed_host(self, host: str, port: int | None) -> bool:
        """Tells whether workspaces may bring base URLs with a host that is not public, or http.

        `port` is the one that is connected to: that of the scheme where a URL has none.
        """
        return allowed_hosts.allows(self.allowed_hosts, host, port)

    def shows(self, model_id: str) -> bool:
        """Tells whether the operator's file leaves the model in; a whole model of the file's own is always in."""
        if self.stated.get(model_id) == _WHOLE:
            return True
        is_wanted = not self.only or any(fnmatchcase(model_id, pattern) for pattern in self.only)
        return is_wanted and not any(fnmatchcase(model_id, pattern) for pattern in self.hide)

    def source(self, model_id: str) -> Source:
        """Returns where one of its models is known from."""
        return "file" if self.stated.get(model_id) == _WHOLE else "bundled"

    def switched_on(self, environ: Mapping[str, str]) -> tuple[ProviderConfig, ...]:
        """Returns the providers that have what they need; raises ConfigError for variables that cannot be used."""
        return self._configs(
            environ, lambda entry, name: entry.switch_on(name, environ, is_bundled=_is_bundled(name, entry))
        )

    def for_own_keys(self, environ: Mapping[str, str]) -> tuple[ProviderConfig, ...]:
        """Returns every provider that has an address, without a key, for workspaces that bring theirs.

        Raises ConfigError.
        """
        return self._configs(
            environ, lambda entry, name: entry.without_key(name, environ, is_bundled=_is_bundled(name, entry))
        )

    def variables(self) -> frozenset[str]:
        """Returns the names of the variables that providers take their keys and addresses from."""
        entries = self.providers.values()
        return frozenset(name for entry in entries for name in (entry.api_key_env, entry.base_url_env) if name)

    def _configs(
        self, environ: Mapping[str, str], make: Callable[[ProviderEntry, str], ProviderConfig | None]
    ) -> tuple[ProviderConfig, ...]:
        found: list[ProviderConfig] = []
        problems: list[str] = []
        for name, entry in self.providers.items():
            try:
                provider = make(entry, name)
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
            f"provider {name}: base_url {BASE_URL_RULE}"
            for name, entry in self.providers.items()
            if not (is_base_url(entry.base_url) or (entry.base_url_env and not entry.base_url))
        ]
        taken = [f"provider {name}: this name is built in" for name in BUILT_IN if name in self.providers]
        hosts = [
            f"allowed_hosts: '{entry}' {allowed_hosts.RULE}"
            for entry in self.allowed_hosts
            if not allowed_hosts.is_entry(entry)
        ]
        return sorted(unknown) + urls + taken + hosts + self._alias_problems()

    def _alias_problems(self) -> list[str]:
        ids = {model.id for model in self.models}
        return [f"alias {alias}: it is the id of a model" for alias in self.aliases if alias in ids] + [
            f"alias {alias}: no model {name}" for alias, name in self.aliases.items() if name not in ids
        ]


def read_catalogue(path: Path | None) -> CatalogueBasis:
    """Reads the bundled catalogue and the operator's file on top; raises ConfigError."""
    if path is None:
        return _bundled()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"QUILLGATE_CONFIG: cannot read {path}: {error.strerror}"]) from None
    own = _parse(data, str(path))
    catalogue = _merged(own, _bundled())
    problems = _repeated(own) + _strangers(own, catalogue) + catalogue.problems()
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return catalogue


def _merged(own: CatalogueFile, bundled: CatalogueBasis) -> CatalogueBasis:
    """Returns the file on top of the bundled models: providers by name, models by id, members by override."""
    kept = [model for model in bundled.models if own.bundled or _is_echo(model)]
    models = {model.id: model for model in (*kept, *own.models)}
    for model_id, override in own.overrides.items():
        if model_id in models:
            models[model_id] = override.of(models[model_id])
    stated = {model_id: override.stated() for model_id, override in own.overrides.items()}
    basis = CatalogueBasis(
        providers={**(bundled.providers if own.bundled else {}), **own.providers},
        models=tuple(models.values()),
        aliases=own.aliases,
        stated=stated | {model.id: _WHOLE for model in own.models},
        hide=own.hide,
        only=own.only,
        snapshot_date=bundled.snapshot_date,
        allowed_hosts=own.allowed_hosts,
    )
    return replace(basis, models=tuple(model for model in basis.models if basis.shows(model.id)))


def _is_bundled(name: str, entry: ProviderEntry) -> bool:
    return entry == _bundled().providers.get(name)


class _Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of `snapshot.json`, which `make snapshot` builds."""

    date: str
    sources: dict[str, str]
    models: tuple[Model, ...]


@cache
def _bundled() -> CatalogueBasis:
    """Returns what comes with the service: what is written by hand wins over the snapshot."""
    folder = files("quillgate_core")
    snapshot = msgspec.json.decode(folder.joinpath("snapshot.json").read_bytes(), type=_Snapshot)
    file = _parse(folder.joinpath("models.toml").read_bytes(), "models.toml")
    models = {model.id: model for model in (*snapshot.models, *file.models)}
    return CatalogueBasis(file.providers, tuple(models.values()), snapshot_date=snapshot.date)


def _parse(data: bytes, name: str) -> CatalogueFile:
    """Decodes a file; raises ConfigError with every provider and model that is not as it must be."""
    try:
        value = msgspec.toml.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError([f"{name}: {error}"]) from None
    problems: list[str] = []
    for noun, entries, form in (
        ("provider", value.get("providers"), dict[ProviderName, ProviderEntry]),
        ("overrides of", value.get("overrides"), dict[ModelId, ModelOverride]),
    ):
        if isinstance(entries, dict):
            for key, entry in entries.items():
                _note_problem(problems, {key: entry}, form, f"{name}: {noun} {key[:64]}")
    models = value.get("models")
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


def _strangers(file: CatalogueFile, basis: CatalogueBasis) -> list[str]:
    """Returns the overrides of what is not there, or is described whole in the same file."""
    ids, own = {model.id for model in basis.models}, {model.id for model in file.models}
    return [
        f"overrides of {model_id}: {'it is described whole as well' if model_id in own else 'no such model'}"
        for model_id in file.overrides
        if model_id not in ids or model_id in own
    ]


def _is_echo(model: Model) -> bool:
    return any(upstream.provider == ECHO for upstream in model.upstreams)
