"""Trains the edge reward network: one file, top to bottom. Owns the losses and the calibration.

Labels are progress (soft cross-entropy), success (cross-entropy), the order of two frames by progress
(contrastive), and, where the recorder gave them, the cells in which thing and target are seen (what the
slots look at). Counterfactual goals of the same pictures are in every batch, so that pictures alone do
not suffice. Completion is calibrated on validation clips that no gradient saw.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from contracts.errors import PackageError
from contracts.files import outputs
from contracts.files.packages import MANIFEST_FILE, read_safetensors, safetensors_bytes
from contracts.language import build_vocabulary, encode
from contracts.package import Provenance
from trainer.rewards.data import Batch, BatchSampler, Clip, instructions_of
from trainer.rewards.edge_model import EdgeHead, EdgeShape, EdgeTrunk
from trainer.training import multiplies_bfloat16

_REMEDY = "copy the trained folder again, or train it again with robot-reward train"


class TrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a training run may be told. `minutes` ends it early (0: only `steps` does); the learning
    rate then follows the clock, so that it ends at zero either way."""

    steps: int = 3000
    minutes: float = 0.0
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    clips_per_batch: int = 14
    frames: int = 4
    goals: int = 3
    completion_weight: float = 1.0
    process_weight: float = 1.0
    contrastive_weight: float = 0.5
    look_weight: float = 0.3
    false_positive_rate: float = 0.02
    ema: float = 0.998
    bfloat16: bool = True


class Edge(msgspec.Struct):
    """A trained pair with what it needs to be used and packaged: sizes, words, settings (thresholds),
    recorded pictures and an instruction for golden vectors, the camera's focal length in pixels."""

    shape: EdgeShape
    vocabulary: tuple[str, ...]
    trunk: EdgeTrunk
    head: EdgeHead
    settings: dict[str, float]
    trained_on: dict[str, list[str]]
    examples: dict[str, np.ndarray]
    fx: float = 0.0
    provenance: Provenance | None = None


def new_edge(shape: EdgeShape, vocabulary: tuple[str, ...], seed: int) -> Edge:
    torch.manual_seed(seed)
    settings = {
        "completion_threshold": 0.5,
        "completion_consecutive": 2.0,
        "rate_hz": 3.0,
        "earlier_s": 2.0,
        "ground_threshold": 0.5,
    }
    return Edge(shape, vocabulary, EdgeTrunk(shape), EdgeHead(shape), settings, {}, {})


def losses(edge: Edge, batch: Batch, settings: TrainSettings) -> dict[str, Tensor]:
    """Every loss of one batch. Embeddings are computed once per frame, hidden states once per
    (frame, goal); pairs for the contrast are drawn among the frames of a goal."""
    clips, goals, frames = batch.progress.shape
    embedding = edge.trunk(torch.from_numpy(batch.front), torch.from_numpy(batch.wrist))
    embedding = embedding.float().reshape(clips, 1, frames, -1).expand(-1, goals, -1, -1)
    first = embedding[:, :, :1].expand(-1, -1, frames, -1).reshape(clips * goals * frames, -1)
    current = embedding.reshape(clips * goals * frames, -1)
    tokens = torch.from_numpy(batch.tokens).reshape(clips * goals, -1)
    text, slots = edge.head.instruction(tokens)
    text = text.repeat_interleave(frames, 0)
    slots = slots.repeat_interleave(frames, 0)
    hidden, scores = edge.head.describe(first, current, text, slots)
    return _losses_of(edge.head, hidden, scores, batch, settings)


def mixed_losses(edge: Edge, batch: Batch, settings: TrainSettings) -> dict[str, Tensor]:
    """`losses`, with convolutions and products in bfloat16 where `settings` says so and the CPU has
    instructions for it (it then takes half the time; what is trained and saved stays float32)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16 and multiplies_bfloat16()):
        parts = losses(edge, batch, settings)
    return {name: value.float() for name, value in parts.items()}


def _losses_of(
    head: EdgeHead, hidden: Tensor, scores: Tensor, batch: Batch, settings: TrainSettings
) -> dict[str, Tensor]:
    clips, goals, frames = batch.progress.shape
    hidden, scores = hidden.float(), scores.float()
    progress = torch.from_numpy(batch.progress).reshape(-1)
    success = torch.from_numpy(batch.success).reshape(-1).to(torch.float32)
    bce = nn.functional.binary_cross_entropy_with_logits
    out = {
        "process": settings.process_weight * bce(head.process(hidden).squeeze(1), progress),
        "completion": settings.completion_weight
        * bce(head.completion(hidden).squeeze(1), success * 0.99 + 0.005),
    }
    pairs = hidden.reshape(clips * goals, frames, -1)
    shift = 1 + int(torch.randint(frames - 1, (1,)))
    other = torch.roll(pairs, shift, dims=1)
    values = progress.reshape(clips * goals, frames)
    gap = (values - torch.roll(values, shift, dims=1)).reshape(-1)
    logit = head.contrast(other.reshape(len(hidden), -1), hidden)
    # tanh(logit) is the output: its sign is the order, its size how sure; ties are pulled to zero.
    aim = torch.tanh(gap * 8.0)
    out["contrastive"] = settings.contrastive_weight * (torch.tanh(logit) - aim).square().mean()
    cells = torch.from_numpy(batch.cells).reshape(len(hidden), 2)
    look = [
        nn.functional.cross_entropy(
            scores[:, slot], cells[:, slot], ignore_index=-1, reduction="sum"
        )
        for slot in range(2)
    ]
    seen = max(int((cells >= 0).sum()), 1)
    out["look"] = settings.look_weight * torch.stack(look).sum() / seen
    return out


Progress = Callable[[int, float, dict[str, float]], None]
SAID_EVERY_S = 10.0
"""By the clock: 100 steps take ten seconds on one machine and minutes on another."""


def train(
    clips: Sequence[Clip],
    settings: TrainSettings,
    shape: EdgeShape | None = None,
    report: Progress | None = None,
) -> Edge:
    """Trunk and head from nothing. Deterministic for equal clips, settings and thread count (unless
    `minutes` ends it)."""
    vocabulary = build_vocabulary(instructions_of(clips))
    shape = shape or EdgeShape(vocabulary_size=len(vocabulary))
    edge = new_edge(shape, vocabulary, settings.seed)
    rng = np.random.default_rng(settings.seed)
    sampler = BatchSampler(
        clips,
        vocabulary,
        shape.instruction_length,
        rng,
        clips_per_batch=settings.clips_per_batch,
        frames=settings.frames,
        goals=settings.goals,
    )
    parameters = [p for m in (edge.trunk, edge.head) for p in m.parameters() if p.requires_grad]
    fit(edge, parameters, lambda: mixed_losses(edge, sampler.draw(), settings), settings, report)
    return edge


def fit(
    edge: Edge,
    parameters: list[nn.Parameter],
    compute: Callable[[], dict[str, Tensor]],
    settings: TrainSettings,
    report: Progress | None = None,
) -> None:
    """AdamW with a warm-up and a cosine, gradient clipping, and an average of the weights at the end.
    `report` is told of the first step, the last, and one every `SAID_EVERY_S`."""
    optimiser = torch.optim.AdamW(
        parameters, settings.learning_rate, weight_decay=settings.weight_decay
    )
    for module in (edge.trunk, edge.head):
        # Half again as fast on a CPU; saved weights are the same either way.
        module.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = [p.detach().clone() for p in parameters]
    warm_up = max(1, min(100, settings.steps // 10))
    began = said = time.monotonic()
    recent: dict[str, float] = {}
    for step in range(settings.steps):
        done = step / settings.steps
        if settings.minutes:
            done = max(done, (time.monotonic() - began) / (60.0 * settings.minutes))
        if done >= 1.0:
            break
        rate = min(1.0, (step + 1) / warm_up) * 0.5 * (1.0 + math.cos(math.pi * done))
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate
        optimiser.zero_grad(set_to_none=True)
        parts = compute()
        loss = torch.stack(list(parts.values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        keep = min(settings.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, parameter in zip(average, parameters, strict=True):
                mean.lerp_(parameter, 1.0 - keep)
        for name, value in parts.items():
            recent[name] = 0.95 * recent.get(name, float(value.detach())) + 0.05 * float(
                value.detach()
            )
        now = time.monotonic()
        if report and (step in (0, settings.steps - 1) or now - said >= SAID_EVERY_S):
            report(step, done, dict(recent))
            said = now
    with torch.no_grad():
        for mean, parameter in zip(average, parameters, strict=True):
            parameter.copy_(mean)
    edge.trunk.eval()
    edge.head.eval()


@torch.no_grad()
def embed(trunk: EdgeTrunk, front: np.ndarray, wrist: np.ndarray, block: int = 64) -> Tensor:
    """Embeddings float32[T, D] of pictures uint8[T,H,W,3]."""
    parts = [
        trunk(torch.from_numpy(front[i : i + block]), torch.from_numpy(wrist[i : i + block]))
        for i in range(0, len(front), block)
    ]
    return torch.cat(parts)


def embed_clip(trunk: EdgeTrunk, clip: Clip, rows: Iterable[int] | None = None) -> Tensor:
    """Embeddings float32[N, D] of frames of a clip (all by default)."""
    chosen = None if rows is None else list(rows)
    return embed(trunk, clip.pictures("front", chosen), clip.pictures("wrist", chosen))


@torch.no_grad()
def score(edge: Edge, embeddings: Tensor, instruction: str, lag: int = 6) -> dict[str, np.ndarray]:
    """Signals of every frame [T] of an episode, the first row being its first frame."""
    count = len(embeddings)
    tokens = torch.from_numpy(encode(instruction, edge.vocabulary, edge.shape.instruction_length))
    earlier = embeddings[torch.clamp(torch.arange(count) - lag, min=0)]
    outputs = edge.head(
        embeddings[:1].expand(count, -1), earlier, embeddings, tokens.expand(count, -1)
    )
    names = ("process", "completion", "contrastive", "ground")
    return {name: value.numpy() for name, value in zip(names, outputs, strict=True)}


@torch.no_grad()
def fit_ground(edge: Edge, embeddings: Tensor, quantile: float = 0.995) -> None:
    """Set the head's notion of familiar from embeddings of training frames [N, D]."""
    ground = edge.head.ground
    features = ground.features(embeddings)
    mean = features.mean(0)
    covariance = torch.cov((features - mean).T) + 1e-4 * torch.eye(features.shape[1])
    values, vectors = torch.linalg.eigh(covariance)
    ground.mean.copy_(mean)
    ground.whiten.copy_(vectors / values.sqrt())
    distance = ground.distance(embeddings)
    # Twice the distance of the rarest training frames: another scene is fine, another world is not.
    ground.limit.fill_(2.0 * float(torch.quantile(distance[:100_000], quantile)))
    ground.softness.fill_(max(0.1 * float(ground.limit), 1e-3))


@torch.no_grad()
def calibrate(edge: Edge, clips: Sequence[Clip], false_positive_rate: float) -> dict[str, float]:
    """Scale and shift of the completion logit (Platt), and the threshold at which at most
    `false_positive_rate` of unfinished frames pass, those of all goals together: the share of a goal that was
    tried may be higher, as most others are easily told from done. Validation clips only."""
    edge.head.calibration.copy_(torch.tensor([1.0, 0.0]))
    logits, labels, failed_ends = [], [], []
    for clip in clips:
        embeddings = embed_clip(edge.trunk, clip)
        for index, goal in enumerate(clip.record.goals):
            instruction = goal.instructions[clip.record.seed % len(goal.instructions)]
            value = score(edge, embeddings, instruction)["completion"].clip(1e-6, 1 - 1e-6)
            logits.append(np.log(value / (1 - value)))
            labels.append(clip.success[index])
            if goal.origin == "task" and not clip.success[index].any():
                failed_ends.append(logits[-1].max())
    logit, label = np.concatenate(logits), np.concatenate(labels)
    scale, shift = _platt(logit, label.astype(np.float64))
    edge.head.calibration.copy_(torch.tensor([scale, shift], dtype=torch.float32))
    unfinished = np.sort(logit[~label])
    cut = unfinished[int(len(unfinished) * (1.0 - false_positive_rate))]
    threshold = 1.0 / (1.0 + math.exp(-(scale * cut + shift)))
    threshold = float(np.clip(threshold, 0.5, 0.99))
    edge.settings["completion_threshold"] = threshold
    passed = 1.0 / (1.0 + np.exp(-(scale * logit + shift))) > threshold
    return {
        "threshold": threshold,
        "scale": scale,
        "shift": shift,
        "frame_fpr": float(passed[~label].mean()),
        "frame_tpr": float(passed[label].mean()) if label.any() else math.nan,
        "failed_episodes": float(len(failed_ends)),
    }


def _platt(logit: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Logistic regression of the label on one logit, by Newton's method."""
    weights = np.array([1.0, 0.0])
    design = np.stack([logit, np.ones_like(logit)], 1)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (p - label) + np.array([1e-3 * (weights[0] - 1.0), 0.0])
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-3 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-6:
            break
    return max(float(weights[0]), 0.05), float(weights[1])


def keep_examples(edge: Edge, clip: Clip, count: int = 4) -> None:
    """Recorded pictures of a clip, first to last, and its instruction: what golden vectors are made of."""
    rows = np.linspace(0, clip.record.frames - 1, count).round().astype(int)
    tokens = encode(
        clip.record.goals[0].instructions[0], edge.vocabulary, edge.shape.instruction_length
    )
    edge.examples = {
        "images.front": clip.pictures("front", rows),
        "images.wrist": clip.pictures("wrist", rows),
        "tokens": tokens[None],
    }


def require_folder(folder: Path) -> None:
    """Raise `ConfigError` unless a training run may be written there."""
    names = ("edge.json", "edge.safetensors", "examples.safetensors")
    outputs.require_folder(folder, "a reward model", outputs.only(*names))


def save(edge: Edge, folder: Path) -> None:
    """Weights (safetensors) and settings (JSON) of a training run; a model package is made of them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"trunk.{k}": v.detach().contiguous().numpy() for k, v in edge.trunk.state_dict().items()
    }
    tensors |= {
        f"head.{k}": v.detach().contiguous().numpy() for k, v in edge.head.state_dict().items()
    }
    (folder / "edge.safetensors").write_bytes(safetensors_bytes(tensors))
    (folder / "examples.safetensors").write_bytes(safetensors_bytes(edge.examples))
    about = {
        "shape": msgspec.to_builtins(edge.shape),
        "vocabulary": list(edge.vocabulary),
        "settings": edge.settings,
        "trained_on": edge.trained_on,
        "fx": edge.fx,
        "provenance": edge.provenance,
    }
    (folder / "edge.json").write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=1))


def load(folder: Path) -> Edge:
    """What `save` wrote; ready to score. Raises `PackageError` for a folder that is not whole."""
    try:
        about = msgspec.json.decode((folder / "edge.json").read_bytes())
        weights = (folder / "edge.safetensors").read_bytes()
        examples = (folder / "examples.safetensors").read_bytes()
    except (OSError, msgspec.MsgspecError) as error:
        packed = (folder / MANIFEST_FILE).is_file()
        raise PackageError(
            f"{folder} holds no trained reward model",
            expected="a folder with edge.json, edge.safetensors and examples.safetensors",
            found="a model package, which was exported already"
            if packed
            else str(error)
            if isinstance(error, msgspec.MsgspecError)
            else outputs.described(folder),
            remedy="use it as it is" if packed else "train one with robot-reward train",
        ) from error
    shape = msgspec.convert(about["shape"], EdgeShape)
    edge = new_edge(shape, tuple(about["vocabulary"]), 0)
    tensors = read_safetensors(weights, str(folder / "edge.safetensors"), _REMEDY)
    for name, module in (("trunk", edge.trunk), ("head", edge.head)):
        prefix = f"{name}."
        state = {
            key[len(prefix) :]: torch.from_numpy(value)
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
        if "trunk.front.layers.0.norm.weight" not in tensors and name == "trunk":
            edge.trunk.fuse()
        module.load_state_dict(state)
        module.eval()
    edge.settings.update(about["settings"])
    edge.trained_on.update(about["trained_on"])
    edge.fx = float(about["fx"])
    if about["provenance"] is not None:
        edge.provenance = msgspec.convert(about["provenance"], Provenance)
    edge.examples.update(read_safetensors(examples, str(folder / "examples.safetensors"), _REMEDY))
    return edge
