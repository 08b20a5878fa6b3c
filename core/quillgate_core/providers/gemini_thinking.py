"""How hard a Gemini model thinks: OpenAI's and OpenRouter's members as `thinkingConfig`. Pure.

Generations differ (ai.google.dev: Thinking, OpenAI compatibility): up to 2.5 a budget in tokens, from 3 on a level; the
API refuses both at once, levels that a model lacks, budgets out of its range, and thoughts without thinking. What is
asked for is brought to the nearest that the model takes. What a model thinks is asked for too, because it is streamed
while the model thinks: otherwise a long thought looks like a provider that hangs.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from quillgate.v1.chat_completion_pb2 import ChatCompletionRequest
from quillgate_core.errors import InvalidRequest

_Effort = Literal["off", "minimal", "low", "medium", "high", "most"]

_EFFORTS: Final[dict[str, _Effort]] = {
    "none": "off",
    "minimal": "minimal",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "most",
    "max": "most",
}
_BUDGETS: Final[dict[_Effort, int]] = {
    "off": 0,
    "minimal": 1_024,
    "low": 1_024,
    "medium": 8_192,
    "high": 24_576,
    "most": 1_000_000,
}
"""As Google's own OpenAI endpoint has them; clamped to what the model takes."""

_AS_NEEDED: Final = -1

_LEVELS: Final[dict[_Effort, str]] = {
    "off": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "most": "HIGH",
}
_NAME: Final = re.compile(r"gemini-(?:(?P<major>\d{1,2})(?:\.(?P<minor>\d{1,2}))?(?![\d.])|\w+(?:-lite)?-latest)")
_LATEST: Final = (99, 0)
_NEVER_THINKS: Final = ("image", "tts", "audio", "live", "embedding")
_LAST_MINIMAL: Final = (3, 6)
"""Later Flash models refuse `MINIMAL`, which Pro models never had."""


@dataclass(frozen=True, slots=True)
class GeminiModel:
    """What the name of a model says: its generation, (0, 0) for what is no Gemini model."""

    name: str
    generation: tuple[int, int]

    @classmethod
    def named(cls, name: str) -> "GeminiModel":
        """Reads a name such as `gemini-2.5-flash` or `gemini-pro-latest`."""
        match = _NAME.search(name)
        if match is None:
            return cls(name, (0, 0))
        if match["major"] is None:
            return cls(name, _LATEST)
        return cls(name, (int(match["major"]), int(match["minor"] or 0)))

    @property
    def needs_signatures(self) -> bool:
        """Whether it refuses a conversation whose calls lack their thought signature."""
        return self.generation >= (3, 0)

    @property
    def thinks(self) -> bool:
        """Whether it takes a `thinkingConfig`."""
        return self.generation >= (2, 5) and not any(word in self.name for word in _NEVER_THINKS)

    @property
    def is_lite(self) -> bool:
        """Whether it is small, and thinks only when told to."""
        return "lite" in self.name

    def budget(self, tokens: int) -> int:
        """Returns the nearest budget that a model of generation 2.5 takes; 0 is none."""
        if "pro" in self.name:
            return min(max(tokens, 128), 32_768)
        if tokens <= 0:
            return 0
        return min(max(tokens, 512 if self.is_lite else 1), 24_576)

    def level(self, effort: _Effort) -> str:
        """Returns the nearest level that a model of generation 3 or later takes; none of them can be told not to."""
        level = _LEVELS[effort]
        if level == "MINIMAL" and ("flash" not in self.name or self.generation > _LAST_MINIMAL):
            return "LOW"
        if level == "MEDIUM" and "pro" in self.name and self.generation == (3, 0):
            return "HIGH"
        return level


def thinking_config(request: ChatCompletionRequest, model: GeminiModel) -> dict[str, Any] | None:
    """Returns the `thinkingConfig`, None for a model that takes none; raises InvalidRequest for an unknown effort."""
    effort = _effort(request)
    if not model.thinks:
        return None
    config: dict[str, Any] = {}
    budget = request.reasoning.max_tokens if request.reasoning.HasField("max_tokens") else None
    if model.generation < (3, 0):
        if effort != "off" and budget is not None:
            config["thinkingBudget"] = model.budget(max(budget, 1))
        elif effort is not None:
            config["thinkingBudget"] = model.budget(_BUDGETS[effort])
        elif request.reasoning.enabled:
            config["thinkingBudget"] = _AS_NEEDED
    elif effort != "off" and budget is not None:
        config["thinkingLevel"] = model.level(_effort_of_budget(budget))
    elif effort is not None:
        config["thinkingLevel"] = model.level(effort)
    is_on = bool(config) or not model.is_lite
    if is_on and effort != "off" and not request.reasoning.exclude:
        config["includeThoughts"] = True
    return config or None


def _effort(request: ChatCompletionRequest) -> _Effort | None:
    if request.reasoning.HasField("enabled") and not request.reasoning.enabled:
        return "off"
    for param, value in (
        ("reasoning_effort", request.reasoning_effort),
        ("reasoning.effort", request.reasoning.effort),
    ):
        if value:
            if value not in _EFFORTS:
                allowed = ", ".join(f"'{effort}'" for effort in _EFFORTS)
                message = f"Invalid value: '{value[:100]}'. Supported values are: {allowed}."
                raise InvalidRequest(message, param=param, code="invalid_value")
            return _EFFORTS[value]
    return None


def _effort_of_budget(tokens: int) -> _Effort:
    if tokens <= _BUDGETS["low"]:
        return "low"
    return "medium" if tokens <= _BUDGETS["medium"] else "high"
