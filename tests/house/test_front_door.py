"""README is true: every setting, every CLI command and every error that exists is written down."""

import dataclasses
import re
from pathlib import Path

import click

from quillgate.v1 import error_reason_pb2
from quillgate_cli.main import app
from quillgate_cli.serve import app as serve
from quillgate_core.config import PREFIX, Config
from quillgate_facade.config import FacadeConfig
from quillgate_facade.errors import ROWS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FACADE_README = (ROOT / "facade" / "README.md").read_text()


def test_every_core_setting_is_in_readme() -> None:
    """README has a row for each field of Config that the environment sets."""
    derived = {"catalogue", "providers", "byok_providers", "webhook"}
    names = {PREFIX + item.name.upper() for item in dataclasses.fields(Config) if item.name not in derived}
    assert {name for name in names if f"| `{name}` |" not in README} == set()


def test_every_facade_setting_is_in_its_readme() -> None:
    """The facade's README has a row for each of its settings, with the default."""
    rows = {f"| `{item.variable}` | `{item.default}` |" for item in FacadeConfig.describe()}
    assert {row for row in rows if row not in FACADE_README} == set()


def _commands(command: click.Command, name: str) -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {name: command}
    found = {name: command} if command.invoke_without_command else {}
    for child_name, child in command.commands.items():
        found |= _commands(child, f"{name} {child_name}")
    return found


def test_every_command_is_in_readme() -> None:
    """README shows every command of the CLI."""
    commands = _commands(app, "quillgate") | _commands(serve, "quillgate serve")
    assert {"quillgate keys rotate", "quillgate serve", "quillgate serve core"} <= set(commands)
    assert {command for command in commands if command not in README} == set()


def test_every_option_of_serve_is_in_readme() -> None:
    """README names every option with which the service can be started."""
    commands = _commands(serve, "quillgate serve").values()
    options = {name for command in commands for param in command.params for name in param.opts}
    assert "--new-admin-key" in options
    assert {option for option in options if option not in README} == set()


def test_every_error_reason_has_a_row() -> None:
    """The facade's table knows every reason of the contract, and no other."""
    values = error_reason_pb2.DESCRIPTOR.enum_types_by_name["ErrorReason"].values_by_name
    reasons = {name.removeprefix("ERROR_REASON_") for name in values if not name.endswith("_UNSPECIFIED")}
    assert set(ROWS) == reasons


def test_every_relative_link_of_the_readmes_leads_somewhere() -> None:
    """No README points at a file that is not there."""
    folders = ("", "bench", "core", "facade", "proto")
    for readme in (ROOT / folder / "README.md" for folder in folders):
        targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", readme.read_text())
        assert [target for target in targets if not (readme.parent / target).exists()] == []
