"""Where the CLI connects, how, and with which key."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from fakes.fake_admin_core import ADMIN_SECRET, FakeAdminCore

from quillgate_cli.address import parse_address
from quillgate_cli.failure import WrongUsage

from .conftest import Cli, CliProcess


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `cert.pem` for localhost, signed by itself, and its `key.pem`."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def tls_core(certificate: Path) -> Iterator[FakeAdminCore]:
    """A core that speaks TLS only."""
    pair = ((certificate / "key.pem").read_bytes(), (certificate / "cert.pem").read_bytes())
    with FakeAdminCore(grpc.ssl_server_credentials([pair])) as fake:
        yield fake


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1:8788", True),
        ("127.9.9.9:1", True),
        ("localhost:65535", True),
        ("[::1]:8788", True),
        ("unix:///run/q.sock", True),
        ("unix:/run/q.sock", True),
        ("core.internal:8788", False),
        ("127.0.0.1.evil.example:80", False),
        ("10.0.0.1:8788", False),
        ("0.0.0.0:8788", False),
        ("[2001:db8::1]:8788", False),
    ],
)
def test_what_is_local(text: str, local: bool) -> None:
    """Loopback and Unix sockets are local; what merely looks like it is not."""
    assert parse_address(text).local is local


@pytest.mark.parametrize(
    "text",
    ["", "x", "x:", ":1", "x:0", "x:65536", "x:y", "::1:80", "unix:", "unix:///", "dns:///x:1", "ipv4:1.2.3.4:5,6:7"],
)
def test_what_is_no_address(text: str) -> None:
    """Other schemes and incomplete addresses are refused."""
    with pytest.raises(WrongUsage):
        parse_address(text)


def test_another_machine_needs_a_decision(cli: Cli) -> None:
    """No key leaves this machine in the clear unless the user says so."""
    outcome = cli("keys", "list", "--address", "core.example:8788")
    assert outcome.code == 2
    assert "--tls, or --plaintext" in outcome.err


def test_a_unix_socket(cli: Cli, tmp_path: Path) -> None:
    """`unix:///PATH` reaches a core on a Unix socket."""
    with FakeAdminCore(unix_path=str(tmp_path / "q.sock")) as core:
        core.add_key("k")
        assert cli("keys", "list", "--address", core.address).code == 0
        assert len(core.requests) == 1


def test_tls_with_a_private_authority(cli: Cli, tls_core: FakeAdminCore, certificate: Path) -> None:
    """`--tls --ca-file` trusts exactly that certificate, also when the environment asks for TLS."""
    options = ["--address", tls_core.address, "--ca-file", str(certificate / "cert.pem")]
    assert cli("workspaces", "list", "--tls", *options).code == 0
    assert len(tls_core.requests) == 1


def test_tls_by_the_environment(
    cli: Cli, tls_core: FakeAdminCore, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QUILLGATE_TLS=1 is `--tls`, and `--plaintext` overrides it."""
    monkeypatch.setenv("QUILLGATE_TLS", "1")
    options = ["--address", tls_core.address, "--ca-file", str(certificate / "cert.pem")]
    assert cli("workspaces", "list", *options).code == 0
    assert cli("workspaces", "list", "--plaintext").code == 0


def test_a_certificate_that_nobody_vouches_for(cli_process: CliProcess, tls_core: FakeAdminCore) -> None:
    """An unknown certificate ends with code 5, one line and no call."""
    outcome = cli_process("workspaces", "list", "--tls", "--address", tls_core.address)
    told = f"cannot reach core at {tls_core.address}: is it running there, and does its certificate fit?"
    assert (outcome.code, outcome.out, tls_core.requests) == (5, "", [])
    assert outcome.err == f"quillgate: {told}\n"


@pytest.mark.parametrize(
    ("options", "told"), [(["--ca-file", "x"], "needs --tls"), (["--tls", "--ca-file", "/none"], "/none")]
)
def test_certificate_files_that_do_not_fit(cli: Cli, core: FakeAdminCore, options: list[str], told: str) -> None:
    """A CA file without TLS, or one that cannot be read, is wrong usage."""
    outcome = cli("usage", *options)
    assert (outcome.code, core.requests) == (2, [])
    assert told in outcome.err


def test_a_key_file_wins_over_the_environment(
    cli: Cli, core: FakeAdminCore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--key-file` is what the user just typed, so it wins; the line break at its end is no part of the key."""
    monkeypatch.setenv("QUILLGATE_KEY", "qg_live_wrong")
    key_file = tmp_path / "key"
    key_file.write_text(ADMIN_SECRET + "\n")
    assert cli("keys", "list", "--key-file", str(key_file)).code == 0


def test_a_key_from_standard_input(cli_process: CliProcess) -> None:
    """`--key-file -` reads the key from standard input."""
    cli_process.environment.pop("QUILLGATE_KEY")
    assert cli_process("keys", "list", "--key-file", "-", stdin=ADMIN_SECRET + "\n").code == 0
    assert cli_process("keys", "list", "--key-file", "-", stdin="").code == 3


def test_key_files_that_cannot_be_read(cli: Cli, core: FakeAdminCore, tmp_path: Path) -> None:
    """A missing file, a directory or a binary is wrong usage, told by its path."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none", tmp_path, binary):
        outcome = cli("keys", "list", "--key-file", str(path))
        assert (outcome.code, core.requests) == (2, [])
        assert str(path) in outcome.err


def test_a_huge_key_file_is_not_read_whole(cli: Cli, tmp_path: Path) -> None:
    """A file that holds no key, whatever its size, ends with code 3 at once."""
    outcome = cli("keys", "list", "--key-file", "/dev/zero")
    assert outcome.code == 3
