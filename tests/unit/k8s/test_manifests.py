"""The manifests fit Kubernetes' schemas, hold together, and each rule about them catches what breaks it."""

from __future__ import annotations

import copy
import functools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# `make test-newest` runs without the packages that only check the manifests; `make test` has them.
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

from unit.k8s import rules  # noqa: E402
from unit.k8s.kustomize import Object, build, load  # noqa: E402
from unit.k8s.rules import CLUSTER_RULES, OF_BOTH, RULES, Node  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "k8s" / "base"
EXAMPLE = ROOT / "k8s" / "overlays" / "example"
CLUSTER = ROOT / "k8s" / "cluster"
SHARED_FOLDER = ROOT / "k8s" / "overlays" / "cluster-shared-folder"
ALL = [BASE, EXAMPLE, CLUSTER, SHARED_FOLDER]
OLDEST = "1.29"
"""The oldest version that docs/kubernetes.md names."""
KUBECTL = shutil.which("kubectl")

Edit = Callable[[Node], Any]


def _validate(one: Object, version: str) -> None:
    kubernetes_validate.validate(one, version, strict=True)


def _versions() -> list[str]:
    versions = {tuple(map(int, version.split(".")[:2])) for version in kubernetes_validate.utils.all_versions()}
    return [f"{major}.{minor}" for major, minor in sorted(versions) if (major, minor) >= tuple(map(int, OLDEST.split(".")))]


@pytest.mark.parametrize("folder", ALL, ids=lambda path: path.name)
def test_every_object_fits_the_strict_schema_of_every_version(folder: Path) -> None:
    versions = _versions()
    assert OLDEST in versions and len(versions) > 3
    for version in versions:
        for one in build(folder):
            _validate(one, version)


@pytest.mark.parametrize(
    "edit",
    [
        lambda node: node.pod.update(enableServiceLink=False),
        lambda node: node.container["startupProbe"].update(failureTreshold=1),
        lambda node: node.stateful_set.update(replicas="1"),
        lambda node: node.container["startupProbe"]["grpc"].update(port="grpc"),
        lambda node: node.pod["securityContext"].update(readOnlyRootFilesystem=True),
    ],
)
def test_the_schema_catches_what_is_misspelt_or_misplaced(edit: Edit) -> None:
    node = Node(build(BASE))
    edit(node)
    (stateful_set,) = node.named("StatefulSet").values()
    with pytest.raises(kubernetes_validate.ValidationError):
        _validate(stateful_set, OLDEST)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=lambda path: path.name)
def test_the_rule_holds(folder: Path, rule: Callable[[Node], None]) -> None:
    rule(Node(build(folder)))


@pytest.mark.parametrize("rule", CLUSTER_RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("folder", [CLUSTER, SHARED_FOLDER], ids=lambda path: path.name)
def test_the_rule_of_clusters_holds(folder: Path, rule: Callable[[Node], None]) -> None:
    rule(Node(build(folder)))


def _config_line(old: str, new: str) -> Edit:
    def edit(node: Node) -> None:
        (found,) = node.named("ConfigMap").values()
        assert old in found["data"]["kvserver.toml"]
        found["data"]["kvserver.toml"] = found["data"]["kvserver.toml"].replace(old, new)

    return edit


def _service(name: str, **changes: Any) -> Edit:
    return lambda node: node.named("Service")[name]["spec"].update(changes)


def _mounts(node: Node) -> dict[str, Any]:
    return {mount["name"]: mount for mount in node.container["volumeMounts"]}


# What somebody could do by mistake, and the rule that says no.
MISTAKES: list[tuple[Callable[[Node], None], Edit]] = [
    (rules.the_configuration_is_understood, _config_line("memory-limit-mb", "memory-limit")),
    (rules.the_configuration_is_understood, _config_line("[tables]", "[table]")),
    (rules.the_configuration_is_understood, _config_line('"json"', '"jsn"')),
    (rules.selectors_find_the_pod, lambda node: node.pod_labels.update({"app.kubernetes.io/name": "kv"})),
    (rules.selectors_find_the_pod, lambda node: node.stateful_set["selector"]["matchLabels"].popitem()),
    (rules.selectors_find_the_pod, _service("kvserver", selector={"app.kubernetes.io/name": "kvserver"})),
    (rules.everything_carries_the_labels, lambda node: node.named("ConfigMap")["kvserver-config"]["metadata"].update(labels={})),
    (rules.ports_agree, _config_line("0.0.0.0:7400", "0.0.0.0:7401")),
    (rules.ports_agree, _config_line("0.0.0.0:7480", "127.0.0.1:7480")),
    (rules.ports_agree, _config_line('"0.0.0.0:7480"', '"off"')),
    (rules.ports_agree, _service("kvserver", ports=[{"name": "grpc", "port": 7400, "targetPort": "rpc"}])),
    (rules.services_are_one_for_the_name_and_one_for_clients, lambda node: node.stateful_set.update(serviceName="kvserver")),
    (rules.services_are_one_for_the_name_and_one_for_clients, _service("kvserver-headless", publishNotReadyAddresses=False)),
    (rules.services_are_one_for_the_name_and_one_for_clients, _service("kvserver", publishNotReadyAddresses=True)),
    (rules.probes_ask_what_they_should, lambda node: node.container["startupProbe"].update(failureThreshold=30)),
    (rules.probes_ask_what_they_should, lambda node: node.container["startupProbe"]["grpc"].update(port=7480)),
    (rules.probes_ask_what_they_should, lambda node: node.container["livenessProbe"]["httpGet"].update(path="/readyz")),
    (rules.probes_ask_what_they_should, lambda node: node.container["readinessProbe"]["httpGet"].update(path="/livez")),
    (rules.it_is_given_time_to_stop, lambda node: node.pod.update(terminationGracePeriodSeconds=5)),
    (rules.one_pod_has_the_volume, lambda node: node.stateful_set.update(replicas=2)),
    (rules.one_pod_has_the_volume, _config_line("[archive]", '[cluster]\nregister = "file:///r"\n[archive]')),
    (rules.the_pods_keep_their_volumes, lambda node: node.stateful_set.update(podManagementPolicy="OrderedReady")),
    (
        rules.the_pods_keep_their_volumes,
        lambda node: node.stateful_set["persistentVolumeClaimRetentionPolicy"].update(whenScaled="Delete"),
    ),
    (
        rules.one_pod_has_the_volume,
        lambda node: node.objects.append({"kind": "PodDisruptionBudget", "metadata": {"name": "kvserver"}}),
    ),
    (
        rules.the_pods_keep_their_volumes,
        lambda node: node.objects.append({"kind": "Namespace", "metadata": {"name": "kvserver"}}),
    ),
    (rules.what_is_mounted_is_there, _config_line("/data/node", "/srv/kv")),
    (rules.what_is_mounted_is_there, lambda node: _mounts(node)["data"].update(mountPath="/var/lib/kv")),
    (rules.what_is_mounted_is_there, lambda node: _mounts(node)["tmp"].update(name="temporary")),
    (rules.the_pod_is_restricted, lambda node: node.pod["securityContext"].update(runAsUser=0)),
    (rules.the_pod_is_restricted, lambda node: node.pod["securityContext"].update(fsGroup=0)),
    (rules.the_pod_is_restricted, lambda node: node.container["securityContext"].update(readOnlyRootFilesystem=False)),
    (rules.the_pod_is_restricted, lambda node: node.container["securityContext"].update(runAsUser=0)),
    (rules.the_pod_is_restricted, lambda node: node.container["securityContext"].update(capabilities={"add": ["SYS_ADMIN"]})),
    (rules.the_pod_is_restricted, lambda node: node.pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}})),
    (rules.the_pod_knows_nothing_of_the_cluster, lambda node: node.pod.update(enableServiceLinks=True)),
    (rules.the_pod_knows_nothing_of_the_cluster, lambda node: node.pod.update(serviceAccountName="default")),
    (
        rules.the_pod_knows_nothing_of_the_cluster,
        lambda node: node.container.update(env=[{"name": "KVSERVER_HTTP", "value": "off"}]),
    ),
    (rules.memory_is_enough, _config_line("memory-limit-mb = 256", "memory-limit-mb = 0")),
    (rules.memory_is_enough, _config_line("block-cache-mb = 128", "block-cache-mb = 1024")),
    (rules.memory_is_enough, lambda node: node.container["resources"]["requests"].update(memory="1Gi")),
    (rules.the_image_is_of_this_version, lambda node: node.container.update(image="kvserver:latest")),
]


@pytest.mark.parametrize(("rule", "mistake"), MISTAKES)
def test_the_rule_catches_the_mistake(rule: Callable[[Node], None], mistake: Edit) -> None:
    node = Node(build(BASE))
    mistake(node)
    # The server's own parser ends the process for what it does not know.
    with pytest.raises((AssertionError, LookupError, ValueError, SystemExit)):
        rule(node)


def _args(old: str, new: str) -> Edit:
    def edit(node: Node) -> None:
        words = node.container["args"]
        assert any(old in word for word in words)
        words[:] = [word.replace(old, new) for word in words]

    return edit


def _budget(node: Node) -> Any:
    (budget,) = node.named("PodDisruptionBudget").values()
    return budget["spec"]


def _shared(node: Node) -> Any:
    return node.named("PersistentVolumeClaim")["kvserver-shared"]["spec"]


# The same for a cluster, on the overlay that has most of it.
CLUSTER_MISTAKES: list[tuple[Callable[[Node], None], Edit]] = [
    (rules.the_pods_are_a_cluster, lambda node: node.stateful_set.update(replicas=2)),
    (rules.the_pods_are_a_cluster, _config_line("kvserver-2", "kvserver-3")),
    (rules.the_pods_are_a_cluster, _config_line("write-quorum = 2", "write-quorum = 1")),
    (rules.the_pods_are_a_cluster, _config_line("write-quorum = 2", "write-quorum = 3")),
    (rules.the_pods_are_a_cluster, _config_line("[cluster]", '[cluster]\nfollow = "kvserver-0:7400"')),
    (rules.the_pods_are_a_cluster, _args("$(POD_NAMESPACE).svc:7400", "$(POD_NAMESPACE).svc:7401")),
    (rules.the_pods_are_a_cluster, _args("kvserver-headless", "kvserver")),
    (rules.the_pods_are_a_cluster, _args("$(POD_NAME)", "kvserver-0")),
    (rules.the_pods_are_a_cluster, lambda node: node.container["env"].pop()),
    (rules.what_the_pods_share_is_no_node_s, _config_line("/shared/register", "/data/register")),
    (rules.what_the_pods_share_is_no_node_s, _config_line("/shared/register", "/shared/archive")),
    (rules.what_the_pods_share_is_no_node_s, _config_line('"file:///shared/archive"', '"off"')),
    (rules.what_the_pods_share_is_no_node_s, lambda node: _shared(node).update(accessModes=["ReadWriteOnce"])),
    (rules.machines_are_lost_and_drained_one_by_one, lambda node: _budget(node).update(maxUnavailable=2)),
    (rules.machines_are_lost_and_drained_one_by_one, lambda node: _budget(node).pop("unhealthyPodEvictionPolicy")),
    (
        rules.machines_are_lost_and_drained_one_by_one,
        lambda node: node.pod["topologySpreadConstraints"][0].update(whenUnsatisfiable="ScheduleAnyway"),
    ),
    (rules.selectors_find_the_pod, lambda node: _budget(node)["selector"]["matchLabels"].popitem()),
    (
        rules.nodes_reach_each_other,
        lambda node: node.named("NetworkPolicy")["kvserver"]["spec"].update(egress=[]),
    ),
]


@pytest.mark.parametrize(("rule", "mistake"), CLUSTER_MISTAKES)
def test_the_rule_of_clusters_catches_the_mistake(rule: Callable[[Node], None], mistake: Edit) -> None:
    node = Node(build(SHARED_FOLDER))
    mistake(node)
    with pytest.raises((AssertionError, LookupError, ValueError, SystemExit)):
        rule(node)


def test_credentials_are_wanted_where_the_register_is_in_object_storage() -> None:
    node = Node(build(CLUSTER))
    node.container.pop("envFrom")
    with pytest.raises(LookupError):
        rules.what_the_pods_share_is_no_node_s(node)


def test_every_rule_has_a_mistake() -> None:
    assert {rule for rule, _ in MISTAKES} == set(RULES)
    assert {rule for rule, _ in CLUSTER_MISTAKES} >= set(CLUSTER_RULES) - set(OF_BOTH)


def test_the_example_changes_what_it_says() -> None:
    base, example = Node(build(BASE)), Node(build(EXAMPLE))
    (claim,) = example.stateful_set["volumeClaimTemplates"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOncePod"],
        "resources": {"requests": {"storage": "100Gi"}},
        "storageClassName": "fast-ssd",
    }
    assert example.container["image"] == f"registry.example.com/{base.container['image']}"
    assert all(one["metadata"].get("namespace") == "kvserver" for one in example.objects)
    changed = copy.deepcopy(base.pod)
    changed["containers"][0]["image"] = example.container["image"]
    assert changed == example.pod


def test_every_file_is_used() -> None:
    for folder in ALL:
        (kustomization,) = load((folder / "kustomization.yaml").read_text())
        generated = [name for one in kustomization.get("configMapGenerator", []) for name in one["files"]]
        used = {"kustomization.yaml", *kustomization["resources"], *generated}
        assert {path.name for path in folder.iterdir()} == {name for name in used if "/" not in name}


@functools.cache
def _kubectl(folder: Path) -> list[Object]:
    assert KUBECTL is not None
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "kubectl warns"
    return load(re.sub(r"\b(kvserver-config)-[a-z0-9]{10}\b", r"\1", done.stdout))


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not there; only our own builder was asked what the kustomizations make")
@pytest.mark.parametrize("folder", ALL, ids=lambda path: path.name)
def test_kubectl_makes_the_same_of_it(folder: Path) -> None:
    def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
        return {(one["kind"], one["metadata"]["name"]): one for one in objects}

    assert by_name(_kubectl(folder)) == by_name(build(folder))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("resources: []\nnamePrefix: x-\n", "does not know namePrefix"),
        ("resources: [a.yaml]\nresources: [a.yaml]\n", "written twice: resources"),
        ("resources: [a.yaml, a.yaml]\n", "is there twice"),
        (
            "resources: [a.yaml]\npatches:\n- target: {kind: Service, name: a}\n"
            "  patch: '[{op: replace, path: /spec/x, value: 1}]'\n",
            "is not there to be replaced",
        ),
    ],
)
def test_the_builder_refuses_what_it_does_not_know(tmp_path: Path, text: str, what: str) -> None:
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    (tmp_path / "kustomization.yaml").write_text(head + text)
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}\n")
    with pytest.raises(AssertionError, match=what):
        build(tmp_path)
