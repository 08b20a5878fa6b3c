"""What keys may do, as a test says, for the cutting of requests."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

from quillgate_core.limits import LimitName
from quillgate_core.principal import INFERENCE, Principal
from quillgate_core.running import Standing


def standing(
    key_id: str = "key_1",
    *,
    revision: int = 3,
    scopes: Collection[str] = (INFERENCE,),
    models: tuple[str, ...] = (),
    has_ended: bool = False,
    is_disabled: bool = False,
    closed: LimitName | None = None,
) -> Standing:
    """A key of the workspace `ws_1` that may do everything, but for what is said."""
    principal = Principal(key_id, revision, "ws_1", frozenset(scopes), models)
    reset_time = None if closed is None else datetime(2030, 1, 2, tzinfo=UTC)
    return Standing(principal, has_ended, is_disabled, closed, reset_time)


@dataclass
class FakeStandings:
    """A StandingStore that answers with `standings`, after `during` was called; it notes what it was asked."""

    standings: tuple[Standing, ...] = ()
    during: Callable[[], object] = lambda: None
    asked: list[frozenset[str]] = field(default_factory=list)

    def read(self, key_ids: Collection[str]) -> dict[str, Standing]:
        """Return those of the keys that are known."""
        self.asked.append(frozenset(key_ids))
        self.during()
        return {one.principal.key_id: one for one in self.standings if one.principal.key_id in key_ids}
