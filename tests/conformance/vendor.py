"""What the provider suite asks of a vendor's script: answers in that vendor's documented wire format, and how to read
what it was sent. One file `vendor_<name>.py` beside this one holds a class that fulfils `Vendor`, and `VENDOR`, its
only instance; the suite finds them by their names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fakes.scripted_upstream import RecordedRequest, ScriptedAnswer

from quillgate_core.counting import Usage
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.providers.provider_limits import ProviderLimits
from quillgate_core.upstream import Account

API_KEY = "house-key-canary-0123456789"
"""What accounts are made with; it must turn up in no error."""

Trouble = Literal[
    "bad_request",  # the caller's mistake
    "context_length",  # the prompt is too long
    "bad_key",
    "no_money",
    "forbidden",
    "unknown_model",
    "too_large",
    "rate_limited",  # with Retry-After: 7 where the vendor sends one
    "overloaded",
    "server_error",
    "timeout",
]
"""What a vendor refuses a request for."""

End = Literal["stop", "length", "content_filter", "tool_calls"]
"""OpenAI's finish reasons."""


@dataclass(frozen=True)
class Spent:
    """What an answer used, in OpenAI's convention: the prompt tokens include the cached ones."""

    prompt_tokens: int = 10
    cached_tokens: int = 0
    completion_tokens: int = 5


@dataclass(frozen=True)
class Call:
    """One call of a tool; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Content:
    """What an answer says: a thought before the text, the text in pieces, then calls."""

    words: Sequence[str] = ()
    thought: str = ""
    calls: Sequence[Call] = ()
    end: End = "stop"
    spent: Spent | None = Spent()
    """None: the vendor says nothing of usage."""


@dataclass(frozen=True)
class Sent:
    """What a vendor was asked, in plain terms."""

    path: str
    key: str
    """The key, wherever the vendor wants it."""
    model: str
    stream: bool
    system: str
    """Every system or developer text, joined by a line feed."""
    turns: Sequence[tuple[str, str]]
    """Role (`user`, `assistant`, `tool`) and text of every turn without system ones; a tool's text is its result."""
    images: int
    files: int
    tools: Sequence[str]
    max_output_tokens: int | None
    raw: Any
    """The body, decoded."""


class Vendor(Protocol):
    """One vendor's wire format."""

    name: str

    def account(self, base_url: str, pool: HttpPool, limits: ProviderLimits) -> Account:
        """Returns the vendor's account with API_KEY, as make_account makes it."""

    def answer(self, content: Content) -> ScriptedAnswer:
        """A whole answer."""

    def frames(self, content: Content) -> list[bytes]:
        """The frames of a streamed answer, each whole, the end marker included if the vendor has one."""

    def stream(self, frames: Sequence[bytes | Any]) -> ScriptedAnswer:
        """A stream of the frames, with the vendor's headers; other steps of ScriptedAnswer may stand between them."""

    def refusal(self, trouble: Trouble) -> ScriptedAnswer:
        """An answer without success."""

    def error_frame(self, trouble: Trouble) -> bytes:
        """A frame that tells the trouble in the middle of a stream, or as its first frame."""

    def sent(self, request: RecordedRequest) -> Sent:
        """Reads what was asked."""

    def usages(self) -> Sequence[tuple[Any, Usage]]:
        """Golden vectors: the vendor's own usage object as documented, with cached tokens in every way the vendor has
        them, and what it means in our convention."""

    def answer_with_usage(self, usage: Any) -> ScriptedAnswer:
        """A whole answer with exactly this usage object."""

    def frames_with_usage(self, usage: Any) -> list[bytes]:
        """A streamed answer with exactly this usage object."""
