"""Options are checked when they are made, and the limits fit into each other."""

from __future__ import annotations

import pytest

from kvserver.base import limits
from kvserver.base.limits import KIB, MIB
from kvserver.base.options import EngineOptions, PipelineOptions, WalOptions
from kvserver.wal.commit_record import EFFECT_LENGTH, ONE_LENGTH, RECORD_LENGTH


def test_the_defaults_fit_together() -> None:
    options = EngineOptions()
    assert options.wal.ahead_bytes > options.wal.max_frame_bytes
    assert options.pipeline.max_unwritten_bytes >= options.wal.max_frame_bytes


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"max_group_bytes": 6 * MIB}, "max_group_bytes must not exceed max_frame_bytes"),
        ({"ahead_bytes": 5 * MIB}, "ahead_bytes must exceed a frame"),
        ({"segment_bytes": 7 * MIB}, "segment_bytes must be at least ahead_bytes"),
        ({"segment_bytes": 8 * MIB + 8 * KIB}, "segment_bytes must hold two frames"),
        ({"segment_bytes": 1 << 32}, "segment_bytes must stay below 4 GiB"),
        ({"fill_step_bytes": 4 * KIB - 1}, "fill_step_bytes must be at least 4 KiB"),
    ],
)
def test_a_log_that_cannot_work_is_refused(fields: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        WalOptions(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"max_unwritten_bytes": limits.MAX_LOG_FRAME_BYTES - 1}, "max_unwritten_bytes must hold one frame"),
        ({"max_waiting": 0}, "max_waiting must be at least 1"),
    ],
)
def test_a_pipeline_that_cannot_work_is_refused(fields: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PipelineOptions(**fields)  # type: ignore[arg-type]


def test_the_largest_put_fits_a_commit() -> None:
    assert limits.MAX_KEY_BYTES + limits.MAX_VALUE_BYTES + ONE_LENGTH <= limits.MAX_COMMIT_BYTES


def test_the_largest_commit_and_the_largest_frame_of_the_stream_fit_a_frame_of_the_log() -> None:
    assert limits.MAX_COMMIT_BYTES + RECORD_LENGTH <= limits.MAX_LOG_FRAME_BYTES
    run = limits.MAX_MESSAGE_BYTES + ONE_LENGTH * limits.MAX_FRAME_OPERATIONS
    assert run <= limits.MAX_LOG_FRAME_BYTES
    assert limits.MAX_GROUP_BYTES <= limits.MAX_LOG_FRAME_BYTES


def test_keys_and_numbers_of_mutations_fit_their_fields() -> None:
    assert limits.MAX_KEY_BYTES < 1 << 16
    assert limits.MAX_COMMIT_MUTATIONS < 1 << 16
    assert limits.MAX_COMMIT_MUTATIONS * EFFECT_LENGTH < limits.MAX_COMMIT_BYTES


def test_a_chunk_of_a_scan_fits_a_message() -> None:
    pair = limits.MAX_KEY_BYTES + limits.MAX_VALUE_BYTES
    assert limits.SCAN_CHUNK_BYTES + pair + 100 * limits.SCAN_CHUNK_KEYS < limits.MAX_MESSAGE_BYTES
