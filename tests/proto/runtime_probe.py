"""A program, not a test: uses stubs and codec in whatever environment runs it. `test_stubs.py` starts it in several.

Arguments: a folder of JSON bodies. Prints the versions of the runtime. Must need nothing but grpcio, protobuf, msgspec.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google.protobuf
import grpc
from google.protobuf import any_pb2
from google.protobuf.internal import api_implementation

from quillgate.v1 import error_reason_pb2, model_service_pb2, model_service_pb2_grpc
from quillgate.v1 import key_service_pb2_grpc as key_service_pb2_grpc
from quillgate.v1 import metering_service_pb2_grpc as metering_service_pb2_grpc
from quillgate.v1 import workspace_service_pb2_grpc as workspace_service_pb2_grpc
from quillgate_codec import Codec, JsonError, chat_request, error_info, provider_chat_answer, provider_chat_chunk

CODECS: dict[str, Codec[Any]] = {"request": chat_request, "answer": provider_chat_answer, "chunks": provider_chat_chunk}


class OneModel(model_service_pb2_grpc.ModelServiceServicer):
    """A service that lists one model and knows none by id."""

    def ListModels(self, request: Any, context: Any) -> model_service_pb2.ListModelsResponse:  # noqa: N802
        """Answers with a model."""
        models = model_service_pb2.ModelList(object="list")
        models.data.items.add(id="m", object="model", created=1)
        return model_service_pb2.ListModelsResponse(models=models)

    def GetModel(self, request: Any, context: Any) -> model_service_pb2.GetModelResponse:  # noqa: N802
        """Fails as the real service does, with the cause in the status details."""
        info = error_reason_pb2.ErrorInfo(reason="MODEL_NOT_FOUND", domain="quillgate", metadata={"model": request.id})
        detail = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString())
        status = error_reason_pb2.ErrorStatus(code=5, message="No.", details=[detail])
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.NOT_FOUND, "No.")
        raise AssertionError("abort raises")


def check_codec(corpus: Path) -> None:
    """Send every body of the corpus through messages and the wire."""
    for path in sorted(corpus.glob("*.json")):
        codec = CODECS[path.stem.partition("_")[0]]
        bodies = json.loads(path.read_bytes())
        for body in bodies if isinstance(bodies, list) else [bodies]:
            message = codec.from_json(json.dumps(body).encode())
            received = type(message).FromString(message.SerializeToString())
            assert json.loads(codec.to_json(received)) == body, path
    for body in (b'{"seed": 9223372036854775808}', b'{"model": 5}', b'{"messages": {}}'):
        try:
            chat_request.from_json(body)
        except JsonError as error:
            assert error.code in ("invalid_type", "invalid_value")
        else:
            raise AssertionError(body)


def check_calls() -> None:
    """Call a service through the generated client, and read the cause of a failure."""
    server = grpc.server(ThreadPoolExecutor(2))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(OneModel(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        answer = stub.ListModels(model_service_pb2.ListModelsRequest(), timeout=10)
        assert answer.models.data.items[0].id == "m"
        try:
            stub.GetModel(model_service_pb2.GetModelRequest(id="x"), timeout=10)
        except grpc.RpcError as error:
            info = error_info(error)
            assert info is not None
            assert (info.reason, dict(info.metadata)) == ("MODEL_NOT_FOUND", {"model": "x"})
        else:
            raise AssertionError("GetModel succeeded")
    server.stop(None).wait()


if __name__ == "__main__":
    check_codec(Path(sys.argv[1]))
    check_calls()
    print(f"grpcio {grpc.__version__} protobuf {google.protobuf.__version__} {api_implementation.Type()}")
