"""The life of a charge, by the real command on the real service: made, shown, doubted, corrected, voided, archived."""

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from fakes.books import Books
from fakes.hand_made_ledger import HandMadeLedger
from fakes.scripted_upstream import RecordedRequest, ScriptedAnswer, chat_answer, json_answer
from service import RunningService, Tenant, start_service
from sqlalchemy import Engine

CATALOGUE = """
[providers.openrouter]
base_url = "{base_url}"
api_key_env = "HOUSE_KEY"

[[models]]
id = "scripted/routed"
context_window = 1000000
max_output_tokens = 64000
upstreams = [{{ provider = "openrouter", model = "some/model" }}]
"""


def answer(request: RecordedRequest) -> ScriptedAnswer:
    """Two messages' worth of usage in the answer; the record, asked for later, knows of one more."""
    if not request.path.endswith("/generation"):
        return chat_answer("Hello", prompt_tokens=20_000, extra={"id": "gen-1"})
    if request.query != "id=gen-1":
        return json_answer(404, {"error": {"message": "Generation not found", "code": 404}})
    tokens = {"native_tokens_prompt": 40_000, "native_tokens_cached": 10_000, "native_tokens_completion": 5}
    return json_answer(200, {"data": {"id": "gen-1", **tokens, "total_cost": 0.0055}})


@dataclass(frozen=True)
class Done:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return msgspec.json.decode(self.out)


async def ledger(service: RunningService, *arguments: str, key: str = "") -> Done:
    """Runs `quillgate ledger …` as a process, with the admin's key unless another is given."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("QUILLGATE_", "PYTEST"))}
    environ = {**keep, "QUILLGATE_CORE_ADDRESS": service.grpc_address, "QUILLGATE_KEY": key or service.admin_key}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "quillgate_cli", "ledger", *arguments),
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def chat(service: RunningService, tenant: Tenant) -> str:
    """Asks the model and returns the request's id."""
    body = {"model": "scripted/routed", "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {tenant.key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{service.base_url}/chat/completions", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        return response.headers["x-request-id"]


async def test_a_charge_is_shown_doubted_corrected_and_voided(
    database_url: str, engine: Engine, tmp_path: Path
) -> None:
    """Every step shows in the next, the sums agree after each, and what was voided stays void."""
    async with start_service(
        database_url, tmp_path, fallback=answer, catalogue_text=CATALOGUE, HOUSE_KEY="sk-or-house"
    ) as service:
        tenant, stranger = await service.tenant(), await service.tenant()
        request_id = await chat(service, tenant)

        shown = (await ledger(service, "show", request_id, "--json")).json
        assert (shown["charged_messages"], shown["entry"]["upstream_request_id"]) == (2, "gen-1")
        assert shown["count"]["effective_input"] == 20_000
        own = await ledger(service, "show", request_id, key=tenant.key)
        assert "max(1, ceil((20,000 + 5) / 16,000)) = 2" in own.out
        assert (await ledger(service, "show", request_id, key=stranger.key)).code == 4

        doubt = await ledger(service, "reconcile", "--upstream", "openrouter")
        assert (doubt.code, "1 differ, 0 adjusted" in doubt.out) == (1, True)
        assert (await ledger(service, "reconcile", "--upstream", "openrouter", "--apply")).code == 0
        assert (await ledger(service, "show", request_id, "--json")).json["charged_messages"] == 3
        assert (await ledger(service, "reconcile", "--upstream", "openrouter")).code == 0
        assert (await ledger(service, "verify")).code == 0

        refused = await ledger(service, "void", request_id, "--note", "mine", "--yes", key=tenant.key)
        assert refused.code == 3
        voided = await ledger(service, "void", request_id, "--note", "our fault", "--yes")
        assert voided.code == 0, voided.err
        shown = (await ledger(service, "show", request_id, "--json")).json
        assert (shown["charged_messages"], shown["entry"]["adjustments"][1]["note"]) == (0, "our fault")
        again = await ledger(service, "reconcile", "--upstream", "openrouter", "--apply")
        assert again.out == "0 requests, 0 of them unknown to openrouter: 0 differ, 0 adjusted.\n"

        verified = await ledger(service, "verify", "--json")
        assert (verified.code, [day["row_count"] for day in verified.json["days"]]) == (0, [1])
        assert await service.daily(tenant) == (0, 0, 0, 0, 0, 1)
        await service.rows("UPDATE daily_message_count SET message_count = 1 RETURNING 1")
        wrong = await ledger(service, "verify")
        assert wrong.code == 1
        assert f"{tenant.workspace_id}  message_count: the day says 1, the rows 0" in wrong.out
        await service.rows("UPDATE daily_message_count SET message_count = 0 RETURNING 1")
        Books(engine).check()


async def test_an_old_day_is_archived_and_a_new_one_kept(database_url: str, engine: Engine, tmp_path: Path) -> None:
    """The old day's rows are in a file and no longer in the database, its sums stay; today is refused and stays."""
    old = datetime.now(UTC).date() - timedelta(days=9)
    archive = tmp_path / "archive"
    archive.mkdir()
    async with start_service(
        database_url, tmp_path, fallback=answer, catalogue_text=CATALOGUE, HOUSE_KEY="sk-or-house"
    ) as service:
        made = HandMadeLedger(engine)
        made.add("old 1", day=old, key_id="key")
        made.add("old 2", day=old, state="released")
        tenant = await service.tenant()
        await chat(service, tenant)
        today = datetime.now(UTC).date()

        done = await ledger(service, "archive", "--before", f"{today}", "--to", str(archive), "--yes", "--json")
        (archived,) = done.json["days"]
        assert (archived["day"], archived["row_count"]) == (old.isoformat(), 2)
        lines = [msgspec.json.decode(line) for line in Path(archived["path"]).read_bytes().splitlines()]
        assert sorted((line["request_id"], line["state"]) for line in lines) == [
            ("old 1", "settled"),
            ("old 2", "released"),
        ]
        days = [day["day"] for day in (await ledger(service, "days", "--json")).json["days"]]
        assert old.isoformat() not in days
        assert made.books.day(old).message_count == 4

        tomorrow = today + timedelta(days=1)
        kept = await ledger(service, "archive", "--before", f"{tomorrow}", "--to", str(archive), "--yes")
        assert kept.code == 1
        assert "request ids are remembered for 7 days" in kept.err
        verified = await ledger(service, "verify", "--json")
        assert (verified.code, [day["row_count"] for day in verified.json["days"]]) == (0, [1])
        made.books.check()
