"""A hold is an upper bound: no usage within a request's limits counts more, however it is shortened."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest, ChatMessage, ContentPart, Tool
from quillgate_core.catalogue import Model, ModelUpstream
from quillgate_core.counting import TOKENS_PER_MESSAGE, Usage, counted_messages
from quillgate_core.holds import IMAGE_TOKENS, MIN_OUTPUT_TOKENS, ChatHold, chat_hold


def _model(*, context_window: int = 128_000, max_output_tokens: int = 8_192) -> Model:
    upstreams = (ModelUpstream("p", "m"),)
    return Model(id="a/m", context_window=context_window, max_output_tokens=max_output_tokens, upstreams=upstreams)


def _request(*parts: ContentPart, text: str = "", **fields: Any) -> ChatCompletionRequest:
    message = ChatMessage(role="user")
    if parts:
        message.content.parts.parts.extend(parts)
    else:
        message.content.text = text
    return ChatCompletionRequest(model="a/m", messages=[message], **fields)


models = st.builds(_model, context_window=st.integers(1, 2_000_000), max_output_tokens=st.integers(1, 200_000))
limits = st.none() | st.integers(1, 300_000)
requests = st.builds(
    _request,
    text=st.text(max_size=200) | st.sampled_from(["x" * 50_000]),
    max_tokens=limits,
    max_completion_tokens=limits,
    n=st.none() | st.integers(1, 128),
)


def _draw_usage(data: Any, hold: ChatHold, *, output_tokens: int) -> Usage:
    prompt_tokens = data.draw(st.integers(0, hold.prompt_tokens) | st.just(hold.prompt_tokens))
    cached_tokens = data.draw(st.integers(0, prompt_tokens))
    most = output_tokens * hold.choices
    return Usage(prompt_tokens, cached_tokens, data.draw(st.integers(0, most) | st.just(most)))


@given(model=models, request=requests, data=st.data())
def test_hold_covers_every_usage_within_the_bounds(model: Model, request: ChatCompletionRequest, data: Any) -> None:
    """Any prompt within the request's size and any answer within its limits counts at most the hold."""
    hold = chat_hold(request, model)
    usage = _draw_usage(data, hold, output_tokens=hold.output_tokens)
    assert 1 <= hold.min_hold_messages <= hold.hold_messages
    assert counted_messages(usage) <= hold.hold_messages


@given(model=models, request=requests, data=st.data())
def test_shortened_request_stays_within_its_hold(model: Model, request: ChatCompletionRequest, data: Any) -> None:
    """With any smaller hold that is enough, the lowered limit is a real one, is lower, and keeps within the hold."""
    hold = chat_hold(request, model)
    assert hold.output_tokens_within(hold.hold_messages) is None
    assert hold.output_tokens_within(hold.hold_messages + 1) is None
    if hold.min_hold_messages == hold.hold_messages:
        return
    held = data.draw(st.integers(hold.min_hold_messages, hold.hold_messages - 1))
    limit = hold.output_tokens_within(held)
    assert limit is not None
    assert min(hold.output_tokens, MIN_OUTPUT_TOKENS) <= limit < hold.output_tokens
    assert counted_messages(_draw_usage(data, hold, output_tokens=limit)) <= held


@given(model=models, request=requests)
def test_limits_that_are_sent_are_those_of_the_hold(model: Model, request: ChatCompletionRequest) -> None:
    """What the provider may generate, by whichever of the two limits it obeys, is at most what was held."""
    hold = chat_hold(request, model)
    sent = [limit for limit in (request.max_tokens, request.max_completion_tokens) if limit]
    if hold.lowered_output_tokens is not None:
        sent = [hold.lowered_output_tokens]
    assert all(limit <= hold.output_tokens <= model.max_output_tokens for limit in sent)


@given(text=st.text(max_size=300))
def test_prompt_is_bounded_by_its_bytes(text: str) -> None:
    """A token is at least a byte of text, so the bound is at least the text's size in UTF-8."""
    assert chat_hold(_request(text=text), _model()).prompt_tokens >= len(text.encode())


def test_prompt_is_at_most_the_context_window() -> None:
    """A provider refuses what does not fit, so more cannot be charged."""
    assert chat_hold(_request(text="x" * 5_000), _model(context_window=1_000)).prompt_tokens == 1_000


@pytest.mark.parametrize(
    ("limits", "output_tokens", "lowered"),
    [
        ({}, 8_192, None),
        ({"max_tokens": 5}, 5, None),
        ({"max_completion_tokens": 5}, 5, None),
        ({"max_completion_tokens": 5, "max_tokens": 9}, 9, None),
        ({"max_tokens": 8_192}, 8_192, None),
        ({"max_tokens": 8_193}, 8_192, 8_192),
        ({"max_tokens": 5, "max_completion_tokens": 10**8}, 8_192, 8_192),
    ],
)
def test_output_is_bounded_by_request_and_model(
    limits: dict[str, int], output_tokens: int, lowered: int | None
) -> None:
    """The lower of the request's limit and the model's; the request's is lowered only where it is above."""
    hold = chat_hold(_request(**limits), _model())
    assert (hold.output_tokens, hold.lowered_output_tokens) == (output_tokens, lowered)


def test_each_choice_costs_its_tokens() -> None:
    """Three choices of two thirds of a message each hold two messages and not one."""
    tokens = TOKENS_PER_MESSAGE * 2 // 3 - 100
    hold = chat_hold(_request(n=3, max_tokens=tokens), _model(max_output_tokens=100_000))
    assert (hold.choices, hold.hold_messages, hold.min_hold_messages) == (3, 2, 1)


@pytest.mark.parametrize(
    ("part", "unseen_tokens"),
    [
        (ContentPart(type="text", text="hi"), 0),
        (ContentPart(type="text", text="hi", extra_json=b'{"cache_control":{"type":"ephemeral"}}'), 0),
        (ContentPart(type="refusal", refusal="no"), 0),
        (ContentPart(type="image_url", image_url={"url": "https://host/a.png"}), IMAGE_TOKENS),
        (ContentPart(type="input_audio", input_audio={"data": "AA=="}), 128_000),
        (ContentPart(type="file", file={"file_id": "file-1"}), 128_000),
        (ContentPart(type="text", file={"file_id": "file-1"}), 128_000),
        (ContentPart(type="video_url", extra_json=b'{"video_url":{"url":"https://host/a.mp4"}}'), 128_000),
        (ContentPart(), 128_000),
    ],
    ids=lambda value: getattr(value, "type", None),
)
def test_what_the_request_does_not_hold_is_bounded_too(part: ContentPart, unseen_tokens: int) -> None:
    """An image costs at most so much; sound, files and unknown kinds at most the context window."""
    request = _request(part)
    hold = chat_hold(request, _model())
    assert hold.prompt_tokens == min(request.ByteSize() + unseen_tokens, 128_000)


def test_two_images_cost_twice() -> None:
    """Every part counts."""
    image = ContentPart(type="image_url", image_url={"url": "https://host/a.png"})
    request = _request(image, image)
    assert chat_hold(request, _model()).prompt_tokens == request.ByteSize() + 2 * IMAGE_TOKENS


@pytest.mark.parametrize(
    ("fields", "reads_the_web"),
    [
        ({"web_search_options": {}}, True),
        ({"tools": [Tool(type="web_search")]}, True),
        ({"tools": [Tool(type="function"), Tool(type="custom")]}, False),
    ],
)
def test_searching_provider_may_fill_the_context(fields: dict[str, Any], reads_the_web: bool) -> None:
    """What a provider reads by itself is charged as prompt, so the hold is for all that the model takes."""
    hold = chat_hold(_request(**fields), _model())
    assert (hold.prompt_tokens == 128_000) == reads_the_web
