"""Prompts with their answers as tensors: tokens, positions and pixels of `trainer.rewards.vlm.layout`.

Owns the answer's tokens and the padding. What is learnt is what is asked later, token for token: every
sequence is compared with the layout's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contracts.errors import ConfigError
from trainer.rewards.vlm.layout import Layout, Segment, positions, text_segment
from trainer.rewards.vlm.question import Prompt


@dataclass(frozen=True)
class Laid:
    """One row of a batch. `answer`: how many tokens at its end the model is to write (0: only read).
    `reads`: behind how many tokens its logits are looked at."""

    segments: tuple[Segment, ...]
    answer: int
    reads: tuple[int, ...]

    @property
    def ids(self) -> list[int]:
        return [token for segment in self.segments for token in segment.ids]


@dataclass(frozen=True)
class Batch:
    """`inputs`: what the model's forward takes. `places` int64[M, 2]: (row, index among the kept logits) of
    each token to predict, `targets` int64[M] these tokens, `shares` float32[M] that sum to one a row."""

    inputs: dict[str, torch.Tensor]
    places: torch.Tensor
    targets: torch.Tensor
    shares: torch.Tensor

    def to(self, device: Any) -> Batch:
        moved = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return Batch(moved, self.places.to(device), self.targets.to(device), self.shares.to(device))


class Writer:
    """Lays out prompts of one checkpoint, answers included."""

    def __init__(self, layout: Layout, folder: Path, config: Any) -> None:
        """`folder`: the checkpoint's, for its tokenizer; `config`: the model's."""
        from transformers import AutoTokenizer

        tokenizers: Any = AutoTokenizer
        self._tokenizer = tokenizers.from_pretrained(folder)
        self.layout, self._video = layout, int(config.video_token_id)

    def answered(self, prompt: Prompt, choice: int) -> Laid:
        """`prompt` with its answer: forced beginning, choice and end of turn.

        Raises `ConfigError` where these tokens are not those that the reward model would read."""
        reading = self.layout.lay_out(prompt)
        _, tail = self.layout.begin(prompt)
        encode = self._tokenizer.encode
        asked = encode(tail, add_special_tokens=False)
        words = encode(tail + prompt.answer + prompt.choices[choice], add_special_tokens=False)
        whole = (*words, self._tokenizer.eos_token_id)
        for segments, tokens in reading:
            read = segments[-1].ids
            follows = whole[len(read) : len(read) + 1]
            if tokens[choice] >= 0 and (whole[: len(read)] != read or follows != (tokens[choice],)):
                raise ConfigError(
                    f"answer '{prompt.answer}{prompt.choices[choice]}'",
                    expected="the tokens that the reward model reads",
                    found=whole,
                )
        shared = 0
        for one, other in zip(asked, whole, strict=False):
            if one != other:
                break
            shared += 1
        laid = (*reading[0][0][:-1], text_segment(whole))
        length = sum(len(segment.ids) for segment in laid)
        count = len(whole) - shared
        return Laid(laid, count, tuple(range(length - count, length)))

    def asked(self, prompt: Prompt) -> list[tuple[Laid, tuple[int, ...]]]:
        """Each place at which the reward model reads the answer, and the choices' tokens there."""
        found = []
        for segments, tokens in self.layout.lay_out(prompt):
            length = sum(len(segment.ids) for segment in segments)
            found.append((Laid(tuple(segments), 0, (length,)), tokens))
        return found

    def collate(self, rows: Sequence[Laid]) -> Batch:
        """One batch, padded on the right: a causal model's last real token never sees it."""
        lengths = [len(row.ids) for row in rows]
        shape = (len(rows), max(lengths))
        ids = np.zeros(shape, np.int64)
        mask = np.zeros(shape, np.int64)
        spots = np.ones((3, *shape), np.int64)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            ids[i, :length], mask[i, :length] = row.ids, 1
            found = positions(row.segments, self.layout.rule.merge)
            spots[:, i, :length] = np.concatenate(found, axis=1)
        # Logits over a whole vocabulary are the largest tensor of all: only those that are looked at.
        kept = sorted({behind - 1 for row in rows for behind in row.reads})
        index = {place: k for k, place in enumerate(kept)}
        looked = [(i, behind) for i, row in enumerate(rows) for behind in row.reads]
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": spots,
            "logits_to_keep": np.array(kept, np.int64),
            **self._pictures(rows),
        }
        targets = [rows[i].ids[behind] if rows[i].answer else 0 for i, behind in looked]
        return Batch(
            {name: torch.from_numpy(array) for name, array in inputs.items()},
            torch.tensor([(i, index[behind - 1]) for i, behind in looked]),
            torch.tensor(targets),
            torch.tensor([1 / len(rows[i].reads) for i, _ in looked]),
        )

    def _pictures(self, rows: Sequence[Laid]) -> dict[str, np.ndarray]:
        """Pixels and grids, pictures and videos apart, each in the batch's order."""
        found: dict[str, np.ndarray] = {}
        shown = [s for row in rows for s in row.segments if s.images is not None]
        for video in (False, True):
            mine = [segment for segment in shown if (segment.ids[0] == self._video) == video]
            if mine:
                pixels = np.concatenate([self.layout.pixels(segment) for segment in mine])
                grid = np.array([(1, *segment.grid) for segment in mine], np.int64)
                found["pixel_values_videos" if video else "pixel_values"] = pixels
                found["video_grid_thw" if video else "image_grid_thw"] = grid
        return found


def predictions(model: Any, batch: Batch) -> torch.Tensor:
    """float32[M, V]: logits at each of the batch's places."""
    logits = model(**batch.inputs, use_cache=False).logits
    found: torch.Tensor = logits[batch.places[:, 0], batch.places[:, 1]].float()
    return found


def answer_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The sum over rows of the mean of -log P(token) over the answer's tokens; nothing else is learnt."""
    lost = torch.nn.functional.cross_entropy(
        predictions(model, batch), batch.targets, reduction="none"
    )
    return (lost * batch.shares).sum()
