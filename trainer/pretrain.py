"""Pretraining: teaches a policy's trunk to see, on glances of simulated training scenes.

Four losses: where in each picture the instruction's thing and target are (cross-entropy over cells); where
they are as seen from the fingertips and how far the expert's joints will go to get there (its next keyframe,
James and Davison 2022), which the trunk tells; and what it does next (flow matching). The expert follows
one instruction only.
The simulator's labels end here: imitation and refinement on top of the trunk see pictures alone.
Deterministic by seed on one machine.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import torch
from torch.nn import functional as F

from contracts.errors import ConfigError
from trainer.checkpoint import Checkpoint
from trainer.glances import CAMERAS, ROWS, Glances
from trainer.imitate import recolour, shift
from trainer.policies.chance import Chance
from trainer.policies.flow import FlowConfig, FlowPolicy
from trainer.policies.vision import CELL_PX, PLACE_SCALE_M, PLACE_SIZE, CameraEncoder
from trainer.training import Averaged, Progress, begin, multiplies_bfloat16, warm_cosine

WARM_UP = 200
CHECKPOINT_EVERY = 500


class PretrainOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`steps` gradient steps of `batch` moments with ROWS instructions each; `draws` noise and time draws of
    a chunk; `point` weighs where things are in the pictures, `place` where in space."""

    steps: int = 9000
    batch: int = 64
    draws: int = 4
    rate: float = 1e-3
    weight_decay: float = 1e-3
    point: float = 0.3
    place: float = 1.0
    keyframe: float = 0.5
    shift_px: int = 2
    colour: float = 0.15
    state_noise: float = 0.02
    average: float = 0.998
    seed: int = 0
    threads: int = 1


NEW = "pretrain a new one: robot-trainer pretrain without --start"


def check_start(found: FlowConfig, wanted: FlowConfig, what: str) -> None:
    """Raises `ConfigError` where a policy can't go on with glances and a robot that want another one."""
    size, length = (wanted.image_width, wanted.image_height), wanted.chunk_length
    has = (found.image_width, found.image_height), found.action, found.chunk_length
    if has != (size, wanted.action, length):
        raise ConfigError(
            f"policy in {what} is for other pictures, other chunks or another arm",
            expected=f"{size} px, {length} actions of {wanted.action.names}",
            found=f"{has[0]} px, {found.chunk_length} actions of {found.action.names}",
            remedy=NEW,
        )
    unknown = sorted(set(wanted.vocabulary) - set(found.vocabulary))
    if unknown:
        raise ConfigError(
            f"policy in {what} doesn't know words of these glances",
            found=", ".join(unknown[:10]),
            remedy=NEW,
        )


def pretrain(
    policy: FlowPolicy,
    glances: Glances,
    options: PretrainOptions,
    report: Callable[[Progress], None] = lambda progress: None,
    checkpoint: Checkpoint | None = None,
) -> FlowPolicy:
    """The policy's moving average after training; `policy` itself is left where training ended.

    With a `checkpoint` it goes on where a run before it stopped, bit for bit, and saves where it stands."""
    rng, generator = begin(options.seed, options.threads)
    training = Averaged(policy, options.average, options.steps, options.batch, report)
    parameters = [*policy.trunk.parameters(), *policy.head.flow.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=options.rate, weight_decay=options.weight_decay, fused=True
    )
    begun = checkpoint and checkpoint.restore(training.modules, optimiser, rng, generator)
    first, order = begun or (0, np.empty(0, np.int64))
    training.go_on(first)
    for step in range(first, options.steps):
        rate = options.rate * warm_cosine(step, WARM_UP, step / options.steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        if len(order) < options.batch:
            order = rng.permutation(len(glances))
        batch, order = np.sort(order[: options.batch]), order[options.batch :]
        loss = _loss(policy, glances, batch, options, rng, generator)
        training.take(step, loss, optimiser, parameters)
        if checkpoint and (step + 1) % CHECKPOINT_EVERY == 0:
            checkpoint.save(step + 1, training.modules, optimiser, rng, generator, order)
    return training.result()


def _loss(
    policy: FlowPolicy,
    glances: Glances,
    batch: np.ndarray,
    options: PretrainOptions,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> torch.Tensor:
    trunk = policy.trunk
    phrase = trunk.instruction(torch.from_numpy(glances.tokens[glances.texts[batch].ravel()]))
    seen, pointing = [], torch.zeros(())
    for index, (name, encoder) in enumerate(zip(CAMERAS, trunk.cameras, strict=True)):
        assert isinstance(encoder, CameraEncoder)
        starts = rng.integers(0, 2 * options.shift_px + 1, size=(len(batch), 2))
        pictures = shift(glances.images[name][batch], options.shift_px, starts)
        pixels = glances.pixels[batch][:, :, index] + (
            options.shift_px - starts[:, None, None, ::-1].astype(np.float32)
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
            anyway, cells = encoder.look(recolour(pictures, options.colour, rng))
        told, scores = encoder.ask(cells, phrase)
        pointing = pointing + pointing_loss(scores[:, :2], pixels.reshape(-1, 2, 2), pictures.shape)
        seen.append(torch.cat([anyway.repeat_interleave(ROWS, 0), told], 1))
    states = glances.states[batch]
    noise = options.state_noise * trunk.state_std.numpy()
    states = states + (noise * rng.normal(size=states.shape)).astype(np.float32)
    features = trunk.combine(seen, torch.from_numpy(states).repeat_interleave(ROWS, 0), phrase)

    place, reach = trunk.told(features)
    points = (glances.points[batch] - glances.tips[batch][:, None, None]) / PLACE_SCALE_M
    points = points.reshape(-1, PLACE_SIZE)
    known = torch.from_numpy(np.isfinite(points))
    error = F.smooth_l1_loss(
        place, torch.from_numpy(np.nan_to_num(points)), beta=0.1, reduction="none"
    )
    placing = (error * known).sum() / known.sum().clamp(min=1)

    acted = glances.acted[batch]
    own = torch.from_numpy(acted)
    scale = trunk.state_std[: policy.config.action_size]
    keyframe = (torch.from_numpy(glances.keyframes[batch][acted] - states[acted])) / scale
    arriving = F.smooth_l1_loss(reach[::ROWS][own], keyframe, beta=0.1)
    chunks = torch.from_numpy(glances.chunks[batch][acted])
    flow = policy.head.flow_loss(
        features[::ROWS][own].repeat(options.draws, 1),
        chunks.repeat(options.draws, 1, 1),
        Chance(generator),
    ).mean()
    loss: torch.Tensor = (
        flow + options.point * pointing + options.place * placing + options.keyframe * arriving
    )
    return loss


def pointing_loss(
    scores: torch.Tensor, pixels: np.ndarray, picture: tuple[int, ...]
) -> torch.Tensor:
    """Cross-entropy of scores [N, K, R*C + 1] against pixels float32[N, K, 2] (column, row; NaN: nowhere) in
    pictures of shape (., H, W, .): shared among the four cells around, so that the mean cell is exact."""
    rows, columns = picture[1] // CELL_PX, picture[2] // CELL_PX
    inside = np.isfinite(pixels).all(2)
    at = np.nan_to_num(pixels) / CELL_PX - 0.5
    column = np.clip(at[..., 0], 0, columns - 1.001)
    row = np.clip(at[..., 1], 0, rows - 1.001)
    left, top = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    right, down = column - left, row - top
    cells, weights = [], []
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = (right if dx else 1 - right) * (down if dy else 1 - down)
        cells.append(np.where(inside, (top + dy) * columns + left + dx, rows * columns))
        weights.append(np.where(inside, weight, 0.25))
    logs = scores.log_softmax(2).gather(2, torch.from_numpy(np.stack(cells, 2)))
    shares = torch.from_numpy(np.stack(weights, 2).astype(np.float32))
    return -(logs * shares).sum(2).mean()
