"""What every vendor is asked: one request in OpenAI's form, read back from the vendor's own."""

import base64
from typing import Any

import pytest
from conformance.trial import MODEL, Trial, asking
from conformance.vendor import API_KEY

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest
from quillgate_core.errors import InvalidRequest

BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 40).decode()
PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.4\n%%EOF").decode()
IMAGE = {"type": "image_url", "image_url": {"url": PNG}}
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "callone01", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}},
            {"id": "calltwo02", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Thun"}'}},
        ],
    },
    {"role": "tool", "tool_call_id": "callone01", "content": "sunny"},
    {"role": "tool", "tool_call_id": "calltwo02", "content": "rainy"},
    {"role": "assistant", "content": "Sun in Bern, rain in Thun."},
    {"role": "user", "content": [{"type": "text", "text": "Thanks."}]},
]


@BOTH_WAYS
async def test_model_key_and_form_are_told(trial: Trial, stream: bool) -> None:
    """The vendor is asked for its own name of the model, with the account's key, in the form that is wanted."""
    sent = await trial.sent(asking(), stream=stream)
    assert (sent.model, sent.key, sent.stream) == (MODEL, API_KEY, stream)
    assert list(sent.turns) == [("user", "hi")]
    assert trial.upstream.requests[-1].method == "POST"
    assert API_KEY not in sent.path


@BOTH_WAYS
async def test_a_conversation_with_tools_is_told_turn_by_turn(trial: Trial, stream: bool) -> None:
    """Turns keep their order, each result of a tool is its own, and system texts stand where the vendor wants them."""
    sent = await trial.sent(asking(messages=CONVERSATION, tools=[TOOL]), stream=stream)
    assert sent.system == "Be brief."
    said = [(role, text) for role, text in sent.turns if text]
    assert said == [
        ("user", "What is the weather?"),
        ("tool", "sunny"),
        ("tool", "rainy"),
        ("assistant", "Sun in Bern, rain in Thun."),
        ("user", "Thanks."),
    ]
    assert list(sent.tools) == ["weather"]


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_system_texts_are_joined_in_their_order(trial: Trial, role: str) -> None:
    """Both of OpenAI's roles are known to every vendor, or renamed for it."""
    messages = [
        {"role": role, "content": "One."},
        {"role": role, "content": [{"type": "text", "text": "Two."}]},
        {"role": "user", "content": "hi"},
    ]
    sent = await trial.sent(asking(messages=messages))
    assert sent.system == "One.\nTwo."
    assert list(sent.turns) == [("user", "hi")]


@pytest.mark.parametrize("member", ["max_tokens", "max_completion_tokens"])
async def test_the_limit_of_output_is_told_by_either_name(trial: Trial, member: str) -> None:
    """A client may use the older or the newer name with every vendor."""
    assert (await trial.sent(asking(**{member: 321}))).max_output_tokens == 321


@pytest.mark.parametrize("members", [{}, {"max_tokens": 900}, {"max_completion_tokens": 900}])
async def test_a_lowered_limit_wins(trial: Trial, members: dict[str, int]) -> None:
    """What the allowance leaves replaces the client's own limit, by whatever name."""
    sent = await trial.sent(asking(**members), max_output_tokens=256)
    assert sent.max_output_tokens == 256
    assert "900" not in str(sent.raw)


async def _told(trial: Trial, capability: str, request: ChatCompletionRequest) -> Any:
    """What the vendor was asked, or None when it lacks the capability and says so."""
    if trial.supports(capability):
        return await trial.sent(request)
    with pytest.raises(InvalidRequest) as caught:
        trial.provider().prepare_chat(request, model=MODEL, stream=False, max_output_tokens=None)
    assert caught.value.metadata["param"]
    assert caught.value.metadata["code"] in ("unsupported_parameter", "unsupported_value")
    return None


async def test_images_are_told_or_refused(trial: Trial) -> None:
    """Each image arrives; a vendor that sees none says so before anything is sent."""
    content = [{"type": "text", "text": "What is this?"}, IMAGE, IMAGE]
    sent = await _told(trial, "images", asking(messages=[{"role": "user", "content": content}]))
    assert sent is None or (sent.images, sent.turns[0]) == (2, ("user", "What is this?"))


async def test_files_are_told_or_refused(trial: Trial) -> None:
    """A PDF arrives; a vendor that reads none says so before anything is sent."""
    content = [{"type": "text", "text": "What is this?"}, FILE]
    sent = await _told(trial, "files", asking(messages=[{"role": "user", "content": content}]))
    assert sent is None or (sent.files, sent.turns[0]) == (1, ("user", "What is this?"))


@BOTH_WAYS
async def test_preparing_leaves_the_request_alone(trial: Trial, stream: bool) -> None:
    """The same request may go to another vendor after this one: translating it changes nothing in it."""
    request = asking(
        messages=[{"role": "developer", "content": "Be brief."}, *CONVERSATION],
        tools=[TOOL],
        tool_choice="auto",
        max_tokens=900,
        temperature=0.5,
        stop=["END"],
        metadata={"a": "b"},
    )
    before = request.SerializeToString(deterministic=True)
    provider = trial.provider()
    first = provider.prepare_chat(request, model=MODEL, stream=stream, max_output_tokens=256)
    second = provider.prepare_chat(request, model=MODEL, stream=stream, max_output_tokens=256)
    assert request.SerializeToString(deterministic=True) == before
    assert (first.stream, second.stream) == (stream, stream)
    assert len(first.body) == len(second.body)
