"""A vision-language reward model on the robot: frames and an instruction through two engines, one signal out.

Owns what is kept of frames already seen and when it abstains. Knows no tokenizer and no model class: prompts
come in tokens with the package (`contracts.vlm`).
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np

from contracts.choices import among_choices, doubt, something_else
from contracts.errors import EntracteError, PackageError
from contracts.files.packages import Package
from contracts.frames import Video
from contracts.pictures import prepare
from contracts.reward import RewardSignal, abstain
from contracts.vlm import PREFILL, VISION, Asked, VlmSpec
from contracts.vlm_prompts import Laid, clips_of, lay_out
from runtime.engines import Engine, EngineOptions, open_engine
from runtime.engines.golden import require_golden

_KEPT_PATCHES = 64
"""Temporal patches whose vectors are kept: the longest prompt has far fewer."""


class VlmScorer:
    """One-forward scoring. One thread at a time."""

    def __init__(self, package: Package, vision: Engine, prefill: Engine) -> None:
        """Raises `PackageError` for a package of another kind."""
        self._spec = spec_of(package)
        self._vision, self._prefill = vision, prefill
        self.model_id = package.package_id
        self._names = [spec.name for spec in vision.outputs]
        self._kept: OrderedDict[bytes, dict[str, np.ndarray]] = OrderedDict()
        shapes = {spec.name: spec.shape for spec in prefill.inputs}
        self._seen = {name: np.zeros(shapes[name], np.float32) for name in self._names}
        self.forwards = 0
        """Runs of the prefill so far."""

    @property
    def spec(self) -> VlmSpec:
        return self._spec

    def unasked(self, instruction: str) -> str:
        """Why this instruction can only be abstained from; empty if it can be asked about."""
        if instruction in self._spec.instructions:
            return ""
        return f"instruction {instruction!r} is not in the package; export it with --instruction"

    def score(self, video: Video, instruction: str) -> RewardSignal:
        """The signals at the video's last moment. Abstains, and says why, for an instruction that the
        package has no tokens of, and whatever goes wrong on the way; nothing becomes a value."""
        step = int(video.steps[-1])
        if why := self.unasked(instruction):
            return abstain(step, why, self.model_id)
        try:
            return self._score(step, video, instruction)
        except Exception as error:  # whatever an engine raises, it is no score
            why = str(error) if isinstance(error, EntracteError) else f"the model failed: {error!r}"
            return abstain(step, why, self.model_id)

    def log_probabilities(self, asked: Asked, video: Video, instruction: str) -> list[np.ndarray]:
        """float64[K] of each prompt of one question: of its choices over the whole vocabulary (over the
        choices alone where the package gives no normaliser)."""
        shown = Video({"": _only_view(asked, video)}, video.times_s, video.steps)
        prompt = asked.prompts[instruction]
        return [
            _choice_scores(self._read(asked, laid, shown), self._spec.normaliser)
            for laid in (lay_out(self._spec, prompt, clips) for clips in clips_of(asked, shown))
        ]

    def close(self) -> None:
        self._vision.close()
        self._prefill.close()

    def _score(self, step: int, video: Video, instruction: str) -> RewardSignal:
        fields: dict[str, float] = {}
        doubts: list[float] = []
        distribution: tuple[float, ...] = ()
        for asked in self._spec.questions:
            rows = self.log_probabilities(asked, video, instruction)
            for row in rows:
                why = _why_none(row, self._spec.least_mass)
                if why:
                    return abstain(step, f"{asked.name}: {why}", self.model_id)
            if not rows:
                continue
            fields |= _read_fields(asked, rows)
            doubts.append(max(doubt(row) for row in rows))
            if asked.distribution:
                distribution = tuple(map(float, among_choices(rows[0])))
        if not fields:
            return abstain(step, "nothing to compare with yet", self.model_id)
        return RewardSignal(
            step,
            process=fields.get("process", math.nan),
            completion=fields.get("completion", math.nan),
            contrastive=fields.get("contrastive", math.nan),
            score_distribution=distribution,
            uncertainty=max(doubts),
            model_id=self.model_id,
        )

    def _read(
        self, asked: Asked, passes: list[Laid], video: Video
    ) -> list[tuple[np.ndarray, float, tuple[int, ...]]]:
        """(logits, normaliser, columns) of each pass; all passes of a prompt show the same patches."""
        images = next(iter(video.views.values()))
        looked = [self._look(asked, images[list(rows)]) for rows in passes[0].patches]
        for name, held in self._seen.items():
            found = np.concatenate([look[name] for look in looked], axis=-2)
            held[..., : found.shape[-2], :] = found
        answers = []
        for laid in passes:
            out = self._prefill.run(
                {
                    "tokens": laid.tokens,
                    "positions": laid.positions,
                    "last": laid.last,
                    **self._seen,
                }
            )
            self.forwards += 1
            whole = float(out["normaliser"][0]) if self._spec.normaliser else math.nan
            answers.append((out["logits"].astype(np.float64), whole, laid.columns))
        return answers

    def _look(self, asked: Asked, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Vectors of one temporal patch; of one already seen, what was kept."""
        key = hashlib.sha256(repr(frames.shape).encode() + frames.tobytes()).digest()
        if key not in self._kept:
            require_size(self._spec, asked, frames.shape[2], frames.shape[1])
            shown = np.stack([prepare(frame, self._spec.picture) for frame in frames])
            # An odd last frame is shown twice.
            missing = self._spec.temporal - len(shown)
            shown = np.concatenate([shown, np.repeat(shown[-1:], missing, axis=0)])
            seen = self._vision.run({"frames": shown})
            self._kept[key] = {name: array.copy() for name, array in seen.items()}
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT_PATCHES:
            self._kept.popitem(last=False)
        return self._kept[key]


def spec_of(package: Package) -> VlmSpec:
    """What the package says of its prompts. Raises `PackageError`."""
    manifest = package.manifest
    if manifest.model != "vlm" or manifest.vlm is None:
        raise PackageError(
            f"package {package.folder}",
            expected="a vision-language model (robot-export vlm)",
            found=manifest.model,
        )
    manifest.vlm.check_graphs(manifest.graph(VISION), manifest.graph(PREFILL))
    return manifest.vlm


def require_size(spec: VlmSpec, asked: Asked, width: int, height: int) -> None:
    """Raise `PackageError` where the workstation would show such pictures in another size."""
    wanted = (spec.picture.width, spec.picture.height)
    if asked.frames.pixels and asked.frames.size(width, height) != wanted:
        raise PackageError(
            f"pictures of {width}x{height} would be shown as {asked.frames.size(width, height)}",
            expected=wanted,
            remedy="export the package for this camera (--camera-size)",
        )


def open_scorer(package: Package, options: EngineOptions) -> VlmScorer:
    """A scorer on engines of one kind. Raises `PackageError`."""
    spec_of(package)  # before anything takes memory
    with ExitStack() as opened:
        vision = open_engine(package, VISION, options)
        opened.callback(vision.close)
        require_golden(vision, package, VISION)
        prefill = open_engine(package, PREFILL, options)
        opened.callback(prefill.close)
        require_golden(prefill, package, PREFILL)
        scorer = VlmScorer(package, vision, prefill)
        opened.pop_all()
    return scorer


def _only_view(asked: Asked, video: Video) -> np.ndarray:
    camera = asked.frames.cameras[0]
    if camera not in video.views:
        raise EntracteError(
            "cameras that the reward model looks at", expected=camera, found=sorted(video.views)
        )
    return video.views[camera]


def _choice_scores(
    passes: list[tuple[np.ndarray, float, tuple[int, ...]]], normalised: bool
) -> np.ndarray:
    """float64[K]: over the whole vocabulary where the choices first part, among themselves behind it; NaN
    throughout where a logit is not finite."""
    scores = np.zeros(len(passes[0][2]))
    for place, (logits, whole, columns) in enumerate(passes):
        if not np.isfinite(logits).all() or (normalised and not math.isfinite(whole)):
            return np.full(len(scores), np.nan)
        here = logits[sorted({column for column in columns if column >= 0})]
        among = float(here.max() + np.log(np.exp(here - here.max()).sum()))
        lost = whole if normalised and place == 0 else among
        scores += [logits[column] - lost if column >= 0 else 0.0 for column in columns]
    return scores


def _why_none(row: np.ndarray, least_mass: float) -> str:
    if not np.isfinite(row).all():
        return "the model's logits are not finite"
    return something_else(row, least_mass)


def _read_fields(asked: Asked, rows: list[np.ndarray]) -> Mapping[str, float]:
    shares = [among_choices(row) for row in rows]
    if not asked.values:
        # Asked in both orders: a liking for either place cancels.
        as_shown, swapped = shares
        value = float((as_shown[1] - as_shown[0]) - (swapped[1] - swapped[0])) / 2
        return {"contrastive": float(np.clip(value, -1.0, 1.0))}
    return {
        name: float(np.clip(shares[0] @ np.array(worth), 0.0, 1.0))
        for name, worth in asked.values.items()
    }
