"""Makes a provider's words safe to pass on: no credentials, no control characters, no more than a caller needs.

Patterns err on the side of hiding. This is the second line of defence: what concerns our own account with a provider
never gets this far.
"""

import re
from typing import Final

MAX_CHARACTERS: Final = 500
"""Longest text that is passed on."""

_MAX_INPUT_CHARACTERS: Final = 64 * 1024
_HIDDEN: Final = "***"
_CREDENTIALS: Final = re.compile(
    r"""
    (?P<scheme>[a-z][a-z0-9+.-]{0,20}://) [^\s/@]{1,500} @           # credentials in a URL
    | (?P<word>\bbearer\s+ | \bapi[ _-]?key["']?\s*[=:]\s*["']?) [^\s"']{4,}
    | \b (?:sk|qg|gsk|xai|hf|nvapi|org|proj|sess|pplx)[-_](?=[A-Za-z_*-]*[0-9*])[A-Za-z0-9_*-]{6,}  # usual prefixes
    | \b AIza[A-Za-z0-9_*-]{8,}                                      # Google
    | \b eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+                       # JSON web tokens
    | \b (?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{32,}        # any long mix of letters and digits
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def redact(text: str, *, api_key: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Returns the text without anything that looks like a credential, nor `api_key` itself, cut to the limit."""
    text = _CONTROLS.sub(" ", text[:_MAX_INPUT_CHARACTERS])
    if api_key:
        text = text.replace(api_key, _HIDDEN)
    text = _CREDENTIALS.sub(_hide, text).strip()
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def _hide(match: re.Match[str]) -> str:
    if match["scheme"]:
        return f"{match['scheme']}{_HIDDEN}@"
    return f"{match['word'] or ''}{_HIDDEN}"
