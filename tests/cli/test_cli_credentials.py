"""`quillgate credentials`: a provider's key goes in unseen, and nothing that is printed holds it."""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes.fake_admin_core import OWN_WORKSPACE, FakeAdminCore, FakeError

from quillgate.v1 import provider_credential_service_pb2 as pb

from .conftest import Cli, CliProcess

KEY = "sk-PLANTED-0123456789"


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    """A file that holds the key and a line break."""
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    return str(path)


def test_set_from_a_file(cli: Cli, core: FakeAdminCore, key_file: str) -> None:
    """The key reaches core without the line break, everything else as given, and is not shown."""
    options = ["--workspace", "ws_1", "--base-url", "https://eu.example/v1", "--allow-fallback"]
    outcome = cli("credentials", "set", "openai", *options, "--secret-file", key_file)
    assert (outcome.code, outcome.err) == (0, "")
    assert core.requests == [
        pb.SetProviderCredentialRequest(
            workspace_id="ws_1", provider="openai", secret=KEY, base_url="https://eu.example/v1", allow_fallback=True
        )
    ]
    assert KEY not in outcome.out
    for shown in ("…6789", "https://eu.example/v1", "to the gateway's own key", "0a1b2c3d", "cred_"):
        assert shown in outcome.out


@pytest.mark.parametrize("options", [[], ["--secret-file", "-"]])
def test_set_from_standard_input(cli_process: CliProcess, core: FakeAdminCore, options: list[str]) -> None:
    """Without a file, or with `-`, the key is read from standard input."""
    outcome = cli_process("credentials", "set", "groq", *options, "--json", stdin=f"  {KEY}\n\n")
    assert (outcome.code, outcome.err) == (0, "")
    assert [(request.secret, request.allow_fallback) for request in core.requests] == [(KEY, False)]
    assert outcome.json == {
        "credential": {
            "credential_id": "cred_" + "1" * 20,
            "workspace_id": OWN_WORKSPACE,
            "provider": "groq",
            "base_url": "",
            "last4": "6789",
            "allow_fallback": False,
            "create_time": "2001-09-09T01:46:40Z",
            "master_key_id": "0a1b2c3d",
        }
    }


def test_on_a_terminal_the_key_is_typed_unseen(cli_process: CliProcess, core: FakeAdminCore) -> None:
    """A person is asked, and what is typed does not appear on the terminal."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "quillgate_cli", "credentials", "set", "openai"]
    with subprocess.Popen(
        command, env=cli_process.environment, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    ) as process:
        shown = b""
        while b"key:" not in shown:
            shown += os.read(leader, 1024)
        os.write(leader, KEY.encode() + b"\n")
        while b"Created" not in shown:
            shown += os.read(leader, 1024)
        assert process.wait(30) == 0
    os.close(leader)
    os.close(follower)
    assert core.requests[0].secret == KEY
    assert KEY.encode() not in shown


def test_the_key_is_in_no_command_line(cli_process: CliProcess, core: FakeAdminCore) -> None:
    """While it is being set, the process's arguments and environment do not hold it."""
    core.released.clear()
    process = cli_process.start("credentials", "set", "openai")
    assert process.stdin is not None
    process.stdin.write(KEY.encode())
    process.stdin.close()
    process.stdin = None
    assert core.hanging.wait(30)
    listing = b"".join(Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
    core.released.set()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"credentials" in listing
    assert KEY.encode() not in listing + out + err


WRONG: list[tuple[list[str], str, str]] = [
    (["set"], "", "PROVIDER"),
    (["set", "openai"], "", "no key"),
    (["set", "openai"], " \n", "no key"),
    (["set", "openai"], f"{KEY} {KEY}", "visible ASCII"),
    (["set", "openai"], f"{KEY}\n{KEY}", "visible ASCII"),
    (["set", "openai"], KEY + "ü", "visible ASCII"),
    (["set", "openai"], "P" * 4097, "visible ASCII"),
    (["set", "openai", KEY], "", "never an argument"),
    (["set", "openai", KEY, KEY], "", "never an argument"),
    (["set", KEY], KEY, "no provider's name"),
    (["test", KEY], "", "no provider's name"),
    (["delete", KEY], "", "no provider's name"),
    (["set", "openai", f"--secret={KEY}"], "", "--secret"),
    (["set", "openai", "--secret", KEY], "", "--secret"),
    (["set", "openai", "--secret-file", "/nowhere"], "", "cannot read the file /nowhere"),
    (["set", "openai", "--workspace", ""], KEY, "an id is empty"),
    (["set", "openai", "--key-file", "-"], KEY, "cannot hold both"),
]


@pytest.mark.parametrize(("arguments", "stdin", "told"), WRONG)
def test_wrong_usage_is_told_without_the_key(
    cli_process: CliProcess, core: FakeAdminCore, arguments: list[str], stdin: str, told: str
) -> None:
    """Wrong usage ends with code 2 and one line that never repeats what may be a key, without a call."""
    outcome = cli_process("credentials", *arguments, stdin=stdin)
    assert (outcome.code, outcome.out, core.requests) == (2, "", [])
    assert told in outcome.err
    assert "PLANTED" not in outcome.err
    assert "PPPP" not in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 100, b"-----BEGIN KEY-----\nPLANTED\n"])
def test_a_file_that_holds_no_key(cli: Cli, core: FakeAdminCore, tmp_path: Path, content: bytes) -> None:
    """A binary or a PEM file in its place is told, without its content."""
    path = tmp_path / "key"
    path.write_bytes(content)
    outcome = cli("credentials", "set", "openai", "--secret-file", str(path))
    assert (outcome.code, outcome.out, core.requests) == (2, "", [])
    assert "PLANTED" not in outcome.err


def test_list(cli: Cli, core: FakeAdminCore, key_file: str) -> None:
    """Keys are listed by what is known of them; `--json` prints proto's names; the workspace is passed on."""
    for provider in ("groq", "openai"):
        cli("credentials", "set", provider, "--secret-file", key_file)
    outcome = cli("credentials", "list", "--workspace", "ws_1")
    assert outcome.column("PROVIDER") == ["groq", "openai"]
    assert outcome.column("KEY") == ["…6789"] * 2
    assert outcome.column("BASE URL") == ["the gateway's"] * 2
    assert core.requests[-1].workspace_id == "ws_1"
    listed = cli("credentials", "list", "--json").json["credentials"]
    assert [credential["provider"] for credential in listed] == ["groq", "openai"]
    assert KEY not in outcome.out


def test_test(cli: Cli, core: FakeAdminCore, key_file: str) -> None:
    """A key that works ends with 0, one that does not with 1; both say why, and how long it took."""
    cli("credentials", "set", "openai", "--secret-file", key_file)
    core.test_result = pb.TestProviderCredentialResponse(ok=True, message="Taken.", latency_ms=1234)
    outcome = cli("credentials", "test", "openai", "--workspace", "ws_1")
    assert (outcome.code, outcome.out, core.requests[-1].workspace_id) == (0, "Taken. (1,234 ms)\n", "ws_1")
    core.test_result = pb.TestProviderCredentialResponse(ok=False, message="Refused.", latency_ms=5)
    outcome = cli("credentials", "test", "openai")
    assert (outcome.code, outcome.out, outcome.err) == (1, "Refused. (5 ms)\n", "")
    outcome = cli("credentials", "test", "openai", "--json")
    assert (outcome.code, outcome.json) == (1, {"ok": False, "message": "Refused.", "latency_ms": 5})


def test_delete(cli: Cli, core: FakeAdminCore, key_file: str) -> None:
    """A deleted key is gone; deleting what is not there ends with 4 and a hint."""
    cli("credentials", "set", "openai", "--secret-file", key_file)
    outcome = cli("credentials", "delete", "openai", "--workspace", "ws_1")
    assert (outcome.code, outcome.out) == (0, "The key with openai is gone.\n")
    assert (core.credentials, core.requests[-1].workspace_id) == ({}, "ws_1")
    outcome = cli("credentials", "delete", "openai", "--json")
    assert (outcome.code, outcome.out) == (4, "")
    assert "`quillgate credentials list`" in outcome.err


def _rewrap(rewrapped: int, remaining: int, unreadable: int = 0) -> pb.RewrapProviderCredentialsResponse:
    return pb.RewrapProviderCredentialsResponse(
        rewrapped=rewrapped, remaining=remaining, unreadable=unreadable, master_key_id="0a1b2c3d"
    )


REWRAPS: list[tuple[list[pb.RewrapProviderCredentialsResponse], int, dict[str, Any]]] = [
    ([_rewrap(0, 0)], 0, {"rewrapped": 0, "remaining": 0, "unreadable": 0}),
    ([_rewrap(100, 150), _rewrap(100, 50), _rewrap(50, 0)], 0, {"rewrapped": 250, "remaining": 0, "unreadable": 0}),
    ([_rewrap(100, 3, 3)], 1, {"rewrapped": 100, "remaining": 3, "unreadable": 3}),
    ([_rewrap(100, 3, 1), _rewrap(0, 3, 3)], 1, {"rewrapped": 100, "remaining": 3, "unreadable": 3}),
    ([_rewrap(0, 7), _rewrap(7, 0)], 0, {"rewrapped": 7, "remaining": 0, "unreadable": 0}),
]


@pytest.mark.parametrize(("answers", "code", "expected"), REWRAPS)
def test_rewrap_goes_on_until_nothing_more_can_be_done(
    cli: Cli,
    core: FakeAdminCore,
    answers: list[pb.RewrapProviderCredentialsResponse],
    code: int,
    expected: dict[str, Any],
) -> None:
    """It repeats until nothing remains, or only what cannot be opened, which ends with 1; totals are printed."""
    core.rewraps = list(answers)
    outcome = cli("credentials", "rewrap", "--json")
    assert (outcome.code, outcome.json) == (code, {**expected, "master_key_id": "0a1b2c3d"})
    assert core.rewraps == []
    core.rewraps = list(answers)
    outcome = cli("credentials", "rewrap")
    assert (outcome.code, "still needed" in outcome.err) == (code, bool(code))
    assert [line.split()[-1] for line in outcome.out.splitlines()] == [
        "0a1b2c3d",
        *(str(expected[name]) for name in ("rewrapped", "remaining", "unreadable")),
    ]


def test_rewrap_that_gets_nowhere_ends(cli: Cli, core: FakeAdminCore) -> None:
    """While somebody else holds what is left it waits, but not for ever."""
    core.rewraps = [_rewrap(0, 5)] * 6
    outcome = cli("credentials", "rewrap", "--json")
    assert (outcome.code, outcome.json["remaining"], len(core.rewraps)) == (1, 5, 1)


def test_a_refusal_by_core_is_told_without_the_key(cli: Cli, core: FakeAdminCore, key_file: str) -> None:
    """What core says is shown; it names the member that was wrong."""
    core.error = FakeError(
        grpc.StatusCode.INVALID_ARGUMENT, "'base_url' must be https.", "INVALID_REQUEST", {"param": "base_url"}
    )
    outcome = cli("credentials", "set", "openai", "--secret-file", key_file, "--base-url", "http://x.example")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "quillgate: 'base_url' must be https.\n")
