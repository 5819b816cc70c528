"""Follows: finds whom to follow, and does what the state that the node is in asks for, one step after the other.

    EMPTY             look for a node to copy from; a store that could be shipped from its begin needs no copy. Where no node can
                      be reached for long, the archive will do
    RESTORING         fetch the copy, put it in the place of what there is
    CONNECTING        say where the log ends, be shipped what follows (CATCHUP_STREAM, STREAMING) or hear why not
    WAL_GONE          see whether the archive goes on where the log ends
    CATCHUP_ARCHIVE   take what it has
    DIVERGED          keep what has to be given up, go back to the common position
    FENCED, FAILED    wait for whatever ends it

A step ends with something that has happened, and ``states`` says what that leads to. What goes wrong is sorted in one place
(``troubles``): what passes is tried again after a pause that grows, and says so; a source that must not be followed is refused
until another one is named; what would come back unchanged ends in FAILED. So does going round in circles: a log that is gone
again after it was fetched, histories that part again after a rewind, a source that sends what does not check, each some times in
a row and without a step forward between.

``pause`` and ``stop`` end whatever is under way, but for what must not be left half-way: a store that is being exchanged. When
they return, no chunk is on its way into the store, so the end of the log stands still: a promise depends on that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kvserver.base.errors import Corruption, KvError
from kvserver.base.types import LogEnd, Position
from kvserver.engine.database import Database
from kvserver.replication.archive_catch_up import Piece, find_pieces, take_from_archive
from kvserver.replication.copying import copy_from_archive, copy_from_node, take_copy
from kvserver.replication.following import Following
from kvserver.replication.home import FollowerFloor, Home, holds_nothing
from kvserver.replication.messages import Description, Gone, ShippedMarks
from kvserver.replication.peer import Peer
from kvserver.replication.receiving import Ended, IntakeFailed, hello_of
from kvserver.replication.rewind import Rewound, go_back, prepare_beside
from kvserver.replication.source_check import Setback, find_source
from kvserver.replication.states import FollowerState, Happening, Lasting, StateMachine
from kvserver.replication.troubles import ArchiveDamaged, Troubles
from kvserver.replication.waiting import pause

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LOOK_EVERY_S = 1.0
"""So often it is looked whether there is another source, also where nobody says so."""

RETRY_FAILED_S = 30.0
"""After so long a failure that time may mend is tried again."""

UNREACHED_UNTIL_ARCHIVE = 5
"""An empty node that could reach nobody so often takes its store from the archive."""

ARCHIVE_TRIES = 3
"""So often an archive that cannot be used is tried again, before the store is fetched anew."""

SHIP_UPTO_REVISION = 100_000
"""A store with no more revisions is shipped from its begin, where its log still goes back so far, and not copied."""

_S = FollowerState
_UNDER_WAY = (_S.CATCHUP_STREAM, _S.STREAMING, _S.CATCHUP_ARCHIVE, _S.DIVERGED)


class Follower:
    """The driver of one node. Belongs to the event loop."""

    def __init__(self, home: Home, floor: FollowerFloor) -> None:
        self.marks = ShippedMarks()
        """What the source said last."""
        self.heard_ms = 0
        """When, by this node's clock; 0: it has said nothing yet."""
        self.heard_from = ""
        """The address of the node that said it; ``source`` may be another one by now."""
        self.source = ""
        """The address of the node that is followed, or is tried; empty: none."""
        self._home, self._floor = home, floor
        empty = holds_nothing(home.database())
        begin = FollowerState.EMPTY if empty else FollowerState.CONNECTING
        self.machine = StateMachine(begin, "it has no store yet" if empty else "it was started", floor.listener)
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._reinit, self._asked, self._refused_source = False, "", ""
        self._tries = 0
        self._troubles = Troubles(floor.listener)
        self._common: Position | None = None
        self._pieces: list[Piece] = []
        self._begins_behind = False
        """The source's log begins exactly where this one ends, with the next segment: it is asked for as after a copy."""

    # -- how it stands --------------------------------------------------------------------------------------------

    @property
    def state(self) -> FollowerState:
        """Return the state."""
        return self.machine.state

    @property
    def reason(self) -> str:
        """Return why it is in this state; of a failure also what ends it."""
        lasting = self.machine.lasting
        return f"{self.machine.reason} (what ends it: {lasting.value})" if lasting is not None else self.machine.reason

    # -- what others ask of it ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow, or go on."""
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Follow nobody any more. On return nothing is under way, and the end of the log stands still."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self.source = ""
        if self.state in _UNDER_WAY:
            self.machine.happen(Happening.SET_BACK, "it was told to follow nobody for now")

    pause, resume = stop, start

    def wake(self) -> None:
        """Look again at once: another source or another promise may be known."""
        self._woken.set()

    def reinit(self) -> None:
        """Fetch the store anew, whatever there is."""
        self._reinit = True
        self._woken.set()

    # -- the loop -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        steps: dict[FollowerState, Callable[[], Awaitable[None]]] = {
            _S.EMPTY: self._find_copy,
            _S.RESTORING: self._fetch,
            _S.CONNECTING: self._follow,
            _S.WAL_GONE: self._look_into_archive,
            _S.CATCHUP_ARCHIVE: self._take_archived,
            _S.DIVERGED: self._go_back,
            _S.FENCED: self._wait_fenced,
            _S.FAILED: self._wait_failed,
        }
        while True:
            self._woken.clear()
            if self._reinit:
                self._reinit = False
                self._troubles.forget()
                self.machine.happen(Happening.REINIT, "an operator wants the store fetched anew")
            try:
                await steps[self.state]()
            except Exception as error:
                setback = self._troubles.sort(error, self.state, self.source)
                self._refused_source = self._asked
                self.machine.suffer(setback.happening, setback.why, setback.lasting)
                if setback.happening in (Happening.SET_BACK, Happening.LOWER_EPOCH):
                    await self._rest()

    async def _rest(self) -> None:
        """Wait longer each time, and never in step with others."""
        self._tries += 1
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._tries - 1, 16))
        share = self._floor.env.random_bytes(1)[0] / 255
        await pause(self._floor.sleep, longest * (0.5 + share / 2), self._woken)

    def _moved(self, *what: str) -> None:
        """Note a step forward, and what it ends a row of."""
        self._tries = 0
        if what:
            self._troubles.forget(*what)

    async def _find(self) -> tuple[Peer, Description]:
        """Return the node to follow, checked. Raises Setback, KvError."""
        self._asked = self._home.source()
        return await find_source(self._home, self._asked, lambda address: setattr(self, "source", address))

    async def _find_or_none(self) -> tuple[Peer, Description] | None:
        """Return the node to follow; None where none could be reached for long, and the archive may serve instead."""
        try:
            found = await self._find()
        except (KvError, Setback) as error:
            if isinstance(error, Setback) and error.happening is not Happening.SET_BACK:
                raise
            times = self._troubles.count("unreached")
            may_restore = self._home.archive_url is not None and holds_nothing(self._home.database())
            if times < UNREACHED_UNTIL_ARCHIVE or not may_restore:
                raise
            return None
        self._troubles.forget("unreached")
        return found

    # -- a copy of the store --------------------------------------------------------------------------------------

    async def _find_copy(self) -> None:
        database = self._home.database()
        if not holds_nothing(database):
            self.machine.happen(Happening.HAS_STORE, "it has a store")
            return
        found = await self._find_or_none()
        if found is None:
            self.machine.happen(Happening.SOURCE_FOUND, f"no node can be reached; the archive is {self._home.archive_url}")
            return
        peer, description = found
        await peer.close()
        revision = description.end.position.revision
        if database is not None and revision <= SHIP_UPTO_REVISION:
            what = f"{peer.address} is at revision {revision} only, and may ship its log from the begin"
            self.machine.happen(Happening.HAS_STORE, what)
        else:
            self.machine.happen(Happening.SOURCE_FOUND, f"{peer.address} is at revision {revision}")

    async def _fetch(self) -> None:
        home, floor = self._home, self._floor
        found = await self._find_or_none()
        began_s = floor.env.clock.monotonic()
        if found is None:
            assert home.archive_url is not None, "it was looked at before"
            source = home.archive_url
            copied = await copy_from_archive(home, floor, source)
        else:
            peer, description = found
            source = peer.address
            try:
                copied = await copy_from_node(home, floor, peer, description)
            finally:
                await peer.close()
        taken = asyncio.Event()
        try:
            await take_copy(home, floor, source, copied, began_s, taken)
        finally:  # also where it was told to stop meanwhile
            if taken.is_set():
                self._moved("copy", "unreached", "archive")
                what = f"the copy from {source} is at revision {copied.position.revision}"
                self.machine.happen(Happening.COPY_TAKEN, what)

    # -- being shipped the log ------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        home = self._home
        database = home.database()
        if database is None:
            self.machine.happen(Happening.HAS_NO_STORE, "there is no store")
            return
        try:
            peer, _ = await self._find()
        except (KvError, Setback) as error:
            passes = not isinstance(error, Setback) or error.happening is Happening.SET_BACK
            if not passes or not holds_nothing(database) or home.archive_url is None:
                raise
            self.machine.happen(Happening.HAS_NO_STORE, "nothing was ever written to the store, and nobody can be reached")
            return
        try:
            await self._be_shipped(peer, database)
        finally:
            await peer.close()

    async def _be_shipped(self, peer: Peer, database: Database) -> None:
        home, floor = self._home, self._floor
        end = database.log_end()
        hello = hello_of(database, home.identity(), home.vow.promised, floor.compressions)
        begins_behind, self._begins_behind = self._begins_behind, False
        if begins_behind:
            hello = hello._replace(end=LogEnd(end.position, 0, 0))
        following = Following(home, floor, database, self.machine, peer.address)
        following.on_marks = lambda marks, at_ms: self._heard(peer.address, marks, at_ms)
        call = await peer.follow(hello)
        try:
            ended = await following.run(call, self._interrupted(following))
        except IntakeFailed as failed:
            if not begins_behind or following.durable_bytes or not failed.is_chunks_fault:
                raise
            self.machine.happen(Happening.LOG_GONE, f"the log of {peer.address} does not go on where this one ends")
            return
        finally:
            if following.durable_bytes:
                self._moved("chunk", "gone")
            if following.was_streaming:
                self._moved("chunk", "gone", "parted", "archive")
        if (
            ended is not None
            and isinstance(ended.body, Gone)
            and not begins_behind
            and ended.body.oldest == end.position.revision + 1
        ):
            self._begins_behind = database.tail().is_sealed_end(end.segment_id, end.offset)
        if not self._begins_behind:
            self._on_ended(peer.address, ended)

    def _heard(self, address: str, marks: ShippedMarks, at_ms: int) -> None:
        self.heard_from, self.marks, self.heard_ms = address, marks, at_ms

    async def _interrupted(self, following: Following) -> None:
        """Return when something else is to be done than to be shipped the log."""
        while True:
            await pause(self._floor.sleep, LOOK_EVERY_S, self._woken)
            self._woken.clear()
            promised, heard = self._home.vow.promised, following.marks.epoch
            if self._reinit or self._home.source() != self._asked or promised.number > heard.number > 0:
                return

    def _on_ended(self, address: str, ended: Ended | None) -> None:
        if ended is None:
            if not self._reinit and self.state is not FollowerState.CONNECTING:
                self.machine.happen(Happening.SOURCE_CHANGED, f"{address} is not, or not any more, whom to follow")
            return
        body = ended.body
        if isinstance(body, Gone):
            why = f"the log of {address} begins at revision {body.oldest}, behind the end of this one"
            name, happening = "gone", Happening.LOG_GONE
        else:
            self._common = at = body.common
            why = f"{address} goes on from epoch {at.epoch.number}, revision {at.revision} with epoch {body.epoch.number}"
            name, happening = "parted", Happening.PARTED
        setback = self._troubles.again(name, why, Lasting.OPERATOR)
        if setback.happening is Happening.GAVE_UP:
            raise setback
        self.machine.happen(happening, why)

    # -- the archive ----------------------------------------------------------------------------------------------

    async def _look_into_archive(self) -> None:
        home, floor = self._home, self._floor
        database, url = home.database(), home.archive_url
        if database is None or url is None:
            self.machine.happen(Happening.ARCHIVE_LACKS_IT, "there is no archive; the store is fetched anew")
            return
        if self._troubles["archive"] >= ARCHIVE_TRIES:
            self.machine.happen(Happening.ARCHIVE_LACKS_IT, f"{url} cannot be used; the store is fetched anew")
            return
        end = database.log_end()
        try:
            self._pieces = await find_pieces(floor, url, home.identity().cluster_id, end, self._common)
        except KvError as error:
            raise self._troubles.again("archive", error.message, Lasting.OPERATOR) from error
        if not self._pieces:
            what = f"{url} does not go on where this log ends, at revision {end.position.revision}; the store is fetched anew"
            self.machine.happen(Happening.ARCHIVE_LACKS_IT, what)
            return
        what = f"{url} goes on from revision {end.position.revision} to {self._pieces[-1].end.revision}"
        self.machine.happen(Happening.ARCHIVE_HAS_IT, what)

    async def _take_archived(self) -> None:
        home, floor = self._home, self._floor
        database, url = home.database(), home.archive_url
        if database is None or url is None:
            raise Setback(Happening.SET_BACK, "the store is not open")
        before, pieces, self._pieces = database.log_end(), self._pieces, []
        try:
            await take_from_archive(floor, url, home.identity().cluster_id, pieces, database, self._moved_by_archive)
        except Corruption as error:
            raise ArchiveDamaged(error) from error
        except IntakeFailed as failed:
            raise (ArchiveDamaged(failed.error) if failed.is_chunks_fault else failed) from failed
        begin, end = before.position.revision, database.log_end().position.revision
        self.machine.happen(Happening.ARCHIVE_ENDED, f"the archive led from revision {begin} to {end}")

    def _moved_by_archive(self) -> None:
        self._moved("gone", "archive", "chunk")

    # -- going back -----------------------------------------------------------------------------------------------

    async def _go_back(self) -> None:
        home, floor = self._home, self._floor
        common = self._common
        assert common is not None, "it is known where histories part"
        done: list[Rewound] = []

        prepared = await prepare_beside(floor, home.database(), common)
        await home.reopen(lambda: done.append(go_back(floor, common, prepared)))
        (rewound,) = done
        where = f"epoch {common.epoch.number}, revision {common.revision}"
        lost = f"{rewound.lost_revisions} revisions were given up" if rewound.lost_revisions else "nothing was lost"
        kept = f", and kept in {rewound.kept_in}" if rewound.kept_in else ""
        if rewound.needs_copy:
            what = f"the tables are beyond {where}: {lost}{kept}; the store is fetched anew"
            self.machine.happen(Happening.NEEDS_COPY, what)
        else:
            tables = f"; the tables come from the base at revision {rewound.base_revision}" if rewound.base_revision else ""
            self.machine.happen(Happening.REWOUND, f"the log was cut at {where}: {lost}{kept}{tables}")

    # -- waiting --------------------------------------------------------------------------------------------------

    async def _wait_fenced(self) -> None:
        peer, found = await self._find()
        await peer.close()
        self.machine.happen(Happening.SOURCE_CHANGED, f"{peer.address} is of epoch {found.epoch.number}")

    async def _wait_failed(self) -> None:
        lasting = self.machine.lasting
        if lasting is Lasting.TIME:
            if not await pause(self._floor.sleep, RETRY_FAILED_S, self._woken):
                self.machine.happen(Happening.RETRIED, f"it is tried again after {RETRY_FAILED_S:.0f} s: {self.machine.reason}")
            return
        await pause(self._floor.sleep, LOOK_EVERY_S, self._woken)
        if lasting is Lasting.SOURCE and not self._reinit and self._home.source() != self._refused_source:
            self.machine.happen(Happening.SOURCE_CHANGED, f"{self._home.source()} is to be followed now")
