"""The server without the SDK: unary puts of a foreign client against an empty echo, raw frames, and replay of what they left."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable

from kvproto.v1 import kv_pb2
from suite import parsing, peers, render
from suite.figures import Load, ratio_rounds
from suite.plan import Run, Step
from suite.processes import BENCH, ProcessFailed, Server, execute, fresh_kvserver, kvserver, serving

IN_FLIGHT = 256
PUT_PATH = "/kvproto.v1.KV/Put"
FRAMES = ((1_000, 4), (250, 8), (25, 16))
"""The operations of a frame, and how many frames are under way."""
LADDER = (
    ("one message an operation, a protobuf a commit, SortedDict with lists, previous versions fetched", 14.0),
    ("without fetching previous versions", 7.5),
    ("+ fixed-layout record instead of a protobuf a commit", 5.6),
    ("+ chains as flat tuples", 4.6),
    ("+ dict with a lazily sorted key index", 2.7),
    ("+ columnar frames", 2.0),
)
"""Server cost an operation in microseconds, as measured with prototypes before the project began."""
TEXT = """\
Unary calls come from h2load: one connection, 256 under way. Frames come from a throw-away loop that writes columnar
`Pipeline` frames and reads their answers. Processor time is the whole server's, its start left out."""


def frames_name(frame: int, in_flight: int) -> str:
    """Return what a load of frames is called."""
    return f"frames of {frame:,}, {in_flight} under way"


class Wire:
    """Measures what server and gRPC do when the client costs next to nothing."""

    name = "wire"
    needs: tuple[str, ...] = ()

    def steps(self, run: Run) -> list[Step]:
        """Return the steps; what the first frames left is replayed last."""
        each = run.sizes.short_s
        frames = [
            Step(frames_name(frame, in_flight), each + 2, self._frames(run, frame, in_flight)) for frame, in_flight in FRAMES
        ]
        return [
            Step("empty echo and durable puts, unary", 2 * each + 5, lambda: self._unary(run)),
            *frames,
            Step("replay", 3, lambda: self._replay(run)),
        ]

    def _unary(self, run: Run) -> None:
        if peers.skipped(run, peers.UNARY):
            return
        with serving([sys.executable, str(BENCH / "echo_server.py")], run.folder("echo.log")) as server:
            run.record_load("wire/echo", self._h2load(run, server)[0], "empty echo")
        with fresh_kvserver(run.folder("unary")) as server:
            load, answered = self._h2load(run, server)
            made = int(parsing.metric(server.metrics(), "kv_commits_total"))
        if made < answered:
            raise ProcessFailed(f"{answered} puts were answered, but {made} commits were made")
        run.record_load("wire/unary", load, "durable Put")

    def _h2load(self, run: Run, server: Server) -> tuple[Load, int]:
        body = kv_pb2.PutRequest(key=b"bench", value=peers.VALUE).SerializeToString()
        message = b"\0" + len(body).to_bytes(4, "big") + body
        url = f"http://{server.address}{PUT_PATH}"
        load, answered, command = peers.h2load(url, message, 1, IN_FLIGHT, run.sizes.short_s, run.scratch)
        run.command("ourselves, unary puts of a foreign client", [word.replace(server.address, "HOST:PORT") for word in command])
        return load, answered

    def _frames(self, run: Run, frame: int, in_flight: int) -> Callable[[], None]:
        def measure() -> None:
            name = frames_name(frame, in_flight)
            # The store of the first load stays: its log is replayed at the end of the round.
            serve = kvserver if frame == FRAMES[0][0] else fresh_kvserver
            with serve(run.folder(f"frames-{frame}")) as server:
                before = server.cpu_seconds()
                words = [server.address, str(run.sizes.short_s), str(frame), str(in_flight), str(run.sizes.hot_keys)]
                command = [sys.executable, str(BENCH / "wire_load.py"), "frames", *words]
                values = json.loads(execute(command, timeout_s=240).printed)
                used = server.cpu_seconds() - before
            run.record(f"wire/{name}.per_s", values["per_s"])
            run.record(f"wire/{name}.server_us", used / values["operations"] * 1e6)
            run.say(f"{values['per_s']:,.0f}/s, server {used / values['operations'] * 1e6:.1f} µs an operation")

        return measure

    def _replay(self, run: Run) -> None:
        folder = run.folder(f"frames-{FRAMES[0][0]}")
        try:
            command = [sys.executable, str(BENCH / "wire_load.py"), "replay", str(folder)]
            values = json.loads(execute(command, timeout_s=240).printed)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        run.record("wire/replay.per_s", values["per_s"])
        run.say(f"{values['per_s']:,.0f} of {values['commits']:,} commits/s")

    def render(self, run: Run) -> str:
        """Return the rates, the server's cost, and the ladder of the prototypes."""
        figures = run.figures
        unary, echo = figures.rounds("wire/unary.per_s"), figures.rounds("wire/echo.per_s")
        rows = [
            ["empty grpc.aio echo, unary", render.rounds(echo), ""],
            ["durable Put, unary", render.rounds(unary), ""],
        ]
        for name in (frames_name(*frames) for frames in FRAMES):
            rows.append([name, render.figure(figures, f"wire/{name}.per_s"), render.figure(figures, f"wire/{name}.server_us")])
        rows.append(["replay at a start, commits", render.figure(figures, "wire/replay.per_s"), ""])
        share = render.rounds(ratio_rounds(unary, echo))
        behind = f"A durable unary Put reaches {share} of what gRPC's empty echo does in the same round."
        name = frames_name(*FRAMES[0])
        ladder = [[f"prototype: {step}", f"{cost:.1f}"] for step, cost in LADDER]
        ladder.append([f"**this server, {name}**", f"**{render.median(figures, f'wire/{name}.server_us')}**"])
        return "\n\n".join(
            [
                "### The server without the SDK",
                TEXT,
                render.table(["what", "a second", "server µs an operation"], rows),
                behind,
                render.table(["server cost an operation", "µs"], ladder),
            ]
        )
