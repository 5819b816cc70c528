"""Checks of the folder itself: what lies in it, who uses it, what it is, what was left behind, to whom it belongs."""

from __future__ import annotations

from pathlib import Path

from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption, OpenRefused
from kvserver.base.paths import TOP_LEVEL_NAMES, is_damaged, is_prepared, is_torn, parse_claim, parse_segment
from kvserver.engine.examination.findings import Finding, listed, note, ok, problem, sized, warning
from kvserver.engine.examination.subject import Subject
from kvserver.engine.identity import read_identity
from kvserver.storage.origin import read_origin

_OTHERS_ENTER = 0o001
_OTHERS_WRITE = 0o002
_OTHERS_READ = 0o004
_AS_SERVER = "run this as the user that the server runs as, or as root"


def check_folder(subject: Subject) -> list[Finding]:
    """Look whether the folder is there, is a store, and holds nothing else."""
    paths, what = subject.paths, str(subject.paths.root)
    try:
        names = subject.fs.list_dir(paths.root)
    except FileNotFoundError:
        return [problem("folder", what, "there is no such folder", "name the folder given to kvserver serve --data-dir")]
    except NotADirectoryError:
        return [problem("folder", what, "it is a file", "name the folder given to kvserver serve --data-dir")]
    except PermissionError:
        return [problem("folder", what, "this user may not read it", _AS_SERVER)]
    strangers = [name for name in names if name not in TOP_LEVEL_NAMES]
    if paths.restore.name in names:
        found = ok("folder", what, "a store that is being restored")  # the identity's check says how to go on
    elif paths.identity.name in names:
        found = ok("folder", what, "a data folder of kvserver")
    elif paths.origin.name in names:
        found = ok("folder", what, "a checkpoint that was not opened yet")
    elif set(names) <= {paths.lock.name, "lost+found"}:
        found = note("folder", what, "it is empty", "nothing; the first start of a server makes a store of it")
    elif strangers:
        advice = "name the folder given to kvserver serve --data-dir; a server does not start here"
        return [problem("folder", what, f"no data folder: it holds {listed(strangers)} but no {paths.identity.name}", advice)]
    else:
        found = ok("folder", what, "a store that is being made")  # the identity's check says what is missing
    if strangers:
        advice = "move what is not needed elsewhere; the server neither reads nor removes it"
        return [found, note("folder", what, f"it also holds what is not kvserver's: {listed(strangers)}", advice)]
    return [found]


def check_lock(subject: Subject) -> list[Finding]:
    """Ask whether a server runs on the folder. The lock is let go at once, so that a server can start meanwhile."""
    path = subject.paths.lock
    subject.in_use, subject.holder = False, 0
    if not subject.fs.exists(path):
        return [ok("lock", str(path), "never used by a server")]
    try:
        subject.fs.lock(path).release()
    except BlockingIOError:
        subject.in_use = True
        subject.holder = _holder(subject, path)
        who = f"process {subject.holder}" if subject.holder else "a running server"
        return [ok("lock", str(path), f"in use by {who}: its files change meanwhile; live figures: kvctl status")]
    except OSError as error:
        subject.in_use = True  # be careful: treat it as if
        what = f"whether a server runs here cannot be told: {error.strerror or error}"
        return [note("lock", str(path), what, f"{_AS_SERVER}; until then what looks wrong may be a write under way")]
    return [ok("lock", str(path), "not in use")]


def _holder(subject: Subject, path: Path) -> int:
    """Return the process that holds the lock, as far as the kernel tells."""
    try:
        facts = subject.machine.facts(path)
    except OSError:
        return 0
    place = f"{facts.device[0]:02x}:{facts.device[1]:02x}:{facts.inode}"
    for line in subject.text(Path("/proc/locks")).splitlines():
        fields = line.split()  # 1: FLOCK ADVISORY WRITE 4242 fe:00:131 0 EOF
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == place and fields[4].isdigit():
            return int(fields[4])
    return 0


def check_identity(subject: Subject) -> list[Finding]:
    """Read what the folder says it is."""
    path = subject.paths.identity
    try:
        identity = subject.identity = read_identity(Environment(subject.fs, subject.clock), subject.paths)
    except (OpenRefused, Corruption) as error:
        advice = "put the IDENTITY file back from a copy of the folder" if isinstance(error, Corruption) else error.hint
        return [problem("identity", str(path), error.message, advice)]
    if identity is None:
        if subject.fs.exists(subject.paths.origin):
            return [ok("identity", str(path), "none yet: a checkpoint gets one when a server opens it")]
        return [ok("identity", str(path), "none yet: the first start makes one")]
    found = f"cluster {identity.cluster_id.hex()}, node {identity.node_name!r}, format version {identity.format_version}"
    findings = [ok("identity", str(path), found)]
    if identity.register not in subject.registers:
        what = f"epochs are claimed in a register of kind {identity.register!r}, which cannot be looked into from here"
        findings.append(note("identity", str(path), what, "look into the register with its own tools"))
    return findings


def check_origin(subject: Subject) -> list[Finding]:
    """Read the record of the checkpoint that the store comes from, where it comes from one."""
    path = subject.paths.origin
    try:
        origin = subject.origin = read_origin(Environment(subject.fs, subject.clock), subject.paths)
    except Corruption as error:
        return [problem("origin", str(path), error.message, "put ORIGIN back from the checkpoint, or make a new checkpoint")]
    if origin is None:
        return [ok("origin", str(path), "not from a checkpoint")]
    where = f"revision {origin.position.revision} of cluster {origin.cluster_id.hex()}, node {origin.node_name!r}"
    return [ok("origin", str(path), f"from a checkpoint at {where}")]


def check_leftovers(subject: Subject) -> list[Finding]:
    """Look for what an earlier process left behind."""
    if subject.in_use:
        return [ok("leftovers", str(subject.paths.root), "not looked for: the files of a running server are no leftovers")]
    findings = [*_unfinished(subject), *_torn(subject), *_damaged(subject), *_strangers(subject)]
    return findings or [ok("leftovers", str(subject.paths.root), "none")]


def _unfinished(subject: Subject) -> list[Finding]:
    paths = subject.paths
    prepared = [name for name in subject.names(paths.wal) if is_prepared(name)]
    building = subject.names(paths.building)
    temporary = [
        str(path.relative_to(paths.root))
        for path in (paths.identity_temporary, paths.origin_temporary, paths.restore_temporary, paths.epoch_temporary())
        if subject.fs.exists(path)
    ]
    found = []
    for where, names, what in (
        (paths.wal, prepared, "space made ready for segments that never held a commit"),
        (paths.building, building, "tables whose flush did not end; everything in them is in the log"),
        (paths.root, temporary, "records whose writing did not end"),
        (paths.scratch, subject.names(paths.scratch), "copies on their way into a backup or a hash that did not end"),
    ):
        if names:
            advice = "nothing, a start copes with them; while no server runs they may be deleted"
            found.append(note("leftovers", str(where), f"{listed(names)}: {what}", advice))
    return found


def _torn(subject: Subject) -> list[Finding]:
    folder = subject.paths.wal
    names = [name for name in subject.names(folder) if is_torn(name)]
    if not names:
        return []
    size = sized(sum(subject.size(folder / name) for name in names))
    what = f"{listed(names)}: ends cut from segments by earlier recoveries ({size}), never acknowledged"
    return [note("leftovers", str(folder), what, "look at them if a MEMORY write is missed; they may be deleted")]


def _damaged(subject: Subject) -> list[Finding]:
    folder = subject.paths.wal
    names = [name for name in subject.names(folder) if is_damaged(name)]
    if not names:
        return []
    size = sized(sum(subject.size(folder / name) for name in names))
    what = f"{listed(names)}: damaged segments that were replaced from the archive ({size})"
    return [note("leftovers", str(folder), what, "find out what damaged them: look at the disk; they may be deleted")]


def _strangers(subject: Subject) -> list[Finding]:
    paths = subject.paths
    wal = subject.names(paths.wal)
    known_wal = {name for name in wal if parse_segment(name) or is_prepared(name) or is_torn(name) or is_damaged(name)}
    epochs = subject.names(paths.epochs)
    numbers = [number for name in epochs if (number := parse_claim(name)) is not None]
    known_epochs = {path(number).name for number in numbers for path in (paths.claim, paths.branch, paths.begun)}
    known_epochs.add(paths.epoch_temporary().name)
    found = []
    for folder, names in ((paths.wal, set(wal) - known_wal), (paths.epochs, set(epochs) - known_epochs)):
        if names:
            what = f"{listed(sorted(names))}: no file of kvserver's, or one that lost what belongs to it"
            advice = "find out who put them there, and move them out; the server does not read them"
            found.append(warning("leftovers", str(folder), what, advice))
    return found


def check_owner(subject: Subject) -> list[Finding]:
    """Look whether all files belong to one user, and who else may reach them."""
    paths, machine = subject.paths, subject.machine
    anchor = next((path for path in (paths.identity, paths.lock) if subject.fs.exists(path)), paths.root)
    owner = machine.facts(anchor).owner
    what = f"files below {paths.root}"
    foreign = []
    for path in _everything(subject):
        try:
            if machine.facts(path).owner != owner:
                foreign.append(str(path.relative_to(paths.root)))
        except FileNotFoundError:  # beside a running server files go
            continue
    findings = []
    if foreign:
        found = f"{len(foreign)} do not belong to user {owner}, as {anchor.name} does: {listed(foreign)}"
        advice = f"as root: chown -R {owner} {paths.root}; then run server and tools as one user"
        findings.append(problem("owner", what, found, advice))
    if machine.user() not in (0, owner):
        found = f"they belong to user {owner}, this is user {machine.user()}"
        findings.append(note("owner", what, found, _AS_SERVER))
    return [*(findings or [ok("owner", what, f"all belong to user {owner}")]), *_reachable(subject)]


def _everything(subject: Subject) -> list[Path]:
    paths = subject.paths
    folders = [folder for folder in (paths.wal, paths.epochs, paths.tables, paths.building) if subject.fs.exists(folder)]
    top = [paths.root / name for name in subject.names(paths.root) if name in TOP_LEVEL_NAMES and name != "lost+found"]
    return [*top, *(folder / name for folder in folders for name in subject.names(folder))]


def _reachable(subject: Subject) -> list[Finding]:
    """Say who else may enter the folder and do something there."""
    root = subject.paths.root
    mode = subject.machine.facts(root).mode
    if mode & _OTHERS_WRITE:
        advice = f"chmod o-rwx {root}"
        return [warning("owner", str(root), "every user of this machine may remove and replace files in it", advice)]
    folders = [folder for folder in (subject.paths.wal, subject.paths.tables) if subject.fs.exists(folder)]
    entered = mode & _OTHERS_ENTER
    open_ones = [one.name for one in folders if entered and subject.machine.facts(one).mode & (_OTHERS_ENTER | _OTHERS_READ)]
    if open_ones:
        return [note("owner", str(root), f"every user of this machine may look into {listed(open_ones)}", f"chmod o-rwx {root}")]
    return []
