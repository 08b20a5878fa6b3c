"""Pages of a list that is ordered by creation: how many entries, and where the next page starts.

The token names the last entry seen, so entries added or removed meanwhile neither repeat nor hide others. It grants
nothing: every list is filtered by the caller's rights again.
"""

import base64
import json
import re
from dataclasses import dataclass
from datetime import datetime

from quillgate_core.errors import InvalidRequest

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
_MAX_TOKEN_CHARACTERS = 200
_ID = re.compile(r"[a-z]+_[0-9A-Za-z]{20}")


@dataclass(frozen=True, slots=True)
class PageStart:
    """The entry after which a page starts."""

    create_time: datetime
    entry_id: str

    def token(self) -> str:
        """Return the opaque text that stands for this place."""
        text = json.dumps([self.create_time.isoformat(), self.entry_id])
        return base64.urlsafe_b64encode(text.encode()).decode()


def parse_page_token(token: str) -> PageStart | None:
    """Read a token that we gave out; empty is the first page. Raises InvalidRequest for anything else."""
    if not token:
        return None
    try:
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise ValueError
        time_text, entry_id = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        create_time = datetime.fromisoformat(time_text)
        if create_time.tzinfo is None or _ID.fullmatch(entry_id) is None:
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise InvalidRequest("The page token is not one that was returned here.", param="page_token") from None
    return PageStart(create_time, entry_id)


def check_page_size(page_size: int) -> int:
    """Return the number of entries for a page, 0 being the default. Raises InvalidRequest beyond 1,000."""
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidRequest(f"The page size must be between 1 and {MAX_PAGE_SIZE}.", param="page_size")
    return page_size or DEFAULT_PAGE_SIZE
