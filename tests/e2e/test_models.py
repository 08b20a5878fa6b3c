"""`GET /models` as tools need it: what each model holds, reads, writes and can be asked through."""

from decimal import Decimal
from pathlib import Path

from openai import AsyncOpenAI
from openai_clients import Connect
from service import MODEL, SPEECH_MODEL, RunningService, start_service


async def test_models_say_what_they_are_for(service: RunningService, connect: Connect) -> None:
    """Every listed model has limits, modalities and endpoints, and is the same when it is asked for by itself."""
    client = connect()
    models = {model.id: model async for model in client.models.list()}
    for model in models.values():
        more = model.model_extra
        assert more is not None
        assert more["context_window"] >= more["max_output_tokens"] >= 1
        assert more["input_modalities"]
        assert more["output_modalities"]
        assert more["endpoints"]
        assert await client.models.retrieve(model.id) == model
    chat, speech = models[MODEL].model_extra, models[SPEECH_MODEL].model_extra
    assert chat is not None
    assert speech is not None
    assert chat["endpoints"] == ["chat.completions", "completions", "responses"]
    assert (chat["input_modalities"], chat["output_modalities"]) == (["text"], ["text"])
    assert speech["endpoints"] == ["audio.transcriptions"]


async def test_one_key_is_enough_for_hundreds_of_models(database_url: str, tmp_path: Path) -> None:
    """With OpenRouter's key alone the official client lists 200 models, each with limits, most with prices."""
    async with (
        start_service(database_url, tmp_path, OPENROUTER_API_KEY="k") as service,
        AsyncOpenAI(base_url=service.base_url, api_key=service.developer_key) as client,
    ):
        listed = [model async for model in client.models.list()]
        one = next(model for model in listed if model.id == "google/gemini-2.5-pro")
        assert await client.models.retrieve(one.id) == one
    assert len(listed) >= 200
    assert [model.id for model in listed] == sorted(model.id for model in listed)
    members = [model.model_extra or {} for model in listed]
    assert all(member["full_context_messages"] >= 1 for member in members)
    prices = [member["pricing"] for member in members if "pricing" in member]
    assert len(prices) >= 200
    assert all(Decimal(price[name]) >= 0 for price in prices for name in ("prompt", "completion"))
    assert all("e" not in price["prompt"].lower() for price in prices)
    assert one.model_extra is not None
    assert one.model_extra["pricing"]["tiers"][0]["above_prompt_tokens"] == 200_000
