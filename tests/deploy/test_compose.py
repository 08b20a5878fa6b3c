"""The compose file is what compose takes, and says what the service really reads and serves."""

import shutil
from pathlib import Path

import pytest
from deploy.manifests import (
    DEPLOY,
    compose_services,
    core_variables,
    facade_variables,
    image_environment,
    run,
    seconds,
)

from quillgate_core.catalogue_basis import read_catalogue
from quillgate_facade.config import FacadeConfig

OURS = ("core-1", "core-2", "facade-1", "facade-2")
LAST_WORDS_S = 15


def test_the_shape() -> None:
    """PostgreSQL, two cores, two facades, one load balancer."""
    assert set(compose_services()) == {"postgres", *OURS, "balancer"}


def test_variables_are_settings() -> None:
    """Every variable that is set is one that the process reads; every bundled provider's key can be handed in."""
    services = compose_services()
    for name in OURS:
        given = {key: value for key, value in services[name]["environment"].items() if value is not None}
        known = core_variables() if name.startswith("core") else facade_variables()
        assert set(services[name]["environment"]) <= known
        FacadeConfig.from_environ({key: value for key, value in given.items() if key.startswith("QUILLGATE_FACADE_")})
    keys = {name for name in read_catalogue(None).variables() if name.endswith("_API_KEY")}
    passed = set(services["core-1"]["environment"])
    assert {name for name in keys if name not in passed and not name.startswith(("AZURE", "VLLM", "OLLAMA"))} == set()


def test_containers_may_do_little() -> None:
    """Nothing of ours is privileged, and what is written goes to a volume or to memory."""
    services = compose_services()
    for name in (*OURS, "balancer"):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name in OURS:
        assert services[name]["tmpfs"][0].startswith("/tmp:")


def test_cores_share_their_secrets_and_journals() -> None:
    """Both have the image's data directory on the same volume."""
    mounts = [compose_services()[name]["volumes"] for name in ("core-1", "core-2")]
    assert mounts[0] == mounts[1]
    assert mounts[0][0]["target"] == image_environment()["QUILLGATE_DATA_DIR"]


def test_only_the_balancer_is_reachable_and_only_from_this_host() -> None:
    """One port is published, on loopback: it is plain HTTP."""
    published = {name: service["ports"] for name, service in compose_services().items() if "ports" in service}
    assert set(published) == {"balancer"}
    assert published["balancer"][0]["host_ip"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "prefix", "drain"),
    [("core-1", "QUILLGATE_", "DRAIN_S"), ("facade-1", "QUILLGATE_FACADE_", "DRAIN_TIMEOUT_S")],
)
def test_the_grace_period_holds_the_stop(name: str, prefix: str, drain: str) -> None:
    """The engine kills a container only after it had its times to be unready and to drain, and some seconds."""
    service = compose_services()[name]
    given = service["environment"]
    stop_s = float(given[f"{prefix}UNREADY_S"]) + float(given[prefix + drain])
    assert seconds(service["stop_grace_period"]) >= stop_s + LAST_WORDS_S


def test_a_facade_is_unready_long_enough_to_be_noticed() -> None:
    """The balancer looks more often than a facade that stops needs to be looked at."""
    lines = [line.split() for line in (DEPLOY / "haproxy.cfg").read_text().splitlines()]
    (check,) = [words for words in lines if words[:1] == ["default-server"]]
    looks_s = int(check[check.index("inter") + 1].removesuffix("s")) * int(check[check.index("fall") + 1])
    unready_s = compose_services()["facade-1"]["environment"]["QUILLGATE_FACADE_UNREADY_S"]
    assert float(unready_s) > looks_s
    servers = {words[1]: words[2] for words in lines if words[:1] == ["server"]}
    assert servers == {"facade-1": "facade-1:8080", "facade-2": "facade-2:8080"}


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")
def test_the_balancer_takes_its_configuration(tmp_path: Path) -> None:
    """HAProxy itself finds nothing wrong; names are those of loopback here, for it looks them up."""
    config = tmp_path / "haproxy.cfg"
    text = (DEPLOY / "haproxy.cfg").read_text()
    config.write_text(text.replace(" facade-1:8080", " 127.0.0.1:8080").replace(" facade-2:8080", " 127.0.0.1:8081"))
    run("haproxy", "-c", "-dW", "-f", str(config))
