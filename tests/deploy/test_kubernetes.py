"""The Kustomize base and its example are what Kubernetes takes, and say what the service really reads and serves."""

from typing import Any

import kubernetes_validate
import pytest
from deploy.manifests import (
    BASE,
    DEPLOY,
    EXAMPLE,
    container_of,
    core_variables,
    environment_of,
    facade_variables,
    image_environment,
    one,
    rendered,
)

from quillgate_core.config import Config
from quillgate_facade.config import FacadeConfig

VERSIONS = ("1.32", "1.34", "1.37")
ROLES = ("core", "facade")
LAST_WORDS_S = 15
"""What a process may need beyond its own times: 10 s for settlements that the database did not take, and 2 s."""


def deployment(role: str) -> dict[str, Any]:
    """The deployment of the cores or the facades."""
    return one(rendered(BASE), "Deployment", f"quillgate-{role}")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_its_schema(version: str) -> None:
    """Each object of the base and of the example has the form that this Kubernetes documents, and nothing unknown."""
    manifests = [*rendered(BASE), *rendered(EXAMPLE)]
    assert len(manifests) > 20
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_check_of_schemas_finds_a_typo() -> None:
    """A member that does not exist is refused: the check does check."""
    wrong = deployment("core")
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize(("role", "known"), [("core", core_variables()), ("facade", facade_variables())], ids=ROLES)
def test_variables_are_settings(role: str, known: set[str]) -> None:
    """Every variable that is set is one that the process reads, and its value is one that it takes."""
    given = environment_of(container_of(deployment(role)))
    assert set(given) <= known
    own = {name: value for name, value in given.items() if name.startswith("QUILLGATE_FACADE_")}
    FacadeConfig.from_environ(own)
    Config.from_environ({name: value for name, value in given.items() if name.endswith("_S") and name not in own})


def test_kubernetes_own_variables_stay_out() -> None:
    """Of a Service Kubernetes makes variables whose names could be our settings': pods are not given any."""
    for role in ROLES:
        assert deployment(role)["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_the_grace_period_holds_the_stop() -> None:
    """Kubernetes kills a pod only after it had its times to be unready and to drain, and some seconds."""
    core, facade = (deployment(role)["spec"]["template"]["spec"] for role in ROLES)
    core_s = environment_of(core["containers"][0])
    facade_s = environment_of(facade["containers"][0])
    stop_s = float(core_s["QUILLGATE_UNREADY_S"]) + float(core_s["QUILLGATE_DRAIN_S"])
    assert core["terminationGracePeriodSeconds"] >= stop_s + LAST_WORDS_S
    stop_s = float(facade_s["QUILLGATE_FACADE_UNREADY_S"]) + float(facade_s["QUILLGATE_FACADE_DRAIN_TIMEOUT_S"])
    assert facade["terminationGracePeriodSeconds"] >= stop_s + LAST_WORDS_S


def test_a_facade_is_unready_long_enough_to_be_noticed() -> None:
    """It still takes connections when its readiness probe has failed for good."""
    container = container_of(deployment("facade"))
    probe = container["readinessProbe"]
    noticed_s = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert float(environment_of(container)["QUILLGATE_FACADE_UNREADY_S"]) > noticed_s


@pytest.mark.parametrize("role", ROLES)
def test_pods_may_do_little(role: str) -> None:
    """No root, no privileges, nothing to write on but the mounts, as the restricted pod security standard wants it."""
    spec = deployment(role)["spec"]["template"]["spec"]
    container = container_of(deployment(role))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


def test_cores_can_write_where_they_write() -> None:
    """The data directory of the image and /tmp are writable volumes of their own."""
    container = container_of(deployment("core"))
    volumes = {item["name"]: item for item in deployment("core")["spec"]["template"]["spec"]["volumes"]}
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if "emptyDir" in volumes[mount["name"]]}
    assert writable == {image_environment()["QUILLGATE_DATA_DIR"], "/tmp"}


def test_all_cores_share_pepper_and_master_key() -> None:
    """Both come from the one secret, at the paths that the settings name."""
    spec = deployment("core")["spec"]["template"]["spec"]
    container = container_of(deployment("core"))
    given = environment_of(container)
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "secrets"]
    (volume,) = [item for item in spec["volumes"] if item["name"] == "secrets"]
    paths = {item["key"]: f"{mount['mountPath']}/{item['path']}" for item in volume["secret"]["items"]}
    assert paths == {
        "pepper": given["QUILLGATE_PEPPER_FILE"],
        "master-key": given["QUILLGATE_MASTER_KEY_FILE"],
    }


def test_the_example_gives_what_the_base_asks_for() -> None:
    """The secrets that pods refer to are among the objects, under the very names, with the keys that are wanted."""
    manifests = rendered(EXAMPLE)
    spec = one(manifests, "Deployment", "quillgate-core")["spec"]["template"]["spec"]
    secrets = {item["metadata"]["name"]: set(item.get("data", {})) for item in manifests if item["kind"] == "Secret"}
    (volume,) = [item["secret"] for item in spec["volumes"] if item["name"] == "secrets"]
    (reference,) = [item["valueFrom"]["secretKeyRef"] for item in spec["containers"][0]["env"] if "valueFrom" in item]
    assert secrets[volume["secretName"]] == {"database-url", "master-key", "pepper"}
    assert reference["name"] == volume["secretName"]
    assert spec["containers"][0]["envFrom"][0]["secretRef"]["name"] in secrets


def test_the_shared_journal_replaces_the_pods_own() -> None:
    """With the component, every core has its data directory on the one claim."""
    manifests = rendered(EXAMPLE)
    spec = one(manifests, "Deployment", "quillgate-core")["spec"]["template"]["spec"]
    claim = one(manifests, "PersistentVolumeClaim", "quillgate-journal")
    (volume,) = [item for item in spec["volumes"] if item["name"] == "data"]
    assert volume == {"name": "data", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_facades_find_all_cores() -> None:
    """The name in the setting is that of a headless service, on the port that cores serve; others are not let in."""
    manifests = rendered(BASE)
    service = one(manifests, "Service", "quillgate-core")
    address = environment_of(container_of(one(manifests, "Deployment", "quillgate-facade")))["QUILLGATE_CORE_ADDRESS"]
    port = image_environment()["QUILLGATE_GRPC_ADDRESS"].split(":")[1]
    assert address == f"dns:///{service['metadata']['name']}:{port}"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["ports"][0]["port"] == int(port)
    labels = one(manifests, "Deployment", "quillgate-facade")["spec"]["template"]["metadata"]["labels"]
    (rule,) = one(manifests, "NetworkPolicy", "quillgate-core")["spec"]["ingress"]
    allowed = rule["from"][0]["podSelector"]["matchLabels"]
    assert allowed.items() <= labels.items()
    assert [item["port"] for item in rule["ports"]] == [int(port)]


@pytest.mark.parametrize("role", ROLES)
def test_selectors_find_the_pods(role: str) -> None:
    """Service, disruption budget and autoscaler are about the pods of their deployment, and about no others."""
    manifests = rendered(BASE)
    name = f"quillgate-{role}"
    labels = one(manifests, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
    service = one(manifests, "Service", {"core": name, "facade": "quillgate"}[role])["spec"]["selector"]
    budget = one(manifests, "PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"]
    for selector in (service, budget, one(manifests, "Deployment", name)["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/component"] == role
    target = one(manifests, "HorizontalPodAutoscaler", name)["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", name)
    assert one(manifests, "HorizontalPodAutoscaler", name)["spec"]["minReplicas"] == 2


def test_the_guide_names_every_folder() -> None:
    """deploy/README.md tells of each file and folder that is there."""
    text = (DEPLOY / "README.md").read_text()
    names = {path.name for path in DEPLOY.iterdir()} | {f"kubernetes/{path.name}" for path in BASE.parent.iterdir()}
    assert {name for name in names - {"README.md", "__pycache__"} if f"`{name}" not in text} == set()
