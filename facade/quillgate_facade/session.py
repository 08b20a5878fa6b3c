"""Finds what clients say of the conversation that a request belongs to, in headers: a hint for caches, no more.

OpenCode sends `x-session-id` and `x-session-affinity`, Codex `session-id`, or `session_id` in older versions.
"""

import re

from multidict import CIMultiDictProxy

HEADERS = ("x-session-id", "x-session-affinity", "session-id", "session_id")
_SESSION = re.compile(r"[!-~]{1,256}")


def session_of(headers: CIMultiDictProxy[str]) -> str:
    """Returns the first name that can be used, empty without one: a hint is no reason to refuse a request."""
    for header in HEADERS:
        value = headers.get(header)
        if value is not None and _SESSION.fullmatch(value):
            return value
    return ""
