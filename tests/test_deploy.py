"""The manifests, as far as a machine without Docker and Kubernetes can tell: schemas by those who wrote them, and that every
file, command, option, route, port, environment variable and secret that one names is there.
"""

import json
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli

from scheduler import reference
from tests.kustomize import build, containers, documents, pods
from tests.served import ROOT
from tests.test_docs import check_command

DEPLOY = ROOT / "deploy"
KUBERNETES = "1.31"
OVERLAYS = sorted((DEPLOY / "kubernetes" / "overlays").iterdir())
PORT = 8000
IMAGE = f"gradfleet:{metadata.version('gradfleet')}"
Manifest = dict[str, Any]
BASE = DEPLOY / "kubernetes" / "base"
ENVIRONMENT = {
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "POSTGRES_USER",
    "POSTGRES_DB",
    "POSTGRES_PASSWORD",
}
"""Variables that Ray and PostgreSQL read; ours are looked up in the code."""
OURS = {variable for command in reference.options() for variable in [command.envvar] if variable}


@pytest.fixture(scope="module", params=OVERLAYS, ids=lambda path: path.name)
def built(request: pytest.FixtureRequest) -> list[Manifest]:
    return build(request.param)


@pytest.fixture(scope="module")
def compose() -> Manifest:
    (found,) = documents(DEPLOY / "compose.yaml")
    return found


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def check_words(words: list[str]) -> None:
    """A command line of a manifest is one that its program takes."""
    if words[0] == "gradfleet":
        check_command(words[1:])
    elif words[0] == "ray":
        command = ray_cli.commands[words[1]]
        known = {flag for option in command.params for flag in option.opts}
        assert {word.split("=")[0] for word in words[2:] if word.startswith("-")} <= known, words
    else:
        assert words[:2] == ["python", "-c"], words
        compile(words[2], "probe", "exec")


# ---------------------------------------------------------------------------------- Kubernetes


def test_each_object_is_as_its_schema_says(built: list[Manifest]) -> None:
    plain = [manifest for manifest in built if manifest["kind"] != "RayCluster"]
    assert len(plain) > 8
    for manifest in [*plain, *documents(DEPLOY / "kubernetes" / "first-token.yaml")]:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_schema_finds_a_wrong_field(built: list[Manifest]) -> None:
    broken = json.loads(json.dumps(of_kind(built, "Deployment")[0]))
    broken["spec"]["template"]["spec"]["containers"][0]["comand"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


RESOURCES = {"type": "object", "additionalProperties": False, "properties": {"requests": {}, "limits": {}}}
PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
GROUP: Manifest = {"rayStartParams": PARAMETERS, "template": {"type": "object", "required": ["spec"]}}
RAY_CLUSTER: Manifest = {
    "type": "object",
    "additionalProperties": False,
    "required": ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
    "properties": {
        "rayVersion": {"type": "string"},
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": {
            "type": "object", "additionalProperties": False,
            "properties": {
                "idleTimeoutSeconds": {"type": "integer"}, "resources": RESOURCES,
                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
            },
        },
        "authOptions": {
            "type": "object", "additionalProperties": False, "required": ["mode"],
            "properties": {"mode": {"const": "token"}, "secretName": {"type": "string"}},
        },
        "headGroupSpec": {"type": "object", "additionalProperties": False, "properties": GROUP, "required": ["template"]},
        "workerGroupSpecs": {
            "type": "array", "minItems": 1,
            "items": {
                "type": "object", "additionalProperties": False, "required": ["groupName", "template"],
                "properties": {
                    **GROUP, "groupName": {"type": "string"},
                    "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT,
                },
            },
        },
    },
}  # fmt: skip
"""The fields of KubeRay's ray.io/v1 that are used here, by its reference; no others may be."""


def test_the_ray_cluster_has_fields_that_kuberay_knows(built: list[Manifest]) -> None:
    (cluster,) = of_kind(built, "RayCluster")
    assert cluster["apiVersion"] == "ray.io/v1"
    jsonschema.validate(cluster["spec"], RAY_CLUSTER)
    head, groups = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"]
    for group in groups:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        check_words(["ray", "start", *(f"--{name}={value}" for name, value in group["rayStartParams"].items())])
    check_words(["ray", "start", "--head", *(f"--{name}={value}" for name, value in head["rayStartParams"].items())])
    for group in (head, *groups):
        template = {"metadata": {"name": "x"}, **group["template"], "apiVersion": "v1", "kind": "Pod"}
        template["metadata"]["name"] = "x"
        kubernetes_validate.validate(template, KUBERNETES, strict=True)
    assert cluster["spec"]["rayVersion"] == metadata.version("ray")


def test_pods_are_locked_down_and_bounded(built: list[Manifest]) -> None:
    templates = [pod for manifest in built for pod in pods(manifest)]
    assert len(templates) == 4
    for pod in templates:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec.get("automountServiceAccountToken") is False or is_autoscaled(built, pod)
        for container in containers(spec):
            context = container["securityContext"]
            assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def is_autoscaled(built: list[Manifest], pod: Manifest) -> bool:
    """The head of a cluster whose autoscaler asks Kubernetes for pods."""
    (cluster,) = of_kind(built, "RayCluster")
    return cluster["spec"].get("enableInTreeAutoscaling", False) and pod == cluster["spec"]["headGroupSpec"]["template"]


def test_commands_are_ones_that_there_are(built: list[Manifest]) -> None:
    said = 0
    for container in containers(built):
        lines = [
            container.get("command"),
            *(probe["exec"]["command"] for probe in probes(container) if "exec" in probe),
        ]
        for words in filter(None, lines):
            check_words(words)
            said += 1
    assert said >= 6


def probes(container: Manifest) -> list[Manifest]:
    return [probe for name, probe in container.items() if name.endswith("Probe")]


def test_probes_ask_routes_that_answer_at_ports_that_are_listened_to(built: list[Manifest]) -> None:
    routes, asked = reference.openapi()["paths"], 0
    for container in containers(built):
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for probe in probes(container):
            if "httpGet" in probe:
                assert probe["httpGet"]["path"] in routes
                assert option(container["command"], "--port") == str(ports[probe["httpGet"]["port"]])
                asked += 1
    assert asked == 6
    for manifest in of_kind(built, "Deployment"):
        marks = manifest["spec"]["template"]["metadata"].get("annotations", {})
        assert marks.get("prometheus.io/path", "/metrics") in routes


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_services_budgets_and_policies_select_pods_that_there_are(built: list[Manifest]) -> None:
    labels = [pod["metadata"]["labels"] for manifest in built for pod in pods(manifest)]
    chosen = {
        (manifest["kind"], manifest["metadata"]["name"]): manifest["spec"].get(
            "podSelector", manifest["spec"].get("selector")
        )
        for kind in ("PodDisruptionBudget", "NetworkPolicy", "Service", "Deployment")
        for manifest in of_kind(built, kind)
    }
    assert len(chosen) == 11
    for who, selector in chosen.items():
        assert any(fits(selector, each) for each in labels), who
    (service,) = of_kind(built, "Service")
    (api,) = [each for each in of_kind(built, "Deployment") if each["metadata"]["name"] == "api"]
    named = {port["name"] for container in containers(api) for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= named


def fits(selector: Manifest, labels: dict[str, str]) -> bool:
    if not {"matchLabels", "matchExpressions"} & selector.keys():  # a service's, or one that selects all
        selector = {"matchLabels": selector}
    exact = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    return exact and all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", []))


def test_only_the_api_is_open_and_ray_is_not(built: list[Manifest]) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(built, "NetworkPolicy")}
    assert policies["closed"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    anybody = {name for name, spec in policies.items() if any("from" not in rule for rule in spec.get("ingress", []))}
    assert anybody == {"api"}
    ray = next(pod["metadata"]["labels"] for each in of_kind(built, "RayCluster") for pod in pods(each))
    assert not fits(policies["api"]["podSelector"], ray)
    assert fits(policies["ray"]["podSelector"], ray)
    assert not fits(policies["ray"]["ingress"][0]["from"][0]["podSelector"], {"app.kubernetes.io/component": "api"})


def test_variables_and_secrets_are_read_by_somebody_and_told_about(built: list[Manifest]) -> None:
    told, read = (DEPLOY / "README.md").read_text(), set()
    for container in containers(built):
        for variable in container.get("env", []):
            read.add(variable["name"])
            assert variable["name"] in ENVIRONMENT | OURS, variable
            secret = variable.get("valueFrom", {}).get("secretKeyRef")
            assert secret is None or f"generic {secret['name']} --from-literal={secret['key']}=" in told
    assert {"GRADFLEET_DATABASE", "RAY_AUTH_TOKEN"} <= read
    (cluster,) = of_kind(built, "RayCluster")
    assert f"generic {cluster['spec']['authOptions']['secretName']} --from-literal=auth_token=" in told


def test_accounts_volumes_and_hosts_are_there(built: list[Manifest]) -> None:
    named = {(each["kind"], each["metadata"]["name"]) for each in built}
    for pod in [pod for manifest in built for pod in pods(manifest)]:
        spec = pod["spec"]
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", spec["serviceAccountName"]) in named
        volumes = {volume["name"] for volume in spec["volumes"]}
        for volume in spec["volumes"]:
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or ("PersistentVolumeClaim", claim["claimName"]) in named
        for container in containers(spec):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for host in re.findall(r"([a-z-]+-head-svc):6379", " ".join(container.get("command", []))):
                assert ("RayCluster", host.removesuffix("-head-svc")) in named


def test_budgets_leave_room_for_one_eviction(built: list[Manifest]) -> None:
    (cluster,) = of_kind(built, "RayCluster")
    pods_of_ray = 1 + cluster["spec"]["workerGroupSpecs"][0]["replicas"]
    budgets = {each["metadata"]["name"]: each["spec"] for each in of_kind(built, "PodDisruptionBudget")}
    assert budgets["ray"]["minAvailable"] == pods_of_ray - 1
    assert "maxUnavailable" not in budgets["ray"]  # which Kubernetes works out for its own controllers only
    for name in ("api", "runner"):
        assert budgets[name]["maxUnavailable"] == 1


def test_runners_do_not_ask_for_more_than_there_can_be(built: list[Manifest]) -> None:
    (cluster,) = of_kind(built, "RayCluster")
    group = cluster["spec"]["workerGroupSpecs"][0]
    most = group["maxReplicas"] * int(group["rayStartParams"]["num-cpus"])
    (runner,) = [each for each in of_kind(built, "Deployment") if each["metadata"]["name"] == "runner"]
    command = next(each["command"] for each in containers(runner) if each["name"] == "runner")
    assert runner["spec"]["replicas"] * int(option(command, "--workers")) <= most


def test_everything_is_of_the_one_image_of_this_version(built: list[Manifest], compose: Manifest) -> None:
    images = {container["image"] for container in containers(built)}
    images |= {container["image"] for container in containers(documents(DEPLOY / "kubernetes" / "first-token.yaml"))}
    images |= {service["image"] for name, service in compose["services"].items() if name != "database"}
    (cluster,) = documents(DEPLOY / "ray-cluster.yaml")
    images.add(cluster["docker"]["image"])
    assert images == {IMAGE}
    assert f"--tag {IMAGE} " in (DEPLOY / "README.md").read_text()


def test_every_file_of_a_folder_is_used() -> None:
    for kustomization in (DEPLOY / "kubernetes").rglob("kustomization.yaml"):
        (found,) = documents(kustomization)
        used = {
            *found.get("resources", []),
            *(patch["path"] for patch in found.get("patches", [])),
            "kustomization.yaml",
        }
        assert {path.name for path in kustomization.parent.iterdir()} == {Path(name).name for name in used} - {"base"}


# ------------------------------------------------------------------------------- Compose, ray up

COMPOSE_SERVICE: Manifest = {
    "type": "object", "additionalProperties": False, "required": ["image"],
    "properties": {
        name: {}
        for name in (
            "image", "restart", "read_only", "cap_drop", "security_opt", "environment", "env_file", "networks", "volumes",
            "healthcheck", "build", "command", "ports", "tmpfs", "depends_on", "shm_size", "ipc", "network_mode",
        )
    },
}  # fmt: skip


def test_compose_starts_commands_that_there_are_and_publishes_one_port(compose: Manifest) -> None:
    names = {"type": "object", "additionalProperties": COMPOSE_SERVICE}
    jsonschema.validate(compose["services"], names)
    assert {name for name in compose if not name.startswith("x-")} == {"name", "services", "networks", "volumes"}
    assert {name: each["ports"] for name, each in compose["services"].items() if "ports" in each} == {
        "api": [f"127.0.0.1:{PORT}:{PORT}"]
    }
    assert option(compose["services"]["api"]["command"], "--port") == str(PORT)
    for name, service in compose["services"].items():
        if name != "database":
            check_words(service["command"])
            test = service.get("healthcheck", {}).get("test")
            assert test is None or (test[0] == "CMD" and check_words(test[1:]) is None)


def test_compose_refers_to_services_networks_volumes_and_variables_that_there_are(compose: Manifest) -> None:
    told = (DEPLOY / "README.md").read_text()
    for service in compose["services"].values():
        others = [*service.get("depends_on", {}), *re.findall(r"^service:(.+)", service.get("network_mode", ""))]
        assert {*others} <= compose["services"].keys()
        assert {*service.get("networks", [])} <= compose["networks"].keys()
        mounts = {mount.split(":")[0] for mount in service.get("volumes", [])}
        assert mounts <= compose["volumes"].keys()
        assert service.get("environment", {}).keys() <= ENVIRONMENT | OURS
        for file in service.get("env_file", []):
            (variable,) = re.findall(rf'echo "(\w+)=.*" > deploy/{Path(file)}', told)
            assert variable in ENVIRONMENT | OURS
    for name, service in compose["services"].items():
        hosts = re.findall(r"--address=([a-z]+):6379", " ".join(service.get("command", [])))
        assert {*hosts} <= compose["services"].keys(), name
    assert compose["networks"]["inner"] == {"internal": True}
    assert "outer" in compose["services"]["api"]["networks"]
    assert not any(
        "outer" in service.get("networks", []) for name, service in compose["services"].items() if name != "api"
    )


def test_the_ray_cluster_file_is_valid_for_ray() -> None:
    (config,) = documents(DEPLOY / "ray-cluster.yaml")
    validate_config(prepare_config(config))
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    for line in [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]:
        check_words(shlex.split(line))


def test_ray_finds_what_is_wrong_in_a_cluster_file() -> None:
    (config,) = documents(DEPLOY / "ray-cluster.yaml")
    config["hed_node"] = {}
    with pytest.raises(jsonschema.ValidationError, match="hed_node"):
        validate_config(prepare_config(config))
