"""Durable puts against the number of callers: ourselves, etcd, Redis, RocksDB and the bare disk, one after the other."""

from __future__ import annotations

from suite import peers, render
from suite.charts import Chart, Series
from suite.figures import Figures, ratio_rounds, spread_of
from suite.ours import kvbench
from suite.plan import Run, Step, rotated
from suite.processes import fresh_kvserver

NAME = "peers"
SYSTEMS = (
    ("ours", "ourselves, through the SDK"),
    ("etcd", "etcd, best of several loads"),
    ("redis", "Redis, `appendfsync always`"),
    ("redis-deep", f"Redis, {peers.REDIS_DEPTH} deep"),
    ("rocksdb", "RocksDB, `db_bench --sync=1`"),
)
SHORT_NAMES = {
    "ours": "ourselves",
    "etcd": "etcd",
    "redis": "Redis",
    "redis-deep": f"Redis {peers.REDIS_DEPTH} deep",
    "rocksdb": "RocksDB",
}
_OVERHEAD_S = 3.0
"""About what a process of ours and the server under it take to start and end."""
TEXT = f"""\
Durable puts of 256 bytes a second, median of the rounds (lowest to highest). Every system runs alone, on the same disk, its
load generator on the same cores.

- etcd is loaded by h2load, over connections and streams split in several ways, of which the best counts. h2load sends one
  body, so etcd has one hot key, which favours it most.
- Redis and RocksDB put random ones of the hot keys, as we do. Redis does not rewrite its log meanwhile. Redis
  {peers.REDIS_DEPTH} deep is 64 connections with {peers.REDIS_DEPTH} requests under way on each: 1,024 callers.
- db_bench puts from threads within its own process: there is neither a network nor a client in its figures."""


def etcd_names(callers: int, part: str) -> list[str]:
    """Return the figures of every load of etcd with so many callers."""
    splits = peers.ETCD_SPLITS.get(callers, ())
    return [f"etcd/{callers}/{connections}x{streams}.{part}" for connections, streams in splits]


def shown_as(system: str, callers: int) -> int:
    """Return how many callers a system had where the others had so many: pipelined Redis has a number of its own."""
    return 64 * peers.REDIS_DEPTH if system == "redis-deep" and callers == 1000 else callers


def rates(figures: Figures, system: str, callers: int) -> dict[int, float]:
    """Return a system's puts a second, round by round; etcd's are those of its best load in that round."""
    if system == "etcd":
        return figures.best_rounds(etcd_names(callers, "per_s"))
    return figures.rounds(f"{system}/{callers}.per_s")


def best_rates(figures: Figures, system: str) -> dict[int, float]:
    """Return a system's best over all numbers of callers, round by round."""
    best: dict[int, float] = {}
    for callers in peers.ETCD_SPLITS:
        for number, value in rates(figures, system, callers).items():
            best[number] = max(value, best.get(number, value))
    return best


def latency(figures: Figures, system: str, callers: int, part: str) -> dict[int, float]:
    """Return a latency round by round; etcd's is that of the load that was its best in the round."""
    if system != "etcd":
        return figures.rounds(f"{system}/{callers}.{part}")
    found = {}
    for number, best in rates(figures, system, callers).items():
        for rate, name in zip(etcd_names(callers, "per_s"), etcd_names(callers, part), strict=True):
            if figures.rounds(rate).get(number) == best and number in figures.rounds(name):
                found[number] = figures.rounds(name)[number]
    return found


class Throughput:
    """Measures all systems in each round, beginning with another one each time."""

    name = NAME
    needs: tuple[str, ...] = ()

    def steps(self, run: Run) -> list[Step]:
        """Return a step for each system."""
        each, count = run.sizes.load_s, len(run.sizes.callers)
        splits = sum(len(peers.ETCD_SPLITS[callers]) for callers in run.sizes.callers)
        steps = [
            Step("bare fdatasync", each, lambda: self._bare(run)),
            Step("ourselves", (each + _OVERHEAD_S) * count, lambda: self._ours(run)),
            Step("etcd", (each + 0.5) * splits + 3, lambda: self._etcd(run)),
            Step("Redis", (each + 0.5) * (count + 1) + 1, lambda: self._redis(run)),
            Step("RocksDB", (max(1.0, each) + 0.5) * (count - 1), lambda: self._rocksdb(run)),
        ]
        return rotated(steps, run.round)

    def _bare(self, run: Run) -> None:
        run.record_load("bare", peers.load_bare_syncs(run, min(run.sizes.load_s, 1.5)), "write of 4 KiB and fdatasync")

    def _ours(self, run: Run) -> None:
        for callers in run.sizes.callers:
            with fresh_kvserver(run.folder(f"ours-{callers}")) as server:
                load = kvbench(run, server, "put", callers, run.sizes.hot_keys, "--load")
            run.record_load(f"ours/{callers}", load, f"{callers} callers")

    def _etcd(self, run: Run) -> None:
        if peers.skipped(run, "etcd"):
            return
        with peers.etcd(run) as url:
            for callers in run.sizes.callers:
                for connections, streams in peers.ETCD_SPLITS[callers]:
                    load = peers.load_etcd(run, url, connections, streams)
                    what = f"{connections} connections of {streams} streams"
                    run.record_load(f"etcd/{callers}/{connections}x{streams}", load, what)

    def _redis(self, run: Run) -> None:
        if peers.skipped(run, "Redis"):
            return
        with peers.redis(run) as port:
            for callers in run.sizes.callers:
                run.record_load(f"redis/{callers}", peers.load_redis(run, port, callers, 1), f"{callers} connections")
            load = peers.load_redis(run, port, 64, peers.REDIS_DEPTH)
            run.record_load(f"redis-deep/{64 * peers.REDIS_DEPTH}", load, f"64 connections, {peers.REDIS_DEPTH} deep")

    def _rocksdb(self, run: Run) -> None:
        if peers.skipped(run, "RocksDB"):
            return
        for threads in run.sizes.callers:
            if threads <= 256:
                run.record_load(f"rocksdb/{threads}", peers.load_rocksdb(run, threads), f"{threads} threads")

    def render(self, run: Run) -> str:
        """Return the rates, the ratios and the latencies."""
        parts = ["### Ourselves and peers", TEXT, self._rates(run), self._latencies(run), self._clients(run.figures)]
        return "\n\n".join(parts)

    def _rates(self, run: Run) -> str:
        rows, times = [], []
        for system, title in SYSTEMS:
            cells, ratios = [], []
            for callers in run.sizes.callers:
                values = rates(run.figures, system, shown_as(system, callers))
                cells.append(render.rounds(values) if values else "")
                own = ratio_rounds(rates(run.figures, "ours", callers), values)
                ratios.append(render.rounds(own) if own else "")
            rows.append([title, *cells])
            if system != "ours":
                times.append([f"times {title}", *ratios])
        heads = [f"{callers:,} caller{'s' if callers > 1 else ''}" for callers in run.sizes.callers]
        bare = render.figure(run.figures, "bare.p50_ms", " ms")
        rate = render.figure(run.figures, "bare.per_s")
        return "\n\n".join(
            [
                render.table(["puts/s", *heads], rows),
                "Ours to theirs, round by round:",
                render.table(["ourselves", *heads], times),
                f"The disk alone, a write of 4 KiB and its fdatasync: {bare}, {rate} a second one after the other.",
            ]
        )

    def _latencies(self, run: Run) -> str:
        rows = []
        for system, title in SYSTEMS:
            for callers in run.sizes.callers:
                at = shown_as(system, callers)
                parts = [latency(run.figures, system, at, part) for part in ("p50_ms", "p99_ms", "p999_ms")]
                if parts[0]:
                    rows.append([title, f"{at:,}", *(render.rounds(part) if part else "the tool does not say" for part in parts)])
        return render.table(["latency, ms", "callers", "p50", "p99", "p99.9"], rows)

    def _clients(self, figures: Figures) -> str:
        """Say how busy the load generators were, which tells whether one of them was the bottleneck."""
        rows = []
        for name in figures.names():
            if name.endswith(".client_cores") and name.split("/")[0] in ("etcd", "redis", "redis-deep", "ours"):
                rows.append([name.removesuffix(".client_cores"), render.figure(figures, name)])
        return "How many cores the load generator kept busy, by load:\n\n" + render.table(["load", "cores"], rows)


def charts(run: Run) -> list[Chart]:
    """Return rates and latencies against the number of callers."""

    def points(system: str, part: str) -> list[tuple[float, float]]:
        found = []
        for callers in run.sizes.callers:
            at = shown_as(system, callers)
            values = rates(run.figures, system, at) if part == "per_s" else latency(run.figures, system, at, part)
            spread = spread_of(values.values())
            if spread is not None:
                found.append((float(callers), spread.median))
        return found

    def lines(part: str, dashed: bool = False, suffix: str = "") -> list[Series]:
        return [Series(name + suffix, points(system, part), at, dashed) for at, (system, name) in enumerate(SHORT_NAMES.items())]

    return [
        Chart("Durable puts of 256 bytes", "a second", lines("per_s")),
        Chart("The same on a logarithmic scale", "a second", lines("per_s"), logarithmic=True),
        Chart("Latency of a put", "ms", lines("p50_ms", suffix=" p50") + lines("p99_ms", True, " p99"), logarithmic=True),
    ]
