"""Asynchronous clusters: the primary dies, another takes over; what was lost is said exactly, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from integration.kvctl_runs import Kvctl
from support.chaos import Ledger, assert_same_content, cluster_of, promoted

pytestmark = pytest.mark.timeout(240)


def test_what_a_follower_had_is_kept_and_the_rest_is_reported_and_can_be_read(tmp_path: Path, kvctl: Kvctl) -> None:
    with cluster_of(tmp_path) as cluster:
        with Ledger(cluster.endpoints) as ledger:
            ledger.wait_for(200)
            cluster.kill("n1")
        begun = promoted(cluster, "n2")
        assert begun.epoch == 2
        assert begun.lost_from == begun.revision + 1, "nobody can know what the old primary had alone"
        ledger.assert_kept(cluster, ["n2"], upto=begun.revision)
        cluster["n1"].start()
        assert_same_content(cluster)

        for name in ("n1", "n3"):  # nobody hears of what comes now
            cluster.kill(name)
        alone = Ledger(cluster["n2"].address, writers=1, label="alone")
        with alone:
            alone.wait_for(50)
        cluster.kill("n2")
        for name in ("n1", "n3"):
            cluster[name].begin()
        for name in ("n1", "n3"):
            cluster[name].wait_until_ready()
        begun = promoted(cluster, "n3")
        with cluster.client("n3") as kv:
            kv.put(b"after", b"the failover")
        cluster["n2"].start()
        assert_same_content(cluster)
        ledger.assert_kept(cluster, ["n1", "n2", "n3"], upto=begun.revision - 1)

        (folder,) = sorted((cluster["n2"].data_dir / "lost").iterdir())
        first, last = (int(part, 16) for part in folder.name.split("-")[:2])
        revisions = sorted(revision for revision, _ in alone.acknowledged.values())
        assert (first, last) == (begun.revision + 1, revisions[-1]), "the range is exact"
        assert revisions[0] >= first
        assert any("lost" in line and str(first) in line and str(last) in line for line in cluster["n2"].log())
        dumped = kvctl("wal", "dump", str(folder), "--from-revision", str(first), "-o", "json")
        assert dumped.exit_code == 0, dumped.err
        commits = [json.loads(text) for text in dumped.out.splitlines()]
        assert [commit["revision"] for commit in commits] == list(range(first, last + 1))
        text = dumped.out.decode()
        assert all(key.decode() in text for key in alone.acknowledged)
