"""RVL, a run-length and variable-length code for depth (Wilson, "Fast Lossless Depth Image Compression", ISS
2017), in numpy, to compare sizes. The original is sequential C; its speed is not measured here.
"""

from __future__ import annotations

import numpy as np

MAX_NIBBLES = 11


def encode(depth: np.ndarray) -> bytes:
    """uint16[H, W] -> runs of zeros and of others in turns, each length and each zigzagged difference to the
    last value that was not zero in groups of 3 bits with a bit that says whether more follow."""
    flat = depth.reshape(-1).astype(np.int64)
    seen = flat != 0
    edges = np.flatnonzero(np.diff(seen.astype(np.int8))) + 1
    bounds = np.concatenate([[0], edges, [len(flat)]])
    lengths = np.diff(bounds)
    if seen[0]:  # the first run is one of zeros, even of none
        lengths, bounds = np.concatenate([[0], lengths]), np.concatenate([[0], bounds])
    if len(lengths) % 2:
        lengths = np.concatenate([lengths, [0]])
    values = flat[seen]
    step = np.diff(values, prepend=0)
    zigzag = (step << 1) ^ (step >> 63)
    # Before the differences of the n-th pair of runs stand its two lengths.
    zeros, others = lengths[0::2], lengths[1::2]
    before = np.concatenate([[0], np.cumsum(others)[:-1]])
    at = np.repeat(before, 2)
    return _nibbles(np.insert(zigzag, at, np.stack([zeros, others], axis=1).reshape(-1)))


def _nibbles(numbers: np.ndarray) -> bytes:
    """Each number lowest 3 bits first; the top bit of a nibble says that another follows."""
    shifts = 3 * np.arange(MAX_NIBBLES)
    groups = (numbers[:, None] >> shifts) & 7
    counts = np.maximum(1, MAX_NIBBLES - np.argmax((groups != 0)[:, ::-1], axis=1))
    counts[(groups == 0).all(axis=1)] = 1
    order = np.arange(MAX_NIBBLES)
    more = order < counts[:, None] - 1
    kept = (groups | (more << 3))[order < counts[:, None]].astype(np.uint8)
    if len(kept) % 2:
        kept = np.append(kept, np.uint8(0))
    return bytes(kept[0::2] << 4 | kept[1::2])
