"""`quillgate serve` as a person runs it: start, use, stop, start again; all in one and apart."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest
from openai import OpenAI
from serve_process import ServeProcess, environment, serving

ECHO = "quillgate/echo"
QUESTION = [{"role": "user", "content": "Hello, Quillgate!"}]
ALL_IN_ONE = r"^Your key.*\n(.*\n)*.*-d '"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for data. Not pytest's own, which another run of pytest closes to the account of the database."""
    path = Path(tempfile.mkdtemp(prefix="quillgate-test-"))
    yield path
    shutil.rmtree(path)


def ask(base_url: str, key: str, **members: object) -> str:
    """Asks the echo model with the official client."""
    with OpenAI(base_url=base_url, api_key=key) as client:
        answer = client.chat.completions.create(model=ECHO, messages=QUESTION, **members)
        return answer.choices[0].message.content or ""


def cli(service: ServeProcess, *arguments: str, key: str) -> dict[str, object]:
    """Runs a command of the CLI and returns its JSON."""
    environ = {**os.environ, "QUILLGATE_KEY": key, "QUILLGATE_CORE_ADDRESS": service.find("gRPC")}
    command = [sys.executable, "-m", "quillgate_cli", *arguments, "--json"]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    made: dict[str, object] = json.loads(result.stdout)
    return made


def test_first_start_use_and_stop(folder: Path) -> None:
    """One command starts everything; the printed keys, the curl line and the CLI work; Ctrl-C ends all within 5 s."""
    with serving(["--new-key"], environment(folder / "data"), ready=ALL_IN_ONE) as service:
        assert ask(service.base_url, service.find("Your key")) == "Hello, Quillgate!"

        line = re.search(r"^  (curl .*\\\n.*\\\n.*)$", service.printed, re.MULTILINE)
        assert line is not None
        pasted = subprocess.run(["bash", "-c", line[1]], capture_output=True, text=True, timeout=30, check=True)
        assert json.loads(pasted.stdout)["choices"][0]["message"]["content"] == "Hello, Quillgate!"

        admin = service.find("Admin key")
        made = cli(service, "keys", "create", "--name", "laptop", key=admin)
        assert ask(service.base_url, str(made["secret"])) == "Hello, Quillgate!"
        usage = cli(service, "usage", key=admin)
        assert [(int(day["message_count"]), int(day["request_count"])) for day in usage["days"]] == [(3, 3)]  # type: ignore[attr-defined]

        family = service.family()
        assert any("postgres" in process.name() for process in family)
        service.stop(timeout_s=5)
        _, alive = psutil.wait_procs(family, timeout=1)
        assert alive == []


def test_second_start_finds_everything_again(folder: Path) -> None:
    """Keys and counts survive a stop; the admin key is shown at the first start only."""
    environ = environment(folder / "data")
    with serving(["--new-key"], environ, ready=ALL_IN_ONE) as first:
        key, admin = first.find("Your key"), first.find("Admin key")
        ask(first.base_url, key)
        first.stop(timeout_s=5)
    with serving(["--new-key"], environ, ready=ALL_IN_ONE) as second:
        assert second.find("Admin key") == ""
        assert second.find("Your key") not in ("", key)
        assert ask(second.base_url, key) == "Hello, Quillgate!"
        usage = cli(second, "usage", key=admin)
        assert [int(day["message_count"]) for day in usage["days"]] == [2]  # type: ignore[attr-defined]


def test_a_lost_admin_key_is_replaced(folder: Path) -> None:
    """`--new-admin-key` prints a key with all scopes and no end; the first start shows one admin key, not two."""
    environ = environment(folder / "data")
    ready = r"^Admin key.*\n(.*\n)*^\n"
    with serving(["--new-admin-key"], environ, ready=ready) as first:
        lost = first.find("Admin key")
        assert [key["name"] for key in cli(first, "keys", "list", key=lost)["keys"]] == ["first admin key"]  # type: ignore[attr-defined]
        first.stop(timeout_s=5)
    with serving(["core", "--new-admin-key"], environ, ready=ready) as second:
        admin = second.find("Admin key")
        assert admin not in ("", lost)
        old, new = cli(second, "keys", "list", key=admin)["keys"]  # type: ignore[misc]
        assert (new["name"], new["expire_time"]) == ("serve --new-admin-key", None)
        assert (new["scopes"], new["workspace_id"]) == (old["scopes"], old["workspace_id"])
        cli(second, "keys", "revoke", str(old["key_id"]), key=admin)
        assert cli(second, "workspaces", "list", key=admin)["workspaces"]


def test_core_and_facade_apart_over_a_unix_socket(folder: Path) -> None:
    """`serve core` and `serve facade` give the same service over a Unix socket; without core the facade says 503."""
    socket = f"unix:{folder}/core.sock"
    environ = environment(folder / "data", QUILLGATE_GRPC_ADDRESS=socket)
    with serving(["core", "--new-key"], environ, ready=r"^Your key") as core:
        key = core.find("Your key")
        with serving(["facade", "--core", socket], environ, ready=r"^core") as facade:
            assert ask(facade.base_url, key) == "Hello, Quillgate!"
            core.stop(signal.SIGTERM, timeout_s=10)
            with (
                OpenAI(base_url=facade.base_url, api_key=key, max_retries=0) as client,
                pytest.raises(openai.InternalServerError) as caught,
            ):
                client.chat.completions.create(model=ECHO, messages=QUESTION)
            assert caught.value.status_code == 503
            assert int(caught.value.response.headers["retry-after"]) >= 1


def test_sigterm_lets_a_running_answer_finish(folder: Path) -> None:
    """A stream that runs when SIGTERM comes is delivered to its end."""
    words = " ".join(f"word{number}" for number in range(3000))
    with serving(["--new-key"], environment(folder / "data"), ready=ALL_IN_ONE) as service:
        with OpenAI(base_url=service.base_url, api_key=service.find("Your key"), max_retries=0) as client:
            stream = client.chat.completions.create(
                model=ECHO, messages=[{"role": "user", "content": words}], stream=True, max_tokens=4000
            )
            received = [next(iter(stream)).choices[0].delta.content or ""]
            stopper = threading.Thread(target=service.stop, args=(signal.SIGTERM,), kwargs={"timeout_s": 30})
            stopper.start()
            time.sleep(0.2)
            received += [chunk.choices[0].delta.content or "" for chunk in stream]
            stopper.join()
        assert "".join(received) == words
        assert service.process.returncode == 0


def test_wrong_settings_are_all_told_at_once(folder: Path) -> None:
    """A start with several wrong settings names each of them in a line, and ends with 1."""
    environ = environment(
        folder, QUILLGATE_MAX_COMPLETIONS="many", QUILLGATE_DRAIN_S="-1", QUILLGATE_CONFIG="/nowhere.toml"
    )
    command = [sys.executable, "-m", "quillgate_cli", "serve"]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()] == [
        "QUILLGATE_MAX_COMPLETIONS",
        "QUILLGATE_DRAIN_S",
        "QUILLGATE_CONFIG",
    ]


def test_a_taken_port_is_a_clear_error(folder: Path) -> None:
    """A start on a port that is taken says so in one line and leaves nothing behind."""
    with serving(["--new-key"], environment(folder / "data"), ready=ALL_IN_ONE) as service:
        port = service.base_url.split(":")[2].split("/")[0]
        environ = environment(folder / "other", QUILLGATE_FACADE_PORT=port)
        command = [sys.executable, "-m", "quillgate_cli", "serve"]
        result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
        assert result.returncode == 1
        told = f"quillgate: cannot serve REST on 127.0.0.1:{port}: Address already in use"
        assert result.stderr.splitlines()[-1] == told
        assert "Traceback" not in result.stderr
