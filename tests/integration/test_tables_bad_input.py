"""Tables that are missing, cut, flipped, foreign or older than the log: refused at the start by name, or survived.

Each case damages a copy of a store that a real server wrote. What starts holds everything acknowledged; what does not start
names the file and what to do, and changes nothing, so that it can be mended.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from integration.processes import Process
from integration.tables_scenes import (
    FLAGS,
    Scene,
    assert_all_there,
    client,
    cut,
    flip,
    make_scene,
    manifest,
    names_in,
    refused_to_start,
    segments,
    tables,
    unreadable,
)
from kvclient import Corruption


class Stores(NamedTuple):
    """The stores of this module."""

    complete: Scene
    """Its log begins at the creation: tables are never the only copy."""
    trimmed: Scene
    """Its log begins behind the second flush."""
    other: Scene
    """Another store, like ``complete`` in everything but cluster and values."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("stores")
    complete, other = make_scene(folder / "complete", False, seed=1), make_scene(folder / "other", False, seed=2)
    return Stores(complete, make_scene(folder / "trimmed", True), other)


def assert_survives(folder: Path, scene: Scene, flushed: int) -> None:
    """Start a server and check that nothing is lost, that it can flush, and that the next start finds the same."""
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        assert kv.status().flushed_revision == flushed
        assert_all_there(kv, scene.model)
        assert kv.flush().flushed_revision == kv.status().visible_revision
        assert kv.status().warnings == ()
        assert server.stop() == 0
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        assert_all_there(kv, scene.model)


def assert_refused(folder: Path, *said: str, hint: str = "restore the named file from a copy") -> None:
    """Check that the start is refused by name and changes nothing, twice."""
    before = names_in(folder)
    for _ in range(2):
        error, advice = refused_to_start(folder)
        assert "[CORRUPTION]" in error
        for text in (*said, str(folder)):
            assert text in error
        assert hint in advice
        assert names_in(folder) == before


# Missing, cut, flipped


class Damage(NamedTuple):
    """What is done to a data folder, and the file that the refusal names."""

    name: str
    do: Callable[[Path], None]
    named: Callable[[Path], str]


def _current(folder: Path) -> Path:
    return folder / "tables" / "CURRENT"


def _second(folder: Path) -> Path:
    return tables(folder)[1]


def _damages(what: str, file: Callable[[Path], Path], cuts: tuple[int, ...], flips: tuple[int, ...]) -> list[Damage]:
    def named(folder: Path) -> str:
        return file(folder).name

    found = [Damage(f"{what} cut at {at}", lambda folder, at=at: cut(file(folder), at), named) for at in cuts]  # type: ignore[misc]
    return found + [Damage(f"{what} flipped at {at}", lambda folder, at=at: flip(file(folder), at), named) for at in flips]  # type: ignore[misc]


# Flips of a table's footer, its index and its properties are found at the start; so is one in its first block, see below.
REFUSED = [
    Damage("CURRENT missing", lambda folder: _current(folder).unlink(), lambda folder: "CURRENT"),
    *_damages("CURRENT", _current, (0, 9, -1), (0, 12, -1)),
    Damage("MANIFEST missing", lambda folder: manifest(folder).unlink(), lambda folder: "MANIFEST-000005"),
    *_damages("MANIFEST", manifest, (0, 1, 7, 100), (0, 3, 9, 50, 150, -60, -1)),
    Damage("table missing", lambda folder: _second(folder).unlink(), lambda folder: "000009.sst"),
    *_damages("table", _second, (0, 1, 1000, 200_000, -1), (-1, -5, -100, -700)),
]


@pytest.mark.parametrize("damage", REFUSED, ids=lambda damage: damage.name)
def test_damage_that_the_start_meets_is_refused_by_name(stores: Stores, tmp_path: Path, damage: Damage) -> None:
    folder = stores.complete.copy(tmp_path / "data")
    named = damage.named(folder)
    damage.do(folder)
    assert_refused(folder, named)


def test_what_was_refused_serves_again_when_the_file_is_put_back(stores: Stores, tmp_path: Path) -> None:
    folder = stores.trimmed.copy(tmp_path / "data")
    for path in (tables(folder)[0], manifest(folder), _current(folder)):
        kept = path.read_bytes()
        cut(path, -1)
        refused_to_start(folder)
        path.write_bytes(kept)
    assert_survives(folder, stores.trimmed, stores.trimmed.flushed[-1])


def test_a_flip_in_the_catalogue_is_refused_by_name(stores: Stores, tmp_path: Path) -> None:
    """The tables were open for writing when it was met, so RocksDB has renewed its lists; what they list is as it was."""
    folder = stores.trimmed.copy(tmp_path / "data")
    table = tables(folder)[1]
    sound = table.read_bytes()
    flip(table, 50)
    before = {path: path.read_bytes() for path in [*tables(folder), *segments(folder)]}
    for _ in range(2):
        error, hint = refused_to_start(folder)
        assert str(table) in error and "offset 0" in error and "[CORRUPTION]" in error
        assert "restore the named file from a copy" in hint
        assert {path: path.read_bytes() for path in [*tables(folder), *segments(folder)]} == before
    table.write_bytes(sound)
    assert_survives(folder, stores.trimmed, stores.trimmed.flushed[-1])


@pytest.mark.parametrize("at", [20_000, 60_000, 150_000, 230_000, -3000, -2400, -40, -20])
def test_a_flip_that_the_start_does_not_meet_harms_only_reads_that_meet_it(stores: Stores, tmp_path: Path, at: int) -> None:
    """Whatever the flipped bit belongs to: no read returns anything but what was acknowledged, or CORRUPTION by name."""
    folder = stores.complete.copy(tmp_path / "data")
    flip(_second(folder), at)
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        errors = unreadable(kv, stores.complete.model)
        assert bool(errors) == (at > 0), "rows are not where the test believes"
        assert len(errors) < 40, "more than a block cannot be read"
        for error in errors:
            assert_names(error, _second(folder))
        assert server.stop() == 0


def test_a_flip_in_history_harms_only_reads_of_the_past_that_meet_it(stores: Stores, tmp_path: Path) -> None:
    scene = stores.complete
    folder = scene.copy(tmp_path / "data")
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        told = {key: list(kv.history(key)) for key in scene.model}
        assert server.stop() == 0
    flip(_second(folder), 380_000)
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        assert_all_there(kv, scene.model)
        harmed = 0
        for key, entries in told.items():
            try:
                assert list(kv.history(key)) == entries
            except Corruption as error:
                assert_names(error, _second(folder))
                harmed += 1
        assert 0 < harmed < len(told) / 5
        with pytest.raises(Corruption):
            list(kv.scan(revision=scene.flushed[0]))
        assert server.stop() == 0


def assert_names(error: Corruption, table: Path) -> None:
    """Check that an error names the table and says what to do."""
    assert error.code == "CORRUPTION"
    assert str(table) in error.message
    assert "kvctl doctor" in error.hint


# Foreign


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_table_of_another_store_is_refused_even_if_it_has_the_same_length(stores: Stores, tmp_path: Path, place: int) -> None:
    folder = stores.complete.copy(tmp_path / "data")
    ours, theirs = tables(folder)[place], tables(stores.other.folder)[place]
    assert (ours.name, ours.stat().st_size) == (theirs.name, theirs.stat().st_size)
    shutil.copy(theirs, ours)
    assert_refused(folder, "Mismatch in unique ID", f"table file {int(ours.stem)}.")


def test_another_table_of_the_same_store_is_refused(stores: Stores, tmp_path: Path) -> None:
    folder = stores.complete.copy(tmp_path / "data")
    shutil.copy(tables(folder)[0], tables(folder)[1])
    assert_refused(folder, tables(folder)[1].name)


def test_a_list_of_tables_of_another_store_is_refused(stores: Stores, tmp_path: Path) -> None:
    folder = stores.complete.copy(tmp_path / "data")
    shutil.copy(manifest(stores.trimmed.folder), manifest(folder))
    assert_refused(folder, ".sst", "No such file")


@pytest.mark.parametrize("other", ["trimmed", "other"])
def test_all_tables_of_another_store_are_refused(stores: Stores, tmp_path: Path, other: str) -> None:
    folder = stores.complete.copy(tmp_path / "data")
    shutil.rmtree(folder / "tables")
    shutil.copytree(getattr(stores, other).folder / "tables", folder / "tables")
    error, hint = refused_to_start(folder)
    assert "tables: " in error and "belong to another cluster" in error and "[CORRUPTION]" in error
    assert "put the folder tables/ back" in hint


# Older than the log


def _cut_back(folder: Path, scene: Scene) -> None:
    """Cut the list of tables back to what it was before the last flush."""
    cut(manifest(folder), scene.manifest_bytes)


def _tear(folder: Path, scene: Scene) -> None:
    """Cut the end of its last entry off, as a file system that lost its newest data would: the entry does not count."""
    cut(manifest(folder), -1)


def _older(folder: Path, scene: Scene) -> None:
    shutil.rmtree(folder / "tables")
    shutil.copytree(scene.older_tables, folder / "tables")


def _removed(folder: Path, scene: Scene) -> None:
    shutil.rmtree(folder / "tables")


def _emptied(folder: Path, scene: Scene) -> None:
    for path in (folder / "tables").iterdir():
        path.unlink()


SETBACKS = [(_cut_back, 2), (_tear, 2), (_older, 1), (_removed, 0), (_emptied, 0)]
"""What is done to the tables, and how many of the three flushes are left then."""


@pytest.mark.parametrize(("set_back", "flushes"), SETBACKS)
def test_older_tables_are_survived_where_the_log_is_complete(
    stores: Stores, tmp_path: Path, set_back: Callable[[Path, Scene], None], flushes: int
) -> None:
    scene = stores.complete
    folder = scene.copy(tmp_path / "data")
    set_back(folder, scene)
    assert_survives(folder, scene, scene.flushed[flushes - 1] if flushes else 1)


@pytest.mark.parametrize(("set_back", "flushes"), SETBACKS)
def test_older_tables_are_refused_where_the_log_was_trimmed_and_nothing_is_touched(
    stores: Stores, tmp_path: Path, set_back: Callable[[Path, Scene], None], flushes: int
) -> None:
    """Above all no table file goes that a cut list does not name: it may be the only copy of what was acknowledged."""
    scene = stores.trimmed
    folder = scene.copy(tmp_path / "data")
    sound = {path: path.read_bytes() for path in (folder / "tables").iterdir()}
    set_back(folder, scene)
    first = int(segments(folder)[0].stem.partition("-")[2], 16)
    flushed = scene.flushed[flushes - 1] if flushes else 1
    said = f"the log begins at revision {first}, but the tables end at {flushed}: what lies between is missing"
    assert_refused(folder, said, hint="put back what is missing (tables/")
    shutil.rmtree(folder / "tables", ignore_errors=True)
    (folder / "tables").mkdir()
    for path, content in sound.items():
        path.write_bytes(content)
    assert_survives(folder, scene, scene.flushed[-1])


def test_a_log_that_begins_behind_the_flushed_mark_is_refused(stores: Stores, tmp_path: Path) -> None:
    scene = stores.complete
    folder = scene.copy(tmp_path / "data")
    with Process("--data-dir", str(folder), *FLAGS) as server:
        assert server.ready().stop() == 0
    first, second = segments(folder)
    moved = first.rename(tmp_path / first.name)
    begins = int(second.stem.partition("-")[2], 16)
    assert begins > scene.flushed[-1] + 1
    assert_refused(
        folder,
        f"the log begins at revision {begins}, but the tables end at {scene.flushed[-1]}: what lies between is missing",
        hint="or the segments before",
    )
    moved.rename(first)
    assert_survives(folder, scene, scene.flushed[-1])


def test_a_log_that_ends_before_the_flushed_mark_is_refused(stores: Stores, tmp_path: Path) -> None:
    scene = stores.trimmed
    folder = scene.copy(tmp_path / "data")
    segments(folder)[-1].unlink()
    error, hint = refused_to_start(folder)
    assert "[CORRUPTION]" in error and "segment" in error and "missing" in error
    assert "hint: " in hint
