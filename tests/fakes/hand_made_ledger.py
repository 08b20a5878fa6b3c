"""Ledger rows of any day, written by hand with the sums that they belong to, as the writer and recovery would."""

from datetime import date
from typing import Any

from fakes.books import Books
from sqlalchemy import Engine

DAY = date(2030, 5, 1)

_INSERT = """
INSERT INTO ledger (
    workspace_id, request_id, day, state, key_id, nonce, endpoint, model, upstream, held_messages, counted_messages,
    prompt_tokens, cached_tokens, completion_tokens, usage_source, outcome, reserve_time, settle_time, byok,
    cost_picodollars, upstream_request_id, overage_messages
)
VALUES (
    :workspace_id, :request_id, :day, :state, :key_id, 1, :endpoint, :model, :upstream, :held_messages,
    :counted_messages, :prompt_tokens, :cached_tokens, :completion_tokens, :usage_source, :outcome,
    CAST(:day AS date) + time '12:00', CASE WHEN :state <> 'open' THEN CAST(:day AS date) + time '12:00:02' END, :byok,
    :cost_picodollars, :upstream_request_id, :overage_messages
)
"""

_DEFAULTS = {
    "workspace_id": "ws",
    "day": DAY,
    "state": "settled",
    "key_id": None,
    "endpoint": "chat.completions",
    "model": "some/model",
    "upstream": "openrouter",
    "held_messages": 5,
    "counted_messages": 4,
    "prompt_tokens": 40_000,
    "cached_tokens": 10_000,
    "completion_tokens": 20_000,
    "usage_source": "provider",
    "outcome": "complete",
    "byok": False,
    "cost_picodollars": 7,
    "upstream_request_id": "",
    "overage_messages": 0,
}


class HandMadeLedger:
    """Writes rows into `books`; the days of the ledger are made as they are needed."""

    def __init__(self, engine: Engine) -> None:
        self.books = Books(engine)
        self.books.add_workspace()
        self._days: set[date] = set()

    def add_day(self, day: date) -> None:
        """Make a day's part of the ledger, unless there is one."""
        if day not in self._days:
            self.books.add_ledger_day(day)
            self._days.add(day)

    def add(self, request_id: str, **members: Any) -> None:
        """Write a row, by default one of four messages that was settled, and add it to its day's sums."""
        row = {**_DEFAULTS, **members, "request_id": request_id}
        if row["state"] in ("open", "released"):
            row.update(counted_messages=0, prompt_tokens=0, cached_tokens=0, completion_tokens=0, cost_picodollars=None)
            row.update(usage_source="", outcome="" if row["state"] == "open" else "provider_failed")
        self.add_day(row["day"])
        self.books.run(_INSERT, **row)
        owner = {"workspace_id": row["workspace_id"]}
        self._count("daily_message_count", row["day"], owner, _workspace_sums(row))
        if row["key_id"] is not None:
            key = {"key_id": row["key_id"]}
            self._count("key_daily_message_count", row["day"], key | owner, _key_sums(row), conflict="key_id")

    def _count(
        self, table: str, day: date, owner: dict[str, str], sums: dict[str, int], *, conflict: str = "workspace_id"
    ) -> None:
        names = [*owner, "day", *sums]
        self.books.run(
            f"INSERT INTO {table} AS d ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"
            f" ON CONFLICT ({conflict}, day) DO UPDATE SET "
            + ", ".join(f"{name} = d.{name} + excluded.{name}" for name in sums),
            **owner,
            day=day,
            **sums,
        )


def _workspace_sums(row: dict[str, Any]) -> dict[str, int]:
    charged = row["state"] in ("settled", "recovered")
    sums = {"unpriced_request_count": int(charged and row["cost_picodollars"] is None)}
    if row["byok"]:
        return sums | {
            "byok_message_count": row["counted_messages"],
            "byok_input_tokens": row["prompt_tokens"],
            "byok_output_tokens": row["completion_tokens"],
            "byok_request_count": int(charged),
            "byok_cost_picodollars": row["cost_picodollars"] or 0,
        }
    return sums | {
        "message_count": row["counted_messages"],
        "held_messages": row["held_messages"] if row["state"] == "open" else 0,
        "input_tokens": row["prompt_tokens"],
        "cached_tokens": row["cached_tokens"],
        "output_tokens": row["completion_tokens"],
        "request_count": int(charged),
        "cost_picodollars": row["cost_picodollars"] or 0,
        "overage_message_count": row["overage_messages"],
        "overrun_message_count": max(0, row["counted_messages"] - row["held_messages"])
        if row["state"] == "settled"
        else 0,
    }


def _key_sums(row: dict[str, Any]) -> dict[str, int]:
    is_open = row["state"] == "open"
    return {
        "message_count": 0 if row["byok"] else row["counted_messages"],
        "held_messages": row["held_messages"] if is_open and not row["byok"] else 0,
        "input_tokens": row["prompt_tokens"],
        "cached_tokens": row["cached_tokens"],
        "output_tokens": row["completion_tokens"],
        "request_count": int(row["state"] in ("settled", "recovered")),
        "byok_message_count": row["counted_messages"] if row["byok"] else 0,
        "open_requests": int(is_open),
    }
