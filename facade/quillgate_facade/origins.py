"""Which origins a setting may name, for `cors.py`. Apart, so that whoever reads the settings needs no HTTP library."""

import re
from typing import Final

ANY: Final = "*"


def is_origins(text: str) -> bool:
    """Tells whether a setting is `*` or a list of origins such as `https://app.example`, as browsers write them."""
    origin = r"https?://[a-z0-9.\[\]:-]+"
    return text == ANY or re.fullmatch(rf"{origin}(\s*,\s*{origin})*", text) is not None
