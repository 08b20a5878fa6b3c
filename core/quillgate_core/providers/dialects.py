"""How the vendors that speak OpenAI's API differ from it, as their documentation says. Data only.

A vendor is refused only what it can never serve, because vendors learn and this file does not: whatever may depend on
the model is sent, and the vendor says it. What changes nothing that a caller sees, such as `store` where nothing is
stored, is left out for vendors that refuse what they do not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from yarl import URL

from quillgate_core.catalogue_file import ProviderConfig
from quillgate_core.upstream import Capability, Traits

_ENDPOINTS: Final = frozenset({"completions", "responses", "transcriptions"})
_BOOKKEEPING: Final = frozenset(
    {"metadata", "moderation", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
    | {"safety_identifier", "service_tier", "store", "user", "verbosity"}
)
"""What only OpenAI reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One vendor's way of OpenAI's API; the defaults are those of a server that nothing is known about."""

    limit_member: Literal["", "max_tokens", "max_completion_tokens"] = ""
    """What it calls the limit of output. Empty: as the client does, else `max_tokens`."""
    takes_stream_options: bool = True
    """Whether usage has to be asked for in streams; who refuses the question gives the answer anyway."""
    knows_developer: bool = True
    """Whether it has the role `developer`, which is called `system` otherwise."""
    takes_names: bool = True
    """Whether messages may have a `name`."""
    thoughts: tuple[str, ...] | None = None
    """Members of an assistant's message that may hold its thoughts when it is sent back; the first gets what a client
    put elsewhere. None: as the client sent it."""
    effort: Literal["as_sent", "effort", "thinking"] = "as_sent"
    """How reasoning is asked for: `effort` is `reasoning_effort` alone, `thinking` also has a switch of that name."""
    efforts: Mapping[str, str] = field(default_factory=dict)
    """The vendor's words for efforts that it does not know."""
    renames: Mapping[str, str] = field(default_factory=dict)
    """Members of the request by OpenAI's name for them."""
    drops: frozenset[str] = frozenset()
    """Members that it refuses and that make no difference."""
    refuses: frozenset[str] = frozenset()
    """Members that it refuses, or ignores, and that would make a difference."""
    lacks: frozenset[Capability] = frozenset()
    """What it can never be asked for."""
    default_path: str = ""
    """What an address without a path is meant to have."""
    is_mistral: bool = False
    """Whether parts of messages and ids of calls have Mistral's form."""
    is_azure: bool = False
    """Whether addresses and the key's header are Azure's."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent unless the settings say otherwise."""
    key_path: str = ""
    """Where a key is tried, if the list of models is open to everybody."""
    keeps_generations: bool = False
    """Whether the usage of a request can be asked for later."""
    cancel_stops_bill: bool = True
    """Whether closing the connection ends the vendor's work and its bill."""

    @property
    def traits(self) -> Traits:
        """What others must know of it."""
        supports = frozenset[Capability](get_args(Capability)) - _ENDPOINTS - self.lacks
        return Traits(cached_tokens="inside", cancel_stops_bill=self.cancel_stops_bill, supports=supports)


UNKNOWN: Final = Dialect()
"""LM Studio, llama.cpp, and whatever else speaks OpenAI."""

_AS_LOW_AND_HIGH: Final = {"minimal": "low", "xhigh": "high", "max": "high"}

DIALECTS: Final[Mapping[str, Dialect]] = {
    # platform.openai.com/docs/api-reference/chat: members of messages that it does not know are refused.
    "openai": Dialect(limit_member="max_completion_tokens", thoughts=(), effort="effort"),
    # learn.microsoft.com/azure/foundry/openai/api-version-lifecycle
    "azure": Dialect(limit_member="max_completion_tokens", thoughts=(), effort="effort", is_azure=True),
    # openrouter.ai/docs/api/reference: usage is always told. Whether cancelling stops the bill depends on whom it asks:
    # not with Amazon Bedrock, Google and some others.
    "openrouter": Dialect(
        limit_member="max_tokens",
        thoughts=("reasoning", "reasoning_details"),
        lacks=frozenset({"choices", "transcriptions"}),
        headers={"x-title": "Quillgate"},
        key_path="/key",
        keeps_generations=True,
        cancel_stops_bill=False,
    ),
    # console.groq.com/docs/openai: these give a 400. OpenRouter lists Groq among those that go on after a hang-up.
    "groq": Dialect(
        limit_member="max_completion_tokens",
        takes_names=False,
        thoughts=("reasoning",),
        effort="effort",
        efforts=_AS_LOW_AND_HIGH,
        drops=_BOOKKEEPING - {"service_tier", "user"} | {"prediction", "modalities"},
        refuses=frozenset({"logit_bias"}),
        lacks=frozenset({"choices", "logprobs", "audio", "files"}),
        cancel_stops_bill=False,
    ),
    # docs.mistral.ai/api, whose schemas forbid other members.
    "mistral": Dialect(
        limit_member="max_tokens",
        takes_stream_options=False,
        knows_developer=False,
        takes_names=False,
        thoughts=(),
        effort="effort",
        efforts={"minimal": "none", "low": "high", "medium": "high", "xhigh": "high", "max": "high"},
        renames={"seed": "random_seed"},
        drops=_BOOKKEEPING - {"metadata", "prompt_cache_key"} | {"modalities"},
        refuses=frozenset({"logit_bias"}),
        lacks=frozenset({"logprobs"}),
        is_mistral=True,
        cancel_stops_bill=False,
    ),
    # api-docs.deepseek.com: thoughts have to come back with the calls of tools that they led to.
    "deepseek": Dialect(
        limit_member="max_tokens",
        knows_developer=False,
        thoughts=("reasoning_content",),
        effort="thinking",
        lacks=frozenset({"choices", "audio", "files", "json_schema", "transcriptions"}),
        refuses=frozenset({"logit_bias"}),
    ),
    # docs.together.ai/reference/chat-completions
    "together": Dialect(
        limit_member="max_tokens",
        knows_developer=False,
        thoughts=("reasoning",),
        efforts=_AS_LOW_AND_HIGH,
        lacks=frozenset({"files"}),
    ),
    # docs.fireworks.ai/api-reference/post-chatcompletions; transcriptions have another host.
    "fireworks": Dialect(
        limit_member="max_tokens",
        thoughts=("reasoning_content",),
        effort="effort",
        efforts={"minimal": "low"},
        lacks=frozenset({"files", "audio", "transcriptions"}),
    ),
    # docs.x.ai/docs/api-reference: max_tokens is deprecated there.
    "xai": Dialect(
        limit_member="max_completion_tokens",
        thoughts=("reasoning_content",),
        effort="effort",
        efforts=_AS_LOW_AND_HIGH,
        lacks=frozenset({"audio", "files", "transcriptions"}),
    ),
    # docs.vllm.ai/en/stable/serving/openai_compatible_server: it ignores what it does not know. Its templates decide
    # about `developer`, and few know it.
    "vllm": Dialect(
        default_path="/v1",
        limit_member="max_tokens",
        knows_developer=False,
        effort="effort",
        lacks=frozenset({"files"}),
    ),
    # docs.ollama.com/openai: it ignores what it does not know, also `n`, which must not pass for served.
    "ollama": Dialect(
        default_path="/v1",
        limit_member="max_tokens",
        knows_developer=False,
        thoughts=("reasoning",),
        effort="effort",
        efforts=_AS_LOW_AND_HIGH,
        refuses=frozenset({"logit_bias"}),
        lacks=frozenset({"choices", "audio", "files", "transcriptions"}),
    ),
}
"""By the name that settings give."""

_HOSTS: Final[Mapping[str, str]] = {
    "api.openai.com": "openai",
    "openrouter.ai": "openrouter",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.together.xyz": "together",
    "api.together.ai": "together",
    "api.fireworks.ai": "fireworks",
    "api.x.ai": "xai",
}
_AZURE_HOSTS: Final = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


def dialect_of(config: ProviderConfig) -> Dialect:
    """Returns the dialect that the settings name, else that of the vendor with the provider's name, else the host's."""
    named = DIALECTS.get(config.dialect or config.name)
    return named if named is not None else dialect_at(config.base_url)


def dialect_at(base_url: str) -> Dialect:
    """Returns the dialect of whoever is known to answer at an address."""
    host = (URL(base_url).host or "").lower()
    return DIALECTS["azure"] if host.endswith(_AZURE_HOSTS) else DIALECTS.get(_HOSTS.get(host, ""), UNKNOWN)
