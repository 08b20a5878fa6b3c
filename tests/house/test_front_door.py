"""README is true: every setting, every CLI command and every error that exists is written down."""

import dataclasses
import re
from pathlib import Path

import typer
from quillgate.v1.error_reason_pb2 import ErrorReason
from quillgate_cli.main import app
from quillgate_core.config import PREFIX, Config
from quillgate_facade.config import FacadeConfig
from quillgate_facade.errors import ROWS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FACADE_README = (ROOT / "facade" / "README.md").read_text()


def test_every_core_setting_is_in_readme() -> None:
    """README has a row for each field of Config that the environment sets."""
    derived = {"catalogue", "providers"}
    names = {PREFIX + item.name.upper() for item in dataclasses.fields(Config) if item.name not in derived}
    assert {name for name in names if f"| `{name}` |" not in README} == set()


def test_every_facade_setting_is_in_its_readme() -> None:
    """The facade's README has a row for each of its settings, with the default."""
    rows = {f"| `{item.variable}` | `{item.default}` |" for item in FacadeConfig.describe()}
    assert {row for row in rows if row not in FACADE_README} == set()


def _commands(click_command: object, prefix: str) -> set[str]:
    children = getattr(click_command, "commands", None)
    if not children:
        return {prefix}
    own = {prefix} if getattr(click_command, "invoke_without_command", False) else set()
    return own.union(*(_commands(child, f"{prefix} {name}") for name, child in children.items()))


def test_every_command_is_in_readme() -> None:
    """README shows every command of the CLI."""
    commands = _commands(typer.main.get_command(app), "quillgate")
    assert "quillgate keys rotate" in commands
    assert {command for command in commands if command not in README} == set()


def test_every_error_reason_has_a_row() -> None:
    """The facade's table knows every reason of the contract, and no other."""
    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()} - {"UNSPECIFIED"}
    assert set(ROWS) == reasons


def test_every_relative_link_of_the_readmes_leads_somewhere() -> None:
    """No README points at a file that is not there."""
    for readme in (ROOT / "README.md", ROOT / "core/README.md", ROOT / "facade/README.md", ROOT / "proto/README.md"):
        targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", readme.read_text())
        assert [target for target in targets if not (readme.parent / target).exists()] == []
