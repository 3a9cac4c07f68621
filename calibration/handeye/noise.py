"""How noisy corners and arm are, told apart by restricted maximum likelihood. Pure: sums of `linear` in.

A stand's residuals have covariance V = noise² I + G S Gᵀ, S = diag(turn², turn², turn², shift², …).
Restricted: what the unknowns used up is taken off, or few stands would look better than they are (Patterson
and Thompson 1971).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from calibration.handeye.linear import POSE, Stands
from calibration.rigid import Array

PIXELS = (0.01, 20.0)
TURN_RAD = (1e-6, 0.2)
SHIFT_M = (1e-6, 0.1)
_NEAR = 0.02


@dataclass(frozen=True)
class Noise:
    """Standard deviations: a corner's in pixels per axis, and the arm's per axis in radians and metres."""

    pixels: float
    turn_rad: float
    shift_m: float

    @property
    def arm(self) -> Array:
        """Per component of the arm's error [6]."""
        return np.repeat([self.turn_rad, self.shift_m], 3)

    def near(self, other: Noise) -> bool:
        """Within 2 %."""
        mine = np.log([self.pixels, self.turn_rad, self.shift_m])
        theirs = np.log([other.pixels, other.turn_rad, other.shift_m])
        return bool(np.abs(mine - theirs).max() < _NEAR)


@dataclass(frozen=True)
class Weighed:
    """The normal equations under a noise: information [P,P], gradient [P], sum of squares, and log |V|."""

    information: Array
    gradient: Array
    squares: float
    log_volume: float


def weigh(stands: Stands, noise: Noise) -> Weighed:
    m, log_volume = _inner(stands, noise)
    variance = noise.pixels**2
    mg = m @ stands.Gr[:, :, None]
    information = (stands.JJ - stands.JG @ m @ np.swapaxes(stands.JG, 1, 2)).sum(axis=0)
    gradient = (stands.Jr - (stands.JG @ mg)[:, :, 0]).sum(axis=0)
    squares = float((stands.rr - (stands.Gr[:, None, :] @ mg)[:, 0, 0]).sum())
    total = float(stands.rows.sum()) * np.log(variance) + float(log_volume.sum())
    information, gradient, squares = information / variance, gradient / variance, squares / variance
    if stands.prior is not None and stands.prior_at is not None:
        information = information + np.diag(stands.prior)
        gradient = gradient - stands.prior * stands.prior_at
        squares += float(stands.prior @ stands.prior_at**2)
    return Weighed(information, gradient, squares, total)


def arm_errors(stands: Stands, noise: Noise) -> Array:
    """Most likely error of the arm at each stand [N,6], in the hand's frame."""
    m, _ = _inner(stands, noise)
    return (m @ stands.Gr[:, :, None])[:, :, 0]


def _inner(stands: Stands, noise: Noise) -> tuple[Array, Array]:
    """M [N,6,6] of V⁻¹ = (I - G M Gᵀ)/noise², and log |I + GᵀG S/noise²| [N]."""
    root = np.broadcast_to(noise.arm, (len(stands.rows), POSE))
    inside = root[:, :, None] * stands.GG * root[:, None, :]
    inside = inside + noise.pixels**2 * np.eye(POSE)
    m = root[:, :, None] * np.linalg.inv(inside) * root[:, None, :]
    log = np.linalg.slogdet(inside)[1] - POSE * np.log(noise.pixels**2)
    return m, log


def estimate_noise(stands: Stands, start: Noise) -> Noise:
    """The most likely noise, given residuals linearised at the best poses so far."""
    bounds = [np.log(pair) for pair in (PIXELS, TURN_RAD, SHIFT_M)]

    def cost(logs: Array) -> float:
        found = weigh(stands, Noise(*np.exp(logs)))
        sign, volume = np.linalg.slogdet(found.information)
        if sign <= 0:
            return 1e12
        step = np.linalg.solve(found.information, found.gradient)
        squares = found.squares - float(found.gradient @ step)
        return 0.5 * (found.log_volume + float(volume) + squares)

    at = np.log([start.pixels, start.turn_rad, start.shift_m])
    at = np.clip(at, [b[0] for b in bounds], [b[1] for b in bounds])
    best = minimize(cost, at, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
    return Noise(*np.exp(best.x).tolist())
