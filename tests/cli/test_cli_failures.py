"""How commands fail: one line on standard error and an exit code that scripts can rely on."""

import socket
from pathlib import Path

import grpc
import pytest
from fakes.fake_admin_core import ADMIN_SECRET, FakeAdminCore, FakeError

from quillgate.v1.model_service_pb2 import Model

from .conftest import Cli, CliProcess

Code = grpc.StatusCode
FAILURES = [
    (FakeError(Code.INVALID_ARGUMENT, "`name` is long.", "INVALID_REQUEST", {"param": "name"}), 1, "`name` is long."),
    (FakeError(Code.INVALID_ARGUMENT, "Too long.", "INVALID_REQUEST", {"param": "name"}), 1, "Too long. (name)"),
    (FakeError(Code.PERMISSION_DENIED, "Lacks it.", "SCOPE_MISSING", {"scope": "keys.manage"}), 3, "Lacks it."),
    (FakeError(Code.PERMISSION_DENIED, "Not that one.", "MODEL_NOT_ALLOWED", {"model": "m"}), 3, "Not that one."),
    (
        FakeError(Code.NOT_FOUND, "No key `k`.", "KEY_NOT_FOUND", {"key_id": "k"}),
        4,
        "No key `k`. (`quillgate keys list` shows the keys of a workspace)",
    ),
    (
        FakeError(Code.FAILED_PRECONDITION, "It is revoked.", "KEY_REVOKED", {"key_id": "k"}),
        1,
        "It is revoked. (make another with `quillgate keys create`)",
    ),
    (FakeError(Code.UNAVAILABLE, "Busy.", "OVERLOADED", {"retry_after_s": "3"}), 5, "Busy. (try again in 3 s)"),
    (FakeError(Code.DEADLINE_EXCEEDED, "Too late.", "PROVIDER_TIMEOUT"), 5, "Too late."),
    (
        FakeError(Code.INTERNAL, "Our fault.", "INTERNAL", {"request_id": "req_1"}),
        1,
        "Our fault. (request req_1; the server's log says more)",
    ),
    (FakeError(Code.ABORTED, "Tomorrow's cause.", "SOMETHING_NEW"), 1, "Tomorrow's cause."),
    (FakeError(Code.UNKNOWN, "Odd\nserver."), 1, "UNKNOWN: Odd\\nserver."),
    (FakeError(Code.PERMISSION_DENIED, "By a proxy."), 3, "PERMISSION_DENIED: By a proxy."),
]


@pytest.mark.parametrize(("error", "code", "line"), FAILURES)
def test_a_failed_call_is_one_line_and_a_code(
    cli: Cli, core: FakeAdminCore, error: FakeError, code: int, line: str
) -> None:
    """Every cause ends with its documented code, core's words and a hint, and nothing on standard output."""
    core.error = error
    outcome = cli("keys", "list", "--json")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", f"quillgate: {line}\n")


def test_a_method_that_is_not_there(cli: Cli, core: FakeAdminCore) -> None:
    """Another gRPC server at the address is told apart from core."""
    core.error = FakeError(Code.UNIMPLEMENTED, "Method not found!")
    outcome = cli("usage")
    assert outcome.code == 1
    assert outcome.err == (
        f"quillgate: what listens at {core.address} does not know this call (is it quillgate's core?)\n"
    )


def test_a_bad_key(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that core refuses ends with code 3 and says where keys come from, without repeating it."""
    monkeypatch.setenv("QUILLGATE_KEY", "qg_live_wrong")
    outcome = cli("keys", "list")
    told = "Incorrect API key provided. (set QUILLGATE_KEY or --key-file)"
    assert (outcome.code, outcome.out, outcome.err) == (3, "", f"quillgate: {told}\n")


@pytest.mark.parametrize(
    "key",
    ["", " \n", "qg live", "qg_live_\x07", "qg_live_é", "k" * 1025],
    ids=["", "blank", "gap", "bell", "é", "long"],
)
def test_a_key_that_can_be_none(cli: Cli, core: FakeAdminCore, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """No key, or what no key can hold, ends with code 3 before anything is sent, and is not repeated."""
    monkeypatch.setenv("QUILLGATE_KEY", key)
    outcome = cli("keys", "list")
    assert (outcome.code, core.requests) == (3, [])
    assert "set QUILLGATE_KEY or --key-file" in outcome.err
    assert not key.strip() or key not in outcome.err


def test_nobody_listens(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port without a server ends with code 5 and asks whether the service runs."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        outcome = cli("keys", "list", "--address", address)
    told = f"cannot reach core at {address}: is `quillgate serve` running?"
    assert (outcome.code, outcome.out, outcome.err) == (5, "", f"quillgate: {told}\n")


def test_no_socket_file(cli: Cli, tmp_path: Path) -> None:
    """A Unix socket that does not exist ends with code 5."""
    outcome = cli("keys", "list", "--address", f"unix://{tmp_path}/none.sock")
    assert (outcome.code, outcome.out) == (5, "")


def test_raw_bytes_in_arguments(cli: Cli, core: FakeAdminCore) -> None:
    """An argument that is not UTF-8 is wrong usage."""
    outcome = cli("keys", "create", "--name", "k\udcff")
    assert (outcome.code, core.requests, outcome.err) == (2, [], "quillgate: the arguments are not UTF-8\n")


def test_what_nobody_foresaw_is_still_one_line(cli: Cli, core: FakeAdminCore) -> None:
    """An answer that breaks the contract ends with code 1 and one line, not with a traceback."""
    core.models.append(Model(id="m", extra_json=b"{not json"))
    outcome = cli("models", "--json")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("quillgate: unexpected JsonError in ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["frobnicate"], ["keys"], ["keys", "lits"], ["usage", "--no-such"]])
def test_commands_and_options_that_do_not_exist(cli: Cli, arguments: list[str]) -> None:
    """They end with code 2 and one line that names the help."""
    outcome = cli(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("quillgate: ")
    assert outcome.err.endswith("--help`\n")
    assert outcome.err.count("\n") == 1


def test_the_key_goes_nowhere_else(cli_process: CliProcess, core: FakeAdminCore, tmp_path: Path) -> None:
    """Whatever a command prints, on success and on failure, the caller's own key is not in it."""
    core.add_key("k")
    commands = [["keys", "list"], ["keys", "list", "--json"], ["keys", "show", "key_none"], ["models", "show", "x"]]
    for command in [*commands, ["usage", "--ca-file", str(tmp_path / "none")], ["keys", "--key", "x"]]:
        outcome = cli_process(*command)
        assert ADMIN_SECRET not in outcome.out + outcome.err
        assert "Traceback" not in outcome.err
