"""The contract of ``-o json``: one scenario on a new store, and each answer as docs/kvctl.md has it, kept in ``golden/``.

A file holds what one command printed, with figures that differ from run to run replaced by their kind. A test fails when a
name, a kind or a fixed value changes. Where that is meant, the files are written anew by a run of tests/unit/kvctl and
tests/integration/test_kvctl.py with ``GOLDEN=write`` in the environment, and looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Set
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "golden"
WRITES = os.environ.get("GOLDEN") == "write"

VOLATILE = {
    *("cluster_id", "chain", "epoch_nonce", "node", "endpoint", "server_version", "seconds", "uptime_ms", "time_ms"),
    *("memory_bytes", "wal_segments", "wal_bytes", "table_files", "table_bytes", "level0_files"),
    *("pending_compaction_bytes", "flushes", "flushed_revision", "format_version", "keys", "size_bytes"),
    *("message", "hint", "details", "target_dir", "file", "warnings", "holds", "segment", "bytes", "groups"),
    *("data_dir", "counts", "findings", "in_use", "verdict", "segments"),
    *("archive_url", "archived_revision"),
}
"""Fields of which only the kind is kept: they differ between runs, machines or stores, or are for people."""

OF_AN_ARCHIVE = {
    *("archive", "source", "id", "base", "backups", "base_bytes", "raw_bytes", "stored_bytes", "file_bytes"),
    *("segment_bytes", "sent_bytes", "files", "file_list", "segment_list", "what", "serve", "log", "time", "restorable"),
    *("took_ms", "made_ms", "last_time_ms", "first_time_ms", "archived_time_ms"),
    *("node_hash_seconds", "archive_seconds", "plan_seconds", "base_seconds", "log_seconds", "hash_seconds"),
    *("raw_bytes_total", "stored_bytes_total", "segments_total"),
}
"""The same for what is about an archive."""


OF_A_CLUSTER = {"address", "message", "hint", "data_dir", "register_url", "register_id", "serve", "server_version"}
"""The same for what is about a cluster, in place of all others: the fake one says the same each time."""


class Step(NamedTuple):
    """One command of the scenario; without a name it only prepares."""

    name: str
    arguments: str
    """Words, with ``{folder}`` and ``{nobody}`` for a folder and for an endpoint at which nothing listens."""
    exit_code: int = 0


SCENARIO = [
    Step("put", "put greeting hello"),
    Step("put_hex", "put --hex 00ff 6869"),
    Step("put_condition_failed", "put greeting again --if-absent", 7),
    Step("get", "get greeting"),
    Step("get_prefix", "get g --prefix"),
    Step("get_hex", "get --hex 00ff"),
    Step("get_absent", "get absent", 6),
    Step("import", "import {folder}/records.jsonl"),
    Step("import_dry_run", "import {folder}/records.jsonl --dry-run"),
    Step("import_stopped", "import {folder}/broken.jsonl", 1),
    Step("import_left_out", "import {folder}/broken.jsonl --on-error skip", 1),
    Step("write", "write {folder}/batch.jsonl"),
    Step("write_dry_run", "write {folder}/batch.jsonl --dry-run"),
    Step("write_bad_line", "write {folder}/broken.jsonl", 1),
    Step("write_condition_failed", "write {folder}/batch.jsonl", 7),
    Step("scan", "scan --limit 3"),
    Step("scan_keys_only", "scan r --keys-only"),
    Step("scan_count", "scan --count-only"),
    Step("history", "history a"),
    Step("", "del a"),
    Step("history_deleted", "history a --limit 1"),
    Step("export_lines", "export {folder}/out.jsonl"),
    Step("export_binary", "export {folder}/out.kvd --with-revisions"),
    Step("export_records", "export - --with-revisions --prefix greeting"),
    Step("import_binary_dry_run", "import {folder}/out.kvd --dry-run"),
    Step("import_cut", "import {folder}/cut.kvd", 1),
    Step("del_dry_run", "del --prefix r --dry-run"),
    Step("del", "del --prefix r"),
    Step("sync", "sync"),
    Step("status", "status"),
    Step("status_of_two", "-E {nobody},{endpoint} status", 3),
    Step("flush", "flush"),
    Step("checkpoint", "checkpoint {folder}/copy"),
    Step("namespace_create", "namespace create team/a"),
    Step("namespace_list", "namespace list"),
    Step("namespace_drop_dry_run", "namespace drop team/a --dry-run"),
    Step("namespace_drop_not_confirmed", "namespace drop team/a", 1),
    Step("namespace_drop", "namespace drop team/a --yes"),
    Step("unknown_namespace", "-n team/a get k", 4),
    Step("compact_dry_run", "compact --keep 5 --dry-run"),
    Step("compact", "compact --keep 5 --yes"),
    Step("compacted", "get greeting --revision 2", 4),
    Step("usage", "get", 2),
    Step("unreachable", "-E {nobody} get k", 3),
]

OFFLINE = [
    Step("wal_list", "wal list {data}"),
    Step("wal_dump", "wal dump {data} --limit 2"),
    Step("wal_verify", "wal verify {data}"),
    Step("doctor", "doctor --data-dir {data}"),
]
"""What needs a data folder and no server."""

ARCHIVED = [
    Step("", "put k1 v1"),
    Step("", "put k2 v2"),
    Step("archive_now", "archive now"),
    Step("backup_create", "backup create"),
    Step("archive_point_set", "archive point set first --note early"),
    Step("", "put k3 v3"),
    Step("", "archive now"),
    Step("archive_status", "archive status"),
    Step("archive_status_offline", "archive status --archive {archive}"),
    Step("archive_list", "archive list"),
    Step("archive_list_segments", "archive list --segments"),
    Step("archive_verify", "archive verify"),
    Step("archive_point_list", "archive point list"),
    Step("archive_retain_dry_run", "archive retain --keep-backups 1 --dry-run"),
    Step("archive_retain_not_confirmed", "archive retain --keep-backups 1", 1),
    Step("archive_point_delete", "archive point delete first"),
    Step("archive_point_unknown", "archive point delete first", 6),
    Step("archive_dictionary_train", "archive dictionary train", 1),
    Step("backup_list", "backup list"),
    Step("backup_info", "backup info latest"),
    Step("backup_verify", "backup verify latest"),
    Step("backup_unknown", "backup info ffff", 6),
    Step("restore_dry_run", "restore --archive {archive} --to-revision 3 --dry-run"),
    Step("restore", "restore --archive {archive} --latest --target-dir {folder}/restored"),
    Step("restore_no_plan", "restore --archive {archive} --to-revision 99 --target-dir {folder}/other", 6),
    Step("restore_unusable", "restore --archive {archive} --latest --target-dir {folder}/restored", 1),
    Step("restore_not_confirmed", "restore --archive {archive} --latest --target-dir {folder}/other --take-over", 1),
    Step("check_hash", "check hash"),
    Step("check_hash_offline", "check hash --data-dir {folder}/restored"),
    Step("drill", "drill"),
    Step("archive_retain", "archive retain --keep-backups 1 --yes"),
    Step("backup_delete_dry_run", "backup delete latest --dry-run"),
    Step("backup_delete_refused", "backup delete latest --yes", 6),
    Step("backup_delete", "backup delete latest --yes --force"),
]
"""What a node with an archive is asked, and what is done with the archive itself."""

STOPPED = [
    Step("wal_repair_dry_run", "wal repair --data-dir {data} --from archive --archive {archive} --dry-run"),
    Step("wal_repair", "wal repair --data-dir {data} --from archive --archive {archive}"),
]
"""What is done with the folder of that node when it has stopped."""

CLUSTERED = [
    Step("cluster_status", "cluster status"),
    Step("cluster_status_check", "cluster status --check", 5),
    Step("cluster_history", "cluster history"),
    Step("cluster_policy_get", "cluster policy get"),
    Step("cluster_policy_set_dry_run", "cluster policy set --async --dry-run"),
    Step("cluster_policy_set", "cluster policy set --members n1,n2,n3 --write-quorum 3"),
    Step("cluster_policy_set_not_confirmed", "cluster policy set --async", 1),
    Step("cluster_policy_degrade_dry_run", "cluster policy degrade --dry-run"),
    Step("cluster_policy_degrade", "cluster policy degrade --reason fire --yes"),
    Step("cluster_policy_return", "cluster policy return"),
    Step("repl_slots", "repl slots"),
    Step("repl_drop_dry_run", "repl drop n3 --dry-run"),
    Step("repl_drop", "repl drop n3 --yes"),
    Step("repl_drop_unknown", "repl drop n3 --yes", 6),
    Step("reinit_dry_run", "reinit --dry-run"),
    Step("reinit_not_confirmed", "reinit", 1),
    Step("reinit", "reinit n2 --yes"),
    Step("reinit_unreachable", "reinit n3 --yes", 3),
    Step("promote_dry_run", "promote --dry-run"),
    Step("promote", "promote"),
    Step("promote_not_confirmed", "promote --accept-loss", 1),
    Step("reinit_primary", "reinit --yes", 4),
]
"""What the fake node of a cluster of three is asked."""

MOVED = [
    Step("register_move_dry_run", "register move --data-dir {data} --to {register} --dry-run"),
    Step("register_move", "register move --data-dir {data} --to {register} --yes"),
]
"""What is done with the folder of a node that was alone and has stopped."""

_ABOUT_AN_ARCHIVE = {step.name for step in (*ARCHIVED, *STOPPED)}
_OF_A_CLUSTER = {step.name for step in (*CLUSTERED, *MOVED)}
EVERY = [*SCENARIO, *OFFLINE, *ARCHIVED, *STOPPED, *CLUSTERED, *MOVED]


def prepare(folder: Path) -> None:
    """Write the files that the scenario loads."""
    (folder / "records.jsonl").write_text('{"key": "r1", "value": "1"}\n\n{"key_b64": "cjI=", "value_hex": "ff"}\n')
    (folder / "broken.jsonl").write_text('{"key": "b1", "value": "1"}\nnonsense\n{"key": "", "value": "1"}\n')
    batch = [
        {"op": "put", "key": "a", "value": "1", "if_absent": True},
        {"op": "delete_prefix", "prefix": "b"},
    ]
    (folder / "batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in batch))
    (folder / "cut.kvd").write_bytes(b"\x89KVD\r\n")


def differs(step: Step, exit_code: int, out: bytes, err: str) -> str:
    """Compare what a step printed with its golden file, or write the file; return what it printed if that is another thing."""
    text = document(step, exit_code, out, err)
    path = FOLDER / f"{step.name}.json"
    if WRITES:
        path.write_text(text)
    return "" if path.exists() and path.read_text() == text else f"{path.name}: {text}"


def document(step: Step, exit_code: int, out: bytes, err: str) -> str:
    """Return the text that the golden file of a step holds."""
    volatile = _volatile(step)
    told = {
        "command": f"kvctl {step.arguments} -o json",
        "exit_code": exit_code,
        "stdout": [normalised(json.loads(line), volatile=volatile) for line in out.splitlines()],
        "stderr": [normalised(json.loads(line), volatile=volatile) for line in err.splitlines()],
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def _volatile(step: Step) -> Set[str]:
    if step.name in _OF_A_CLUSTER:
        return OF_A_CLUSTER
    return VOLATILE | OF_AN_ARCHIVE if step.name in _ABOUT_AN_ARCHIVE else VOLATILE


def normalised(value: Any, name: str = "", volatile: Set[str] = VOLATILE) -> Any:
    """Return a value of JSON in which what is volatile is replaced by its kind."""
    if name in volatile:
        return kind_of(value)
    if isinstance(value, dict):
        return {field: normalised(inner, field, volatile) for field, inner in value.items()}
    if isinstance(value, list):
        return [normalised(inner, volatile=volatile) for inner in value]
    return value


def kind_of(value: Any) -> Any:
    """Return the kind of a value: of a list that of its first item, of an object those of its fields."""
    match value:
        case bool():
            return "<true or false>"
        case int() | float():
            return "<number>"
        case str():
            return "<text>"
        case list():
            return ["<text>"] if not value or isinstance(value[0], str) else [kind_of(value[0]), "..."]
        case dict():
            return {field: kind_of(inner) for field, inner in value.items()}
        case _:
            return value
