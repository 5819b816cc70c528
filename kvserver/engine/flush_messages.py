"""What passes between the server and the helper that builds tables: a job as one line of JSON, its answer as another."""

from __future__ import annotations

import dataclasses
import json
import traceback
from pathlib import Path
from typing import Any

from kvserver.base.errors import Corruption
from kvserver.base.types import Epoch, Position
from kvserver.storage.flush_job import FlushFailed, FlushJob, FlushOutcome
from kvserver.storage.rows import Statistics


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _position(position: Position) -> list[Any]:
    return [*position.epoch, position.revision, position.chain.hex()]


def _position_of(fields: list[Any]) -> Position:
    number, nonce, revision, chain = fields
    return Position(Epoch(number, nonce), revision, bytes.fromhex(chain))


def encode_job(job: FlushJob) -> bytes:
    """Return the line of a job."""
    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    fields |= {"cluster_id": job.cluster_id.hex(), "target": str(job.target.absolute())}
    fields |= {"after": _position(job.after), "upto": _position(job.upto)}
    return _line(fields)


def decode_job(line: bytes) -> FlushJob:
    """Return the job of a line."""
    fields = json.loads(line)
    fields |= {"cluster_id": bytes.fromhex(fields["cluster_id"]), "target": Path(fields["target"])}
    fields |= {"after": _position_of(fields["after"]), "upto": _position_of(fields["upto"])}
    return FlushJob(**fields)


def encode_outcome(outcome: FlushOutcome) -> bytes:
    """Return the answer that a table was built."""
    fields = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    return _line({"outcome": fields})


def encode_error(error: Exception) -> bytes:
    """Return the answer that a table was not built; errors of other kinds than a builder raises say where they come from."""
    if isinstance(error, Corruption):
        return _line({"corruption": [str(error.path), error.offset, error.what, error.hint]})
    if isinstance(error, OSError) and error.errno is not None:
        return _line({"os": [error.errno, error.strerror, error.filename and str(error.filename)]})
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return _line({"other": f"{type(error).__name__}: {error}{where}"})


def decode_answer(line: bytes) -> FlushOutcome:
    """Return the outcome that an answer brings. Raises the error that it brings instead: Corruption, OSError, FlushFailed."""
    answer = json.loads(line)
    if "corruption" in answer:
        raise Corruption(*answer["corruption"])
    if "os" in answer:
        number, text, name = answer["os"]
        raise OSError(number, text, name)
    if "other" in answer:
        raise FlushFailed(f"the helper that builds tables failed: {answer['other']}")
    fields = answer["outcome"]
    statistics = {int(namespace): Statistics(*figures) for namespace, figures in fields.pop("statistics").items()}
    return FlushOutcome(statistics=statistics, **fields)
