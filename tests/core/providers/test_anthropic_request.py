"""Which members of a request reach Anthropic, under which names, and which are refused before anything is sent."""

from typing import Any

import pytest
from fakes.anthropic_bodies import MODEL, added, asked, refusal

SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}, "required": ["a"]}


def test_a_plain_request_says_no_more_than_it_must() -> None:
    """Nothing is made up but the limit of output, which Anthropic demands."""
    turn = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    assert asked() == {"model": MODEL, "max_tokens": 64_000, "messages": [turn], "stream": False}


@pytest.mark.parametrize(
    ("model", "members", "limit"),
    [
        ("claude-opus-5-5", {}, 128_000),
        ("claude-3-5-haiku-20241022", {}, 8_192),
        (MODEL, {"max_tokens": 10}, 10),
        (MODEL, {"max_completion_tokens": 20}, 20),
        (MODEL, {"max_tokens": 10, "max_completion_tokens": 20}, 20),
        (MODEL, {"max_tokens": 10, "max_completion_tokens": 20, "max_output_tokens": 7}, 7),
        (MODEL, {"max_output_tokens": 7}, 7),
    ],
)
def test_the_limit_of_output(model: str, members: dict[str, Any], limit: int) -> None:
    """A lowered limit wins, then the newer name, then the older; without one it is the model's own."""
    assert asked(model=model, **members)["max_tokens"] == limit


@pytest.mark.parametrize(
    ("members", "sent"),
    [
        ({"temperature": 0.2}, {"temperature": 0.2}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 1.7}, {"temperature": 1.0}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"temperature": 0.2, "top_p": 0.5}, {"temperature": 0.2}),
        ({"model": "claude-opus-4-1", "temperature": 0.2, "top_p": 0.5}, {"temperature": 0.2, "top_p": 0.5}),
        ({"model": "claude-opus-5", "temperature": 0.2, "top_p": 0.5, "top_k": 5}, {}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", " b"]}, {"stop_sequences": ["a", " b"]}),
        ({"stop": []}, {}),
        ({"user": "u-1"}, {"metadata": {"user_id": "u-1"}}),
        ({"user": "u-1", "safety_identifier": "s-1"}, {"metadata": {"user_id": "s-1"}}),
        ({"user": "someone@example.com"}, {}),
        ({"user": "u" * 257}, {}),
        ({"cache_control": {"type": "ephemeral"}}, {"cache_control": {"type": "ephemeral"}}),
        ({"output_config": {"effort": "low"}}, {"output_config": {"effort": "low"}}),
    ],
)
def test_what_is_translated(members: dict[str, Any], sent: dict[str, Any]) -> None:
    """Each member has Anthropic's name and range; sampling is left out where a model takes none."""
    assert added(**members) == sent


@pytest.mark.parametrize(
    "members",
    [
        {"n": 1},
        {"seed": 7},
        {"logprobs": False, "top_logprobs": 0, "logit_bias": {}},
        {"presence_penalty": 0, "frequency_penalty": 0},
        {"modalities": ["text"]},
        {"metadata": {"a": "b"}, "store": True, "service_tier": "auto", "verbosity": "low"},
        {"prompt_cache_key": "k", "prediction": {"type": "content", "content": "x"}},
        {"response_format": {"type": "text"}},
        {"provider": {"order": ["a"]}, "inference_geo": "us", "mcp_servers": [], "speed": "fast"},
        {"stream_options": {"include_usage": True}, "parallel_tool_calls": False, "tool_choice": "auto"},
        {"temperature": None, "stop": None, "tools": []},
    ],
)
def test_what_is_left_out(members: dict[str, Any]) -> None:
    """Hints, defaults and what only others know change nothing: Anthropic refuses members that it does not know."""
    assert added(**members) == {}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -0.5}, "frequency_penalty"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
    ],
)
def test_what_is_refused(members: dict[str, Any], param: str) -> None:
    """What would make it another answer is refused by its name, instead of being left out."""
    assert refusal(**members) == (param, "unsupported_parameter")


@pytest.mark.parametrize("stop", ["\n", ["END", " \t"], [""]])
def test_a_stop_of_white_space_is_refused(stop: Any) -> None:
    """Anthropic cannot stop at white space alone, and without it the answer would go on."""
    assert refusal(stop=stop) == ("stop", "unsupported_value")


def test_a_schema_binds_the_answer() -> None:
    """A JSON schema becomes Anthropic's structured output, with what it can compile of it."""
    sent = added(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}})
    text = {"type": "string", "description": "(maxLength: 5)"}
    schema = {**SCHEMA, "properties": {"a": text}, "additionalProperties": False}
    assert sent == {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


@pytest.mark.parametrize(
    ("members", "refused"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            ("response_format.json_schema.schema", "missing_required_parameter"),
        ),
        (
            {
                "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
                "model": "claude-3-5-haiku-20241022",
            },
            ("response_format.type", "unsupported_value"),
        ),
        ({"response_format": {"type": "grammar"}}, ("response_format.type", "unsupported_value")),
    ],
)
def test_a_form_that_cannot_be_had_is_refused(members: dict[str, Any], refused: tuple[str, str]) -> None:
    """A form of the answer that Anthropic cannot promise is refused before it is asked."""
    assert refusal(**members) == refused


def test_any_json_is_asked_for_in_words() -> None:
    """Anthropic has no mode for JSON of any form, so the model is told, after the client's own system texts."""
    system = {"role": "system", "content": "Be brief."}
    body = asked(messages=[system, {"role": "user", "content": "hi"}], response_format={"type": "json_object"})
    assert [block["text"][:9] for block in body["system"]] == ["Be brief.", "Answer wi"]
    assert "output_config" not in body
