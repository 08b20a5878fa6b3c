"""The Dockerfile without a container engine: its linter, its build steps in an empty environment, and what they made.

No base image can be had from a package, so the image as a whole is built where there is a registry. What is built here
is its contents, by the very commands; and they are run as the image would: another account, no privileges, nothing
writable but the two mounts.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession
from deploy.manifests import (
    BASE,
    DOCKERFILE,
    ROOT,
    container_of,
    dockerfile_steps,
    image_environment,
    one,
    rendered,
    run,
    tool,
)
from faults.chaos.site import free_ports
from openai import AsyncOpenAI
from serve_process import ServeProcess, environment, serving

ACCOUNT = "10001"
INSTALLED = "/opt/quillgate"
BUILD_S = 600
#: A process with its own view of the files: nothing is writable but `data` and `tmp`, and it is nobody. The one right
#: that it keeps is to read: the interpreter of a test's machine may live in a home that is closed to others.
CONFINED = """
set -e
mount -t tmpfs -o mode=0700,uid=10001,gid=10001 tmpfs "$QUILLGATE_DATA_DIR"
mount -t tmpfs -o mode=1777 tmpfs "$TMPDIR"
mount --bind "$PASSWD" /etc/passwd
mount -o remount,bind,ro /
if touch "$IMAGE/written" 2>/dev/null; then echo "the root is writable"; exit 1; fi
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \
    --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search "$@"
"""


def test_the_linter_finds_nothing() -> None:
    """hadolint has nothing to say."""
    assert run(tool("hadolint"), str(DOCKERFILE)) == ""


def test_the_image_runs_as_nobody() -> None:
    """The account is a number, as `runAsNonRoot` needs it, and not root's; the stop signal is the one that drains."""
    last = {step.name: step.text for step in dockerfile_steps()}
    assert last["USER"] == f"{ACCOUNT}:{ACCOUNT}"
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert "healthcheck.py" in last["HEALTHCHECK"]


def test_everything_that_is_copied_is_sent() -> None:
    """What the build copies is there, and not among what is kept from it."""
    kept = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    sources = {part for step in dockerfile_steps() if step.name == "COPY" for part in step.text.split()[:-1]}
    wanted = {source for source in sources if not source.startswith(("--", "/"))}
    assert wanted == {line[1:] for line in kept if line.startswith("!")}
    assert all((ROOT / source).exists() for source in wanted)


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A folder with what the build stage makes of a copy of the repository, by its own commands."""
    folder = Path(tempfile.mkdtemp(prefix="quillgate-image-"))
    folder.chmod(0o755)
    source, installed = folder / "src", folder / "opt"
    source.mkdir()
    for step in dockerfile_steps():
        if step.stage != 0:
            break
        text = step.text.replace(INSTALLED, str(installed))
        if step.name == "COPY":
            *paths, target = text.split()
            for path in paths:
                _copy(ROOT / path, source / target / path if target == "./" else source / target)
        elif step.name == "RUN":
            command = text.replace("python -m venv", f"{sys.executable} -m venv", 1)
            done = subprocess.run(
                ["sh", "-ec", command], cwd=source, capture_output=True, text=True, timeout=BUILD_S, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    shutil.rmtree(source)
    yield installed
    shutil.rmtree(folder)


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    else:
        shutil.copy(path, target)


@contextmanager
def confined(image: Path, arguments: list[str], settings: dict[str, str], *, ready: str) -> Iterator[ServeProcess]:
    """Runs the image's command as the image would, on loopback instead of everywhere."""
    with tempfile.TemporaryDirectory(prefix="quillgate-confined-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        data, temporary = folder / "data", folder / "tmp"
        data.mkdir()
        temporary.mkdir()
        passwd = folder / "passwd"
        entry = f"quillgate:x:{ACCOUNT}:{ACCOUNT}::/var/lib/quillgate:/usr/sbin/nologin"
        passwd.write_text(f"{Path('/etc/passwd').read_text()}{entry}\n")
        environ = {
            **environment(data, **settings),
            "PYTHONDONTWRITEBYTECODE": image_environment()["PYTHONDONTWRITEBYTECODE"],
            "IMAGE": str(image),
            "PASSWD": str(passwd),
            "TMPDIR": str(temporary),
        }
        program = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            CONFINED,
            "sh",
            f"{image}/bin/quillgate",
        ]
        with serving(arguments, environ, ready=ready, program=program) as process:
            yield process


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make its own view of the files read-only")
async def test_the_image_serves_without_anything_writable(image: Path) -> None:
    """Core and facade from the build's result serve on a read-only root, pass their health checks, and stop cleanly.

    The core has no database of others here, so even the embedded one runs within those bounds.
    """
    grpc_port, http_port = free_ports(2)
    own = {
        "QUILLGATE_GRPC_ADDRESS": f"127.0.0.1:{grpc_port}",
        "QUILLGATE_UNREADY_S": "0.1",
    }
    facade_own = {"QUILLGATE_CORE_ADDRESS": f"dns:///localhost:{grpc_port}", "QUILLGATE_FACADE_PORT": str(http_port)}
    url = f"http://127.0.0.1:{http_port}"
    with confined(image, ["core", "--new-key"], own, ready=r"^Your key") as core:
        assert _is_healthy(image, "core", own)
        with confined(image, ["facade"], facade_own, ready=r"^core ") as facade:
            assert _is_healthy(image, "facade", facade_own)
            await _ask_probes(url)
            async with AsyncOpenAI(base_url=f"{url}/v1", api_key=core.find("Your key")) as client:
                answer = await client.chat.completions.create(
                    model="quillgate/echo", messages=[{"role": "user", "content": "Hello!"}]
                )
            assert answer.choices[0].message.content == "Hello!"
            status = Path(f"/proc/{facade.process.pid}/status").read_text()
            assert f"Uid:\t{ACCOUNT}\t{ACCOUNT}" in status
            assert facade.stop(signal.SIGTERM, timeout_s=30) == 0
            assert not _is_healthy(image, "facade", facade_own)
        assert core.stop(signal.SIGTERM, timeout_s=30) == 0
        assert not _is_healthy(image, "core", own)


def _is_healthy(image: Path, kind: str, settings: dict[str, str]) -> bool:
    command = [f"{image}/bin/python", f"{image}/healthcheck.py", kind]
    return subprocess.run(command, env=settings, timeout=30, check=False).returncode == 0


async def _ask_probes(url: str) -> None:
    """Asks for every path that Kubernetes is told to probe."""
    container = container_of(one(rendered(BASE), "Deployment", "quillgate-facade"))
    paths = {container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
    assert paths == {"/healthz", "/readyz"}
    async with ClientSession() as http:
        for path in paths:
            async with http.get(url + path) as answer:
                assert answer.status == 200
