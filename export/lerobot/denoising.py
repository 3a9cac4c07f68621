"""The steps from noise to actions as numbers: DDPM (Ho et al. 2020, arXiv:2006.11239) and DDIM without
noise (Song et al. 2020, arXiv:2010.02502), spaced and rounded as the diffusers library has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from contracts.errors import PackageError
from export.lerobot.config import DiffusionConfig

SCHEDULERS = ("ddpm", "ddim")
MAX_STEPS = 50
"""Each step is another copy of the net's operators in the graph, though not of its weights."""


@dataclass(frozen=True)
class Step:
    """One step at `time`. With the net's answer e: x0 = (x - noise * e) / signal, cut to the clip range; then
    x = keep_clean * x0 + keep_sample * x + keep_noise * e + draw * (a fresh normal draw)."""

    time: int
    signal: float
    noise: float
    keep_clean: float
    keep_sample: float
    keep_noise: float
    draw: float


@dataclass(frozen=True)
class Denoising:
    """`steps` in the order they are taken. `predicts_sample`: the net's answer is x0 itself, e follows from
    it. `clip`: range of x0, None without. `draws`: noise tensors wanted, the start included."""

    scheduler: str
    steps: tuple[Step, ...]
    predicts_sample: bool
    clip: float | None

    @property
    def draws(self) -> int:
        return 1 + sum(step.draw > 0.0 for step in self.steps)

    @property
    def settings(self) -> dict[str, float]:
        """What of it a package says in place of the checkpoint's own; numbers as in `settings_of`."""
        return {
            "noise_scheduler_type": float(SCHEDULERS.index(self.scheduler)),
            "num_inference_steps": float(len(self.steps)),
        }


def make_denoising(config: DiffusionConfig, scheduler: str = "", steps: int = 0) -> Denoising:
    """The checkpoint's own scheduler and number of steps unless others are given. Raises `PackageError` for
    what can't be unrolled."""
    name = scheduler or config.noise_scheduler_type.lower()
    trained = config.num_train_timesteps
    count = steps or config.num_inference_steps or trained
    if name not in SCHEDULERS:
        raise PackageError("no such scheduler", expected=" or ".join(SCHEDULERS), found=name)
    if not 1 <= count <= min(trained, MAX_STEPS):
        raise PackageError(
            "denoising steps that can be unrolled into one graph",
            expected=f"1 to {min(trained, MAX_STEPS)}",
            found=count,
            remedy="export with --scheduler ddim --steps 10",
        )
    cumulative = torch.cumprod(1.0 - _betas(config), 0)
    times = [index * (trained // count) for index in reversed(range(count))]
    make = _ddim if name == "ddim" else _ddpm
    found = []
    for index, time in enumerate(times):
        before = times[index + 1] if index + 1 < count else -1
        earlier = cumulative[before] if before >= 0 else torch.tensor(1.0)
        found.append(make(time, cumulative[time], earlier))
    clip = config.clip_sample_range if config.clip_sample else None
    return Denoising(name, tuple(found), config.prediction_type == "sample", clip)


def _ddpm(time: int, now: torch.Tensor, earlier: torch.Tensor) -> Step:
    """Equation 7 of the paper; `now`, `earlier`: products of the alphas up to this step and the next."""
    alpha = now / earlier
    variance = torch.clamp((1 - earlier) / (1 - now) * (1 - alpha), min=1e-20)
    return Step(
        time=time,
        signal=float(now**0.5),
        noise=float((1 - now) ** 0.5),
        keep_clean=float(earlier**0.5 * (1 - alpha) / (1 - now)),
        keep_sample=float(alpha**0.5 * (1 - earlier) / (1 - now)),
        keep_noise=0.0,
        draw=float(variance**0.5) if time > 0 else 0.0,
    )


def _ddim(time: int, now: torch.Tensor, earlier: torch.Tensor) -> Step:
    """Equation 12 with eta 0; e is the net's own answer, not what the cut x0 would imply."""
    return Step(
        time=time,
        signal=float(now**0.5),
        noise=float((1 - now) ** 0.5),
        keep_clean=float(earlier**0.5),
        keep_sample=0.0,
        keep_noise=float((1 - earlier) ** 0.5),
        draw=0.0,
    )


def _betas(config: DiffusionConfig) -> torch.Tensor:
    """Variance of the noise that each training step added, float32[num_train_timesteps]."""
    count, first, last = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.beta_schedule == "linear":
        return torch.linspace(first, last, count)
    if config.beta_schedule == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, count) ** 2
    if config.beta_schedule == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021, arXiv:2102.09672

        def level(share: float) -> float:
            return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - level((i + 1) / count) / level(i / count), 0.999) for i in range(count)]
        return torch.tensor(betas, dtype=torch.float32)
    raise PackageError(
        "unknown beta_schedule",
        expected="linear, scaled_linear or squaredcos_cap_v2",
        found=config.beta_schedule,
    )
