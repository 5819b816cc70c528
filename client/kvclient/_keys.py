"""Makes the keys under which a node remembers writes, so that they can be sent again without being carried out twice."""

from __future__ import annotations

import os
import time
from itertools import count

from kvproto.v1 import kv_pb2


class KeyMaker:
    """Numbers the writes of one client; safe for many threads."""

    def __init__(self) -> None:
        self._client_id = os.urandom(16)
        self._numbers = count(1)

    def __call__(self) -> kv_pb2.IdempotencyKey:
        """Return the key of a write that is sent for the first time now."""
        return kv_pb2.IdempotencyKey(client_id=self._client_id, number=next(self._numbers), issued_ms=int(time.time() * 1000))
