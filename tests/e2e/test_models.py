"""`GET /models` as tools need it: what each model holds, reads, writes and can be asked through."""

from openai_clients import Connect
from service import MODEL, SPEECH_MODEL, RunningService


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
