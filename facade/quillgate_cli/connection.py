"""From the connection options to calls on core: address, transport security, key and deadline.

A command asks for a `Core` as its first parameter and gets the options with it. This file must not know what any
command does, and must never repeat the key, neither in errors nor in `repr`.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc

from quillgate.v1.catalogue_service_pb2_grpc import CatalogueServiceStub
from quillgate.v1.key_service_pb2_grpc import KeyServiceStub
from quillgate.v1.ledger_service_pb2_grpc import LedgerServiceStub
from quillgate.v1.metering_service_pb2_grpc import MeteringServiceStub
from quillgate.v1.model_service_pb2_grpc import ModelServiceStub
from quillgate.v1.provider_credential_service_pb2_grpc import ProviderCredentialServiceStub
from quillgate.v1.workspace_service_pb2_grpc import WorkspaceServiceStub
from quillgate_cli.address import parse_address
from quillgate_cli.failure import WrongUsage, call_failure
from quillgate_cli.key_source import read_key

DEADLINE_S = 10.0
DEFAULT_ADDRESS = "127.0.0.1:8788"
_CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", 40 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]
_OPTIONS = (
    click.option(
        "--address",
        default=DEFAULT_ADDRESS,
        show_default=True,
        envvar="QUILLGATE_CORE_ADDRESS",
        show_envvar=True,
        help="Where core listens: HOST:PORT or unix:///PATH.",
    ),
    click.option(
        "--key-file",
        metavar="PATH",
        help="File that holds your key; '-' is standard input. Default: the variable QUILLGATE_KEY.",
    ),
    click.option(
        "--tls/--plaintext",
        default=None,
        envvar="QUILLGATE_TLS",
        show_envvar=True,
        help="Encrypt, or send the key in the clear. Default: in the clear, and to this machine only.",
    ),
    click.option(
        "--ca-file",
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="Certificates (PEM) to trust with --tls. Default: the public authorities.",
    ),
)

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Core:
    """Core's admin services over one channel; every call carries the key and a deadline."""

    def __init__(self, channel: grpc.Channel, *, address: str, tls: bool, key: str) -> None:
        self.catalogue = CatalogueServiceStub(channel)
        self.credentials = ProviderCredentialServiceStub(channel)
        self.keys = KeyServiceStub(channel)
        self.ledger = LedgerServiceStub(channel)
        self.metering = MeteringServiceStub(channel)
        self.models = ModelServiceStub(channel)
        self.workspaces = WorkspaceServiceStub(channel)
        self._address = address
        self._tls = tls
        self._metadata = (("authorization", f"Bearer {key}"),)

    def call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]",
        request: RequestT,
        *,
        deadline_s: float = DEADLINE_S,
    ) -> ResponseT:
        """Calls a method of one of the stubs; raises Failure with the line and exit code that the user gets."""
        try:
            return method(request, timeout=deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise call_failure(error, address=self._address, tls=self._tls, deadline_s=deadline_s) from None

    def stream(
        self,
        method: "grpc.UnaryStreamMultiCallable[RequestT, ResponseT]",
        request: RequestT,
        *,
        deadline_s: float | None = None,
    ) -> Iterator[ResponseT]:
        """Yields what a method streams, as it comes; ends the call when it is closed, and raises as `call` does.

        Without a deadline it may take as long as it does: a core that has gone is noticed by gRPC's keepalive.
        """
        call = method(request, timeout=deadline_s, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise call_failure(error, address=self._address, tls=self._tls, deadline_s=deadline_s or 0) from None
        finally:
            call.cancel()


def with_core(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes `core: Core` first the connection options after its own, the same everywhere."""

    @functools.wraps(command)
    def run(*, address: str, key_file: str | None, tls: bool | None, ca_file: Path | None, **arguments: Any) -> None:
        with open_core(address, key_file=key_file, tls=tls, ca_file=ca_file) as core:
            command(core, **arguments)

    return functools.reduce(lambda connected, option: option(connected), reversed(_OPTIONS), run)


@contextmanager
def open_core(
    address: str, *, key_file: str | None = None, tls: bool | None = None, ca_file: Path | None = None
) -> Iterator[Core]:
    """Opens a channel as the options say and closes it in the end; raises WrongUsage or Failure before any call."""
    credentials = _credentials(address, tls=tls, ca_file=ca_file)
    key = read_key(key_file, os.environ, sys.stdin)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own log lines would go between ours
    with _channel(address, credentials) as channel:
        yield Core(channel, address=address, tls=credentials is not None, key=key)


def _credentials(address: str, *, tls: bool | None, ca_file: Path | None) -> grpc.ChannelCredentials | None:
    """Returns None for a channel in the clear; a key leaves this machine in the clear only if the user says so."""
    local = parse_address(address).local
    if tls:
        return grpc.ssl_channel_credentials(root_certificates=_read_certificates(ca_file))
    if ca_file is not None:
        raise WrongUsage("--ca-file needs --tls")
    if tls is None and not local:
        raise WrongUsage(f"{address} is another machine: use --tls, or --plaintext to send the key in the clear")
    return None


def _read_certificates(ca_file: Path | None) -> bytes | None:
    if ca_file is None:
        return None
    try:
        return ca_file.read_bytes()
    except OSError as error:
        raise WrongUsage(f"cannot read the CA file {ca_file}: {error.strerror}") from None


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """In the clear, a proxy of the environment is passed by: it would read the key."""
    if credentials is not None:
        return grpc.secure_channel(address, credentials, options=_CHANNEL_OPTIONS)
    return grpc.insecure_channel(address, options=[*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)])
