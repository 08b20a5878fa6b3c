"""What a provider's own list says is served, on request or by itself, and holds on every replica."""

import asyncio
from pathlib import Path
from typing import Any

from fakes.scripted_upstream import RecordedRequest, ScriptedAnswer, default_answer, json_answer
from openai import AsyncOpenAI
from service import RunningService, start_service

from quillgate.v1 import catalogue_service_pb2 as pb
from quillgate.v1 import catalogue_service_pb2_grpc

CATALOGUE = """
hide = ["maker/hidden"]

[providers.openrouter]
base_url = "{base_url}"
api_key_env = "OPENROUTER_API_KEY"

[overrides."google/gemini-2.5-flash"]
max_output_tokens = 1234
"""


def _entry(model_id: str, context_length: int | None = 200_000) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": model_id,
        "created": 1_790_000_000,
        "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
        "top_provider": {"max_completion_tokens": 50_000},
        "pricing": {"prompt": "0.00000125", "completion": "0.00001", "input_cache_read": "0.000000125"},
    }
    return entry if context_length is None else entry | {"context_length": context_length}


LIST = [
    _entry("maker/new"),
    _entry("maker/vague", None),
    _entry("maker/hidden"),
    _entry("openrouter/auto"),
    _entry("google/gemini-2.5-flash", 900_000),
]


def _answer(request: RecordedRequest) -> ScriptedAnswer:
    """The provider's list, its word for a good key, and chats."""
    if request.path.endswith("/models"):
        return json_answer(200, {"data": LIST})
    if request.method == "GET":
        return json_answer(200, {"data": {}})
    return default_answer(request)


def _start(database_url: str, directory: Path, **settings: str) -> Any:
    return start_service(
        database_url,
        directory,
        fallback=_answer,
        catalogue_text=CATALOGUE,
        OPENROUTER_API_KEY="k",
        **settings,
    )


async def _sync(service: RunningService, **request: Any) -> Any:
    stub: Any = catalogue_service_pb2_grpc.CatalogueServiceStub(service.core.channel)
    return await stub.SyncModels(pb.SyncModelsRequest(**request), metadata=service.metadata())


async def _until_served(client: AsyncOpenAI, model: str, *, timeout_s: float) -> Any:
    async with asyncio.timeout(timeout_s):
        while True:
            found = {entry.id: entry async for entry in client.models.list()}
            if model in found:
                return found[model]
            await asyncio.sleep(0.05)


async def test_a_list_is_read_on_request(database_url: str, tmp_path: Path) -> None:
    """A dry run tells the difference; a real one adds the model, which answers at once and on the other replica."""
    other_directory = tmp_path / "other"
    other_directory.mkdir()
    async with _start(database_url, tmp_path, QUILLGATE_DISCOVERY_S="0") as service:
        for name in ("pepper", "master-key"):
            if (tmp_path / name).exists():
                (other_directory / name).write_bytes((tmp_path / name).read_bytes())
        dry = await _sync(service, dry_run=True)
        told = {difference.model_id: difference.change for difference in dry.differences}
        assert told["maker/new"] == pb.MODEL_CHANGE_ADDED
        assert told["maker/vague"] == pb.MODEL_CHANGE_INCOMPLETE
        assert told["google/gemini-2.5-flash"] == pb.MODEL_CHANGE_CHANGED
        assert not {"maker/hidden", "openrouter/auto"} & set(told)
        assert (list(dry.failures), dry.written) == ([], False)
        written = await _sync(service, providers=["openrouter"])
        assert (list(written.differences), written.written) == (list(dry.differences), True)
        async with AsyncOpenAI(base_url=service.base_url, api_key=service.developer_key) as client:
            model = await client.models.retrieve("maker/new")
            assert model.model_extra is not None
            assert model.model_extra["context_window"] == 200_000
            assert model.model_extra["max_output_tokens"] == 50_000
            assert model.model_extra["input_modalities"] == ["text", "image"]
            assert model.model_extra["pricing"] == {
                "prompt": "0.00000125",
                "completion": "0.00001",
                "input_cache_read": "0.000000125",
            }
            known = await client.models.retrieve("google/gemini-2.5-flash")
            assert known.model_extra is not None
            assert known.model_extra["context_window"] == 900_000
            assert known.model_extra["max_output_tokens"] == 1234
            answer = await client.chat.completions.create(
                model="maker/new", messages=[{"role": "user", "content": "Hi"}]
            )
            assert answer.model == "maker/new"
        async with (
            _start(database_url, other_directory, QUILLGATE_DISCOVERY_S="0", admin_key=service.admin_key) as other,
            AsyncOpenAI(base_url=other.base_url, api_key=service.developer_key) as client,
        ):
            await client.models.retrieve("maker/new")


async def test_lists_are_read_by_themselves(database_url: str, tmp_path: Path) -> None:
    """Without anybody asking, a core reads the list once a period, and serves what is new."""
    async with (
        _start(database_url, tmp_path, QUILLGATE_DISCOVERY_S="1") as service,
        AsyncOpenAI(base_url=service.base_url, api_key=service.developer_key) as client,
    ):
        await _until_served(client, "maker/new", timeout_s=10)
        asked = [request for request in service.upstream.requests if request.path.endswith("/models")]
        assert {request.headers["Authorization"] for request in asked} == {"Bearer k"}
