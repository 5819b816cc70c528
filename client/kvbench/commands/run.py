"""``kvbench run``: one workload against one node, measured."""

from __future__ import annotations

import contextlib
import datetime
import json
import shlex
import sys
import tempfile
from typing import Any

import click
from click.core import ParameterSource

from kvbench import options as run_options
from kvbench.commands.shared import output_option, seconds, usage_of
from kvbench.files import refuse_unusable_files, write_file
from kvbench.options import Given, RunOptions
from kvctl.failures import EXIT_OK, EXIT_REFUSED, EXIT_UNREACHABLE


@click.command("run")
@click.option(
    *("-w", "--workload"),
    type=click.Choice(run_options.WORKLOADS),
    help="What is done; see above.",
)
@click.option(
    "-c",
    "--clients",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Concurrent callers, of all processes together. Those of one process share one client.",
)
@click.option("--total", type=int, metavar="N", help="End after so many operations, of all callers together.")
@click.option("--duration", callback=seconds, metavar="DURATION", help="End after so long, for instance 30s or 5m.")
@click.option("--keys", type=int, default=100_000, show_default=True, metavar="N", help="How many different keys there are.")
@click.option(
    "--value-size", type=int, default=256, show_default=True, metavar="BYTES", help="The size of a value; values are random."
)
@click.option(
    "-E",
    "--endpoint",
    default="127.0.0.1:7400",
    show_default=True,
    metavar="HOST:PORT",
    envvar=["KVBENCH_ENDPOINT", "KVCTL_ENDPOINT"],
    help="Where the node listens; several with commas between.",
)
@click.option(
    "-n",
    "--namespace",
    default="",
    metavar="NAME",
    envvar=["KVBENCH_NAMESPACE", "KVCTL_NAMESPACE"],
    help="The namespace; the default one unless given. It has to exist.",
)
@click.option(
    "--timeout", callback=seconds, default="5s", show_default=True, metavar="DURATION", help="How long an operation may take."
)
@click.option(
    "--rate",
    type=float,
    metavar="N",
    help="Send N operations a second, of all processes together, and count latency from the moment at which each was to "
    "be sent. Without it every caller sends its next operation when the last one was answered.",
)
@click.option(
    "--distribution",
    type=click.Choice(["uniform", "zipfian", "latest"]),
    default="uniform",
    show_default=True,
    help="Which keys are taken: all alike; few of them often (zipfian, 0.99); those loaded last often. ycsb-a is always zipfian.",
)
@click.option("--processes", type=int, default=1, show_default=True, metavar="N", help="Client processes that share the callers.")
@click.option("--warm-up", callback=seconds, metavar="DURATION", help="Do the same for so long beforehand, without measuring it.")
@click.option(
    "--read-share",
    type=float,
    default=run_options.DEFAULT_READ_SHARE,
    show_default=True,
    metavar="SHARE",
    help="How much of 'mixed' reads, from 0 to 1.",
)
@click.option(
    "--scan-length",
    type=int,
    default=run_options.DEFAULT_SCAN_LENGTH,
    show_default=True,
    metavar="N",
    help="How many keys one scan reads.",
)
@click.option("--load/--no-load", default=None, help="Whether all keys are put beforehand; by default where the workload reads.")
@click.option(
    "--client",
    type=click.Choice([run_options.ASYNC, run_options.BLOCKING]),
    default=run_options.ASYNC,
    show_default=True,
    help="The client that is measured: tasks on an AsyncClient, or threads on a Client.",
)
@click.option(
    "--durability",
    type=click.Choice(["policy", "memory"]),
    default="policy",
    show_default=True,
    help="What writes ask for; 'memory' is answered before it is durable.",
)
@click.option("--seed", type=int, default=1, show_default=True, metavar="N", help="What the keys and values are drawn from.")
@click.option(
    "--fsync-dir",
    metavar="DIR",
    help="Where fdatasync is measured; the temporary folder unless given. Name one on the server's disk.",
)
@click.option("--label", default="", metavar="TEXT", help="A name for the result in reports.")
@click.option("--out-json", metavar="FILE", help="Write the result as JSON.")
@click.option("--out-html", metavar="FILE", help="Write a page with plots.")
@output_option
@click.pass_context
def command(context: click.Context, /, output: str, out_json: str | None, out_html: str | None, **given: Any) -> int:
    """Measure one workload and print throughput, latency and errors, and on what they were measured.

    \b
    Workloads:
      put     writes single keys
      get     reads single keys
      mixed   reads and writes single keys; --read-share says how many of each
      scan    reads --scan-length keys in order, from a key on
      ycsb-a  YCSB's workload A: half reads, half updates, zipfian

    \b
    Examples:
      kvbench run -w put -c 64 --total 100000
      kvbench run -w get -c 64 --duration 10s --keys 1000000 --warm-up 2s
      kvbench run -w mixed --read-share 0.9 --distribution zipfian -c 200 --duration 30s --processes 2
      kvbench run -w put -c 500 --rate 20000 --duration 30s --out-json put.json --out-html put.html
      kvbench run -w put --client blocking -c 64 --total 50000 --no-load -E db1:7400

    Keys are called kvbench/0000000000 and so on; remove them with: kvctl del --prefix kvbench/
    """
    with usage_of(context):
        options = _options(context, given)
        refuse_unusable_files(out_json, out_html, options.fsync_dir)
        result = _measure(options)
    text = json.dumps(result)
    if output == "json":
        sys.stdout.write(text + "\n")
    else:
        from kvbench.text import write_result

        write_result(result)
    if out_json is not None:
        write_file(out_json, text + "\n")
    if out_html is not None:
        from kvbench import page

        write_file(out_html, page.render([result], page.names([result], [out_html])))
    return _exit_code(result)


def _options(context: click.Context, given: dict[str, Any]) -> RunOptions:
    """Return the options of the run; raise click.UsageError for one that cannot be carried out."""
    if given["workload"] is None:
        raise click.UsageError(f"there is nothing to do; name a workload: --workload {'|'.join(run_options.WORKLOADS)}")

    def is_given(name: str) -> bool:
        return context.get_parameter_source(name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)

    stated = Given(is_given("distribution"), is_given("read_share"), is_given("scan_length"))
    ycsb = given["workload"] == run_options.YCSB_A
    options = RunOptions(
        workload=given["workload"],
        clients=given["clients"],
        keys=given["keys"],
        value_size_bytes=given["value_size"],
        total=given["total"],
        duration_s=given["duration"],
        endpoint=given["endpoint"],
        namespace=given["namespace"],
        timeout_s=given["timeout"],
        rate=given["rate"],
        distribution="zipfian" if ycsb and not stated.distribution else given["distribution"],
        processes=given["processes"],
        warm_up_s=given["warm_up"] or 0.0,
        read_share=given["read_share"],
        scan_length=given["scan_length"],
        seed=given["seed"],
        load=given["workload"] != run_options.PUT if given["load"] is None else given["load"],
        client=given["client"],
        durability=given["durability"],
        fsync_dir=given["fsync_dir"] or tempfile.gettempdir(),
        label=given["label"],
    )
    run_options.refuse_impossible(options, stated)
    return options


def _measure(options: RunOptions) -> dict[str, Any]:
    """Carry out the run and return its result."""
    from kvbench import coordinator, machine, results

    began = datetime.datetime.now(datetime.UTC)
    with contextlib.ExitStack() as stack:
        status = coordinator.check_and_load(options)
        disk = machine.disk(options.fsync_dir)  # while nothing else goes on
        crew = stack.enter_context(coordinator.Crew(options))
        if options.warm_up_s:
            crew.run("warming up", total=None, duration_s=options.warm_up_s)
        noted = crew.run("measuring", total=options.total, duration_s=options.duration_s)
    surroundings = {
        "command": shlex.join(["kvbench", *sys.argv[1:]]),
        "began_at": began.isoformat(timespec="seconds"),
        "machine": machine.facts(),
        "versions": machine.versions(status.server_version),
        "disk": disk,
    }
    return results.document(options, noted, surroundings)


def _exit_code(result: dict[str, Any]) -> int:
    """Return 0 where anything succeeded; else what kvctl would end with after such errors."""
    if result["operations"]:
        return EXIT_OK
    unreachable = {"UNAVAILABLE", "OUTCOME_UNKNOWN", "DEADLINE"}
    return EXIT_UNREACHABLE if set(result["errors"]) <= unreachable else EXIT_REFUSED
