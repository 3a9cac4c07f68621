"""Statistics of a data set as LeRobot 0.4 wants them, per episode and merged without rereading.

Pure. A statistic is {min, max, mean, std, count, q01, q10, q50, q90, q99}: float64 arrays of the feature's
shape ((3, 1, 1) in 0..1 for pictures), `count` of shape (1,).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

Stats: TypeAlias = dict[str, np.ndarray]

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
KEYS = ("min", "max", "mean", "std", "count", *QUANTILES)
SAMPLED_FRAMES = 16
SAMPLED_SIDE_PX = 64


def of_array(array: np.ndarray) -> Stats:
    """Statistics over the first axis of [T] or [T, ...]; steps with NaN are left out of them.

    With no step left every value is 0 and `count` is 0: `merge` ignores such an episode.
    """
    rows = array.reshape(len(array), -1).astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    shape = array.shape[1:] or (1,)
    if len(rows) == 0:
        return {key: np.zeros((1,) if key == "count" else shape) for key in KEYS}
    stats = {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([float(len(rows))]),
    }
    # np.quantile costs more than the rest together; a sorted column and linear interpolation do.
    ordered = np.sort(rows, axis=0)
    for name, q in QUANTILES.items():
        at = q * (len(rows) - 1)
        low = int(at)
        high = min(low + 1, len(rows) - 1)
        stats[name] = ordered[low] + (at - low) * (ordered[high] - ordered[low])
    return {key: v if key == "count" else v.reshape(shape) for key, v in stats.items()}


class PictureSampler:
    """Per-channel statistics of uint8 RGB frames, from a histogram of every n-th frame and pixel. n doubles
    as the episode grows: between `SAMPLED_FRAMES` and twice as many count, spread evenly."""

    def __init__(self) -> None:
        self._every = 1
        self._seen = 0
        self._histograms: list[np.ndarray] = []

    def add(self, frame: np.ndarray) -> None:
        """Offer the next frame, uint8[H, W, 3]."""
        if self._seen % self._every == 0:
            if len(self._histograms) == 2 * SAMPLED_FRAMES:
                self._histograms = self._histograms[::2]
                self._every *= 2
            stride = max(1, max(frame.shape[:2]) // SAMPLED_SIDE_PX)
            small = frame[::stride, ::stride]
            self._histograms.append(
                np.stack([np.bincount(small[..., c].ravel(), minlength=256) for c in range(3)])
            )
        self._seen += 1

    def stats(self) -> Stats:
        """Statistics of shape (3, 1, 1) in 0..1; `count` is the number of frames sampled."""
        levels = np.arange(256)
        histogram = np.sum(self._histograms, axis=0)
        total = histogram.sum(axis=1)
        cumulative = histogram.cumsum(axis=1)
        mean = histogram @ levels / total
        values = {
            "min": (cumulative > 0).argmax(axis=1),
            "max": 255 - (histogram[:, ::-1] > 0).argmax(axis=1),
            "mean": mean,
            "std": np.sqrt(np.maximum(histogram @ levels**2 / total - mean**2, 0)),
            **{
                name: (cumulative >= q * total[:, None]).argmax(axis=1)
                for name, q in QUANTILES.items()
            },
        }
        scaled = {key: (value / 255.0).reshape(3, 1, 1) for key, value in values.items()}
        return {**scaled, "count": np.array([float(len(self._histograms))])}


def merge(parts: Sequence[Mapping[str, Stats]]) -> dict[str, Stats]:
    """Statistics of all `parts` together, exact but for the quantiles.

    Quantiles are averaged, weighted by count, as LeRobot's `aggregate_stats` does.
    """
    merged: dict[str, Stats] = {}
    for key in {key: None for part in parts for key in part}:
        found = [part[key] for part in parts if key in part and part[key]["count"][0] > 0]
        if found:
            merged[key] = _merge_feature(found)
    return merged


def _merge_feature(parts: list[Stats]) -> Stats:
    counts = np.array([part["count"][0] for part in parts])
    weights = counts / counts.sum()

    def weighted(values: list[np.ndarray]) -> np.ndarray:
        return np.asarray(np.tensordot(weights, np.stack(values), axes=1), np.float64)

    mean = weighted([part["mean"] for part in parts])
    variance = weighted([part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in parts])
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([counts.sum()]),
        **{name: weighted([part[name] for part in parts]) for name in QUANTILES},
    }


def to_json(stats: Mapping[str, Stats]) -> dict[str, dict[str, list[float]]]:
    """As `meta/stats.json` holds it; `count` as an integer."""
    plain: dict[str, dict[str, list[float]]] = {}
    for key, feature in stats.items():
        plain[key] = {name: value.tolist() for name, value in feature.items()}
        plain[key]["count"] = feature["count"].astype(int).tolist()
    return plain
