"""What is learnt of one signal: a labelled row as the question that the reward model asks, and its answer.

Owns which choice is right and how far an answer is off. The questions, their prompts and their readings are
those of `trainer.rewards.vlm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contracts.choices import among_choices
from contracts.errors import EntracteError
from contracts.frames import Video
from trainer.reward_data.readers import decode_picture
from trainer.rewards.evaluation.videos import read_video
from trainer.rewards.tuning.rows import Row
from trainer.rewards.vlm.question import Prompt, Question

_MOST_PICTURE_BYTES = 1 << 26


class Subject:
    """One signal: a question and the labels that its rows have."""

    def __init__(self, signal: str, question: Question) -> None:
        self.signal, self.question = signal, question

    @property
    def metric(self) -> str:
        """The name of the figure that counts."""
        kinds = {"completion": "balanced_accuracy", "contrastive": "accuracy"}
        return f"{self.signal}_{kinds.get(self.signal, 'mae')}"

    def prompts(self, row: Row) -> list[Prompt]:
        """All that the reward model asks about the row's pictures; the first has `answer` as its answer.

        Raises `EntracteError` for pictures that can't be read."""
        camera = (self.question.frames.cameras or ("video",))[0]
        if self.signal == "roboreward":
            return self.question.ask(read_video(row.files[0], self.question.frames), row.task)
        pictures = [_picture(path) for path in row.files]
        if len({picture.shape for picture in pictures}) > 1:
            raise EntracteError(
                "pictures of one recording",
                expected="one size",
                found=[
                    f"{path.name} {p.shape}" for path, p in zip(row.files, pictures, strict=True)
                ],
            )
        count = len(pictures)
        video = Video({camera: np.stack(pictures)}, np.arange(count, dtype=float), np.arange(count))
        return self.question.ask(video, row.task)

    def answer(self, row: Row) -> int:
        """The index of the right choice: the score's, the nearest level's, no/yes, one/two."""
        choices = len(self.question.text.choices)
        if self.signal == "roboreward":
            return int(row.label) - 1
        return int(np.floor(row.label * (choices - 1) + 0.5))

    def read(self, scores: Sequence[np.ndarray]) -> float:
        """The answer in the label's own unit, from the log-probabilities float64[K] of each of `prompts`."""
        fields = self.question.read(scores).fields
        if self.signal == "roboreward":
            return 1 + 4 * fields["process"]
        return float(next(iter(fields.values())))

    def loss(self, row: Row, scores: Sequence[np.ndarray]) -> float:
        """-log P(the right choice) among the choices."""
        return -float(np.log(max(among_choices(scores[0])[self.answer(row)], 1e-300)))

    def figure(self, labels: np.ndarray, values: np.ndarray) -> float:
        """`metric` of float64[N] answers: mean absolute error of expectations, or the share right."""
        if self.metric.endswith("mae"):
            return float(np.abs(values - labels).mean())
        right = (values >= 0.5 if self.signal == "completion" else values > 0) == (labels > 0.5)
        if self.signal == "contrastive":
            return float(right.mean())
        return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))

    def error(self, figure: float) -> float:
        """`figure` as an error in [0, 1], so that signals can be averaged."""
        if self.signal == "roboreward":
            return figure / 4
        return figure if self.metric.endswith("mae") else 1 - figure

    def blind(self, learnt: np.ndarray, labels: np.ndarray) -> float:
        """The figure of the best constant that the training labels know. Of two moments asked about in both
        orders a constant says nothing: it is a coin."""
        if self.signal == "contrastive":
            return 0.5
        constant = np.median(learnt) if self.metric.endswith("mae") else float(learnt.mean() > 0.5)
        return self.figure(labels, np.full(len(labels), constant))


def _picture(path: Path) -> np.ndarray:
    if path.stat().st_size > _MOST_PICTURE_BYTES:
        raise EntracteError(f"picture {path}", expected=f"<= {_MOST_PICTURE_BYTES} bytes")
    return decode_picture(path.read_bytes(), str(path))
