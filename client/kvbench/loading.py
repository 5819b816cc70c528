"""Loading the keys that a run reads, in atomic batches, several under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import cycle, islice

import numpy as np

import kvclient
from kvbench import workload
from kvbench.options import RunOptions
from kvctl.progress import ProgressBar

_BATCH_KEYS = 1_000
_BATCH_BYTES = 1024 * 1024
_UNDER_WAY = 8
_TRIES = 100
_PAUSE_S = 0.1
_TIMEOUT_S = 60.0
"""A batch may wait for a flush, which is no fault of a loading."""


async def load(client: kvclient.AsyncClient, options: RunOptions) -> None:
    """Put every key once, in their order, so that the last one is the newest; durable when this returns.

    A batch that the server has no room for, or whose outcome is unknown, is sent again after a pause: it puts the same again.
    """
    values = cycle(workload.some_values(options.value_size_bytes, np.random.default_rng([options.seed])))
    keys = workload.keys_at(range(options.keys))
    per_batch = max(1, min(_BATCH_KEYS, _BATCH_BYTES // max(options.value_size_bytes, 1)))
    done = 0
    with ProgressBar("loading", options.keys, "key") as bar:

        async def send() -> None:
            nonlocal done
            for batch in _batches(keys, values, per_batch):
                await _write(client, batch)
                done += len(batch)
                bar.show(done, done)

        await asyncio.gather(*(send() for _ in range(_UNDER_WAY)))


def _batches(keys: Iterator[bytes], values: Iterator[bytes], per_batch: int) -> Iterator[list[kvclient.Put]]:
    while batch := [kvclient.Put(key, value) for key, value in zip(islice(keys, per_batch), values, strict=False)]:
        yield batch


async def _write(client: kvclient.AsyncClient, batch: list[kvclient.Put]) -> None:
    for left in reversed(range(_TRIES)):
        try:
            await client.write(batch, timeout_s=_TIMEOUT_S)
            return
        except (kvclient.NotWritten, kvclient.OutcomeUnknown):
            if not left:
                raise
            await asyncio.sleep(_PAUSE_S)
