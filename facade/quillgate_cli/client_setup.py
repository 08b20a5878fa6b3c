"""What a client's configuration is made of: the service it points at, its models, the files that it reads.

Pure values, no I/O. There is no field for a secret: configurations name the environment variable that holds the key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

KEY_VARIABLE = "QUILLGATE_API_KEY"
"""The variable that configurations take a developer key from; the CLI's own is another, as admins' keys are."""


@dataclass(frozen=True)
class ClientModel:
    """A model as clients need to know it; a limit, in tokens, is 0 when nobody stated it."""

    id: str
    context_window: int = 0
    max_output_tokens: int = 0

    @property
    def limited(self) -> bool:
        """Whether both limits are known."""
        return self.context_window > 0 and self.max_output_tokens > 0


@dataclass(frozen=True)
class Service:
    """Where clients go, and what they may ask there; `models` are never empty and start with the default one."""

    base_url: str
    models: Sequence[ClientModel]

    @property
    def default(self) -> ClientModel:
        """The model that a client uses unless told otherwise."""
        return self.models[0]


@dataclass(frozen=True)
class ConfigFile:
    """A file that a client reads: its name, and its text."""

    name: str
    text: str


@dataclass(frozen=True)
class Setup:
    """What to set a client up with: its files, and what a person does besides, a line each."""

    files: Sequence[ConfigFile]
    steps: Sequence[str]


class Template(Protocol):
    """Makes a client's setup."""

    def __call__(self, service: Service) -> Setup:
        """Returns the setup for a service."""


@dataclass(frozen=True)
class Client:
    """A tool or library that `client-config` knows; `folder` is where its files belong, `~` being the home."""

    name: str
    about: str
    folder: str
    template: Template
    folder_variable: str = ""
    """The variable by which people move that folder; empty when the client has none."""


def quoted(text: str) -> str:
    """Returns text in double quotes as JSON has it, which YAML, TOML, Python and JavaScript read alike."""
    return msgspec.json.encode(text).decode()


def json_text(value: object) -> str:
    """Returns a JSON document for people, with a line break at its end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
