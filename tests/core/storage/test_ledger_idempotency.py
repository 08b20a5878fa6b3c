"""What an idempotency key does in the ledger, over the real SQL: one row that may be charged has it."""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from fakes.books import Books
from sqlalchemy import Engine

from quillgate_core.counting import Usage
from quillgate_core.errors import AllowanceExhausted, AlreadyCompleted, DuplicateInProgress, IdempotencyMismatch
from quillgate_core.reservation import Idempotency, Outcome, Release, Reservation, Reserve, Settle
from quillgate_core.storage.ledger import Ledger, connect_ledger

Apply = Callable[..., list[Outcome]]
SAID = bytes(range(32))
OTHER = bytes(32)


@pytest.fixture
def books(engine: Engine) -> Iterator[Books]:
    """The books of the test's database, with a workspace without limit, checked at the end."""
    books = Books(engine)
    books.add_workspace()
    yield books
    books.check()


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    """A writer's connection."""
    with connect_ledger(database_url) as connection:
        yield connection


@pytest.fixture
def apply(books: Books, connection: psycopg.Connection) -> Apply:
    """Applies its arguments as one batch."""
    ledger = Ledger()
    return lambda *steps: ledger.apply(connection, steps)


def reserve(request_id: str, *, key: str = "k", said: bytes = SAID, workspace_id: str = "ws") -> Reserve:
    """A reserve with an idempotency key."""
    return Reserve(
        workspace_id=workspace_id,
        request_id=request_id,
        hold_messages=2,
        owner="a",
        idempotency=Idempotency(key, said),
    )


def settle(request_id: str) -> Settle:
    """Its end with a charge."""
    return Settle(workspace_id="ws", request_id=request_id, usage=Usage(10, 0, 5), usage_source="provider", owner="a")


def release(request_id: str) -> Release:
    """Its end without one."""
    return Release(workspace_id="ws", request_id=request_id, owner="a")


def refused(outcome: Outcome, kind: type[Exception], request_id: str) -> bool:
    """Whether the outcome is this refusal and names the request that has the key."""
    return type(outcome) is kind and getattr(outcome, "metadata", None) == {"request_id": request_id}


def admitted(outcome: Outcome) -> bool:
    """Whether the outcome lets the caller dispatch."""
    return isinstance(outcome, Reservation) and not outcome.replayed


@pytest.mark.parametrize("together", [True, False])
def test_second_one_is_refused_while_the_first_runs(apply: Apply, books: Books, together: bool) -> None:
    """In one batch or in two, the first has the key; the second leaves no row and holds nothing."""
    steps = [reserve("r1"), reserve("r2"), reserve("r3", said=OTHER)]
    first, second, third = apply(*steps) if together else [apply(step)[0] for step in steps]
    assert admitted(first)
    assert refused(second, DuplicateInProgress, "r1")
    assert refused(third, IdempotencyMismatch, "r1")
    assert books.states() == {"open": 1}
    row = books.row("r1")
    assert (row.idempotency_key, bytes(row.request_hash)) == ("k", SAID)


@pytest.mark.parametrize("together", [True, False])
def test_second_one_is_refused_after_the_first_was_charged(apply: Apply, together: bool) -> None:
    """A settled row keeps the key."""
    steps = [reserve("r1"), settle("r1"), reserve("r2"), reserve("r3", said=OTHER)]
    outcomes = apply(*steps) if together else [apply(step)[0] for step in steps]
    assert refused(outcomes[2], AlreadyCompleted, "r1")
    assert refused(outcomes[3], IdempotencyMismatch, "r1")


def test_recovered_row_keeps_the_key(apply: Apply, books: Books) -> None:
    """A hold that was charged for a dead core counts as done: the provider may have answered."""
    apply(reserve("r1"))
    books.run(
        "UPDATE ledger SET state = 'recovered', counted_messages = held_messages, usage_source = 'hold';"
        "UPDATE daily_message_count SET held_messages = 0, message_count = 2, request_count = 1,"
        " unpriced_request_count = 1"
    )
    assert refused(apply(reserve("r2"))[0], AlreadyCompleted, "r1")


@pytest.mark.parametrize("together", [True, False])
def test_released_row_frees_the_key(apply: Apply, together: bool) -> None:
    """What was not charged may be asked again, with the same words or others."""
    steps = [reserve("r1"), release("r1"), reserve("r2", said=OTHER), release("r2"), reserve("r3")]
    outcomes = apply(*steps) if together else [apply(step)[0] for step in steps]
    assert [admitted(outcomes[index]) for index in (0, 2, 4)] == [True] * 3


def test_release_and_repeat_in_one_batch(apply: Apply) -> None:
    """A row that the batch itself releases has the key until the commit; then it is free."""
    apply(reserve("r1"))
    released, early = apply(release("r1"), reserve("r2"))
    assert not isinstance(released, Exception)
    assert refused(early, DuplicateInProgress, "r1")
    assert admitted(apply(reserve("r2"))[0])


def test_settle_and_repeat_in_one_batch(apply: Apply) -> None:
    """A row that the batch itself settles is done."""
    apply(reserve("r1"))
    assert refused(apply(settle("r1"), reserve("r2"))[1], AlreadyCompleted, "r1")


def test_repeated_step_is_not_its_own_duplicate(apply: Apply) -> None:
    """Applying a step again after an unknown commit gives the first answer."""
    step = reserve("r1")
    assert apply(step) == apply(step)
    assert admitted(apply(step)[0])


def test_keys_of_other_workspaces_are_others(apply: Apply, books: Books) -> None:
    """A key is a workspace's own, and another key is another request."""
    books.add_workspace("ws2")
    outcomes = apply(reserve("r1"), reserve("r1", workspace_id="ws2"), reserve("r2", key="l"))
    assert all(map(admitted, outcomes))


def test_refused_reserve_does_not_take_the_key(apply: Apply, books: Books) -> None:
    """A spent allowance leaves the key free for when there is one again."""
    books.run("UPDATE workspaces SET daily_message_allowance = 0")
    assert isinstance(apply(reserve("r1"))[0], AllowanceExhausted)
    books.run("UPDATE workspaces SET daily_message_allowance = 9")
    assert admitted(apply(reserve("r2"))[0])


def test_the_database_refuses_what_the_batch_could_not_see(apply: Apply, books: Books) -> None:
    """Behind the look-up stands a unique index of the day, so that even a fault of ours charges no key twice."""
    apply(reserve("r1"))
    with pytest.raises(Exception, match="workspace_id_idempotency_key_day"):
        books.run(
            "INSERT INTO ledger (workspace_id, request_id, day, state, nonce, endpoint, model, held_messages,"
            " reserve_time, idempotency_key, request_hash) SELECT workspace_id, 'r2', day, state, 1, '', '', 2,"
            " reserve_time, idempotency_key, request_hash FROM ledger"
        )
