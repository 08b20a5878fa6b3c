"""What a workspace's own provider key serves: counted apart, outside of the allowance, and never with stale keys."""

from collections.abc import Callable, Iterator

import pytest
from fakes.books import Books
from sqlalchemy import Engine

from quillgate_core.counting import Usage
from quillgate_core.errors import AllowanceExhausted, KeyInvalid, ReservationNotFound
from quillgate_core.reservation import (
    CredentialsStale,
    Note,
    Outcome,
    Receipt,
    Release,
    Reservation,
    Reserve,
    Settle,
)
from quillgate_core.storage.lease_store import SqlLeaseStore
from quillgate_core.storage.ledger import Ledger, connect_ledger

LARGE = Usage(40_001, 10_001, 3_000)
Apply = Callable[..., list[Outcome]]


@pytest.fixture
def books(engine: Engine) -> Iterator[Books]:
    """The books of the test's database, with a workspace that may use one message, checked at the end."""
    books = Books(engine)
    books.add_workspace(allowance=1)
    yield books
    books.check()


@pytest.fixture
def apply(database_url: str) -> Iterator[Apply]:
    """Applies its arguments as one batch."""
    ledger = Ledger()
    with connect_ledger(database_url) as connection:
        yield lambda *steps: ledger.apply(connection, steps)


def reserve(request_id: str = "r", hold_messages: int = 5, **more: object) -> Reserve:
    """A reserve of the gateway's own, by an own key unless told otherwise."""
    ids = {"workspace_id": "ws", "request_id": request_id, "owner": "a", "byok": True}
    return Reserve(**{**ids, "hold_messages": hold_messages, **more})


def settle(request_id: str = "r", **more: object) -> Settle:
    """A settle of the gateway's own."""
    ids = {"workspace_id": "ws", "request_id": request_id, "owner": "a"}
    return Settle(**{**ids, "usage": LARGE, "usage_source": "provider", **more})


def test_an_own_key_needs_no_allowance(apply: Apply, books: Books) -> None:
    """A request by an own key is admitted beyond the allowance, holds nothing of it, and is counted apart."""
    (reservation,) = apply(reserve())
    assert isinstance(reservation, Reservation)
    assert (reservation.held_messages, reservation.remaining_messages) == (5, 1)
    assert books.day().held_messages == 0
    (receipt,) = apply(settle(cost_picodollars=7))
    assert isinstance(receipt, Receipt)
    assert (receipt.byok, receipt.counted_messages, receipt.cost_picodollars) == (True, 3, 7)
    assert receipt.remaining_messages == 1
    day = books.day()
    assert (day.message_count, day.request_count, day.input_tokens, day.cost_picodollars) == (0, 0, 0, 0)
    assert (day.byok_message_count, day.byok_request_count, day.byok_cost_picodollars) == (3, 1, 7)
    assert (day.byok_input_tokens, day.byok_output_tokens, day.unpriced_request_count) == (40_001, 3_000, 0)


def test_both_kinds_share_a_day_and_no_column(apply: Apply, books: Books) -> None:
    """The same workspace's requests with the gateway's keys use the allowance as if the others were not there."""
    apply(reserve("own"), settle("own"))
    answers = apply(reserve("house", 1, byok=False), reserve("second", 1, byok=False))
    assert isinstance(answers[0], Reservation)
    assert isinstance(answers[1], AllowanceExhausted)
    apply(settle("house", usage=Usage(10, 0, 5)))
    day = books.day()
    assert (day.message_count, day.byok_message_count, day.unpriced_request_count) == (1, 3, 2)


def test_a_hold_that_an_own_key_makes_needless_goes_back(apply: Apply, books: Books) -> None:
    """A request that held the allowance and was served by the own key after all gives its hold back."""
    apply(reserve(hold_messages=1, byok=False))
    assert books.day().held_messages == 1
    (receipt,) = apply(settle(byok=True))
    assert isinstance(receipt, Receipt)
    assert receipt.remaining_messages == 1
    day = books.day()
    assert (day.held_messages, day.message_count, day.byok_message_count) == (0, 0, 3)


def test_a_released_own_request_counts_nowhere(apply: Apply, books: Books) -> None:
    """A release of a request by an own key changes no column."""
    apply(reserve())
    apply(Release(workspace_id="ws", request_id="r", owner="a"))
    assert set(tuple(books.day())[2:]) == {0}


def test_recovery_charges_the_hold_of_an_own_request_apart(apply: Apply, books: Books, engine: Engine) -> None:
    """When the core dies, the hold of a request by an own key is counted in its own columns."""
    apply(reserve(), reserve("house", 1, byok=False))
    assert SqlLeaseStore(engine).recover(10) == 2
    day = books.day()
    assert (day.message_count, day.byok_message_count, day.held_messages) == (1, 5, 0)
    assert (day.request_count, day.byok_request_count, day.unpriced_request_count) == (1, 1, 2)


def test_keys_that_changed_are_noticed(apply: Apply, books: Books) -> None:
    """A reserve that chose by other provider keys than the workspace has now is refused, and nothing is written."""
    books.run("UPDATE workspaces SET credential_revision = 3")
    (refused,) = apply(reserve(credential_revision=2))
    assert isinstance(refused, CredentialsStale)
    assert books.read("SELECT FROM ledger") == []
    (reservation,) = apply(reserve(credential_revision=3))
    assert isinstance(reservation, Reservation)


def test_a_revoked_key_is_told_before_stale_credentials(apply: Apply, books: Books) -> None:
    """A caller whose key is dead hears of that, whatever else has changed."""
    (refused,) = apply(reserve(key_id="none", credential_revision=9))
    assert isinstance(refused, KeyInvalid)


def test_a_note_names_who_serves(apply: Apply, books: Books, engine: Engine) -> None:
    """The provider's id of an answer is kept when the process dies before it settles."""
    apply(reserve(upstream="first"))
    apply(Note(workspace_id="ws", request_id="r", owner="a", upstream="second", upstream_request_id="gen-1"))
    row = books.row("r")
    assert (row.state, row.upstream, row.upstream_request_id, row.settle_time) == ("open", "second", "gen-1", None)
    assert (row.held_messages, row.byok) == (5, True)
    SqlLeaseStore(engine).recover(10)
    assert books.row("r").upstream_request_id == "gen-1"


@pytest.mark.parametrize("together", [True, False])
def test_a_note_and_a_settle_may_meet(apply: Apply, books: Books, together: bool) -> None:
    """A note just before the settle, in one batch or not, leaves the settle's word; one after it changes nothing."""
    note = Note(workspace_id="ws", request_id="r", owner="a", upstream="noted", upstream_request_id="gen-1")
    apply(reserve())
    if together:
        apply(note, settle(), note)
    else:
        for step in (note, settle(), note):
            apply(step)
    row = books.row("r")
    assert (row.state, row.upstream, row.upstream_request_id, row.counted_messages) == ("settled", "noted", "gen-1", 3)


def test_a_note_in_the_batch_of_its_reserve(apply: Apply, books: Books) -> None:
    """A note that is written together with the reserve is part of the new row."""
    apply(reserve(), Note(workspace_id="ws", request_id="r", owner="a", upstream="up", upstream_request_id="gen-1"))
    assert books.row("r").upstream_request_id == "gen-1"


def test_a_note_of_another_owner_is_refused(apply: Apply, books: Books) -> None:
    """Nobody writes on a row that is not theirs."""
    apply(reserve())
    (refused,) = apply(Note(workspace_id="ws", request_id="r", owner="b", upstream="x", upstream_request_id="y"))
    assert isinstance(refused, ReservationNotFound)
    assert books.row("r").upstream_request_id == ""


def test_a_repeated_settle_tells_the_first_cost(apply: Apply, books: Books) -> None:
    """Cost and kind of a charge are answered again to a repeat, whatever it says."""
    apply(reserve())
    first = apply(settle(cost_picodollars=12))
    assert apply(settle(cost_picodollars=99)) == first
