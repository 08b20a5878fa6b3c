"""From the connection options to calls on core: address, transport security, key and deadline.

A command asks for a `Core` as its first parameter and gets the options with it. This file must not know what any
command does, and must never repeat the key, neither in errors nor in `repr`.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import grpc
import typer
from quillgate.v1.key_service_pb2_grpc import KeyServiceStub
from quillgate.v1.metering_service_pb2_grpc import MeteringServiceStub
from quillgate.v1.model_service_pb2_grpc import ModelServiceStub
from quillgate.v1.workspace_service_pb2_grpc import WorkspaceServiceStub

from quillgate_cli.address import CoreAddress, parse_address
from quillgate_cli.failure import WrongUsage, call_failure
from quillgate_cli.key_source import read_key

DEADLINE_S = 10.0
DEFAULT_ADDRESS = "127.0.0.1:8788"
_MAX_ANSWER_BYTES = 40 * 1024 * 1024
_PANEL = "Connection"

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Core:
    """Core's admin services over one channel; every call carries the key and a deadline of DEADLINE_S."""

    def __init__(self, channel: grpc.Channel, *, address: str, tls: bool, key: str) -> None:
        self.keys = KeyServiceStub(channel)
        self.metering = MeteringServiceStub(channel)
        self.models = ModelServiceStub(channel)
        self.workspaces = WorkspaceServiceStub(channel)
        self._address = address
        self._tls = tls
        self._metadata = (("authorization", f"Bearer {key}"),)

    def call(
        self, method: "grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]", request: RequestT
    ) -> ResponseT:
        """Calls a method of one of the stubs; raises Failure with the line and exit code that the user gets."""
        try:
            return method(request, timeout=DEADLINE_S, metadata=self._metadata)
        except grpc.RpcError as error:
            raise call_failure(error, address=self._address, tls=self._tls, deadline_s=DEADLINE_S) from None


def with_core(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes `core: Core` first the connection options after its own, in every command alike.

    typer reads a command's options from its signature, so the signature is where they are added.
    """

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        connection = {name: arguments.pop(name) for name in _connection_parameters()}
        with _open_channel(**_without(connection, "key_file")) as (channel, address, tls):
            key = read_key(connection["key_file"], os.environ, sys.stdin)
            command(Core(channel, address=address, tls=tls, key=key), **arguments)

    own = list(inspect.signature(command).parameters.values())[1:]
    run.__signature__ = inspect.Signature([*own, *_connection_parameters().values()])  # type: ignore[attr-defined]
    return run
