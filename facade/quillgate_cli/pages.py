"""Follows page tokens to the end of a list. Must not know what is listed."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from quillgate_cli.failure import ExitCode, Failure

PAGE_SIZE = 500
MAX_PAGES = 2_000


class Page(Protocol):
    """One answer of a list call."""

    @property
    def next_page_token(self) -> str:
        """Token of the next page; empty on the last."""


PageT = TypeVar("PageT", bound=Page)


def all_pages(list_page: Callable[[str], PageT]) -> Iterator[PageT]:
    """Yields every page, calling `list_page` with each token; raises Failure when the server goes in circles."""
    token = ""
    for _ in range(MAX_PAGES):
        page = list_page(token)
        yield page
        if not page.next_page_token:
            return
        if page.next_page_token == token:
            break
        token = page.next_page_token
    raise Failure("the server's list has no end", ExitCode.FAILED)
