"""What people may call a key or a workspace, and what may stand for a model: text that is safe to show on one line."""

import unicodedata

from quillgate_core.errors import InvalidRequest

MAX_NAME_CHARACTERS = 200
_UNSAFE_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")


def check_name(name: str, *, param: str) -> str:
    """Return the name; raises InvalidRequest if it is blank, over 200 characters, or has control characters."""
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS:
        raise InvalidRequest(f"'{param}' must have 1 to {MAX_NAME_CHARACTERS} characters.", param=param)
    if any(unicodedata.category(character) in _UNSAFE_CATEGORIES for character in name):
        raise InvalidRequest(f"'{param}' must not contain control characters.", param=param)
    return name
