"""The limits of keys, values, commits, frames and messages, in one place, and how they fit together.

    key <= 8 KiB, value <= 1 MiB  ->  one put <= 1 MiB + 8 KiB + overhead
    commit (encoded effects) <= 3 MiB, <= 10,000 mutations  ->  one commit fits a frame
    frame of the log: MAX_GROUP_BYTES of several submissions, or one larger submission: a frame of the stream in one
    message plus 20 bytes an operation  ->  <= 5 MiB
    request message <= 4 MiB (gRPC's own default, so that foreign clients need no setting)
    answer chunk: about 256 KiB, at most that + one pair  ->  < 4 MiB
    frame of the stream: <= 16,384 operations and one message

``docs/limits.md`` says the same for users; a test keeps the two equal.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

MAX_KEY_BYTES = 8 * KIB
MAX_VALUE_BYTES = 1 * MIB
MAX_COMMIT_BYTES = 3 * MIB
MAX_COMMIT_MUTATIONS = 10_000
MAX_FRAME_OPERATIONS = 16_384
MAX_MESSAGE_BYTES = 4 * MIB
MAX_METADATA_BYTES = 8 * KIB
MAX_NAMESPACE_NAME_BYTES = 255
SCAN_CHUNK_BYTES = 256 * KIB
SCAN_CHUNK_KEYS = 2_000
MAX_GROUP_BYTES = 1 * MIB
MAX_LOG_FRAME_BYTES = 5 * MIB
FOUND_BYTES = 2 * MIB
"""What the reads of one frame may return. With the text of failures (1 MiB) and the columns of the largest frame (0.5 MiB)
an answer stays below 4 MiB, gRPC's own limit of what a client takes."""
