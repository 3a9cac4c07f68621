"""Blind baselines: reward models that lack what a good one needs. A figure that they reach shows nothing.

Each is a `VideoRewardModel`, fitted where it can be on labelled training moments, so that it is as good as a
model without eyes, memory or ears can get on such data.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from contracts.errors import EntracteError
from contracts.frames import FrameContract, Video
from contracts.language import words
from contracts.reward import RewardSignal
from trainer.rewards.evaluation.cases import Labelled

LAST = FrameContract(layout="last")
SIDE = 8
MOST_MOMENTS = 1500
RIDGE = 0.02


class Constant:
    """Says the same of everything: the training labels' median progress and their share of successes, at
    the episodes' ends."""

    model_id = "constant"
    contract = LAST
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(self, progress: float = 0.5, completion: float = 0.5) -> None:
        self._progress, self._completion = progress, completion

    @classmethod
    def fitted(cls, moments: Sequence[Labelled]) -> Constant:
        ends = _ends(moments)
        progress = float(np.median([m.progress for m in ends]))
        return cls(progress, float(np.mean([m.done for m in ends])))

    def score(self, video: Video, instruction: str) -> RewardSignal:
        del instruction
        return _signal(video, self._progress, self._completion, 0.0, self.model_id)


class Clock:
    """Knows only the time since the video began: progress and completion rise to 1 at `full_s`, and later is
    always nearer to the goal. Perfect by rank correlation wherever the truth only rises."""

    model_id = "clock"
    contract = FrameContract(layout="ends")
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(self, full_s: float = 12.0) -> None:
        self._full_s = full_s

    def score(self, video: Video, instruction: str) -> RewardSignal:
        del instruction
        passed = float(video.times_s[-1] - video.times_s[0])
        share = min(1.0, passed / self._full_s)
        return _signal(video, share, share, float(np.sign(passed)), self.model_id)


class TextOnly:
    """Knows only the instruction: mean progress and share of successes of the training episodes' ends under
    the same instruction, else under those that share most words with it."""

    model_id = "text only"
    contract = LAST
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(self, moments: Sequence[Labelled]) -> None:
        by_text: dict[frozenset[str], list[tuple[float, float]]] = {}
        for moment in _ends(moments):
            found = by_text.setdefault(frozenset(words(moment.instruction)), [])
            found.append((moment.progress, float(moment.done)))
        self._table = {key: np.mean(found, axis=0) for key, found in by_text.items()}

    def score(self, video: Video, instruction: str) -> RewardSignal:
        said = frozenset(words(instruction))
        likeness = {key: _shared(said, key) for key in self._table}
        best = max(likeness.values())
        progress, done = np.mean([self._table[k] for k, v in likeness.items() if v == best], axis=0)
        return _signal(video, float(progress), float(done), 0.0, self.model_id)


class LastFrame:
    """Knows the last picture and the instruction, no earlier frame: kernel ridge regression of progress and
    done on 8x8 colour thumbnails of every camera, the kernel being a Gaussian (median width) on thumbnails
    times the instructions' shared words (Jaccard). No learned features: about what colour blobs tell."""

    model_id = "last frame only"
    contract = LAST
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(self, moments: Sequence[Labelled]) -> None:
        step = max(1, -(-len(moments) // MOST_MOMENTS))
        chosen = list(moments)[::step]
        if len(chosen) < 4:
            raise EntracteError("the last-frame baseline", expected="4 moments", found=len(chosen))
        pictures = np.stack([thumbnail(moment.load()) for moment in chosen])
        self._texts = [frozenset(words(moment.instruction)) for moment in chosen]
        self._mean, self._scale = pictures.mean(axis=0), pictures.std(axis=0) + 0.02
        self._pictures = (pictures - self._mean) / self._scale
        squared = _squared(self._pictures, self._pictures)
        self._width = float(np.median(squared[np.triu_indices(len(chosen), 1)])) + 1e-9
        kernel = np.exp(-squared / self._width) * self._words(self._texts)
        truth = np.array([(m.progress, float(m.done)) for m in chosen])
        self._level = truth.mean(axis=0)
        kernel[np.diag_indices(len(chosen))] += RIDGE * len(chosen) ** 0.5
        self._weights = np.linalg.solve(kernel, truth - self._level)

    def _words(self, said: Sequence[frozenset[str]]) -> np.ndarray:
        """float[N, M] against the training instructions."""
        known = {text: np.array([_shared(text, k) for k in self._texts]) for text in {*said}}
        return np.stack([known[text] for text in said])

    def score(self, video: Video, instruction: str) -> RewardSignal:
        seen = ((thumbnail(video) - self._mean) / self._scale)[None]
        kernel = np.exp(-_squared(seen, self._pictures) / self._width)
        kernel = kernel * self._words([frozenset(words(instruction))])
        progress, done = (self._level + kernel[0] @ self._weights).clip(0.0, 1.0)
        return _signal(video, float(progress), float(done), 0.0, self.model_id)


def thumbnail(video: Video) -> np.ndarray:
    """float64[cameras * 192]: the last frame of each camera (by name), 8x8 means of RGB in [0, 1]."""
    small = [
        cv2.resize(video.views[camera][-1], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for camera in sorted(video.views)
    ]
    return np.concatenate([np.asarray(s, np.float64).ravel() / 255.0 for s in small])


def blind_baselines(
    moments: Sequence[Labelled], full_s: float
) -> list[Constant | Clock | TextOnly | LastFrame]:
    """All four, fitted; without labelled moments only the two that need none."""
    if not moments:
        return [Constant(), Clock(full_s)]
    return [Constant.fitted(moments), Clock(full_s), TextOnly(moments), LastFrame(moments)]


def _ends(moments: Sequence[Labelled]) -> list[Labelled]:
    ends = [moment for moment in moments if moment.end]
    if not ends:
        raise EntracteError("blind baselines are fitted on episodes' ends", found="none")
    return ends


def _shared(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / max(1, len(a | b))


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out: np.ndarray = ((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2.0 * a @ b.T).clip(0.0)
    return out


def _signal(
    video: Video, process: float, completion: float, contrastive: float, model_id: str
) -> RewardSignal:
    return RewardSignal(
        int(video.steps[-1]),
        process=process,
        completion=completion,
        contrastive=contrastive,
        model_id=model_id,
    )
