"""What must hold of the objects of a node or a cluster, beyond their schema: each rule a function that raises AssertionError."""

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
NAMESPACE = "kvserver"
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
        command, flag, file, *others = self.container["args"]
        assert (command, flag) == ("serve", "--config")
        assert all("$(" not in word for word in (command, flag, file))
        volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        mount = next(one for one in self.container["volumeMounts"] if one["mountPath"] == str(PurePosixPath(file).parent))
        data = self.named("ConfigMap")[volumes[mount["name"]]["configMap"]["name"]]["data"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kvserver.toml")
            path.write_text(data[PurePosixPath(file).name])
            return config.parse([command, flag, str(path), *(self._expanded(word) for word in others)], {})

    def _expanded(self, word: str) -> str:
        """Return a word of the command line as Kubernetes makes it for the first pod, in a namespace of its own name."""
        fields = {"metadata.name": f"{self.name}-0", "metadata.namespace": NAMESPACE}
        for variable in self.container.get("env", []):
            word = word.replace(f"$({variable['name']})", fields[variable["valueFrom"]["fieldRef"]["fieldPath"]])
        assert "$(" not in word, f"{word} would reach the server as it is"
        return word

    @property
    def name(self) -> str:
        """Return what the pods' names begin with."""
        (name,) = self.named("StatefulSet")
        return name


def quantity(text: str) -> int:
    """Return bytes: 256Mi, 1Gi."""
    return int(text[:-2]) * _UNITS[text[-2:]]


def the_configuration_is_understood(node: Node) -> None:
    told = node.config()
    assert not told.warnings
    assert told.log_format == "json"
    assert not told.name or told.name == f"{node.name}-0", "the node's name is the pod's"


def selectors_find_the_pod(node: Node) -> None:
    assert all(label in node.pod_labels for label in IDENTITY_LABELS)
    selectors = [node.stateful_set["selector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in node.named("Service").values()]
    selectors += [policy["spec"]["podSelector"]["matchLabels"] for policy in node.named("NetworkPolicy").values()]
    selectors += [budget["spec"]["selector"]["matchLabels"] for budget in node.named("PodDisruptionBudget").values()]
    selectors += [spread["labelSelector"]["matchLabels"] for spread in node.pod.get("topologySpreadConstraints", [])]
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


def the_pods_keep_their_volumes(node: Node) -> None:
    spec = node.stateful_set
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["updateStrategy"]["type"] == "RollingUpdate"
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] in (["ReadWriteOnce"], ["ReadWriteOncePod"])
    assert not node.named("Namespace"), "deleted with the rest, it would take the claim along"


def one_pod_has_the_volume(node: Node) -> None:
    assert node.stateful_set["replicas"] == 1
    assert node.config().cluster is None, "a node of a cluster names a register, and there are others"
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
    assert all(volume.keys() & {"configMap", "emptyDir", "persistentVolumeClaim"} for volume in node.pod["volumes"])


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


def the_pods_are_a_cluster(node: Node) -> None:
    """Each pod has a name and an address of its own, all else is the same for them; the policy counts exactly these pods."""
    spec, cluster = node.stateful_set, node.config().cluster
    assert cluster is not None and cluster.advertise is not None
    assert spec["replicas"] == len(cluster.members) >= 3
    assert cluster.members == tuple(f"{node.name}-{number}" for number in range(spec["replicas"]))
    assert 2 * cluster.write_quorum > len(cluster.members), "one machine more or less would lose writes, or stop them"
    assert cluster.write_quorum < len(cluster.members)
    assert cluster.follow is None, "who comes first at the register makes the cluster; nobody may wait for a pod that is away"
    words = node.container["args"]
    assert words[words.index("--name") + 1] == "$(POD_NAME)"
    told = words[words.index("--advertise") + 1]
    assert told == f"$(POD_NAME).{spec['serviceName']}.$(POD_NAMESPACE).svc:{node.ports['grpc']}"
    assert {one["name"]: one["valueFrom"]["fieldRef"]["fieldPath"] for one in node.container["env"]} == {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
    }


def what_the_pods_share_is_no_node_s(node: Node) -> None:
    """Register and archive lie in object storage, or on a volume that all pods mount; apart from each other."""
    told = node.config()
    assert told.cluster is not None and told.archive is not None
    urls = (told.cluster.register_url, told.archive.url)
    assert len(set(urls)) == 2
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in node.pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    shared = {mount["mountPath"]: claims[mount["name"]] for mount in node.container["volumeMounts"] if mount["name"] in claims}
    for url in urls:
        scheme, _, path = url.partition("://")
        if scheme == "file":
            (claim,) = (claim for folder, claim in shared.items() if Path(folder) in Path(path).parents)
            assert node.named("PersistentVolumeClaim")[claim]["spec"]["accessModes"] == ["ReadWriteMany"]
        else:
            assert scheme == "s3"
            assert node.container["envFrom"], "credentials come from the environment"


def machines_are_lost_and_drained_one_by_one(node: Node) -> None:
    (budget,) = node.named("PodDisruptionBudget").values()
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    (spread,) = node.pod["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["maxSkew"]) == ("kubernetes.io/hostname", 1)
    assert spread["whenUnsatisfiable"] == "DoNotSchedule", "two nodes on one machine are lost together"


def nodes_reach_each_other(node: Node) -> None:
    for policy in node.named("NetworkPolicy").values():
        for way, peers in (("ingress", "from"), ("egress", "to")):
            found = [
                {port["port"] for port in rule["ports"]}
                for rule in policy["spec"][way]
                for peer in rule[peers]
                if peer.get("podSelector", {}).get("matchLabels", {}).items() == node.pod_labels.items()
            ]
            assert found == [{"grpc"}], f"{way}: nodes of a cluster speak to each other"


OF_BOTH = (
    the_configuration_is_understood,
    selectors_find_the_pod,
    everything_carries_the_labels,
    ports_agree,
    services_are_one_for_the_name_and_one_for_clients,
    probes_ask_what_they_should,
    it_is_given_time_to_stop,
    the_pods_keep_their_volumes,
    what_is_mounted_is_there,
    the_pod_is_restricted,
    the_pod_knows_nothing_of_the_cluster,
    memory_is_enough,
    the_image_is_of_this_version,
)

RULES = (*OF_BOTH, one_pod_has_the_volume)
"""Those of a single node."""

CLUSTER_RULES = (
    *OF_BOTH,
    the_pods_are_a_cluster,
    what_the_pods_share_is_no_node_s,
    machines_are_lost_and_drained_one_by_one,
    nodes_reach_each_other,
)
"""Those of a cluster."""
