"""Tools and the choice of them in Anthropic's form, and schemas as far as Anthropic compiles them."""

from typing import Any

import pytest
from fakes.anthropic_bodies import added, refusal
from hypothesis import given
from hypothesis import strategies as st

from quillgate_core.providers.anthropic_schema import constrained

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def function(name: str = "f", **members: Any) -> dict[str, Any]:
    """A function tool."""
    return {"type": "function", "function": {"name": name, **members}}


TWO = [function("f", parameters=CITY), function("g", parameters=CITY)]


@pytest.mark.parametrize(
    ("tool", "sent"),
    [
        (function(), {"name": "f", "input_schema": {"type": "object", "properties": {}}}),
        (
            function(description="Does it.", parameters=CITY),
            {"name": "f", "description": "Does it.", "input_schema": CITY},
        ),
        (
            function(parameters={"properties": {"a": {}}}),
            {"name": "f", "input_schema": {"type": "object", "properties": {"a": {}}}},
        ),
        (
            function(parameters=CITY, strict=True),
            {"name": "f", "input_schema": {**CITY, "additionalProperties": False}, "strict": True},
        ),
        (function(parameters=CITY, strict=False), {"name": "f", "input_schema": CITY}),
        (
            {**function(parameters=CITY), "cache_control": {"type": "ephemeral"}},
            {"name": "f", "input_schema": CITY, "cache_control": {"type": "ephemeral"}},
        ),
        (
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 2},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 2},
        ),
    ],
)
def test_tools_are_translated(tool: dict[str, Any], sent: dict[str, Any]) -> None:
    """Functions get the schema of an object, and Anthropic's own tools go through."""
    assert added(tools=[tool]) == {"tools": [sent]}


def test_too_many_strict_tools_are_not_strict() -> None:
    """Anthropic compiles 20 schemas for a request and refuses more, where answers without would do."""
    for count, is_strict in [(20, True), (21, False)]:
        tools = added(tools=[function(f"f{number}", strict=True) for number in range(count)])["tools"]
        assert [tool.get("strict", False) for tool in tools] == [is_strict] * count


def test_models_without_structured_output_get_no_strict_tool() -> None:
    """An older model refuses `strict`, which is a wish."""
    (tool,) = added(model="claude-3-5-haiku-20241022", tools=[function(strict=True)])["tools"]
    assert "strict" not in tool


@pytest.mark.parametrize(
    ("members", "choice"),
    [
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, {"type": "tool", "name": "g"}),
        ({}, None),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
    ],
)
def test_the_choice_is_translated(members: dict[str, Any], choice: dict[str, Any] | None) -> None:
    """Each of OpenAI's choices has Anthropic's name."""
    assert added(tools=TWO, **members).get("tool_choice") == choice


@pytest.mark.parametrize(("mode", "kind"), [("auto", "auto"), ("required", "any")])
def test_allowed_tools_are_the_only_ones_offered(mode: str, kind: str) -> None:
    """Anthropic knows no set to choose from, so the others are not shown."""
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "g"}}]}
    sent = added(tools=TWO, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in sent["tools"]] == ["g"]
    assert sent["tool_choice"] == {"type": kind}


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"tools": [function(), {"type": "custom", "custom": {"name": "c"}}]}, "tools[1].type", "unsupported_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [function(parameters=[])]}, "tools[0].function.parameters", "invalid_value"),
        ({"tools": TWO, "tool_choice": "maybe"}, "tool_choice", "unsupported_value"),
        (
            {"tools": TWO, "tool_choice": {"type": "custom", "custom": {"name": "c"}}},
            "tool_choice",
            "unsupported_value",
        ),
    ],
)
def test_what_is_unknown_is_refused(members: dict[str, Any], param: str, code: str) -> None:
    """Tools and choices that Anthropic has no form for are refused by their place."""
    assert refusal(**members) == (param, code)


@pytest.mark.parametrize(
    ("schema", "made"),
    [
        (
            {"type": "integer", "minimum": 1, "maximum": 5, "description": "How many."},
            {"type": "integer", "description": "How many. (minimum: 1, maximum: 5)"},
        ),
        (
            {"type": ["string", "null"], "enum": ["a", None], "description": "Which."},
            {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}], "description": "Which."},
        ),
        (
            {"oneOf": [{"type": "string", "minLength": 1}]},
            {"anyOf": [{"type": "string", "description": "(minLength: 1)"}]},
        ),
        (
            {"type": "array", "items": {"type": "object", "additionalProperties": {}}, "minItems": 1, "maxItems": 3},
            {
                "type": "array",
                "items": {"type": "object", "additionalProperties": False},
                "minItems": 1,
                "description": "(maxItems: 3)",
            },
        ),
        ({"type": "string", "format": "uuid"}, {"type": "string", "format": "uuid"}),
        ({"type": "string", "format": "byte"}, {"type": "string", "description": "(format: byte)"}),
        (
            {"$defs": {"n": {"type": "number", "multipleOf": 2}}, "$ref": "#/$defs/n", "$schema": "x"},
            {"$defs": {"n": {"type": "number", "description": "(multipleOf: 2)"}}, "$ref": "#/$defs/n"},
        ),
        (
            {"type": "object", "properties": {"minimum": {"type": "string"}}},
            {"type": "object", "properties": {"minimum": {"type": "string"}}, "additionalProperties": False},
        ),
        (True, True),
    ],
)
def test_schemas_are_made_compilable(schema: Any, made: Any) -> None:
    """What Anthropic refuses moves into the description; members that are called like a keyword stay."""
    assert constrained(schema) == made


SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "null"])}, optional={"minimum": st.integers()}
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("ab"), inner)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
    ),
    max_leaves=6,
)


@given(SCHEMAS)
def test_a_compilable_schema_stays_as_it_is(schema: dict[str, Any]) -> None:
    """Doing it twice changes nothing, and doing it changes nothing of what it was given."""
    before = repr(schema)
    once = constrained(schema)
    assert constrained(once) == once
    assert repr(schema) == before
