"""The CLI as a process: signals, pipes, versions, completion, and what it imports."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.fake_admin_core import ADMIN_SECRET, NEW_SECRET, FakeAdminCore

from .conftest import Cli, CliProcess


def test_ctrl_c_ends_a_call_quietly(cli_process: CliProcess, core: FakeAdminCore) -> None:
    """SIGINT during a call ends with code 130 and without a word."""
    core.released.clear()
    process = cli_process.start("usage")
    assert core.hanging.wait(30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_goes_away(cli_process: CliProcess, core: FakeAdminCore) -> None:
    """A closed pipe (`| head`) ends with code 141 and without a word."""
    core.add_key("k")
    core.released.clear()
    process = cli_process.start("keys", "list")
    assert core.hanging.wait(30)
    assert process.stdout is not None
    process.stdout.close()
    core.released.set()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(30)) == (b"", 141)
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_told(cli_process: CliProcess) -> None:
    """Output that cannot be written is a failure, not a silent success."""
    with Path("/dev/full").open("wb") as full:
        process = cli_process.start("usage", stdout=full)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.decode()) == (1, "quillgate: cannot write the answer: No space left on device\n")


def test_standard_output_that_is_closed(cli_process: CliProcess) -> None:
    """A process without standard output says so on standard error."""
    command = f'exec "{sys.executable}" -m quillgate_cli usage >&-'
    process = subprocess.run(["sh", "-c", command], env=cli_process.environment, capture_output=True, timeout=60)
    assert process.returncode == 1
    assert process.stderr.startswith(b"quillgate: ")
    assert process.stderr.count(b"\n") == 1


def test_names_in_an_ascii_locale(cli_process: CliProcess, core: FakeAdminCore) -> None:
    """A terminal that cannot show a letter gets it spelt out instead of a crash."""
    core.add_workspace("Zoë 李")
    cli_process.environment.update(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    outcome = cli_process("workspaces", "list")
    assert (outcome.code, outcome.err) == (0, "")
    assert "Zo\\xeb \\u674e" in outcome.out


def test_a_chart_in_an_ascii_locale(cli_process: CliProcess, core: FakeAdminCore) -> None:
    """A terminal without block characters gets bars of plain ASCII."""
    core.days.days.add(day="2026-11-23", message_count=7)
    core.days.reset_time.seconds = 1_795_478_400
    cli_process.environment.update(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    outcome = cli_process("usage", "--chart")
    assert (outcome.code, outcome.err) == (0, "")
    assert "###" in outcome.out
    assert outcome.out.isascii()


def test_the_secret_is_in_no_command_line(cli_process: CliProcess, core: FakeAdminCore) -> None:
    """While a command runs, its arguments show neither the caller's key nor a new one."""
    core.released.clear()
    process = cli_process.start("keys", "create", "--name", "k", "--secret-only")
    assert core.hanging.wait(30)
    listing = subprocess.run(
        ["ps", "-o", "args=", "-p", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout
    core.released.set()
    out, _ = process.communicate(timeout=30)
    assert "keys create" in listing
    assert ADMIN_SECRET not in listing
    assert NEW_SECRET not in listing
    assert out.decode() == NEW_SECRET + "\n"


def test_version(cli: Cli) -> None:
    """`--version` prints the name and the version."""
    outcome = cli("--version")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("quillgate 0.")


def test_help_lists_every_command(cli: Cli) -> None:
    """`--help` names each command; so does `quillgate` alone, as wrong usage."""
    for arguments, code in ((["--help"], 0), ([], 2)):
        outcome = cli(*arguments)
        assert outcome.code == code
        for command in ("workspaces", "keys", "usage", "count", "models", "completion", "serve"):
            assert command in outcome.out


COMPLETIONS = [
    ("quillgate ke", ["keys"]),
    ("quillgate keys ro", ["rotate"]),
    ("quillgate models s", ["show", "sync"]),
    ("quillgate usage ", ["days", "export", "top"]),
    ("quillgate completion ", ["bash", "zsh", "fish"]),
    ("quillgate serve ", ["core", "facade"]),
    ("quillgate keys list --address x --inc", ["--include-revoked"]),
]


@pytest.mark.parametrize(("words", "offered"), COMPLETIONS)
def test_shell_completion(cli_process: CliProcess, core: FakeAdminCore, words: str, offered: list[str]) -> None:
    """The shell is offered commands, options and choices, without a call to core."""
    cli_process.environment.update(
        _QUILLGATE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(words.count(" "))
    )
    outcome = cli_process()
    assert (outcome.code, outcome.err) == (0, "")
    assert [line.removeprefix("plain,") for line in outcome.out.splitlines()] == offered
    assert core.requests == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(cli: Cli, shell: str) -> None:
    """`completion` prints a script that asks this very program."""
    outcome = cli("completion", shell)
    assert outcome.code == 0
    assert f"_QUILLGATE_COMPLETE={shell}_complete" in outcome.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_takes_the_script(cli: Cli) -> None:
    """What `completion bash` prints is a script that bash reads and that registers the program."""
    script = cli("completion", "bash").out + "\ncomplete -p quillgate"
    bash = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert (bash.returncode, bash.stderr) == (0, "")
    assert bash.stdout.endswith(" quillgate\n")


def test_no_script_for_another_shell(cli: Cli) -> None:
    """A shell that is not supported, or none, is wrong usage in one line that names those that are."""
    for arguments in (["completion"], ["completion", "tcsh"]):
        outcome = cli(*arguments)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert "fish" in outcome.err


def test_help_to_a_reader_that_goes_away(cli_process: CliProcess) -> None:
    """Help into a closed pipe ends with code 141 and without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    process = cli_process.start("--help", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, b"")


def test_admin_commands_do_not_import_the_service(cli_process: CliProcess) -> None:
    """Only `serve` brings in core, facade and their libraries; the others start without them."""
    program = "import sys; from quillgate_cli.main import main; main(['--help']); main(['keys', 'list'])"
    program += (
        "; print([n for n in ('quillgate_core', 'quillgate_facade', 'aiohttp', 'sqlalchemy') if n in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, env=cli_process.environment, capture_output=True, text=True, timeout=60)
    assert process.stdout.endswith("[]\n")


def test_no_command_waits_for_a_terminal(cli_process: CliProcess) -> None:
    """With standard input at its end, a command neither asks nor hangs."""
    process = cli_process.start("workspaces", "create", "--name", "T", stdin=subprocess.DEVNULL)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert b"T" in out
