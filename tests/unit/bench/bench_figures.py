"""Figures that nobody measured, for the tests of how figures are shown."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from suite import cpu, peers
from suite.plan import FULL, Run
from suite.sections import ablation, archive, crowds, layers, rewrite, stages, wire

BENCH = Path(__file__).resolve().parents[3] / "scripts" / "bench"
ROUNDS = 3


def load_main() -> ModuleType:
    """Return the script ``main.py`` as a module, under a name that nothing else has."""
    spec = importlib.util.spec_from_file_location("bench_main", BENCH / "main.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_main"] = module
    spec.loader.exec_module(module)
    return module


MAIN = load_main()


def made_up(run: Run) -> Run:
    """Give a run a figure for everything that a full one records, another one in each round."""
    for at, name in enumerate(names(run)):
        for number in range(ROUNDS):
            run.figures.add(name, number, 1000.0 + 10 * at + number)
    return run


def names(run: Run) -> list[str]:
    """Return the names of all figures that a run of these sizes records."""
    sizes = run.sizes
    loads = [f"ours/{callers}" for callers in sizes.callers] + [f"redis/{callers}" for callers in sizes.callers]
    loads += [f"etcd/{callers}/{c}x{m}" for callers in sizes.callers for c, m in peers.ETCD_SPLITS[callers]]
    loads += [
        f"redis-deep/{64 * peers.REDIS_DEPTH}",
        "bare",
        *(f"rocksdb/{callers}" for callers in sizes.callers if callers < 1000),
    ]
    loads += [f"floors/{name}" for name in ("one", "cold", "get-memory", "get-tables", "blocking")]
    loads += [f"ablation/{callers}/{name}" for callers in sizes.ablation for name, _ in ablation.VARIANTS]
    loads += ["wire/echo", "wire/unary"]
    found = [f"{load}.{part}" for load in loads for part in ("per_s", "p50_ms", "p99_ms", "p999_ms", "client_cores")]
    found += ["floors/sync_ms", "floors/scan.keys_per_s", "wire/replay.per_s"]
    found += [f"wire/{wire.frames_name(*frames)}.{part}" for frames in wire.FRAMES for part in ("per_s", "server_us")]
    measured = (*cpu.titles(), stages.ALL, stages.CLIENT, "per_s", "each_sync")
    found += [f"stages/{load.name}/{title}" for load in stages.LOADS for title in measured]
    disks = (rewrite.QUIET, rewrite.BUSY)
    found += [f"rewrite/{disk}/{what}" for disk in disks for what in ("append", *map(str, sizes.states))]
    parts = ("each_us", "p50_us", "p99_us", "read_all_us", "read_newest_us", "server_mib", "helper_mib")
    found += [f"layers/{count}/{one.name}/{part}" for count in sizes.writes for one in layers.VARIANTS for part in parts]
    found += [f"layers/after-{number}/{part}" for number in sizes.tables for part in ("p50_us", "p99_us")]
    kinds = (("writers", sizes.writers), ("namespaces", sizes.namespaces), ("batches", sizes.batches))
    crowd = [f"{kind}/{key}" for kind, keys in kinds for key in keys]
    crowd += [f"keys/{which}/{turn}" for which in ("separate", "same") for turn in range(crowds.TURNS)]
    found += [f"{name}.{part}" for name in crowd for part in ("per_s", "p50_us", "p99_us")]
    found += archive_names()
    found += replication_names()
    return found


def archive_names() -> list[str]:
    ways = [(level, mode) for level in archive.LEVELS for mode in archive.MODES]
    parts = ("seconds", "late_ms", "longest_ms", "cpu_s", "above_idle_mib")
    found = [f"archive/{level}/{mode}.{part}" for level, mode in ways for part in parts]
    found += [f"archive/{level}/zstd.seconds" for level in archive.LEVELS]
    found += [f"archive/beside/{which}.{part}" for which in ("on", "off") for part in ("per_s", "p99_ms")]
    found += [f"archive/restore.{part}" for part in ("plain_read_s", "stored_mb", "raw_mb", "seconds")]
    return [*found, "archive/backup.mb", "archive/backup.seconds", "archive/backup.copy_s", "archive/verify.mb_per_core"]


def replication_names() -> list[str]:
    loads = [f"replication/{followers}.per_s" for followers in (0, 1)] + [f"replication/w{quorum}.p50_ms" for quorum in (0, 2)]
    figures = ("lag_p50_ms", "lag_p99_ms", "replay_per_s", "primary_per_s", "archive_mb_per_s", "sync_ms", "gets_1", "gets_3")
    return [*loads, *(f"replication/{figure}" for figure in figures)]


def document(tmp_path: Path, failures: list[str]) -> dict[str, object]:
    """Return what a full run of figures that nobody measured would keep."""
    run = made_up(Run(FULL, tmp_path))
    return {
        "machine": ["2 cores", "Python", "peers"],
        "began": "2026-01-01 00:00",
        "minutes": 20.0,
        "sizes": run.sizes._asdict(),
        "sections": [section.name for section in MAIN.SECTIONS],
        "commands": {"etcd": "etcd --x"},
        "notes": ["SKIPPED: Redis"],
        "failures": failures,
        "figures": run.figures.to_json(),
    }
