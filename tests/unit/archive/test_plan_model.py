"""Plans for random archives, compared with what is known of how each was made: every revision, every time."""

from __future__ import annotations

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.plan import RestoreTarget, make_plan, possible_spans
from kvserver.base.errors import RevisionError
from support.archive_model import ArchiveModel


@pytest.mark.parametrize("seed", range(120))
def test_plans_agree_with_a_model_of_the_archive(seed: int) -> None:
    model = ArchiveModel(seed)
    scene = model.scene
    catalog = read_catalog(scene.store, scene.cluster_id)
    assert catalog.problems == ()
    spans = possible_spans(catalog)
    for revision in range(model.end + 3):
        possible = model.can(revision)
        assert possible == any(span.first_revision <= revision <= span.last_revision for span in spans), revision
        try:
            made = make_plan(scene.store, scene.cluster_id, RestoreTarget(revision), catalog=catalog)
        except RevisionError:
            assert not possible, revision
            continue
        assert possible, revision
        assert made.revision == revision
        assert made.time_ms == scene.time_of[revision]
        below = [base for base in model.bases if base <= revision]
        usable = [base for base in below if model.missing.isdisjoint(range(base + 1, revision + 1))]
        assert (made.base.position.revision if made.base else 0) == max(usable, default=0)
        assert made.position == (scene.frame_ends.get(revision) if made.legs or not made.base else made.base.position)
    for revision, time_ms in scene.time_of.items():
        last = max(at for at, when in scene.time_of.items() if when <= time_ms)
        if revision in model.missing or last in model.missing or last + 1 in model.missing:
            continue
        target = RestoreTarget(time_ms=time_ms)
        if model.can(last):
            assert make_plan(scene.store, scene.cluster_id, target, catalog=catalog).revision == last
        else:
            with pytest.raises(RevisionError):
                make_plan(scene.store, scene.cluster_id, target, catalog=catalog)
