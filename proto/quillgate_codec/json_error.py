"""What the codec says of JSON that does not fit the contract: where, and in OpenAI's words."""

from types import NoneType
from typing import Any, Final

_ARTICLES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a decimal number",
    "boolean": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


KINDS: Final[dict[type, str]] = {
    NoneType: "null",
    bool: "boolean",
    str: "string",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
}
"""The JSON name of each kind of decoded value."""


class JsonError(ValueError):
    """JSON that cannot become the message; `path` is the member, such as `messages[0].content`, empty for the whole.

    `code` is OpenAI's: `invalid_json`, `invalid_type` or `invalid_value`.
    """

    def __init__(self, problem: str, *, code: str, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.code = code
        self.path = path

    def within(self, step: str | int) -> "JsonError":
        """Puts a member name or an array index before the path, on the way out of nested values."""
        head = f"[{step}]" if isinstance(step, int) else step
        separator = "." if self.path and not self.path.startswith("[") else ""
        self.path = f"{head}{separator}{self.path}"
        return self

    def __str__(self) -> str:
        if self.code == "invalid_json":
            return f"We could not parse the JSON body of your request: {self.problem}."
        where = f" for '{self.path}'" if self.path else ""
        kind = "value" if self.code == "invalid_value" else "type"
        return f"Invalid {kind}{where}: {self.problem}."


def kind_of(value: Any) -> str:
    """Returns the JSON name of a decoded value's kind."""
    return KINDS[type(value)]


def wrong_type(expected: tuple[str, ...], value: Any) -> JsonError:
    """Returns the error for a value of another kind than the expected ones."""
    wanted = " or ".join(_ARTICLES[kind] for kind in expected)
    one_of = "one of " if len(expected) > 1 else ""
    return JsonError(f"expected {one_of}{wanted}, but got {_ARTICLES[kind_of(value)]} instead", code="invalid_type")
