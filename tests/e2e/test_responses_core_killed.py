"""A core that is killed in the middle of a streamed response, behind a facade that lives on."""

import signal
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import openai
import pytest
from fakes.scripted_upstream import SCRIPTED_CATALOGUE, ScriptedUpstream, Step, chat_chunk, sse_answer
from openai import AsyncOpenAI
from serve_process import environment, serving

from quillgate_facade.app import build_app
from quillgate_facade.app import serve as serve_facade
from quillgate_facade.config import FacadeConfig


@pytest.mark.parametrize("helper", [False, True])
async def test_a_killed_core_is_a_failed_response(database_url: str, tmp_path: Path, helper: bool) -> None:
    """The client gets what was said until then and then an error, never a clean end, on both ways to stream."""
    async with ScriptedUpstream() as upstream:
        upstream.script(sse_answer(chat_chunk({"role": "assistant", "content": "Hel"}), Step.HANG))
        catalogue = tmp_path / "catalogue.toml"
        catalogue.write_text(SCRIPTED_CATALOGUE.format(base_url=upstream.base_url))
        environ = environment(tmp_path, QUILLGATE_DATABASE_URL=database_url, QUILLGATE_CONFIG=str(catalogue))
        with serving(["core", "--new-key"], environ, ready=r"^Your key +\S+.*\n") as core:
            async with grpc.aio.insecure_channel(core.find("gRPC")) as channel:
                server = await serve_facade(build_app(channel, FacadeConfig(port=0)))
                url = f"http://127.0.0.1:{server.port}/v1"
                async with AsyncOpenAI(base_url=url, api_key=core.find("Your key"), timeout=30) as client:
                    said = await _said_until_killed(client, lambda: core.process.send_signal(signal.SIGKILL), helper)
                await server.stop(1.0)
    assert said == "Hel"


async def _said_until_killed(client: AsyncOpenAI, kill: Callable[[], None], helper: bool) -> str:
    said = ""
    with pytest.raises(openai.APIError, match="not available"):
        if helper:
            async with client.responses.stream(model="scripted/model", input="Hi") as stream:
                async for event in stream:
                    if event.type == "response.output_text.delta":
                        said += event.delta
                        kill()
        else:
            async for plain in await client.responses.create(model="scripted/model", input="Hi", stream=True):
                if plain.type == "response.output_text.delta":
                    said += plain.delta
                    kill()
    return said
