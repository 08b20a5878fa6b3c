"""Other gateways that can be installed from their packages, and a bare one: how each is installed, started and asked.

Each has an environment of its own, `.venv-peers-…` or `.tools/peers`, with the versions that `peers/` pins, and is no
part of what Quillgate needs. Each runs with one worker on the service's core, and listens on loopback.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from service import BENCH, MODEL, SERVICE_CORE, Service, await_answer, free_port, read_until, running

ROOT = BENCH.parent
PEERS = BENCH / "peers"
KEY = "sk-bench"
PINNED = ("taskset", "-c", SERVICE_CORE)

LITELLM_CONFIG = """
model_list:
  - model_name: mock/model
    litellm_params: {{ model: openai/mock, api_base: "{url}", api_key: unused }}
general_settings: {{ master_key: {key} }}
"""
TENSORZERO_CONFIG = """
[gateway.observability]
enabled = false

[models."mock/model"]
routing = ["mock"]

[models."mock/model".providers.mock]
type = "openai"
api_base = "{url}"
model_name = "mock"
api_key_location = "none"
"""


@dataclass(frozen=True)
class Peer:
    """A gateway: what it is, and how it runs before a mock provider at a URL, with a folder for its files."""

    name: str
    what: str
    run: Callable[[str, Path], AbstractContextManager[Service]]


def python_environment(name: str) -> Path:
    """Installs what `peers/<name>.lock` pins with hashes, unless it is there, and returns the folder of programs."""
    maker, lock, folder = ROOT / "proto/locked_environment.py", PEERS / f"{name}.lock", ROOT / f".venv-peers-{name}"
    command = [sys.executable, str(maker), str(lock), str(folder)]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()).parent


def npm_environment() -> Path:
    """Installs what `peers/npm/package.json` pins, unless it is there, and returns the folder of packages."""
    folder, manifest = ROOT / ".tools/peers", (PEERS / "npm/package.json").read_bytes()
    stamp, fingerprint = folder / "installed.sha256", hashlib.sha256(manifest).hexdigest()
    if not stamp.exists() or stamp.read_text() != fingerprint:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_bytes(manifest)
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run([*install, "--loglevel=error"], cwd=folder, check=True, stdout=sys.stderr)
        stamp.write_text(fingerprint)
    return folder / "node_modules"


@contextmanager
def litellm(url: str, folder: Path) -> Iterator[Service]:
    """The proxy with a master key and no database."""
    program, port, config = python_environment("litellm") / "litellm", free_port(), folder / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(url=url, key=KEY))
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environ = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with _quiet([*PINNED, str(program), *arguments, "--telemetry", "False"], folder, environ) as process:
        base = f"http://127.0.0.1:{port}"
        await_answer(f"{base}/health/liveliness", process)
        yield Service(f"{base}/v1", KEY, (psutil.Process(process.pid),))


@contextmanager
def portkey(url: str, folder: Path) -> Iterator[Service]:
    """The gateway, which takes provider and address from headers."""
    port = free_port()
    start = npm_environment() / "@portkey-ai/gateway/build/start-server.js"
    node = [*PINNED, "node", "--require", str(PEERS / "loopback.cjs"), str(start), f"--port={port}", "--headless"]
    environ = os.environ | {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
    headers = ("x-portkey-provider: openai", f"x-portkey-custom-host: {url}")
    with _quiet(node, folder, environ) as process:
        base = f"http://127.0.0.1:{port}"
        await_answer(base, process)
        yield Service(f"{base}/v1", KEY, (psutil.Process(process.pid),), headers=headers)


@contextmanager
def tensorzero(url: str, folder: Path) -> Iterator[Service]:
    """The gateway that is in the wheel of the Python client, with observability off."""
    python, config = python_environment("tensorzero") / "python", folder / "tensorzero.toml"
    config.write_text(TENSORZERO_CONFIG.format(url=url))
    command = [*PINNED, str(python), "-W", "ignore", str(PEERS / "tensorzero_gateway.py"), str(config)]
    with running(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        base = read_until(process, r"listening at (\S+?)/?\n")[1]
        yield Service(base, KEY, (psutil.Process(process.pid),), model=f"tensorzero::model_name::{MODEL}")


@contextmanager
def bare(url: str, folder: Path) -> Iterator[Service]:
    """The floor: the libraries that Quillgate is made of, doing nothing but passing on."""
    command = [*PINNED, sys.executable, str(PEERS / "bare_gateway.py"), url]
    with running(command, cwd=folder, stdout=subprocess.PIPE) as process:
        base = read_until(process, r"listening at (\S+)\n")[1]
        yield Service(base, "", (psutil.Process(process.pid),))


PEERS_BY_NAME = {
    "bare": Peer("bare aiohttp", "our libraries, with nothing done but passing on", bare),
    "litellm": Peer("LiteLLM", "Python, one worker, master key, no database", litellm),
    "portkey": Peer("Portkey", "Node, neither keys nor metering", portkey),
    "tensorzero": Peer("TensorZero", "Rust, neither keys nor metering", tensorzero),
}


def _quiet(command: list[str], folder: Path, environ: dict[str, str]) -> AbstractContextManager[subprocess.Popen[str]]:
    return running(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
