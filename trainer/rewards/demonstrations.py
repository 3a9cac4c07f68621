"""The demo-conditioned edge model: the zero-shot head, adapted to the demonstrations of one task.

The demonstrations are those that the base policy was imitated from: successes by construction, no label
by hand. They are used twice: as context that the head matches frames against (learned on training tasks,
each with successes of its own kind as context), and as examples, their progress being normalised time.
The trunk stays as it is; training clips are replayed beside them, so that failures stay known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from contracts.errors import EntracteError
from contracts.files.dataset_reader import DatasetReader
from contracts.language import encode, unknown_words
from trainer.outcomes import successful
from trainer.rewards.data import Clip
from trainer.rewards.edge_model import EdgeHead
from trainer.rewards.train_edge import Edge, Progress, TrainSettings, embed, embed_clip, fit

CONTEXT_FRAMES = 8
"""Frames of each demonstration that the head carries."""
DONE_FROM, UNDONE_BELOW = 0.97, 0.6
"""Normalised times of a demonstration from which it counts as done, and below which as not done yet."""


@dataclass(frozen=True)
class Example:
    """An episode as the head sees it. `embeddings` [T, D]; per goal `instructions`, `progress` [G, T] and
    `success` [G, T] (NaN where unknown); `kind` groups episodes that may be context for one another."""

    kind: str
    embeddings: Tensor
    instructions: tuple[tuple[str, ...], ...]
    progress: np.ndarray
    success: np.ndarray
    is_demonstration: bool


def read_demonstrations(
    folder: Path, count: int, rate_hz: float
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(instruction, front, wrist uint8[T,H,W,3]) of the first `count` episodes of a LeRobotDataset that
    show how it is done. Raises `EntracteError` where none does."""
    reader = DatasetReader(folder)
    every = max(1, round(reader.fps / rate_hz))
    out = []
    shown = [n for n in range(reader.num_episodes) if successful(reader.meta(n))]
    for episode in shown[:count]:
        steps = sorted({*range(0, reader.length(episode), every), reader.length(episode) - 1})
        front, wrist = (
            reader.frames(episode, f"observation.images.{camera}", steps)
            for camera in ("front", "wrist")
        )
        out.append((reader.meta(episode)["task"], front, wrist))
    if not out:
        raise EntracteError(
            f"{folder} holds no demonstration",
            found=f"{reader.num_episodes} episodes, none of them a success or recorded as one",
            remedy="record some with robot-run record",
        )
    return out


def demonstration(edge: Edge, instruction: str, front: np.ndarray, wrist: np.ndarray) -> Example:
    """A demonstration as an example: progress is normalised time, done at its end."""
    unknown = unknown_words(instruction, edge.vocabulary)
    if unknown:
        raise EntracteError(f"the reward model has never seen the words {unknown}")
    time = np.linspace(0.0, 1.0, len(front), dtype=np.float32)
    success = np.full(len(front), np.nan, np.float32)
    success[time >= DONE_FROM] = 1.0
    success[time < UNDONE_BELOW] = 0.0
    return Example(
        "demonstration",
        embed(edge.trunk, front, wrist),
        ((instruction,),),
        time[None],
        success[None],
        True,
    )


def replayed(edge: Edge, clips: Sequence[Clip], rng: np.random.Generator) -> list[Example]:
    """Training clips as examples, up to ten frames of each: the first, the last and others between."""
    out = []
    for clip in clips:
        total = clip.record.frames
        rows = np.unique(np.concatenate([[0, total - 1], rng.integers(0, total, 8)]))
        own = clip.record.goals[0]
        out.append(
            Example(
                kind_of(clip) if clip.record.rate_hz else f"arranged {own.kind}",
                embed_clip(edge.trunk, clip, rows.tolist()),
                tuple(goal.instructions for goal in clip.record.goals),
                clip.progress[:, rows],
                clip.success[:, rows].astype(np.float32),
                False,
            )
        )
    return out


def kind_of(clip: Clip) -> str:
    """Which clips may be context for one another: the same task."""
    return clip.record.task


def with_context(edge: Edge, frames: int, said: Sequence[str] = ()) -> Edge:
    """The same model with room for `frames` context frames; at first it says what it said before.

    Words of the instructions `said` that it has never seen join its vocabulary, each beginning as a word like
    any other (drawn from how its own words lie): what they mean, the demonstrations show.
    """
    new = tuple(
        dict.fromkeys(word for text in said for word in unknown_words(text, edge.vocabulary))
    )
    vocabulary = (*edge.vocabulary, *new)
    shape = msgspec.structs.replace(edge.shape, context=frames, vocabulary_size=len(vocabulary))
    head = EdgeHead(shape)
    own, old = head.state_dict(), edge.head.state_dict()
    width = edge.shape.hidden
    chance = torch.Generator().manual_seed(len(vocabulary))
    for name, tensor in old.items():
        if own[name].shape == tensor.shape:
            own[name].copy_(tensor)
        elif name == "instruction.words.weight":
            known = tensor[2:]  # behind padding and the unknown word
            drawn = torch.randn(len(new), tensor.shape[1], generator=chance)
            own[name][: len(tensor)].copy_(tensor)
            own[name][len(tensor) :].copy_(known.mean(0) + known.std(0) * drawn)
        elif name == "compare.0.weight":
            fresh = width + 4
            own[name].zero_()
            own[name][:, :width].copy_(tensor[:, :width])
            own[name][:, fresh : fresh + width].copy_(tensor[:, width:])
        else:  # one more group of inputs, unused at first
            own[name].zero_()
            own[name][:, :width].copy_(tensor)
    return Edge(
        shape,
        vocabulary,
        edge.trunk,
        head,
        dict(edge.settings),
        dict(edge.trained_on),
        dict(edge.examples),
        edge.fx,
        edge.provenance,
    )


class Adapter:
    """Adapts `edge` (made by `with_context`) to demonstrations; draws its batches and contexts."""

    def __init__(
        self, edge: Edge, demonstrations: list[Example], replay: list[Example], seed: int
    ) -> None:
        self.edge, self.demonstrations, self.replay = edge, demonstrations, replay
        self.rng = np.random.default_rng(seed)
        self.by_kind: dict[str, list[int]] = {}
        for index, example in enumerate(replay):
            if example.success[0, -1] == 1.0:
                self.by_kind.setdefault(example.kind, []).append(index)
        self.kinds = sorted(
            k for k, v in self.by_kind.items() if len(v) >= 4 and not k.startswith("arranged")
        )

    def run(self, settings: TrainSettings, report: Progress | None = None) -> None:
        """Fine-tune the head, then set the context to the demonstrations as the new head sees them."""
        still = {id(p) for p in self.edge.head.ground.parameters()}
        parameters = [
            p for p in self.edge.head.parameters() if p.requires_grad and id(p) not in still
        ]
        fit(self.edge, parameters, lambda: self._losses(settings), settings, report)
        self.set_context()

    @torch.no_grad()
    def set_context(self) -> None:
        """Write the demonstrations into the head."""
        head, size = self.edge.head, self.edge.shape.context
        vectors, progress = self.context(self.demonstrations, size)
        head.context.copy_(vectors)
        head.context_progress.copy_(progress)

    @torch.no_grad()
    def context(self, examples: Sequence[Example], size: int) -> tuple[Tensor, Tensor]:
        """Hidden vectors [size, hidden] and normalised times [size] of frames of these examples."""
        per = max(1, size // len(examples))
        vectors, times = [], []
        for example in examples:
            last = len(example.embeddings) - 1
            rows = np.linspace(0, last, per).round().astype(int)
            text, slots = self._text([example.instructions[0][0]] * len(rows))
            frames = example.embeddings[torch.from_numpy(rows)]
            first = example.embeddings[:1].expand(len(rows), -1)
            vectors.append(self.edge.head.relation(first, frames, text, slots)[0])
            times.append(torch.from_numpy(rows / max(last, 1)).float())
        found, when = torch.cat(vectors), torch.cat(times)
        # Where the count does not divide, the last frames again: ends are what matters most.
        if len(found) < size:
            again = torch.arange(len(found))[when >= 0.99]
            pick = again[torch.arange(size - len(found)) % len(again)]
            found, when = torch.cat([found, found[pick]]), torch.cat([when, when[pick]])
        return found[:size], when[:size]

    def _text(self, said: Sequence[str]) -> tuple[Tensor, Tensor]:
        length = self.edge.shape.instruction_length
        tokens = np.stack([encode(text, self.edge.vocabulary, length) for text in said])
        text, slots = self.edge.head.instruction(torch.from_numpy(tokens))
        return text, slots

    def _losses(self, settings: TrainSettings) -> dict[str, Tensor]:
        rng = self.rng
        demos = rng.permutation(len(self.demonstrations))
        cut = max(1, len(demos) // 3)
        own = self._one_side(
            [self.demonstrations[i] for i in demos[:cut]],
            [self.demonstrations[i] for i in demos[cut:]] or self.demonstrations,
        )
        kind = self.kinds[rng.integers(len(self.kinds))]
        members = self.by_kind[kind]
        near = {id(self.replay[i]) for i in rng.choice(members, 4, replace=False)}
        asked = [e for e in self.replay if kind in e.kind and id(e) not in near]
        others = [self.replay[i] for i in rng.integers(0, len(self.replay), 6)]
        picked = [asked[i] for i in rng.integers(0, len(asked), 8)]
        played = self._one_side(
            [*picked, *others], [self.replay[i] for i in members if id(self.replay[i]) in near]
        )
        return {name: 0.35 * own[name] + 0.65 * played[name] for name in played}

    def _one_side(self, asked: list[Example], context: list[Example]) -> dict[str, Tensor]:
        """Losses of some examples (two goals of each, six frames) matched against a context."""
        rng, head = self.rng, self.edge.head
        said, firsts, frames, progress, success = [], [], [], [], []
        for example in asked:
            rows = rng.integers(0, len(example.embeddings), 6)
            rows[0] = len(example.embeddings) - 1
            goals = [0, int(rng.integers(len(example.instructions)))]
            for goal in goals:
                ways = example.instructions[goal]
                said += [ways[rng.integers(len(ways))]] * len(rows)
                frames.append(example.embeddings[torch.from_numpy(rows)])
                firsts.append(example.embeddings[:1].expand(len(rows), -1))
                progress.append(example.progress[goal, rows])
                success.append(example.success[goal, rows])
        size = CONTEXT_FRAMES * len(context)
        text, slots = self._text(said)
        hidden, _ = head.describe(
            torch.cat(firsts), torch.cat(frames), text, slots, self.context(context, size)
        )
        value = torch.from_numpy(np.concatenate(progress))
        done = torch.from_numpy(np.concatenate(success))
        known = torch.isfinite(done)
        bce = nn.functional.binary_cross_entropy_with_logits
        shifted = torch.roll(hidden.reshape(-1, 6, hidden.shape[1]), 1, dims=1).flatten(0, 1)
        gap = value - torch.roll(value.reshape(-1, 6), 1, dims=1).flatten()
        order = torch.tanh(head.contrast(shifted, hidden)) - torch.tanh(gap * 8.0)
        return {
            "process": bce(head.process(hidden).squeeze(1), value),
            "completion": bce(
                head.completion(hidden).squeeze(1)[known], done[known] * 0.99 + 0.005
            ),
            "contrastive": 0.5 * order.square().mean(),
        }
