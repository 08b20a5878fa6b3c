"""What the generations of Claude models accept: the Messages API is one, but newer models refuse what older ones need.

Read from the model's name, as Anthropic's migration guides and its list of validation errors tell it (October 2026):
from 4.6 on thinking is `adaptive` and steered by effort, before it has a budget; from Opus 4.7, Sonnet 5 and Haiku 5.5
on there is no sampling. A Claude that is not known here is taken for a new one; a model that is no Claude, on a server
that speaks the same protocol, for one that accepts everything. Pure.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

ALL_EFFORTS: Final = frozenset({"low", "medium", "high", "xhigh", "max"})


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model accepts beyond what all do; the defaults are a new model's."""

    max_output_tokens: int = 128_000
    """The model's own limit, which a request without one is given: Anthropic demands one."""
    thinking: Literal["none", "budget", "adaptive"] = "adaptive"
    not_thinking: Literal["absent", "disabled", "between_tools", "low_effort"] = "disabled"
    """How it is told not to think: by no `thinking` at all, by its type, or not at all but for less effort."""
    efforts: frozenset[str] = ALL_EFFORTS
    sampling: Literal["none", "one", "all"] = "none"
    """Whether `temperature` and `top_p` are refused, refused together, or accepted."""
    has_json_schema: bool = True

    def effort(self, asked: str) -> str:
        """Returns the model's nearest effort to one of OpenAI's or Anthropic's own."""
        if asked == "minimal":
            return "low"
        if asked in self.efforts:
            return asked
        return "max" if asked == "xhigh" and "max" in self.efforts else "high"


_OTHER: Final = Generation(8_192, "budget", "absent", sampling="all")
_NEW: Final = Generation()
_ALWAYS_THINKS: Final = Generation(not_thinking="low_effort")
_4_7: Final = Generation(not_thinking="absent")
_4_6: Final = Generation(64_000, not_thinking="absent", efforts=frozenset({"low", "medium", "high"}), sampling="one")
_4_5: Final = Generation(64_000, "budget", "absent", sampling="one")
_3: Final = Generation(4_096, "none", "absent", sampling="all", has_json_schema=False)

_SINCE: Final = {
    "opus": (
        ((5, 5), _ALWAYS_THINKS),
        ((5, 0), _NEW),
        ((4, 7), _4_7),
        ((4, 6), Generation(not_thinking="absent", efforts=ALL_EFFORTS - {"xhigh"}, sampling="one")),
        ((4, 5), _4_5),
        ((4, 1), Generation(32_000, "budget", "absent", sampling="all")),
        ((4, 0), Generation(32_000, "budget", "absent", sampling="all", has_json_schema=False)),
    ),
    "sonnet": (
        ((5, 5), Generation(not_thinking="between_tools")),
        ((5, 0), _NEW),
        ((4, 6), _4_6),
        ((4, 5), _4_5),
        ((3, 7), Generation(64_000, "budget", "absent", sampling="all", has_json_schema=False)),
        ((3, 5), Generation(8_192, "none", "absent", sampling="all", has_json_schema=False)),
    ),
    "haiku": (
        ((5, 0), _NEW),
        ((4, 5), _4_5),
        ((3, 5), Generation(8_192, "none", "absent", sampling="all", has_json_schema=False)),
    ),
    "fable": (((0, 0), _ALWAYS_THINKS),),
    "mythos": (((0, 0), _ALWAYS_THINKS),),
}
"""By family, the newest first: since which version a model is as described."""

# `claude-opus-4-5-20251101`, `claude-opus-4-20250514`, `claude-opus-4.6`, `claude-opus-latest`: a date is no version.
_NAME: Final = re.compile(r"claude-(?P<family>[a-z]+)(?:-(?P<major>\d{1,2})(?:[.-](?P<minor>\d{1,2}))?(?!\d))?")
# `claude-3-7-sonnet-20250219`, `claude-3-opus-latest`
_OLD_NAME: Final = re.compile(r"claude-(?P<major>[23])(?:[.-](?P<minor>\d))?(?:-(?P<family>[a-z]+))?(?!\d)")


def generation_of(model: str) -> Generation:
    """Returns what the model of this name accepts."""
    name = model.lower()
    match = _NAME.search(name) or _OLD_NAME.search(name)
    if match is None:
        return _NEW if "claude" in name else _OTHER
    known = _SINCE.get(match["family"])
    if match["major"] is None:
        return known[0][1] if known else _NEW
    version = int(match["major"]), int(match["minor"] or 0)
    if known is None:
        return _3 if version < (4, 0) else _NEW
    for since, generation in known:
        if version >= since:
            return generation
    return _3
