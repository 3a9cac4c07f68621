"""The joint estimate: cameras, boards and (where asked for) the boards' size, from the pixels of all stands.

Pixels alone would take the arm for exact, and a stand that it misreports by two millimetres for the word of
twenty corners. Here every stand has an unknown small error of the arm, weighed by how inexact the arm shows
itself to be. With an exact arm this is plain bundle adjustment, with exact pixels a weighed AX = ZB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import chi2, t

from calibration.handeye import closed_form
from calibration.handeye.closed_form import Guess
from calibration.handeye.linear import POSE, Block, Poses, Stands, blocks_of, linearise
from calibration.handeye.noise import Noise, Weighed, arm_errors, estimate_noise, weigh
from calibration.handeye.samples import HandEyeError, Setup
from calibration.handeye.start import begin, strangers
from calibration.rigid import Array

CONFIDENCE = 0.95
_START = Noise(0.5, np.radians(0.3), 0.002)
_LOOSE = Noise(1.0, np.radians(2.0), 0.02)
"""For the first steps: whatever the guess is off by must not look like certainty."""
_ROUNDS = 6
_STEPS = 30
_MOST_DAMPING = 1e6
_FEW = 6
"""Of fewer stands none can be called an outlier."""
_HUBER = 2.5
"""Standard deviations from which on a corner counts less."""
_SUSPECT = 1e-4
"""A stand whose arm error is this unlikely is named, and left out."""


@dataclass(frozen=True)
class Estimate:
    """`covariance` [P,P] over `blocks`, six numbers each (rotation in radians, then translation in metres, in
    the frame of what was moved: a camera's or a board's own), then the log of the scale if it was asked for,
    then the arm's zeros if they are unknown.
    `freedom`: degrees of freedom behind each noise of the arm. `arm_errors` [N,6]: of each stand, `left_out`:
    stands by name that were found not to fit."""

    poses: Poses
    blocks: tuple[Block, ...]
    covariance: Array
    noise: Noise
    freedom: float
    stands: tuple[str, ...]
    arm_errors: Array
    stated: tuple[dict[str, Array], ...]
    """Of each stand by camera, corners [K,2] found minus predicted in pixels, the arm taken at its word."""
    own: tuple[dict[str, Array], ...]
    """The same with the arm where it most likely was: the corners' own noise."""
    left_out: tuple[str, ...] = ()
    guesses: dict[str, list[Guess]] = field(default_factory=dict)

    def deviations(self, kind: str, name: str) -> Array:
        """Standard deviations of one block [6]."""
        at = POSE * self.blocks.index((kind, name))
        return np.asarray(np.sqrt(np.diag(self.covariance)[at : at + POSE]))

    def interval(self, kind: str, name: str, confidence: float = CONFIDENCE) -> Array:
        """Half-widths of the intervals of one block [6]."""
        return self.deviations(kind, name) * float(t.ppf(0.5 + confidence / 2, self.freedom))

    @property
    def with_scale(self) -> bool:
        """Whether the boards' size was estimated."""
        return len(self.covariance) > POSE * len(self.blocks) + len(self.poses.zeros)

    @property
    def scale_deviation(self) -> float:
        """Standard deviation of the log of the scale that was estimated."""
        at = POSE * len(self.blocks)
        return float(np.sqrt(self.covariance[at, at]))

    def zeros_interval(self, confidence: float = CONFIDENCE) -> Array:
        """Half-widths of the intervals of the arm's zeros [Z]."""
        at = len(self.covariance) - len(self.poses.zeros)
        deviations = np.sqrt(np.diag(self.covariance)[at:])
        return np.asarray(deviations * float(t.ppf(0.5 + confidence / 2, self.freedom)))


def estimate(setup: Setup, *, size_known: bool = True, drop_outliers: bool = True) -> Estimate:
    """The most likely calibration. `size_known` False: the boards' size is estimated, too. Raises
    `HandEyeError` where the samples determine none."""
    guesses = {c.name: closed_form.guesses(setup, c) for c in setup.cameras}
    poses = begin(setup, guesses)
    if setup.arm is not None:
        poses = replace(poses, zeros=np.zeros(len(setup.arm.joints)))
    used = _without(setup, strangers(setup, poses) if drop_outliers else ())
    fewest = len(used.samples) - len(setup.samples) // 5
    while True:
        found = _fit(used, poses, scale=not size_known)
        worst = _worst(found) if drop_outliers else None
        if worst is None or len(used.samples) <= fewest:
            break
        poses, used = found.poses, _without(used, (worst,))
    kept = {sample.name for sample in used.samples}
    left_out = tuple(sample.name for sample in setup.samples if sample.name not in kept)
    return _finished(found, left_out, guesses)


def refit(setup: Setup, found: Estimate) -> Poses:
    """The poses for other stands of the same cameras, under the noise that was found: what resampling needs,
    again and again. Raises `numpy.linalg.LinAlgError` where they determine none."""
    fit = _Fit(setup, found.poses, found.with_scale, found.noise)
    fit.weights, fit.pixel_weight = _reweigh(fit)
    fit.descend()
    return fit.poses


def _without(setup: Setup, dropped: Sequence[int]) -> Setup:
    kept = tuple(s for index, s in enumerate(setup.samples) if index not in dropped)
    return replace(setup, samples=kept)


@dataclass
class _Fit:
    """The state of the search: where it is, and what corners and cameras count."""

    setup: Setup
    poses: Poses
    scale: bool
    noise: Noise = _LOOSE

    def __post_init__(self) -> None:
        self.blocks = blocks_of(self.setup)
        self.weights = [
            {name: np.ones(len(view.pixels)) for name, view in sample.views.items()}
            for sample in self.setup.samples
        ]
        self.pixel_weight = {camera.name: 1.0 for camera in self.setup.cameras}
        self.stands, self.weighed = self.at(self.poses)

    def at(self, poses: Poses) -> tuple[Stands, Weighed]:
        arm = self.setup.arm
        stands = linearise(
            self.setup if arm is None else arm.placed(self.setup, poses.zeros),
            poses,
            scale=self.scale,
            weights=self.weights,
            pixel_weight=self.pixel_weight,
        )
        if arm is not None:
            stands = arm.unknown_in(stands, self.setup, poses.zeros)
        return stands, weigh(stands, self.noise)

    def descend(self) -> None:
        """Gauss-Newton with damping, until nothing moves any more."""
        self.stands, self.weighed = self.at(self.poses)
        damping = 1e-6
        for _ in range(_STEPS):
            information = self.weighed.information
            diagonal = np.diag(np.maximum(np.diag(information), 1e-12))
            change: Array = np.asarray(
                np.linalg.solve(information + damping * diagonal, self.weighed.gradient), np.float64
            )
            tried = self.poses.moved(change, self.blocks)
            stands, weighed = self.at(tried)
            gained = self.weighed.squares - weighed.squares
            if not gained >= -1e-12 * self.weighed.squares:  # worse, or not a number
                damping *= 10
                if damping > _MOST_DAMPING:
                    return
                continue
            over = gained < 1e-9 * self.weighed.squares or np.abs(change).max() < 1e-9
            self.poses, self.stands, self.weighed = tried, stands, weighed
            damping = max(damping / 10, 1e-12)
            if over:
                return


def _fit(setup: Setup, poses: Poses, *, scale: bool) -> _Fit:
    fit = _Fit(setup, poses, scale)
    fit.descend()
    for round_ in range(_ROUNDS):
        before = fit.noise
        fit.noise = estimate_noise(fit.stands, _START if round_ == 0 else fit.noise)
        fit.weights, fit.pixel_weight = _reweigh(fit)
        fit.descend()
        if round_ > 0 and before.near(fit.noise):
            break
    return fit


def _reweigh(fit: _Fit) -> tuple[list[dict[str, Array]], dict[str, float]]:
    """Corners far off count less (Huber), and each camera by its own noise."""
    own = _own_residuals(fit)
    spread = {}
    for camera in fit.setup.cameras:
        everything = np.concatenate([r[camera.name] for r in own if camera.name in r])
        # Median of a Rayleigh's length over its sigma: 1.1774.
        lengths = np.linalg.norm(everything, axis=1)
        spread[camera.name] = max(float(np.median(lengths)) / 1.1774, 1e-3)
    weights = [
        {
            name: np.minimum(
                1.0,
                _HUBER * spread[name] / np.maximum(np.linalg.norm(r, axis=1) / np.sqrt(2), 1e-12),
            )
            for name, r in one.items()
        }
        for one in own
    ]
    least = min(spread.values())
    return weights, {name: (least / value) ** 2 for name, value in spread.items()}


def _own_residuals(fit: _Fit) -> list[dict[str, Array]]:
    """Residuals [K,2] with the arm where it most likely was."""
    errors = arm_errors(fit.stands, fit.noise)
    return [
        {name: r - slopes[name] @ error for name, r in residuals.items()}
        for residuals, slopes, error in zip(
            fit.stands.residuals, fit.stands.slopes, errors, strict=True
        )
    ]


def _worst(fit: _Fit) -> int | None:
    """The stand that fits least, if that is too unlikely by chance; judged by the noise of the others."""
    count = len(fit.setup.samples)
    if count < _FEW:
        return None
    size = (arm_errors(fit.stands, fit.noise) / fit.noise.arm) ** 2
    # A single bad stand widens the noise that it is judged by: the median of the others is not moved by it.
    typical = np.maximum(np.median(size, axis=0) / 0.4549, 1e-12)
    unlikely = (size / typical).sum(axis=1)
    worst = int(unlikely.argmax())
    limit = float(chi2.ppf(1 - _SUSPECT / count, POSE)) * (1 + 20 / count)
    return worst if unlikely[worst] > limit else None


def _finished(fit: _Fit, left_out: tuple[str, ...], guesses: dict[str, list[Guess]]) -> Estimate:
    setup, information = fit.setup, fit.weighed.information
    scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
    conditioned = information / scale[:, None] / scale[None, :]
    if not np.isfinite(conditioned).all() or np.linalg.cond(conditioned) > 1e12:
        raise HandEyeError(
            "the samples leave the calibration undetermined",
            found="some change of it is seen by no camera",
            remedy="turn the hand about at least two axes, by 20 degrees and more",
        )
    covariance = np.linalg.inv(conditioned) / scale[:, None] / scale[None, :]
    return Estimate(
        fit.poses,
        fit.blocks,
        covariance,
        fit.noise,
        # Half of what is left over: the arm's turns and its shifts are noises of their own.
        max((POSE * len(setup.samples) + len(fit.poses.zeros) - len(information)) / 2, 1.0),
        tuple(sample.name for sample in setup.samples),
        arm_errors(fit.stands, fit.noise),
        tuple(fit.stands.residuals),
        tuple(_own_residuals(fit)),
        left_out,
        guesses,
    )
