"""A result, and several beside each other, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvctl import output
from kvctl.bytes_form import printable

PERCENTILES = ("min", "p50", "p90", "p95", "p99", "p999", "p9999", "max")


def title(result: Mapping[str, Any]) -> str:
    """Return what was done, in one line."""
    options = result["options"]
    amount = output.counted(options["clients"], "client")
    if options["processes"] > 1:
        amount += f" in {options['processes']} processes"
    parts = [
        f"{options['workload']}, {amount}" + (" (threads)" if options["client"] == "blocking" else ""),
        f"{output.counted(options['keys'], 'key')} {options['distribution']}",
        f"values of {output.sized(options['value_size_bytes'])}",
    ]
    if options["rate"] is not None:
        parts.append(f"at a rate of {options['rate']:,g}/s")
    if options["durability"] != "policy":
        parts.append(f"durability {options['durability']}")
    return ", ".join(parts)


def label(result: Mapping[str, Any]) -> str:
    """Return a short name for a result."""
    given = result["options"]["label"]
    return str(given) if given else title(result)


def write_result(result: Mapping[str, Any]) -> None:
    """Print a result."""
    output.write_line(title(result))
    output.write_line("")
    output.write_pairs(figures(result))
    output.write_line("")
    rows = [("all", result["operations"], result["latency_ms"])]
    if len(result["by_operation"]) > 1:
        rows += [(kind, part["operations"], part["latency_ms"]) for kind, part in result["by_operation"].items()]
    head = ["latency, ms", "operations", *PERCENTILES]
    output.write_table(head, [[name, f"{count:,}", *(ms(values[key]) for key in PERCENTILES)] for name, count, values in rows])
    if result["errors"]:
        output.write_line("")
        examples = result["error_examples"]
        output.write_table(
            ["error", "count", "for instance"],
            [[code, f"{count:,}", printable(examples.get(code, "").encode())] for code, count in result["errors"].items()],
        )
    output.write_line("")
    output.write_pairs(surroundings(result))
    for warning in result["warnings"]:
        output.write_line(f"\nwarning: {warning}")


def figures(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the main figures, by name."""
    failed = sum(result["errors"].values())
    rows = [
        ("throughput", f"{result['ops_per_s']:,.0f} operations/s ({result['operations']:,} in {result['elapsed_s']:.2f} s)"),
        ("errors", f"{failed:,}" if failed else "none"),
    ]
    if "keys_per_s" in result:
        rows.insert(1, ("keys read", f"{result['keys_per_s']:,.0f} keys/s ({result['keys_read']:,})"))
    client = result["client"]
    shares = ", ".join(f"{share:.2f}" for share in client["cpu_shares"])
    waited = f", {client['core_wait_share']:.0%} of the time without one" if client["core_wait_share"] is not None else ""
    cost = f"{client['cpu_us_per_operation'] or 0:.1f} µs an operation"
    rows.append(
        ("client", f"{shares} cores busy{waited}, {cost}, {client['event_loop'] if client['kind'] == 'async' else 'threads'}")
    )
    schedule = result["schedule"]
    if schedule is not None:
        lag = schedule["lag_ms"]
        rows.append(
            (
                "schedule",
                f"{schedule['rate']:,g}/s wanted; sent late by {ms(lag['p50'])} ms (p50), {ms(lag['p99'])} ms (p99); "
                f"{schedule['late_share']:.2%} found no caller free",
            )
        )
    return rows


def surroundings(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the figures were measured on, by name."""
    machine, versions, disk = result["machine"], result["versions"], result["disk"]
    sync = disk["fdatasync_ms"]
    cores = (
        f"{machine['usable_cores']} of {machine['cores']} cores"
        if machine["usable_cores"] != machine["cores"]
        else (output.counted(machine["cores"], "core"))
    )
    return [
        (
            "machine",
            f"{cores}, {machine['processor']}, {output.sized(machine['memory_bytes'])}, {machine['system']} {machine['kernel']}",
        ),
        (
            "client",
            f"kvserver {versions['kvserver_client']}, {versions['python']}, grpcio {versions['grpcio']}, "
            f"protobuf {versions['protobuf']}, uvloop {versions['uvloop']}",
        ),
        ("server", f"kvserver {versions['kvserver_server']} at {result['options']['endpoint']}"),
        (
            "disk",
            f"{disk['file_system']} at {disk['folder']}: fdatasync of 4 KiB takes {ms(sync['p50'])} ms (p50), "
            f"{ms(sync['p99'])} ms (p99). The server's disk may be another",
        ),
    ]


def ms(value: float | None) -> str:
    """Return milliseconds with three significant digits."""
    if value is None:
        return "-"
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"
