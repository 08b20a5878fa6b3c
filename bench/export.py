"""How many ledger rows a second one client gets from MeteringService.ExportLedger over gRPC, and what each costs.

    python bench/export.py [--rows 1000000] [--data-dir DIRECTORY]

A core and an embedded PostgreSQL hold one day of rows of 10 workspaces with random request ids; the client is a process
of its own that reads every message, once for all workspaces and once for one. CPU is that of the two processes,
PostgreSQL apart, the client's start included. With a directory, the database is kept and filled only once.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import psycopg
import uvloop

from quillgate.v1.metering_service_pb2 import ExportLedgerRequest
from quillgate.v1.metering_service_pb2_grpc import MeteringServiceStub
from quillgate_core.app import Core
from quillgate_core.config import Config
from quillgate_core.storage.database import Database

DAY = "2001-02-03"
WORKSPACE = "ws_0"

FILL = """
CREATE TABLE ledger_20010203 PARTITION OF ledger FOR VALUES FROM ('2001-02-03') TO ('2001-02-04');
INSERT INTO workspaces (workspace_id, name) SELECT 'ws_' || n, 'bench' FROM generate_series(0, 9) n;
INSERT INTO ledger (
    workspace_id, request_id, day, state, key_id, nonce, endpoint, model, upstream, held_messages, counted_messages,
    prompt_tokens, cached_tokens, completion_tokens, usage_source, outcome, reserve_time, settle_time, cost_picodollars
)
SELECT 'ws_' || n % 10, 'req_' || md5(n::text), '2001-02-03', 'settled', 'key_' || md5((n % 100)::text), n,
       'chat.completions', 'google/gemini-2.5-flash', 'openrouter', 2, 1, 1000 + n % 5000, n % 1000, 300 + n % 700,
       'provider', 'complete', timestamptz '2001-02-03 00:00Z' + n * interval '1 ms',
       timestamptz '2001-02-03 00:00Z' + n * interval '1 ms' + interval '2 s', 123456789 + n
FROM generate_series(1, {rows}) n;
"""


def fill(url: str, rows: int) -> None:
    """Makes the day, unless it is there."""
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('ledger_20010203')").fetchone() == (None,):
            connection.execute(FILL.format(rows=rows).encode())
            connection.execute("VACUUM ANALYZE ledger")


def read(address: str, key: str, workspace_id: str) -> None:
    """Reads everything, in the client's process, and prints how much that was and how long it took."""
    request = ExportLedgerRequest(start_day=DAY, end_day=DAY, workspace_id=workspace_id)
    request.all_workspaces = not workspace_id
    with grpc.insecure_channel(address) as channel:
        begin, rows = time.perf_counter(), 0
        for message in MeteringServiceStub(channel).ExportLedger(
            request, metadata=(("authorization", f"Bearer {key}"),)
        ):
            rows += len(message.entries)
        print(rows, time.perf_counter() - begin, time.process_time())


async def measure(core: Core, key: str, workspace_id: str) -> None:
    """Starts a client and prints one line."""
    cpu_s = time.process_time()
    command = [sys.executable, __file__, "--read", core.address, "--workspace", workspace_id]
    client = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    printed, _ = await client.communicate(key.encode())
    cpu_s = time.process_time() - cpu_s
    rows, elapsed_s, client_cpu_s = (float(word) for word in printed.split())
    print(f"{workspace_id or 'all workspaces':>16} {rows:>12,.0f} {rows / elapsed_s:>12,.0f}", end="")
    print(f" {cpu_s / rows * 1e6:>15.2f} {client_cpu_s / rows * 1e6:>17.2f}")


async def serve(database: Database) -> None:
    """Measures with a core of this process."""
    core = Core(Config.from_environ({"QUILLGATE_GRPC_ADDRESS": "127.0.0.1:0", "QUILLGATE_DISCOVERY_S": "0"}), database)
    await core.start()
    key = await core.issue_key("bench", scopes=("platform.admin",))
    print(f"{'export of':>16} {'rows':>12} {'rows/s':>12} {'core CPU us/row':>15} {'client CPU us/row':>17}")
    for workspace_id in ("", WORKSPACE):
        await measure(core, key, workspace_id)
    await core.stop(1)


def main() -> None:
    """Measures, or is the client."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the day")
    parser.add_argument("--data-dir", type=Path, help="where the database is kept; default: a temporary directory")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--workspace", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read, sys.stdin.read(), arguments.workspace)
        return
    with (
        tempfile.TemporaryDirectory(prefix="quillgate-bench-") as folder,
        Database("", data_dir=arguments.data_dir or Path(folder)) as database,
    ):
        fill(database.url, arguments.rows)
        uvloop.run(serve(database))


if __name__ == "__main__":
    main()
