"""What must hold of the objects of one node, beyond their schema: each rule a function that raises AssertionError."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import kvserver
from kvserver.base.limits import MIB
from kvserver.server import app, config
from kvserver.server.config import ServeConfig
from unit.k8s.kustomize import Object

IDENTITY_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component")
LEAST_START_S = 1800
LEAST_STOP_S = 30
PYTHON_BYTES = 512 * MIB
"""What interpreter, code, connections and the process that builds tables may take, generously."""
_UNITS = {"Mi": MIB, "Gi": 1024 * MIB}


class Node:
    """The objects of one node, and the parts of them that the rules are about."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def named(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind by their names."""
        return {one["metadata"]["name"]: one for one in self.objects if one["kind"] == kind}

    @property
    def stateful_set(self) -> Object:
        """Return what describes the pod and its volume."""
        (found,) = self.named("StatefulSet").values()
        spec: Object = found["spec"]
        return spec

    @property
    def pod(self) -> Object:
        """Return the pod's specification."""
        spec: Object = self.stateful_set["template"]["spec"]
        return spec

    @property
    def pod_labels(self) -> dict[str, str]:
        """Return the pod's labels."""
        labels: dict[str, str] = self.stateful_set["template"]["metadata"]["labels"]
        return labels

    @property
    def container(self) -> Object:
        """Return the one container."""
        (found,) = self.pod["containers"]
        container: Object = found
        return container

    @property
    def ports(self) -> dict[str, int]:
        """Return the container's ports by name."""
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    def config(self) -> ServeConfig:
        """Return what the server makes of its arguments and the ConfigMap; it ends the process for what it does not know."""
        command, flag, file = self.container["args"]
        assert (command, flag) == ("serve", "--config")
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        mount = next(one for one in self.container["volumeMounts"] if one["mountPath"] == str(PurePosixPath(file).parent))
        data = self.named("ConfigMap")[volumes[mount["name"]]["configMap"]["name"]]["data"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kvserver.toml")
            path.write_text(data[PurePosixPath(file).name])
            return config.parse([command, flag, str(path)], {})


def quantity(text: str) -> int:
    """Return bytes: 256Mi, 1Gi."""
    return int(text[:-2]) * _UNITS[text[-2:]]


def the_configuration_is_understood(node: Node) -> None:
    told = node.config()
    assert not told.warnings
    assert told.log_format == "json"
    assert not told.name, "the node's name is the pod's"


def selectors_find_the_pod(node: Node) -> None:
    assert all(label in node.pod_labels for label in IDENTITY_LABELS)
    selectors = [node.stateful_set["selector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in node.named("Service").values()]
    selectors += [policy["spec"]["podSelector"]["matchLabels"] for policy in node.named("NetworkPolicy").values()]
    for selector in selectors:
        assert selector == {label: node.pod_labels[label] for label in IDENTITY_LABELS}


def everything_carries_the_labels(node: Node) -> None:
    for one in node.objects:
        assert {label: one["metadata"]["labels"][label] for label in IDENTITY_LABELS}.items() <= node.pod_labels.items()


def ports_agree(node: Node) -> None:
    told = node.config()
    assert told.http is not None
    assert node.ports == {"grpc": told.listen.port, "http": told.http.port}
    assert (told.listen.host, told.http.host) == ("0.0.0.0", "0.0.0.0"), "a pod's loopback address is reached by nobody"
    for service in node.named("Service").values():
        for port in service["spec"]["ports"]:
            assert port["targetPort"] == port["name"] and node.ports[port["name"]] == port["port"]
    for policy in node.named("NetworkPolicy").values():
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= node.ports.keys()
    annotations = node.stateful_set["template"]["metadata"]["annotations"]
    assert (annotations["prometheus.io/port"], annotations["prometheus.io/path"]) == (str(told.http.port), "/metrics")


def services_are_one_for_the_name_and_one_for_clients(node: Node) -> None:
    services = {name: service["spec"] for name, service in node.named("Service").items()}
    headless = services.pop(node.stateful_set["serviceName"])
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True
    (client,) = services.values()
    assert "clusterIP" not in client
    assert not client.get("publishNotReadyAddresses", False), "clients would be sent to a node that is not ready"
    assert {port["name"] for port in headless["ports"]} == {"grpc", "http"}
    assert {port["name"] for port in client["ports"]} == {"grpc"}


def probes_ask_what_they_should(node: Node) -> None:
    start, live, ready = (node.container[f"{name}Probe"] for name in ("startup", "liveness", "readiness"))
    assert start["grpc"] == {"port": node.ports["grpc"]}, "gRPC is what is started last"
    assert start["periodSeconds"] * start["failureThreshold"] >= LEAST_START_S
    assert live["httpGet"] == {"path": "/livez", "port": "http"}
    assert live["periodSeconds"] * live["failureThreshold"] >= LEAST_STOP_S, "a restart costs more than a pause"
    assert ready["httpGet"] == {"path": "/readyz", "port": "http"}
    assert not any("initialDelaySeconds" in probe for probe in (start, live, ready)), "that is what the start-up probe is for"


def it_is_given_time_to_stop(node: Node) -> None:
    assert node.pod["terminationGracePeriodSeconds"] >= app.GRACE_S + LEAST_STOP_S


def one_pod_has_the_volume(node: Node) -> None:
    spec = node.stateful_set
    assert spec["replicas"] == 1
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["updateStrategy"]["type"] == "RollingUpdate"
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] in (["ReadWriteOnce"], ["ReadWriteOncePod"])
    assert not node.named("Namespace"), "deleted with the rest, it would take the claim along"
    assert not node.named("PodDisruptionBudget"), "with one pod it would keep a machine from being drained, or do nothing"


def what_is_mounted_is_there(node: Node) -> None:
    volumes = {volume["name"]: volume for volume in node.pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in node.stateful_set["volumeClaimTemplates"]}
    mounts = {mount["mountPath"]: mount for mount in node.container["volumeMounts"]}
    assert sorted(mount["name"] for mount in mounts.values()) == sorted(volumes.keys() | claims)
    (folder,) = (path for path, mount in mounts.items() if mount["name"] in claims)
    assert Path(folder) in node.config().data_dir.parents, "the data would lie in the container, and end with it"
    assert not mounts[folder].get("readOnly", False)
    assert "emptyDir" in volumes[mounts["/tmp"]["name"]]


def the_pod_is_restricted(node: Node) -> None:
    """What Kubernetes' pod security standard "restricted" asks for, and a root file system that cannot be written."""
    pod, container = node.pod["securityContext"], node.container["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] >= 10_000 and pod["runAsGroup"] >= 10_000
    assert pod["fsGroup"] == pod["runAsGroup"], "the volume would belong to root"
    assert pod["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert not container.get("privileged", False)
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert not container.keys() & {"runAsUser", "runAsNonRoot"}
    assert not any(node.pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    assert all(volume.keys() & {"configMap", "emptyDir"} for volume in node.pod["volumes"])


def the_pod_knows_nothing_of_the_cluster(node: Node) -> None:
    assert node.pod["enableServiceLinks"] is False
    assert node.pod["automountServiceAccountToken"] is False
    assert node.named("ServiceAccount")[node.pod["serviceAccountName"]]["automountServiceAccountToken"] is False
    names = {variable["name"] for variable in node.container.get("env", [])}
    assert not {name for name in names if name.startswith("KVSERVER_")}, "it would win over the file, unseen"


def memory_is_enough(node: Node) -> None:
    engine = node.config().engine
    needed = engine.pipeline.memory_limit_bytes + engine.tables.block_cache_bytes + engine.pipeline.max_waiting_bytes
    resources: Any = node.container["resources"]
    assert engine.pipeline.memory_limit_bytes, "without a limit the kernel's is the only one"
    assert quantity(resources["limits"]["memory"]) >= needed + PYTHON_BYTES
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert "cpu" in resources["requests"] and "cpu" not in resources["limits"]


def the_image_is_of_this_version(node: Node) -> None:
    name, _, tag = node.container["image"].rpartition(":")
    assert name.rpartition("/")[2] == "kvserver"
    assert tag == kvserver.__version__


RULES = (
    the_configuration_is_understood,
    selectors_find_the_pod,
    everything_carries_the_labels,
    ports_agree,
    services_are_one_for_the_name_and_one_for_clients,
    probes_ask_what_they_should,
    it_is_given_time_to_stop,
    one_pod_has_the_volume,
    what_is_mounted_is_there,
    the_pod_is_restricted,
    the_pod_knows_nothing_of_the_cluster,
    memory_is_enough,
    the_image_is_of_this_version,
)
