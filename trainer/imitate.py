"""Imitation: fits a flow policy to demonstrations. Owns the training loop and the augmentation.

From a pretrained policy (`start`) it keeps trunk, vocabulary and normalisers, so that few demonstrations of
a new task are enough; without one it starts from nothing. Deterministic by seed on one machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import torch
from torch.nn import functional as F

from trainer.demonstrations import Samples
from trainer.policies.chance import Chance
from trainer.policies.flow import FlowPolicy
from trainer.policies.noise import FeatureNoise, disturb
from trainer.training import Averaged, Progress, begin, multiplies_bfloat16, warm_cosine

WARM_UP = 50


class ImitateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`steps` gradient steps of `batch` samples; `draws` noise and time draws for each sample, which are
    cheap beside its pictures. `trunk_rate` scales the trunk's learning rate (0 freezes it); `keyframe`
    weighs the auxiliary task of foretelling the next keyframe from the features; a frozen trunk
    sees each sample `views` times, and `noise` is added to what it makes of them."""

    steps: int = 1500
    batch: int = 128
    draws: int = 4
    rate: float = 1e-3
    trunk_rate: float = 1.0
    weight_decay: float = 1e-3
    shift_px: int = 4
    colour: float = 0.15
    state_noise: float = 0.02
    keyframe: float = 0.5
    views: int = 8
    noise: FeatureNoise = FeatureNoise()
    average: float = 0.995
    seed: int = 0
    threads: int = 1
    seconds: float = math.inf


def imitate(
    policy: FlowPolicy,
    samples: Samples,
    options: ImitateOptions,
    report: Callable[[Progress], None] = lambda progress: None,
) -> FlowPolicy:
    """The policy's moving average after training; `policy` itself is left where training ended."""
    rng, generator = begin(options.seed, options.threads)
    training = Averaged(policy, options.average, options.steps, options.batch, report)
    flow = [*policy.head.flow.parameters()]
    groups = [{"params": flow, "scale": 1.0}]
    seen = None if options.trunk_rate > 0 else _views(policy, samples, options, rng)
    scales = None if seen is None else options.noise.scales(seen.flatten(0, 1), policy.config)
    if seen is None:
        groups.append({"params": [*policy.trunk.parameters()], "scale": options.trunk_rate})
    optimiser = torch.optim.AdamW(groups, lr=options.rate, weight_decay=options.weight_decay)
    for step in range(options.steps):
        share = max(step / options.steps, min(training.elapsed_s / options.seconds, 1.0))
        if share >= 1.0:
            break
        rate = options.rate * warm_cosine(step, WARM_UP, share)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        batch = rng.integers(len(samples), size=options.batch)
        loss = _loss(
            policy,
            samples,
            batch,
            seen=seen,
            scales=scales,
            options=options,
            rng=rng,
            chance=Chance(generator),
        )
        training.take(step, loss, optimiser, list(policy.parameters()))
    return training.result()


def _loss(
    policy: FlowPolicy,
    samples: Samples,
    batch: np.ndarray,
    *,
    seen: torch.Tensor | None,
    scales: torch.Tensor | None,
    options: ImitateOptions,
    rng: np.random.Generator,
    chance: Chance,
) -> torch.Tensor:
    if seen is None or scales is None:
        features = _features(policy, samples, batch, options, rng)
    else:
        features = seen[torch.from_numpy(rng.integers(len(seen), size=len(batch))), batch]
        features = disturb(features, scales, chance)
    chunks = torch.from_numpy(samples.chunks[batch]).repeat(options.draws, 1, 1)
    loss = policy.head.flow_loss(features.repeat(options.draws, 1), chunks, chance).mean()
    if seen is None and options.keyframe > 0:
        size = policy.config.action_size
        away = torch.from_numpy(samples.keyframes[batch] - samples.states[batch][:, :size])
        reach = policy.trunk.told(features)[1][:, :size]
        goal = away / policy.trunk.state_std[:size]
        loss = loss + options.keyframe * F.smooth_l1_loss(reach, goal, beta=0.2)
    return loss


def _features(
    policy: FlowPolicy,
    samples: Samples,
    batch: np.ndarray,
    options: ImitateOptions,
    rng: np.random.Generator,
) -> torch.Tensor:
    """The trunk's features [B, F] of these samples, augmented."""
    images = [
        augment(samples.images[name][batch], options.shift_px, options.colour, rng)
        for name in policy.config.cameras
    ]
    states = samples.states[batch]
    # What the arm reports in a closed loop is never quite what the demonstrator's arm reported.
    noise = options.state_noise * policy.trunk.state_std.numpy()
    states = states + (noise * rng.normal(size=states.shape)).astype(np.float32)
    tokens = torch.from_numpy(samples.tokens[batch])
    with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
        features: torch.Tensor = policy.trunk(*images, torch.from_numpy(states), tokens)
    return features.float()


@torch.no_grad()
def _views(
    policy: FlowPolicy, samples: Samples, options: ImitateOptions, rng: np.random.Generator
) -> torch.Tensor:
    """[views, N, F]: what a frozen trunk makes of every sample, augmented `views` times, computed once."""
    everything = np.arange(len(samples))
    return torch.stack(
        [
            torch.cat(
                [
                    _features(policy, samples, everything[i : i + 256], options, rng)
                    for i in range(0, len(samples), 256)
                ]
            )
            for _ in range(options.views)
        ]
    )


def augment(
    images: np.ndarray, shift_px: int, colour: float, rng: np.random.Generator
) -> torch.Tensor:
    """uint8[B, H, W, 3] -> float32, each picture shifted by up to `shift_px` (edges repeated), its
    brightness and each colour scaled and offset by up to `colour`."""
    if shift_px:
        images = shift(images, shift_px, rng.integers(0, 2 * shift_px + 1, size=(len(images), 2)))
    return recolour(images, colour, rng)


def shift(images: np.ndarray, most_px: int, starts: np.ndarray) -> np.ndarray:
    """Each picture cut out of itself with its edges repeated `most_px` times, from row and column
    `starts` int[B, 2]: what was at (column, row) is then at (column + most_px - start, ...)."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (most_px,) * 2, (most_px,) * 2, (0, 0)), mode="edge")
    return np.stack(
        [one[y : y + height, x : x + width] for one, (y, x) in zip(padded, starts, strict=True)]
    )


def recolour(images: np.ndarray, colour: float, rng: np.random.Generator) -> torch.Tensor:
    """uint8[B, H, W, 3] -> float32, brightness and each colour scaled and offset by up to `colour`."""
    pixels = torch.from_numpy(images).float()
    if colour:
        count = len(images)
        bright = colour * rng.uniform(-1, 1, (count, 1, 1, 1))
        gain = 1.0 + bright + 0.5 * colour * rng.uniform(-1, 1, (count, 1, 1, 3))
        offset = 128.0 * colour * rng.uniform(-1, 1, (count, 1, 1, 1))
        pixels = pixels * torch.from_numpy(gain).float() + torch.from_numpy(offset).float()
        pixels = pixels.clamp_(0.0, 255.0)
    return pixels
