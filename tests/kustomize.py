"""As much of kustomize as the manifests use: resources of folders, strategic merges, JSON patches, namespaces, images, labels."""

import json
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}
"""The lists that Kubernetes merges, and by what."""
CLUSTER_WIDE = {"Namespace"}


def documents(path: Path) -> list[Manifest]:
    """Each document of a YAML file, with nothing that is shared among them."""
    return [json.loads(json.dumps(each)) for each in yaml.safe_load_all(path.read_text()) if each is not None]


def build(folder: Path) -> list[Manifest]:
    """What `kubectl apply --kustomize` would send."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    assert kustomization.pop("kind") == "Kustomization"
    assert kustomization.pop("apiVersion") == "kustomize.config.k8s.io/v1beta1"
    found: list[Manifest] = []
    for name in kustomization.pop("resources", []):
        path = folder / name
        found += build(path) if path.is_dir() else documents(path)
    for patch in kustomization.pop("patches", []):
        _patch(found, folder / patch["path"], patch.get("target"))
    _transform(found, kustomization)
    assert not kustomization, f"{folder}: {sorted(kustomization)} is not known here"
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(names) == len(set(names)), names
    return found


def _patch(found: list[Manifest], path: Path, target: dict[str, str] | None) -> None:
    (change,) = documents(path)
    if target is None:
        merge(_one(found, change["kind"], change["metadata"]["name"]), change)
        return
    manifest = _one(found, target["kind"], target["name"])
    assert manifest["apiVersion"] == f"{target['group']}/{target['version']}"
    for operation in change:
        _operate(manifest, operation)


def _operate(manifest: Any, operation: Manifest) -> None:
    *steps, last = operation["path"].lstrip("/").split("/")
    for step in steps:
        manifest = manifest[int(step) if isinstance(manifest, list) else step]
    exists = last in manifest
    assert exists is (operation["op"] != "add"), operation
    if operation["op"] == "remove":
        del manifest[last]
    else:
        manifest[last] = operation["value"]


def merge(into: Manifest, change: Manifest) -> None:
    """A strategic merge: objects by field, some lists by a key, everything else as a whole."""
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            merge(into[name], value)
        elif name in KEYS and name in into:
            key = KEYS[name]
            for item in value:
                merge(next(each for each in into[name] if each[key] == item[key]), item)
        else:
            into[name] = value


def _one(found: list[Manifest], kind: str, name: str) -> Manifest:
    (manifest,) = [each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return manifest


def _transform(found: list[Manifest], kustomization: Manifest) -> None:
    namespace, images = kustomization.pop("namespace", None), kustomization.pop("images", [])
    labels = {name: value for entry in kustomization.pop("labels", []) for name, value in entry["pairs"].items()}
    for manifest in found:
        if namespace and manifest["kind"] not in CLUSTER_WIDE:
            manifest["metadata"]["namespace"] = namespace
        if labels:
            manifest["metadata"].setdefault("labels", {}).update(labels)
        for container in containers(manifest):
            for image in images:
                if container["image"] == image["name"]:
                    container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"


def containers(value: Any) -> list[Manifest]:
    """The containers of all pods anywhere in a manifest."""
    if isinstance(value, list):
        return [found for item in value for found in containers(item)]
    if not isinstance(value, dict):
        return []
    own = [item for name in ("initContainers", "containers") for item in value.get(name, [])]
    return own + [
        found
        for name, item in value.items()
        if name not in ("initContainers", "containers")
        for found in containers(item)
    ]


def pods(value: Any) -> list[Manifest]:
    """All pod templates anywhere in a manifest."""
    if isinstance(value, list):
        return [found for item in value for found in pods(item)]
    if not isinstance(value, dict):
        return []
    own = [value["template"]] if isinstance(value.get("template"), dict) and "spec" in value["template"] else []
    return own + [found for item in value.values() for found in pods(item)]
