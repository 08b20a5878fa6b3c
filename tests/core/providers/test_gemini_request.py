"""What Gemini is sent for a chat request: its own members, the tools, the format, and what is refused beforehand."""

import json
from typing import Any

import pytest
from fakes.gemini_site import request_of

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest
from quillgate_core.errors import InvalidRequest
from quillgate_core.providers.gemini_request import gemini_body

PLAIN = "gemini-2.0-flash"
"""A model that does not think, so that nothing but what was asked for is sent."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "minLength": 1}}, "$defs": {}},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


def body_of(members: dict[str, Any], *, model: str = PLAIN, max_output_tokens: int | None = None) -> dict[str, Any]:
    """The body for a request with these members, which stays as it is."""
    request = request_of(members)
    before = request.SerializeToString(deterministic=True)
    value: dict[str, Any] = json.loads(gemini_body(request, model=model, max_output_tokens=max_output_tokens))
    assert request.SerializeToString(deterministic=True) == before
    return value


def config_of(members: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The generationConfig for a request with these members."""
    value: dict[str, Any] = body_of(members, **more).get("generationConfig", {})
    return value


def test_a_plain_request_is_its_contents_and_no_more() -> None:
    """Nothing is sent that nobody asked for: every default stays Google's own, safety included."""
    assert body_of({}) == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


@pytest.mark.parametrize(
    ("members", "config"),
    [
        ({"temperature": 0.2}, {"temperature": 0.2}),
        ({"top_p": 0.9, "top_k": 40}, {"topP": 0.9, "topK": 40}),
        ({"presence_penalty": 0.5, "frequency_penalty": -0.5}, {"presencePenalty": 0.5, "frequencyPenalty": -0.5}),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stopSequences": ["a", "b"]}),
        ({"stop": None}, {}),
        ({"n": 1}, {}),
        ({"n": 3}, {"candidateCount": 3}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": 2**40 + 5}, {"seed": 5}),
        ({"seed": -1}, {"seed": 2**31 - 1}),
        ({"max_tokens": 100}, {"maxOutputTokens": 100}),
        ({"max_tokens": 100, "max_completion_tokens": 50}, {"maxOutputTokens": 50}),
        ({"logprobs": True}, {"responseLogprobs": True}),
        ({"logprobs": True, "top_logprobs": 4}, {"responseLogprobs": True, "logprobs": 4}),
        ({"logprobs": False, "top_logprobs": 4}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        ({"modalities": ["text"]}, {}),
        ({"modalities": ["text", "image"]}, {"responseModalities": ["TEXT", "IMAGE"]}),
    ],
)
def test_sampling_has_geminis_names(members: dict[str, Any], config: dict[str, Any]) -> None:
    """Each member has its counterpart in generationConfig."""
    assert config_of(members) == config


def test_a_given_output_limit_replaces_the_requests_own() -> None:
    """What the allowance leaves is less than what was asked for."""
    assert config_of({"max_tokens": 100}, max_output_tokens=7) == {"maxOutputTokens": 7}
    assert config_of({}, max_output_tokens=7) == {"maxOutputTokens": 7}


def test_a_schema_passes_as_the_json_schema_that_it_is() -> None:
    """No keyword is dropped and no number changes: Gemini takes JSON schemas themselves."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 2**60 + 1}}, "$defs": {"a": {}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}}
    assert config_of({"response_format": wanted}) == {
        "responseMimeType": "application/json",
        "responseJsonSchema": schema,
    }
    without = {"type": "json_schema", "json_schema": {"name": "s"}}
    assert config_of({"response_format": without}) == {"responseMimeType": "application/json"}


def test_tools_are_function_declarations() -> None:
    """Functions keep their schemas; one that says nothing is left out, as Gemini wants it."""
    value = body_of({"tools": [WEATHER, CLOCK]})
    assert value["tools"] == [
        {
            "functionDeclarations": [
                {
                    "name": "weather",
                    "description": "The weather.",
                    "parametersJsonSchema": WEATHER["function"]["parameters"],  # type: ignore[index]
                },
                {"name": "clock"},
            ]
        }
    ]
    assert "toolConfig" not in value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": True},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
        {"anyOf": [{"type": "object", "properties": {"a": {}}}]},
    ],
)
def test_a_schema_without_properties_may_still_say_something(schema: dict[str, Any]) -> None:
    """Only an object that is known to be empty counts as none."""
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    declared = body_of({"tools": [tool]})["tools"][0]["functionDeclarations"]
    assert declared == [{"name": "f", "parametersJsonSchema": schema}]


@pytest.mark.parametrize(
    ("choice", "config", "declared"),
    [
        ("auto", None, ["weather", "clock"]),
        ("none", {"mode": "NONE"}, ["weather", "clock"]),
        ("required", {"mode": "ANY"}, ["weather", "clock"]),
        (
            {"type": "function", "function": {"name": "clock"}},
            {"mode": "ANY", "allowedFunctionNames": ["clock"]},
            ["weather", "clock"],
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CLOCK]}},
            {"mode": "ANY", "allowedFunctionNames": ["clock"]},
            ["weather", "clock"],
        ),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CLOCK]}}, None, ["clock"]),
    ],
)
def test_the_choice_of_tools_is_a_calling_mode(choice: Any, config: Any, declared: list[str]) -> None:
    """Gemini can be forced or forbidden to call; from a set that it may choose freely, the others are not declared."""
    value = body_of({"tools": [WEATHER, CLOCK], "tool_choice": choice})
    assert value.get("toolConfig") == (None if config is None else {"functionCallingConfig": config})
    assert [function["name"] for function in value["tools"][0]["functionDeclarations"]] == declared


def test_a_choice_without_tools_is_nothing() -> None:
    """Clients send the choice whether there are tools or not."""
    assert body_of({"tools": [], "tool_choice": "none"}) == body_of({})


@pytest.mark.parametrize(
    "members",
    [
        {"thinking_config": {"thinking_budget": 5}, "safety_settings": [{"category": "c"}], "cached_content": "cc/1"},
        {"thinkingConfig": {"thinking_budget": 5}, "safetySettings": [{"category": "c"}], "cachedContent": "cc/1"},
        {
            "google": {"thinking_config": {"thinking_budget": 5}, "safety_settings": [{"category": "c"}]},
            "extra_body": {"google": {"cached_content": "cc/1", "thinking_config": {"thinking_budget": 9}}},
        },
    ],
)
def test_geminis_own_members_pass(members: dict[str, Any]) -> None:
    """They may stand in the request itself or where Google's own OpenAI endpoint has them."""
    value = body_of(members, model="gemini-2.5-flash")
    assert value["generationConfig"] == {"thinkingConfig": {"thinking_budget": 5}}
    assert (value["safetySettings"], value["cachedContent"]) == ([{"category": "c"}], "cc/1")


@pytest.mark.parametrize("store", [True, False])
def test_whether_to_log_the_request_is_the_callers(store: bool) -> None:
    """Google logs as the account is set up, unless a request says otherwise."""
    assert body_of({"store": store})["store"] is store


def test_hints_and_foreign_members_are_left_out() -> None:
    """What changes no contract, or is another vendor's, does not stop a request."""
    hints = {
        "user": "u",
        "metadata": {"a": "b"},
        "service_tier": "flex",
        "verbosity": "low",
        "prediction": {"type": "content", "content": "x"},
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "parallel_tool_calls": True,
        "min_p": 0.1,
        "provider": {"order": ["x"]},
        "logit_bias": {},
        "functions": None,
        "stream_options": {"include_usage": True},
    }
    assert body_of(hints) == body_of({})


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"audio": {"voice": "v", "format": "wav"}}, "audio", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"moderation": {"model": "m"}}, "moderation", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities[1]", "unsupported_value"),
        ({"n": 9}, "n", "unsupported_value"),
        ({"tools": [WEATHER, {"type": "custom", "custom": {"name": "c"}}]}, "tools[1].type", "unsupported_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name", "missing_required_parameter"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom"}}, "tool_choice.type", "unsupported_value"),
        ({"response_format": {"type": "grammar"}}, "response_format.type", "unsupported_value"),
        ({"reasoning_effort": "utmost"}, "reasoning_effort", "invalid_value"),
        ({"reasoning": {"effort": "utmost"}}, "reasoning.effort", "invalid_value"),
    ],
)
def test_what_gemini_cannot_do_is_refused_before_it_is_asked(members: dict[str, Any], param: str, code: str) -> None:
    """A request that could only fail, or be answered otherwise than asked, says where and why."""
    with pytest.raises(InvalidRequest) as caught:
        body_of(members)
    assert caught.value.metadata == {"param": param, "code": code}


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (ChatCompletionRequest(extra_json=b"[]"), "extra_json"),
        (ChatCompletionRequest(extra_json=b"{"), "extra_json"),
        (
            ChatCompletionRequest(tools=[{"type": "function", "function": {"name": "f", "parameters": b"{"}}]),
            "tools[0].function.parameters",
        ),
        (
            ChatCompletionRequest(response_format={"type": "json_schema", "json_schema": {"schema": b'"x"'}}),
            "response_format.json_schema.schema",
        ),
        (
            ChatCompletionRequest(messages=[{"role": "assistant", "tool_calls": [{"id": "a", "extra_json": b"x"}]}]),
            "messages[0].tool_calls[0].function.name",
        ),
    ],
)
def test_raw_members_that_are_no_json_are_an_invalid_request(request_: ChatCompletionRequest, param: str) -> None:
    """A gRPC caller can put anything into raw bytes; that is refused before dispatch, with the place."""
    with pytest.raises(InvalidRequest) as caught:
        gemini_body(request_, model=PLAIN, max_output_tokens=None)
    assert caught.value.metadata["param"] == param
