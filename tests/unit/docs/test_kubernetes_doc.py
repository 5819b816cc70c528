"""docs/kubernetes.md says of the manifests what they say."""

from __future__ import annotations

import re

import pytest

from kvserver.base.limits import MIB
from unit.docs.documents import ROOT, in_code, number, section

pytest.importorskip("kubernetes_validate", reason="kubernetes-validate, and with it a reader of YAML, is not installed")

from unit.k8s.kustomize import build
from unit.k8s.rules import PYTHON_BYTES, Node, quantity

DOCUMENT = "docs/kubernetes.md"


@pytest.fixture
def node() -> Node:
    return Node(build(ROOT / "k8s" / "base"))


def test_the_table_of_memory_adds_up(node: Node) -> None:
    rows = {row["what"]: number(row["MiB"]) for row in section(DOCUMENT, "Memory").table()}
    engine = node.config().engine
    assert rows["not yet in tables"] * MIB == engine.pipeline.memory_limit_bytes
    assert rows["block cache"] * MIB == engine.tables.block_cache_bytes
    assert rows["requests that wait"] * MIB == engine.pipeline.max_waiting_bytes
    assert rows["Python and the process that builds tables"] * MIB == PYTHON_BYTES
    assert sum(rows.values()) * MIB == quantity(node.container["resources"]["limits"]["memory"])


def test_every_object_is_named(node: Node) -> None:
    parts = " ".join(row["part"] for table in section(DOCUMENT, "The pod").tables() for row in table if "part" in row)
    for one in node.objects:
        assert f"{one['kind']} `{one['metadata']['name']}" in parts
    (claim,) = node.stateful_set["volumeClaimTemplates"]
    assert f"claim `{claim['metadata']['name']}-kvserver-0`" in parts


def test_every_part_of_a_cluster_is_named() -> None:
    overlay = Node(build(ROOT / "k8s" / "overlays" / "cluster-shared-folder"))
    rows = section(DOCUMENT, "A cluster").table()
    parts = " ".join(row["part"] for row in rows)
    assert f"StatefulSet `{overlay.name}`, {overlay.stateful_set['replicas']} replicas, `Parallel`" in parts
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        (name,) = overlay.named(kind)
        assert f"{kind} `{name}`" in parts
    words = overlay.container["args"]
    for flag in ("--name", "--advertise"):
        assert f"`{flag} {words[words.index(flag) + 1]}`" in rows[0]["what it is for"]
    cluster = overlay.config().cluster
    assert cluster is not None
    (counted,) = (row["what it is for"] for row in rows if "`members`" in row["part"])
    assert counted.startswith(f"{cluster.write_quorum} of `{'`, `'.join(cluster.members)}`")
    assert "none was available" in " ".join(section(DOCUMENT, "A cluster").lines)


def test_the_probes_are_those_of_the_pod(node: Node) -> None:
    (rows,) = (table for table in section(DOCUMENT, "The pod").tables() if "probe" in table[0])
    told = {row["probe"]: row for row in rows}
    start, live = node.container["startupProbe"], node.container["livenessProbe"]
    assert f"{start['failureThreshold']} times, {start['periodSeconds']} s apart" in told["start-up"]["why"]
    assert (live["failureThreshold"], f"{live['periodSeconds']} s apart" in told["liveness"]["why"]) == (6, True)
    for name in ("liveness", "readiness"):
        assert in_code(told[name]["asks"]) == [node.container[f"{name}Probe"]["httpGet"]["path"]]


def test_the_image_is_called_what_it_is_called(node: Node) -> None:
    text = (ROOT / DOCUMENT).read_text()
    assert set(re.findall(r"\bkvserver:\d+\.\d+\.\d+", text)) == {node.container["image"]}
    assert f"user {node.pod['securityContext']['runAsUser']}" in text
