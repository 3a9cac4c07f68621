"""What log-probabilities of a question's choices say. Pure; the same on the workstation and on the robot."""

from __future__ import annotations

import math

import numpy as np


def among_choices(log_probabilities: np.ndarray) -> np.ndarray:
    """float64[K] that sums to one: the model's answer, given that it is one of the choices."""
    shifted = np.exp(log_probabilities - log_probabilities.max())
    shares: np.ndarray = shifted / shifted.sum()
    return shares


def mass(log_probabilities: np.ndarray) -> float:
    """Probability that the model answers with any of the choices."""
    return float(min(1.0, np.exp(log_probabilities).sum()))


def doubt(log_probabilities: np.ndarray) -> float:
    """In [0, 1]: 0 when the model is sure of one choice; 1 when all are alike to it, or it would rather say
    something else. One less the mass on the choices, times one less their normalised entropy."""
    shares = among_choices(log_probabilities)
    entropy = -sum(float(p) * math.log(p) for p in shares if p > 0) / math.log(len(shares))
    return float(np.clip(1.0 - mass(log_probabilities) * (1.0 - entropy), 0.0, 1.0))


def something_else(log_probabilities: np.ndarray, least_mass: float) -> str:
    """Why an answer counts as none: too little of it is on the choices. "" for one that counts."""
    share = mass(log_probabilities)
    if share >= least_mass:
        return ""
    return f"the model answers something else ({share:.3f} on the choices)"
