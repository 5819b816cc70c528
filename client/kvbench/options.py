"""What a run is asked to do, and the refusal of what cannot be done, before anything is sent.

Every refusal says which option is wrong and what to give instead.
"""

from __future__ import annotations

import dataclasses
import math

import click

PUT, GET, MIXED, SCAN, YCSB_A = "put", "get", "mixed", "scan", "ycsb-a"
WORKLOADS = (PUT, GET, MIXED, SCAN, YCSB_A)
ASYNC, BLOCKING = "async", "blocking"

MAX_VALUE_BYTES = 1024 * 1024
"""The largest value that a server takes."""

MAX_RATE = 10_000_000
MAX_THREADS = 5_000
DEFAULT_READ_SHARE = 0.5
DEFAULT_SCAN_LENGTH = 100
MAX_KEYS = 1_000_000_000
MAX_PROCESSES = 256


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The options of one run, as every client process gets them."""

    workload: str
    clients: int
    """Concurrent callers, of all processes together."""
    keys: int
    value_size_bytes: int
    total: int | None = None
    """How many operations; None where the run ends by time."""
    duration_s: float | None = None
    endpoint: str = "127.0.0.1:7400"
    namespace: str = ""
    timeout_s: float = 5.0
    rate: float | None = None
    """Operations a second, of all processes together; None: as fast as they are answered."""
    distribution: str = "uniform"
    processes: int = 1
    warm_up_s: float = 0.0
    read_share: float = DEFAULT_READ_SHARE
    scan_length: int = DEFAULT_SCAN_LENGTH
    seed: int = 1
    load: bool = False
    client: str = ASYNC
    durability: str = "policy"
    fsync_dir: str = "/tmp"
    label: str = ""

    def share(self, amount: int, process: int) -> int:
        """Return the part of callers or operations that one process has; the first ones take what is left over."""
        return amount // self.processes + (process < amount % self.processes)


@dataclasses.dataclass(frozen=True)
class Given:
    """What stood on the command line as such, where a default would hide it."""

    distribution: bool = False
    read_share: bool = False
    scan_length: bool = False


def refuse_impossible(options: RunOptions, given: Given) -> None:
    """Raise click.UsageError for the first thing that cannot be done."""
    _check_amounts(options)
    _check_end(options)
    _check_rate(options)
    _check_workload(options, given)
    _check_processes(options)


def _check_amounts(options: RunOptions) -> None:
    for name, number in (("--clients", options.clients), ("--keys", options.keys), ("--processes", options.processes)):
        if number < 1:
            raise click.UsageError(f"{name} {number}: there must be at least one; give {name} 1 or more")
    if options.keys > MAX_KEYS:
        raise click.UsageError(f"--keys {options.keys}: a key has ten digits; give at most {MAX_KEYS:,}")
    if options.processes > MAX_PROCESSES:
        raise click.UsageError(f"--processes {options.processes}: each takes about 300 MB; give at most {MAX_PROCESSES}")
    if options.value_size_bytes < 0:
        raise click.UsageError(f"--value-size {options.value_size_bytes}: a size cannot be negative; give 0 or more bytes")
    if options.value_size_bytes > MAX_VALUE_BYTES:
        raise click.UsageError(
            f"--value-size {options.value_size_bytes}: the server takes at most {MAX_VALUE_BYTES:,} bytes (1 MiB); "
            "give no more than that"
        )
    if options.seed < 0:
        raise click.UsageError(f"--seed {options.seed}: a seed cannot be negative; give 0 or more")


def _check_end(options: RunOptions) -> None:
    if options.total is None and options.duration_s is None:
        raise click.UsageError("the run has no end; give --total N operations, or --duration such as 30s")
    if options.total is not None and options.duration_s is not None:
        raise click.UsageError("--total and --duration are two ends for one run; give one of them")
    if options.total is not None and options.total < 1:
        raise click.UsageError(f"--total {options.total}: there must be at least one operation; give --total 1 or more")


def _check_rate(options: RunOptions) -> None:
    rate = options.rate
    if rate is None:
        return
    if not math.isfinite(rate) or rate <= 0:
        raise click.UsageError(f"--rate {rate:g}: a rate must be above 0; leave --rate out to go as fast as answers come")
    if rate > MAX_RATE:
        raise click.UsageError(
            f"--rate {rate:g}: no client keeps to that; give at most {MAX_RATE:,}, or leave it out to go as fast as answers come"
        )
    if options.duration_s is not None and rate * options.duration_s < options.processes:
        raise click.UsageError(
            f"--rate {rate:g} for {options.duration_s:g} s leaves a process without any operation; give a longer --duration"
        )


def _check_workload(options: RunOptions, given: Given) -> None:
    if given.read_share and options.workload != MIXED:
        raise click.UsageError(f"--read-share belongs to --workload mixed, not to {options.workload}; leave it out")
    if not 0 <= options.read_share <= 1:
        raise click.UsageError(f"--read-share {options.read_share:g}: it is a share, between 0 (only writes) and 1 (only reads)")
    if given.scan_length and options.workload != SCAN:
        raise click.UsageError(f"--scan-length belongs to --workload scan, not to {options.workload}; leave it out")
    if options.scan_length < 1:
        raise click.UsageError(f"--scan-length {options.scan_length}: a scan reads at least one key; give 1 or more")
    if given.scan_length and options.scan_length > options.keys:
        raise click.UsageError(
            f"--scan-length {options.scan_length} is more than --keys {options.keys}; give a shorter scan, or more keys"
        )
    if options.workload == YCSB_A and given.distribution and options.distribution != "zipfian":
        raise click.UsageError(
            f"YCSB's workload A is zipfian; for {options.distribution} give: "
            f"--workload mixed --read-share 0.5 --distribution {options.distribution}"
        )


def _check_processes(options: RunOptions) -> None:
    if options.processes > options.clients:
        raise click.UsageError(
            f"{options.processes} processes for {options.clients} clients leave some without a caller; "
            "--clients counts the callers of all processes together: give more of them, or fewer --processes"
        )
    if options.total is not None and options.total < options.processes:
        raise click.UsageError(
            f"{options.processes} processes for {options.total} operations leave some with nothing to do; give fewer --processes"
        )
    if options.client == BLOCKING and options.clients > MAX_THREADS:
        raise click.UsageError(
            f"--client blocking takes a thread for each of {options.clients} clients; "
            f"give at most {MAX_THREADS:,}, or --client async"
        )
