"""The file of secrets: its lines, who may read it, and that no problem repeats a value."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from quillgate_core.catalogue_file import ConfigError
from quillgate_core.config import Config
from quillgate_core.secrets_file import MAX_BYTES, read_secrets

NAMES = frozenset({"A_KEY", "B_KEY", "C_URL"})
SOMEBODY = 12_345

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of secrets that only its owner may read, who is not root."""

    def write(text: str | bytes, *, mode: int = 0o600, uid: int = SOMEBODY) -> Path:
        path = tmp_path / "secrets"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, uid, -1)
        return path

    return write


def _problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_secrets(path, NAMES)
    assert "hunter2" not in str(caught.value)
    return tuple(problem.replace(str(path), "FILE") for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A_KEY=sk-1", "sk-1"),
        ("  A_KEY = sk-1  ", "sk-1"),
        ("export A_KEY=sk-1", "sk-1"),
        ('A_KEY="sk 1"', "sk 1"),
        ("A_KEY='sk#1'  # mine", "sk#1"),
        ("A_KEY=sk-1 # mine", "sk-1"),
        ("A_KEY=sk#1", "sk#1"),
        ("A_KEY=$HOME=x", "$HOME=x"),
        ('A_KEY="', '"'),
        ("A_KEY=", ""),
        ("A_KEY= # none yet", ""),
        ("A_KEY=first\nA_KEY=second", "second"),
        ("A_KEY=sk-1\r\n", "sk-1"),
    ],
)
def test_a_line_has_a_value(write: Write, line: str, value: str) -> None:
    """Quotes and comments are taken off, nothing is expanded, and the last of two lines holds."""
    assert read_secrets(write(f"# keys\n\n{line}\nOTHER=x\n"), NAMES) == {"A_KEY": value}


def test_no_file_has_no_secrets() -> None:
    """Without the setting there is nothing to read."""
    assert read_secrets(None, NAMES) == {}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(write: Write, mode: int) -> None:
    """A key that others on the machine can read is no secret; the report says what to do."""
    assert _problems(write("A_KEY=hunter2", mode=mode)) == (
        "QUILLGATE_SECRETS_FILE: others may read FILE; take their rights away: chmod 600",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to root")
def test_a_file_of_roots_may_be_readable(write: Write) -> None:
    """That is how containers are given secrets."""
    assert read_secrets(write("A_KEY=sk-1", mode=0o444, uid=0), NAMES) == {"A_KEY": "sk-1"}


def test_problems_are_told_by_line_without_values(write: Write) -> None:
    """Each line that is none is told by its number, and settings of the service by their name."""
    assert _problems(write("A_KEY hunter2\n1_KEY=hunter2\nQUILLGATE_DATABASE_URL=hunter2\nB_KEY=ok")) == (
        "FILE: line 1 is not NAME=value",
        "FILE: line 2 is not NAME=value",
        "FILE: QUILLGATE_DATABASE_URL is no provider's variable; set it in the environment",
    )


@pytest.mark.parametrize("data", [b"\xff\xfe", b"#" * (MAX_BYTES + 1)], ids=["not UTF-8", "too large"])
def test_what_is_no_file_of_secrets_is_refused(write: Write, data: bytes) -> None:
    """Bytes that are no text, and more than anybody writes by hand."""
    (problem,) = _problems(write(data))
    assert problem.startswith("QUILLGATE_SECRETS_FILE: FILE is ")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """A path that leads nowhere is a problem, not an empty file; so is a directory."""
    assert _problems(tmp_path / "none")[0].startswith("QUILLGATE_SECRETS_FILE: cannot read ")
    assert _problems(tmp_path)[0].startswith("QUILLGATE_SECRETS_FILE: cannot read ")


def test_the_environment_wins(write: Write) -> None:
    """A provider is switched on by either; what the environment has, and is not blank, is not taken from the file."""
    path = write("OPENAI_API_KEY=file\nGROQ_API_KEY=file\nGROQ_BASE_URL=http://127.0.0.1:9/v1\nMISTRAL_API_KEY=file\n")
    config = Config.from_environ(
        {"QUILLGATE_SECRETS_FILE": str(path), "OPENAI_API_KEY": "environment", "GROQ_API_KEY": " "}
    )
    keys = {provider.name: provider.api_key.reveal() for provider in config.providers if provider.api_key}
    assert keys == {"openai": "environment", "groq": "file", "mistral": "file"}
    assert [provider.base_url for provider in config.providers if provider.name == "groq"] == ["http://127.0.0.1:9/v1"]
    assert "file" not in repr(config.providers)
