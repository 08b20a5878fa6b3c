"""I6 over processes: however many replicas ask at once for the last messages, exactly those are granted."""

import pytest
from fakes.books import Books
from faults.racers import racers
from sqlalchemy import Engine

RACES = 100


@pytest.mark.slow
def test_i06_four_processes_race_for_the_last_messages(engine: Engine, database_url: str) -> None:
    """4 processes × 25 one-message requests: of 0, 1 and 37 messages left, exactly so many are granted, each time."""
    books = Books(engine)
    with racers(database_url) as runners:
        for allowance in (0, 1, 37):
            admitted = []
            for number in range(RACES):
                workspace_id = f"ws_{allowance}_{number}"
                books.add_workspace(workspace_id, allowance=allowance)
                admitted.append(runners.race(workspace_id))
            assert admitted == [allowance] * RACES
    held = books.read("SELECT count(*) FROM daily_message_count d JOIN workspaces w USING (workspace_id)"
                      " WHERE d.held_messages <> w.daily_message_allowance OR d.message_count <> 0")  # fmt: skip
    assert held[0][0] == 0
    books.check()
