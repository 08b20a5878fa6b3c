"""Renders what each bundled provider can be asked for, from the accounts that the code makes of them.

python tests/house/capability_table.py            # prints the table that core/README.md holds
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from quillgate_core.catalogue_file import CatalogueFile, ProviderEntry, read_catalogue
from quillgate_core.providers.accounts import make_account
from quillgate_core.providers.http_pool import HttpPool
from quillgate_core.upstream import Account, Capability

BEGIN = "<!-- capabilities -->"
END = "<!-- /capabilities -->"

_CAPABILITIES: Sequence[tuple[str, Capability]] = (
    ("tools", "tools"),
    ("images", "images"),
    ("files", "files"),
    ("audio", "audio"),
    ("reasoning", "reasoning"),
    ("JSON schema", "json_schema"),
    ("logprobs", "logprobs"),
    ("n > 1", "choices"),
)
_ENDPOINTS: Sequence[tuple[str, Callable[[Account], object]]] = (
    ("completions", lambda account: account.text),
    ("responses", lambda account: account.responses),
    ("transcriptions", lambda account: account.transcriptions),
)


def accounts(catalogue: CatalogueFile) -> list[Account]:
    """Returns an account of every bundled provider, with a key and an address that stand for real ones."""
    pool = HttpPool()
    return [_account(name, entry, pool) for name, entry in sorted(catalogue.providers.items())]


def _account(name: str, entry: ProviderEntry, pool: HttpPool) -> Account:
    # As the environment would switch it on, but for an address, which would cost it its native endpoints.
    environ = {entry.api_key_env: "k"} if entry.api_key_env else {}
    if not entry.base_url:
        environ[entry.base_url_env] = "https://provider.example/v1"
    config = entry.switch_on(name, environ, is_bundled=True)
    assert config is not None
    return make_account(replace(config, is_trusted=True), pool)


def render(found: Sequence[Account]) -> str:
    """Returns the table: a row a provider, a column a capability or an endpoint that it has itself."""
    head = ["provider", *(title for title, _ in _CAPABILITIES), *(title for title, _ in _ENDPOINTS), "hang-up"]
    lines = [head, ["---"] * len(head), *(_row(account) for account in found)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(account: Account) -> list[str]:
    assert account.chat is not None
    traits = account.chat.traits
    return [
        account.provider,
        *("yes" if capability in traits.supports else "–" for _, capability in _CAPABILITIES),
        *("own" if has(account) is not None else "–" for _, has in _ENDPOINTS),
        "stops the bill" if traits.cancel_stops_bill else "may go on",
    ]


def table_in(text: str) -> str:
    """Returns the table between the markers of a document; empty when it has none."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


if __name__ == "__main__":
    print(render(accounts(read_catalogue(None))))
