"""What `deploy/` says, as its own tools render it: Kustomize's objects, the compose file's services, the Dockerfile."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from quillgate_cli.serve import app as serve
from quillgate_core.catalogue_basis import read_catalogue
from quillgate_core.config import PREFIX, Config
from quillgate_facade.config import FacadeConfig

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
BASE = DEPLOY / "kubernetes" / "base"
EXAMPLE = DEPLOY / "kubernetes" / "example"

Manifest = dict[str, Any]


def tool(name: str) -> str:
    """The path of a program that a package has put beside the interpreter."""
    return str(Path(sys.executable).parent / name)


def run(*command: str, **environ: str) -> str:
    """Runs a program in the repository and returns what it prints; fails the test with its complaint."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def rendered(folder: Path) -> list[Manifest]:
    """The objects of a Kustomize folder."""
    return [found for found in yaml.safe_load_all(run(tool("kubectl"), "kustomize", str(folder))) if found]


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The object of a kind whose name begins so."""
    (found,) = [item for item in manifests if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def container_of(deployment: Manifest) -> Manifest:
    """The one container of a deployment's pods."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def environment_of(container: Manifest) -> dict[str, str]:
    """The variables that a container sets to plain values, and empty ones for those that come from a secret."""
    return {item["name"]: item.get("value", "") for item in container["env"]}


def compose_services() -> dict[str, Manifest]:
    """The services of the compose file, as compose itself understands them."""
    command = (tool("docker-compose"), "-f", str(DEPLOY / "compose.yaml"), "config", "--format", "json")
    services: dict[str, Manifest] = json.loads(run(*command, POSTGRES_PASSWORD="secret"))["services"]
    return services


def core_variables() -> set[str]:
    """Every variable that a core reads, providers' keys included."""
    fields = {PREFIX + item.name.upper() for item in dataclasses.fields(Config)}
    return fields | set(read_catalogue(None).variables()) | {"QUILLGATE_LOG_LEVEL"}


def facade_variables() -> set[str]:
    """Every variable that a facade reads."""
    options = [param for param in serve.commands["facade"].params if getattr(param, "envvar", None)]
    return {item.variable for item in FacadeConfig.describe()} | {str(option.envvar) for option in options}


def seconds(text: str) -> float:
    """A duration as compose writes it: 2m20s."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text)
    assert found is not None, text
    return 60.0 * int(found[1] or 0) + int(found[2] or 0)


@dataclasses.dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile, its continued lines joined."""

    stage: int
    name: str
    text: str


def dockerfile_steps() -> list[Step]:
    """The instructions of our Dockerfile in their order; stages count from 0."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    steps: list[Step] = []
    stage = -1
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, text = line.strip().partition(" ")
        stage += name == "FROM"
        steps.append(Step(stage, name, re.sub(r" +", " ", text.strip())))
    return steps


def image_environment() -> dict[str, str]:
    """The variables that the image sets."""
    (settings,) = [step.text for step in dockerfile_steps() if step.name == "ENV"]
    return dict(pair.split("=", 1) for pair in settings.split())
