"""What models are called: well-formed ids, moving names, and the form in which vendors' names agree. Pure.

An id is `vendor/model` as OpenRouter has it. It must know no model by itself.
"""

import re
from collections.abc import Mapping
from typing import Final

OPENROUTER: Final = "openrouter"
"""The provider whose names are ids as they are."""

MAKERS: Final[Mapping[str, str]] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "mistral": "mistralai",
    "deepseek": "deepseek",
    "xai": "x-ai",
}
"""Providers that serve their own models, and what those models' ids begin with."""

HOSTS: Final = frozenset({"groq", "together", "fireworks"})
"""Providers that run the models of many makers, under names that tell which."""

_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(:free|:thinking|:extended)?")
_NO_CHAT: Final = re.compile(
    r"audio|banana|computer-use|container|deep-research|embed|flux|guard|image|live|lyria|moderation|ocr|omni|"
    r"orpheus|realtime|rerank|robotics|safety|search|sora|speech|transcribe|tts|veo|voxtral|whisper|^ft:"
)
_NOT_LISTED: Final = ("openrouter/", "~", "quillgate/")


def is_model_id(text: str) -> bool:
    """Tells whether it is an id that a model of a provider's list may have.

    OpenRouter's routers and moving names (`openrouter/auto`, `~…`) and its batch and other shortcuts (`:batch`,
    `:online`) are none: what they cost is not known before, or they are no models of their own. `quillgate/…` is ours.
    """
    return len(text) <= 200 and not text.startswith(_NOT_LISTED) and _ID.fullmatch(text) is not None


def cannot_chat(name: str) -> bool:
    """Tells whether a provider's name says that nobody chats with the model, where its list says nothing."""
    return _NO_CHAT.search(name.lower()) is not None


def form(name: str) -> str:
    """Returns the form in which names agree: of `accounts/fireworks/models/glm-4p6` and `z-ai/glm-4.6`, `glm-4-6`."""
    last = re.sub(r"(?<=\d)p(?=\d)", ".", name.rsplit("/", 1)[-1].lower())
    return last.replace(".", "-").replace("_", "-")


def proposed_id(provider: str, name: str) -> str:
    """Returns the id of a provider's model that nobody else knows: `maker/name`, or else `provider/name`."""
    if provider == OPENROUTER:
        return name
    *before, last = name.split("/")
    if provider in HOSTS and len(before) == 1:
        return name.lower()
    return f"{MAKERS.get(provider, provider)}/{last}"
