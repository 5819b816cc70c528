"""A builder of kustomizations for the few things that ours use, so that they can be judged where there is no kubectl.

It does what ``kubectl kustomize`` does, but for the hash behind a generated name; a test compares the two where kubectl is
there. What it does not know it refuses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

Object = dict[str, Any]

_HEAD = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
# Kinds that belong to a namespace, of those that we use.
_KINDS = frozenset(
    {
        *("ConfigMap", "NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget"),
        *("Service", "ServiceAccount", "StatefulSet"),
    }
)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML as it should be read: a key that is written twice is a mistake, not the last one."""


def _mapping(loader: Any, node: Any) -> Object:
    pairs = loader.construct_pairs(node, deep=True)
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    assert not twice, f"{node.start_mark}: written twice: {', '.join(twice)}"
    return dict(pairs)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(text: str) -> list[Object]:
    """Return the objects of a YAML text."""
    return [one for one in yaml.load_all(text, Loader=_Loader) if one is not None]


def build(folder: Path) -> list[Object]:
    """Return the objects of a kustomization. Raises AssertionError for what is wrong with it or not known here."""
    (kustomization,) = load((folder / "kustomization.yaml").read_text())
    assert kustomization.items() >= _HEAD.items(), f"{folder}: not a kustomization"
    objects: list[Object] = []
    for name in kustomization.get("resources", []):
        path = folder / name
        objects += build(path) if path.is_dir() else load(path.read_text())
    steps: dict[str, Callable[[Any], None]] = {
        "configMapGenerator": lambda value: _generate(objects, _config_maps(folder, value), value),
        "images": lambda value: _set_images(objects, value),
        "patches": lambda value: _apply_patches(objects, value),
        "namespace": lambda value: _set_namespace(objects, value),
    }
    unknown = kustomization.keys() - _HEAD.keys() - steps.keys() - {"resources"}
    assert not unknown, f"{folder}: this builder does not know {', '.join(sorted(unknown))}"
    for key, step in steps.items():
        if key in kustomization:
            step(kustomization[key])
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names), f"{folder}: an object is there twice: {names}"
    return objects


def _generate(objects: list[Object], made: Iterator[Object], generators: list[Object]) -> None:
    """Add generated objects, or put them in the place of those that a resource has generated."""
    for generator, one in zip(generators, made, strict=True):
        known = [(found["kind"], found["metadata"]["name"]) for found in objects]
        key = (one["kind"], one["metadata"]["name"])
        assert generator.get("behavior", "create") == ("replace" if key in known else "create"), f"{key} is, or is not, there"
        if key in known:
            objects[known.index(key)] = one
        else:
            objects.append(one)


def _config_maps(folder: Path, generators: list[Object]) -> Iterator[Object]:
    for generator in generators:
        assert generator.keys() <= {"name", "behavior", "files", "options"}
        assert generator.get("options", {}).keys() <= {"labels"}
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": generator["name"], **copy.deepcopy(generator.get("options", {}))},
            "data": {name: (folder / name).read_text() for name in generator["files"]},
        }


def _set_images(objects: list[Object], images: list[Object]) -> None:
    for image in images:
        assert image.keys() <= {"name", "newName", "newTag"}
        for container in (one for found in objects for one in containers(found)):
            name, _, tag = container["image"].partition(":")
            if name == image["name"]:
                container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"


def containers(found: Object) -> list[Object]:
    """Return the containers of an object; none where it has no pods."""
    pod = found["spec"]["template"]["spec"] if found["kind"] == "StatefulSet" else {}
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def _set_namespace(objects: list[Object], namespace: str) -> None:
    for found in objects:
        assert found["kind"] in _KINDS, f"this builder does not know whether a {found['kind']} belongs to a namespace"
        found["metadata"]["namespace"] = namespace


def _apply_patches(objects: list[Object], patches: list[Object]) -> None:
    for patch in patches:
        assert patch.keys() == {"target", "patch"} and patch["target"].keys() == {"kind", "name"}
        wanted = (patch["target"]["kind"], patch["target"]["name"])
        (target,) = (one for one in objects if (one["kind"], one["metadata"]["name"]) == wanted)
        for step in yaml.load(patch["patch"], Loader=_Loader):
            _apply(target, **step)


def _apply(target: Any, op: str, path: str, value: Any) -> None:
    """Carry out one step of a JSON patch (RFC 6902)."""
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in path.removeprefix("/").split("/"))
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target[part]
    assert op in ("add", "replace"), f"this builder does not know the patch {op}"
    if last == "-" and op == "add":
        assert isinstance(target, list), f"{path}: only a list has an end"
        target.append(value)
        return
    assert op == "add" or last in target, f"{path} is not there to be replaced"
    assert isinstance(target, dict), f"{path}: this builder patches keys only"
    target[last] = value
