"""How good the model is now on validation rows, read as the reward model reads it, in the labels' units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from contracts.errors import EntracteError
from trainer.rewards.tuning.rows import Row
from trainer.rewards.tuning.sequences import Batch, Writer, predictions
from trainer.rewards.tuning.subjects import Subject
from trainer.rewards.vlm.qwen import choice_scores


@dataclass(frozen=True)
class Asked:
    """One row of validation, laid out. `reads`: of each prompt, the choices' tokens at each place."""

    row: int
    batch: Batch
    reads: tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Verdict:
    """`figures` by name; `error` in [0, 1], the mean over signals, and `loss` decide which checkpoint is
    kept: the smaller error, and of equal ones the smaller loss."""

    figures: dict[str, float]
    error: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        return self.error, self.loss


def pick(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """The same `most` rows at every validation of every run with this seed."""
    if len(rows) <= most:
        return list(rows)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:most]
    return [rows[i] for i in sorted(chosen.tolist())]


def lay_out(writer: Writer, subject: Subject, row: Row, index: int) -> Asked:
    """All prompts of the row at all places where they are read, as one batch."""
    asked = [writer.asked(prompt) for prompt in subject.prompts(row)]
    batch = writer.collate([laid for places in asked for laid, _ in places])
    return Asked(index, batch, tuple(tuple(t for _, t in places) for places in asked))


def scores_of(model: Any, question: Asked, device: Any) -> list[np.ndarray]:
    """Log-probabilities float64[K] of each prompt's choices, as `Engine.choose` gives them."""
    logits = iter(predictions(model, question.batch.to(device)))
    return [
        choice_scores([(next(logits), tokens) for tokens in places]) for places in question.reads
    ]


def measure(
    model: Any,
    subject: Subject,
    rows: Sequence[Row],
    learnt: np.ndarray,
    questions: Callable[[Sequence[int]], Iterator[Asked]],
    accelerator: Any,
) -> tuple[dict[str, float], float, float]:
    """(figures, error, loss) of one signal; the rows are shared out among the processes.

    `questions(indices)` lays rows out, in order. Raises `EntracteError` for answers that aren't finite."""
    processes, own = accelerator.num_processes, accelerator.process_index
    mine = range(own, len(rows), processes)
    # FSDP gathers weights in every forward pass: each process makes as many.
    turns = math.ceil(len(rows) / processes)
    indices = [*mine, *[own % len(rows)] * (turns - len(mine))]
    found = np.zeros((2, len(rows)))
    for turn, question in enumerate(questions(indices)):
        scores = scores_of(model, question, accelerator.device)
        if turn < len(mine):
            row = rows[question.row]
            finite = all(np.isfinite(score).all() for score in scores)
            value = (subject.read(scores), subject.loss(row, scores)) if finite else (math.nan,) * 2
            found[:, question.row] = value
    whole = accelerator.reduce(torch.from_numpy(found).to(accelerator.device), "sum")
    values, losses = whole.cpu().numpy()
    if not np.isfinite(values).all():
        raise EntracteError(
            f"validation of '{subject.signal}': the model's answers are not finite",
            remedy="lower learning_rate",
        )
    labels = np.array([row.label for row in rows])
    figure = subject.figure(labels, values)
    figures = {
        subject.metric: figure,
        f"{subject.signal}_loss": float(losses.mean()),
        f"{subject.metric}_blind": subject.blind(learnt, labels),
    }
    return figures, subject.error(figure), float(losses.mean())
