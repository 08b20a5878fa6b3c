"""What each vendor is asked instead of OpenAI's own members, what is refused before dispatch, and who speaks what."""

import json
from typing import Any, get_args

import pytest

from quillgate_codec import chat_request
from quillgate_core.catalogue_file import DialectName, ProviderConfig
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.addresses import addresses
from quillgate_core.providers.dialect_request import translate
from quillgate_core.providers.dialects import DIALECTS, UNKNOWN, dialect_of
from quillgate_core.providers.mistral import mistral_id

URL = "http://127.0.0.1/v1"


def asked(vendor: str, members: dict[str, Any], *, base_url: str = URL) -> dict[str, Any]:
    """The members that a vendor is sent beside the model and the messages."""
    value = chat_request.to_value(chat_request.from_value({"model": "m", "messages": [], **members}))
    dialect = DIALECTS.get(vendor, UNKNOWN)
    where = addresses(dialect, base_url, {})
    translate(value, dialect, where, provider=vendor, max_output_tokens=None)
    sent: dict[str, Any] = json.loads(json.dumps(value))
    del sent["model"]
    return sent if sent["messages"] else {name: item for name, item in sent.items() if name != "messages"}


def message_to(vendor: str, message: dict[str, Any]) -> dict[str, Any]:
    """A message as a vendor is sent it."""
    sent: dict[str, Any] = asked(vendor, {"messages": [message]})["messages"][0]
    return sent


def test_every_dialect_can_be_named_in_settings() -> None:
    """What the settings accept and what there is are the same."""
    assert set(get_args(DialectName)) - {""} == set(DIALECTS)


@pytest.mark.parametrize(
    ("vendor", "name"),
    [
        *[(vendor, "max_completion_tokens") for vendor in ("openai", "azure", "groq", "xai")],
        *[(vendor, "max_tokens") for vendor in ("openrouter", "mistral", "deepseek", "together", "fireworks")],
        *[(vendor, "max_tokens") for vendor in ("vllm", "ollama")],
    ],
)
def test_the_limit_has_the_vendors_name(vendor: str, name: str) -> None:
    """Both of OpenAI's names are translated; the newer one wins, as with OpenAI."""
    assert asked(vendor, {"max_tokens": 5}) == {name: 5}
    assert asked(vendor, {"max_completion_tokens": 5}) == {name: 5}
    assert asked(vendor, {"max_tokens": 9, "max_completion_tokens": 5}) == {name: 5}
    assert asked(vendor, {"max_tokens": 5, "max_completion_tokens": None}) == {name: 5}
    assert asked(vendor, {"max_tokens": None}) == {}


@pytest.mark.parametrize(
    ("vendor", "members", "sent"),
    [
        ("openai", {"reasoning": {"effort": "high"}}, {"reasoning_effort": "high"}),
        ("openai", {"reasoning": {"enabled": False}}, {"reasoning_effort": "none"}),
        ("openai", {"reasoning": {"effort": "high"}, "reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ("openai", {"reasoning_effort": "xhigh"}, {"reasoning_effort": "xhigh"}),
        ("openrouter", {"reasoning": {"max_tokens": 9}}, {"reasoning": {"max_tokens": 9}}),
        ("openrouter", {"reasoning_effort": "minimal"}, {"reasoning_effort": "minimal"}),
        ("groq", {"reasoning_effort": "minimal"}, {"reasoning_effort": "low"}),
        ("groq", {"reasoning_effort": "none"}, {"reasoning_effort": "none"}),
        ("mistral", {"reasoning_effort": "medium"}, {"reasoning_effort": "high"}),
        ("mistral", {"reasoning_effort": "minimal"}, {"reasoning_effort": "none"}),
        ("deepseek", {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ("deepseek", {"reasoning": {"enabled": False}}, {"thinking": {"type": "disabled"}}),
        ("deepseek", {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ("xai", {"reasoning_effort": "xhigh"}, {"reasoning_effort": "high"}),
        ("", {"reasoning": {"effort": "high"}}, {"reasoning": {"effort": "high"}}),
    ],
)
def test_reasoning_is_asked_for_in_the_vendors_way(vendor: str, members: dict[str, Any], sent: dict[str, Any]) -> None:
    """An effort reaches the vendor in its own words, whichever of the two forms the client used."""
    assert asked(vendor, members) == sent


@pytest.mark.parametrize(
    ("vendor", "members", "sent"),
    [
        ("mistral", {"seed": 4}, {"random_seed": 4}),
        ("mistral", {"seed": 4, "random_seed": 5}, {"random_seed": 5}),
        ("mistral", {"tool_choice": "required"}, {"tool_choice": "required"}),
        ("mistral", {"stream_options": {"include_usage": True}}, {}),
        ("mistral", {"store": True, "user": "u", "service_tier": "auto", "verbosity": "low"}, {}),
        ("mistral", {"n": 2}, {"n": 2}),
        ("mistral", {"logprobs": False, "logit_bias": {}, "safe_prompt": True}, {"safe_prompt": True}),
        ("groq", {"n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}}, {}),
        ("groq", {"store": False, "metadata": {"a": "b"}, "service_tier": "flex"}, {"service_tier": "flex"}),
        ("ollama", {"n": 1, "options": {"num_ctx": 9}}, {"options": {"num_ctx": 9}}),
        ("openrouter", {"provider": {"order": ["a"]}, "usage": {"include": True}}, None),
        ("openai", {"store": True, "n": 3, "logprobs": True}, None),
        ("", {"n": 3, "store": True, "anything": [1]}, None),
    ],
)
def test_members_are_renamed_left_out_or_kept(
    vendor: str, members: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    """What a vendor refuses and what makes no difference goes; its own members, and all others, stay."""
    assert asked(vendor, members) == (members if sent is None else sent)


PART_TEXT = {"type": "text", "text": "What is it?"}
FILE = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}}


@pytest.mark.parametrize(
    ("vendor", "members", "param", "code"),
    [
        ("groq", {"n": 2}, "n", "unsupported_value"),
        ("groq", {"logprobs": True}, "logprobs", "unsupported_parameter"),
        ("groq", {"top_logprobs": 3}, "top_logprobs", "unsupported_parameter"),
        ("groq", {"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ("mistral", {"logprobs": True}, "logprobs", "unsupported_parameter"),
        ("deepseek", {"n": 2}, "n", "unsupported_value"),
        (
            "deepseek",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
            *("response_format.type", "unsupported_value"),
        ),
        ("ollama", {"n": 2}, "n", "unsupported_value"),
        ("openrouter", {"n": 2}, "n", "unsupported_value"),
        ("xai", {"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
        (
            "groq",
            {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": [PART_TEXT, FILE]}]},
            *("messages[1].content[1]", "unsupported_value"),
        ),
        ("groq", {"messages": [{"role": "user", "content": [SOUND]}]}, "messages[0].content[0]", "unsupported_value"),
    ],
)
def test_what_a_vendor_can_never_serve_is_refused(vendor: str, members: dict[str, Any], param: str, code: str) -> None:
    """The refusal names the member and the provider, before anything is sent or reserved."""
    with pytest.raises(InvalidRequest) as caught:
        asked(vendor, members)
    assert caught.value.metadata == {"param": param, "code": code}
    assert f"`{vendor}`" in caught.value.message


@pytest.mark.parametrize("vendor", ["mistral", "deepseek", "together", "vllm", "ollama"])
def test_developer_is_system_for_vendors_that_do_not_know_it(vendor: str) -> None:
    """OpenAI's newer role has the older name elsewhere."""
    assert message_to(vendor, {"role": "developer", "content": "a"})["role"] == "system"
    assert message_to("openai", {"role": "developer", "content": "a"})["role"] == "developer"


THOUGHTFUL = {
    "role": "assistant",
    "content": "a",
    "reasoning_content": "thought",
    "reasoning": "thought",
    "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}],
}


@pytest.mark.parametrize(
    ("vendor", "kept"),
    [
        *[(vendor, set()) for vendor in ("openai", "azure", "mistral")],
        ("openrouter", {"reasoning", "reasoning_details"}),
        *[(vendor, {"reasoning"}) for vendor in ("groq", "together", "ollama")],
        *[(vendor, {"reasoning_content"}) for vendor in ("deepseek", "fireworks", "xai")],
        *[(vendor, {"reasoning_content", "reasoning", "reasoning_details"}) for vendor in ("", "vllm")],
    ],
)
def test_thoughts_go_back_where_the_vendor_looks_for_them(vendor: str, kept: set[str]) -> None:
    """A client sends back what it got; vendors refuse the members of others."""
    assert set(message_to(vendor, THOUGHTFUL)) - {"role", "content"} == kept
    if len(kept) == 1:
        other = ({"reasoning", "reasoning_content"} - kept).pop()
        sent = message_to(vendor, {"role": "assistant", "content": "a", other: "thought"})
        assert sent == {"role": "assistant", "content": "a", kept.copy().pop(): "thought"}


def test_names_of_speakers_are_left_out_where_they_are_refused() -> None:
    """Groq and Mistral answer 400 to a message with a name; a tool's stays."""
    for vendor in ("groq", "mistral"):
        assert "name" not in message_to(vendor, {"role": "user", "content": "a", "name": "ann"})
    tool = {"role": "tool", "content": "a", "tool_call_id": "abcdefghi", "name": "clock"}
    assert message_to("mistral", tool) == tool


def test_mistral_has_its_own_parts() -> None:
    """Documents are addresses or data in `document_url`, sounds bare base64."""
    content = message_to("mistral", {"role": "user", "content": [PART_TEXT, FILE, SOUND]})["content"]
    document = {"type": "document_url", "document_url": FILE["file"]["file_data"], "document_name": "a.pdf"}  # type: ignore[index]
    assert content == [PART_TEXT, document, {"type": "input_audio", "input_audio": "AA=="}]


def test_ids_of_calls_are_made_fit_for_mistral() -> None:
    """An id of another provider becomes nine characters, in the call as in its answer; a fitting one stays."""
    call = {"id": "call_0123456789", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    sent = message_to("mistral", {"role": "assistant", "content": None, "tool_calls": [call]})["tool_calls"][0]["id"]
    answer = message_to("mistral", {"role": "tool", "content": "a", "tool_call_id": "call_0123456789"})
    assert sent == answer["tool_call_id"] == mistral_id("call_0123456789")
    assert len(sent) == 9 and sent.isalnum()
    assert mistral_id("abcDEF123") == "abcDEF123"
    assert mistral_id("call_0123456788") != sent


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (ProviderConfig("groq", "https://proxy.example/v1", None), "groq"),
        (ProviderConfig("mine", "https://api.groq.com/openai/v1", None), "groq"),
        (ProviderConfig("mine", "https://me.openai.azure.com", None), "azure"),
        (ProviderConfig("mine", "https://proxy.example/v1", None, dialect="mistral"), "mistral"),
        (ProviderConfig("groq", "https://api.groq.com/openai/v1", None, dialect="openai"), "openai"),
    ],
)
def test_a_dialect_is_chosen_by_settings_name_or_host(config: ProviderConfig, name: str) -> None:
    """What the settings say wins, then the provider's name, then who is known to answer at the address."""
    assert dialect_of(config) is DIALECTS[name]


def test_a_server_that_nobody_knows_gets_openais_requests() -> None:
    """LM Studio, llama.cpp and others are asked as the client asked."""
    assert dialect_of(ProviderConfig("lmstudio", "http://127.0.0.1:1234/v1", None)) is UNKNOWN


@pytest.mark.parametrize(
    ("vendor", "stops"), [("openai", True), ("deepseek", True), ("openrouter", False), ("groq", False)]
)
def test_traits_say_whether_hanging_up_saves_money(vendor: str, stops: bool) -> None:
    """OpenRouter's own list says with whom a stream goes on, and costs, when nobody listens."""
    assert DIALECTS[vendor].traits.cancel_stops_bill is stops
    assert DIALECTS[vendor].traits.cached_tokens == "inside"
