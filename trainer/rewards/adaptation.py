"""Adapts an edge reward model's head to one robot's episodes, from labels that come late.

Owns what an episode teaches, the training and the test on held-back episodes; knows no daemon. Training
always begins at the package's own head and sees all episodes anew, so that no bad step is built upon. Only
what comes behind the head's looking is trained: that is gathered once an episode, and a few labels can't
ruin where it looks. What it said of other instructions stays as it was; with few labels, language is what
is lost first.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contracts.errors import ConfigError
from contracts.files.packages import Package
from contracts.language import encode, unknown_words
from contracts.reward import RewardSignal
from trainer.answers import answers_of
from trainer.rewards.demonstrations import DONE_FROM
from trainer.rewards.edge_model import EdgeHead
from trainer.rewards.edge_twin import head_of_package, head_tensors, take_tensors

NOT_YET_BELOW = 0.3
"""Share of a success's time before which it was surely not done yet."""
ORDER_SCALE = 8.0
"""A gain of process of one eighth is an order that the head should be sure of."""


class AdaptationOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`episodes`: at most so many of the newest labelled ones, `frames` of each. `steps` gradient steps of
    `batch` episodes. `anchor` weighs what was said of `others` more instructions of each episode. One success
    or failure of `hold_back` is never trained on (`held_back`); a release needs `least` of each there, a loss
    on them lower by `least_gain` (share) than that of the head in use, no worse verdicts, and at most `drift`
    change (mean of the completion) on other instructions."""

    episodes: int = 200
    frames: int = 12
    steps: int = 300
    batch: int = 16
    learning_rate: float = 3e-4
    anchor: float = 1.0
    others: int = 4
    hold_back: int = 3
    least: int = 2
    least_gain: float = 0.01
    drift: float = 0.05


@dataclass(frozen=True)
class Lesson:
    """What an episode teaches. `seen` float32[1 + others, N, J]: what the head gathers of N frames under the
    episode's instruction and under others. `process` and `completion` float32[N] in [0, 1], NaN where nobody
    says; `success` the label at its end, None where it isn't sure."""

    seen: Tensor
    process: np.ndarray
    completion: np.ndarray
    success: bool | None
    held_back: bool = False


@dataclass(frozen=True)
class Adapted:
    """`tensors` to release, None where they are not good enough, `refused` saying why; `answers`: what they
    answer to the package's golden inputs."""

    tensors: dict[str, np.ndarray] | None
    refused: str
    figures: dict[str, float]
    answers: bytes = b""


def targets(
    steps: Sequence[int],
    total: int,
    label: bool | None,
    signals: Sequence[RewardSignal] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """(process, completion) float32[N] at these steps of an episode of `total`: a model's `signals` between
    the steps it judged, and a person's `label`, which wins.

    A success is done at its end and not yet in its first third: when in between it was reached, and how far
    it had come before, a label at the end does not say. A failure is nowhere done.
    """
    at = np.asarray(steps)
    process, completion = np.full(len(at), np.nan), np.full(len(at), np.nan)
    for name, values in (("process", process), ("completion", completion)):
        known = [(s.step, getattr(s, name)) for s in signals if not math.isnan(getattr(s, name))]
        if known:
            where, what = np.array(known).T
            inside = (at >= where[0]) & (at <= where[-1])
            values[inside] = np.interp(at[inside], where, np.clip(what, 0.0, 1.0))
    if label is not None:
        time = at / max(total - 1, 1)
        completion[:] = np.nan if label else 0.0
        if label:
            completion[time >= DONE_FROM] = 1.0
            completion[time < NOT_YET_BELOW] = 0.0
    return process.astype(np.float32), completion.astype(np.float32)


def frame_rows(total: int, count: int) -> list[int]:
    """Up to `count` steps of an episode: the first, the last, the rest evenly between, denser at the end
    (what matters most is whether it is done)."""
    early = np.linspace(0, total - 1, max(2, count - count // 3))
    late = np.linspace(0.9 * (total - 1), total - 1, count // 3)
    return sorted({round(float(row)) for row in (*early, *late)})


def held_back(robot_id: str, number: int, every: int) -> bool:
    """Whether a robot's episode of that number is held back: one of each `every` in a row.

    It hangs on nothing else, so that no head is ever tested on what one before it was trained on, whatever
    else is remembered. Which of them is drawn: a robot's tasks may take turns.
    """
    block, place = divmod(number, every)
    return zlib.crc32(f"{robot_id}/{block}".encode()) % every == place


class HeadAdaptation:
    """The head of one reward package and how it learns. Deterministic by `seed`, number and lessons."""

    def __init__(self, package: Package, options: AdaptationOptions, seed: int = 0) -> None:
        """Raises `PackageError` for a package of another network, `ConfigError` for one without the list of
        instructions that it was trained on."""
        self.options, self._seed = options, seed
        self._package, self._manifest = package, package.manifest
        self._threshold = package.manifest.settings.get("completion_threshold", 0.5)
        self._base = head_of_package(package)
        said = package.manifest.trained_on.get("instructions", [])
        self._others = [text for text in said if not self.unknown(text)]
        if len(self._others) < 2:
            raise ConfigError(
                f"reward package {package.folder}",
                expected="the instructions that it was trained on (trained_on.instructions)",
                found=f"{len(self._others)}",
                remedy="export it again with robot-export reward",
            )

    def unknown(self, instruction: str) -> list[str]:
        """Words that the package does not know."""
        return unknown_words(instruction, self._manifest.vocabulary)

    @torch.no_grad()
    def lesson(
        self,
        instruction: str,
        embeddings: Tensor,
        process: np.ndarray,
        completion: np.ndarray,
        success: bool | None,
        held_back: bool = False,
    ) -> Lesson:
        """`embeddings` float32[N, D] of the trunk, the first being the episode's first picture. One that
        isn't sure whether it was a success is not held back."""
        rng = np.random.default_rng([self._seed, zlib.crc32(instruction.encode())])
        rest = [text for text in self._others if text != instruction]
        others = [rest[i] for i in rng.permutation(len(rest))[: self.options.others]]
        count = len(embeddings)
        first = embeddings[:1].expand(count, -1)
        seen = []
        for said in (instruction, *others):
            tokens = encode(said, self._manifest.vocabulary, self._manifest.instruction_length)
            text, slots = self._base.instruction(torch.from_numpy(tokens)[None])
            gathered, _ = self._base.relation.gather(
                first, embeddings, text.expand(count, -1), slots.expand(count, -1, -1)
            )
            seen.append(gathered)
        held_back = held_back and success is not None
        return Lesson(torch.stack(seen), process, completion, success, held_back)

    def adapt(
        self, lessons: Sequence[Lesson], in_use: Mapping[str, np.ndarray] | None, number: int
    ) -> Adapted:
        """Train on what is not held back, test on what is. `in_use`: the tensors that robots have now (None:
        the package's own); `number` seeds the draws."""
        trained = [lesson for lesson in lessons if not lesson.held_back]
        held = [lesson for lesson in lessons if lesson.held_back]
        count = {kind: sum(lesson.success is kind for lesson in held) for kind in (True, False)}
        figures = {"episodes": float(len(lessons)), "held_back": float(len(held))}
        if min(count.values()) < self.options.least:
            found = f"{count[True]} successes and {count[False]} failures held back"
            return Adapted(None, f"{found}, {self.options.least} of each needed", figures)
        now = copy.deepcopy(self._base)
        if in_use is not None:
            take_tensors(now, in_use)
        head = copy.deepcopy(self._base)
        self._train(head, trained, number)
        before, after = self._test(now, held), self._test(head, held)
        figures |= {f"{name}_before": value for name, value in before.items()}
        figures |= {f"{name}_after": value for name, value in after.items()}
        figures["drift"] = self._drift(head, held)
        refused = self._verdict(before, after, figures["drift"])
        if refused:
            return Adapted(None, refused, figures)
        return Adapted(head_tensors(head), "", figures, answers_of(self._package, head))

    def _verdict(
        self, before: Mapping[str, float], after: Mapping[str, float], drift: float
    ) -> str:
        options = self.options
        if not all(map(math.isfinite, (*after.values(), drift))):
            return "the adapted head gives values that are not finite"
        if after["loss"] > before["loss"] * (1 - options.least_gain):
            return f"no better on held-back episodes: {before['loss']:.4f} -> {after['loss']:.4f}"
        if after["right"] < before["right"]:
            return f"fewer right verdicts: {before['right']:.3f} -> {after['right']:.3f}"
        if drift > options.drift:
            return f"says something else of other instructions: {drift:.3f} > {options.drift:g}"
        return ""

    def _train(self, head: EdgeHead, lessons: Sequence[Lesson], number: int) -> None:
        options = self.options
        rng = np.random.default_rng([self._seed, number])
        parts = [head.relation.join, head.process, head.completion, head.closer, head.compare]
        parts += [head.match] if head.shape.context else []
        parameters = [p for part in parts for p in part.parameters()]
        optimiser = torch.optim.AdamW(parameters, options.learning_rate, weight_decay=1e-3)
        sides = [
            [lesson for lesson in lessons if lesson.success is kind] for kind in (True, False, None)
        ]
        sides = [side for side in sides if side]
        head.train()
        for step in range(options.steps):
            share = step / options.steps
            rate = min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * share))
            for group in optimiser.param_groups:
                group["lr"] = options.learning_rate * rate
            # Successes and failures in turn: a robot that fails nine times of ten must not learn "no".
            drawn = [sides[i % len(sides)] for i in range(options.batch)]
            batch = [side[rng.integers(len(side))] for side in drawn]
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(self._loss(head, batch, rng))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
        head.eval()

    def _loss(self, head: EdgeHead, batch: Sequence[Lesson], rng: np.random.Generator) -> Tensor:
        own = head.conclude(_own(batch))
        loss = _cross_entropy(head, own, batch) + 0.5 * _order(head, own, batch, rng)
        rows = [int(rng.integers(1, len(lesson.seen))) for lesson in batch]
        other = torch.cat([lesson.seen[row] for lesson, row in zip(batch, rows, strict=True)])
        said = head.conclude(other)
        with torch.no_grad():
            base = self._base.conclude(other)
            wanted = [
                torch.sigmoid(part(base)) for part in (self._base.process, self._base.completion)
            ]
        for part, aim in zip((head.process, head.completion), wanted, strict=True):
            loss = loss + self.options.anchor * F.binary_cross_entropy_with_logits(part(said), aim)
        return loss

    @torch.no_grad()
    def _test(self, head: EdgeHead, held: Sequence[Lesson]) -> dict[str, float]:
        """`loss`: cross-entropy of completion and process on labelled frames; `right`: share of right
        verdicts on the last frames."""
        own = head.conclude(_own(held))
        ends = torch.tensor([lesson.seen.shape[1] for lesson in held]).cumsum(0) - 1
        called = _done(head, own[ends]) >= self._threshold
        right = called.numpy() == np.array([lesson.success for lesson in held])
        return {"loss": float(_cross_entropy(head, own, held)), "right": float(right.mean())}

    @torch.no_grad()
    def _drift(self, head: EdgeHead, held: Sequence[Lesson]) -> float:
        """Mean change of the completion under other instructions against the package's own head."""
        other = torch.cat([lesson.seen[1:].flatten(0, 1) for lesson in held])
        done = [_done(one, one.conclude(other)) for one in (head, self._base)]
        return float((done[0] - done[1]).abs().mean())


def _own(lessons: Sequence[Lesson]) -> Tensor:
    """float32[sum N, J] under the episodes' own instructions."""
    return torch.cat([lesson.seen[0] for lesson in lessons])


def _done(head: EdgeHead, hidden: Tensor) -> Tensor:
    return torch.sigmoid(_done_logit(head, hidden))


def _done_logit(head: EdgeHead, hidden: Tensor) -> Tensor:
    logit: Tensor = head.completion(hidden).squeeze(1)
    return logit * head.calibration[0] + head.calibration[1]


def _cross_entropy(head: EdgeHead, own: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    process = torch.from_numpy(np.concatenate([lesson.process for lesson in lessons]))
    completion = torch.from_numpy(np.concatenate([lesson.completion for lesson in lessons]))
    return _binary(_done_logit(head, own), completion) + _binary(
        head.process(own).squeeze(1), process
    )


def _binary(logit: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over what is known; 0 where nothing is."""
    known = torch.isfinite(target)
    if not bool(known.any()):
        return logit.sum() * 0.0
    # A label is never quite sure; without this the logits of a few episodes run away.
    return F.binary_cross_entropy_with_logits(logit[known], target[known] * 0.99 + 0.005)


def _order(
    head: EdgeHead, own: Tensor, lessons: Sequence[Lesson], rng: np.random.Generator
) -> Tensor:
    """Contrastive: pairs of frames of one episode against how much their process differs."""
    earlier, later, gaps, start = [], [], [], 0
    for lesson in lessons:
        pair = rng.permutation(len(lesson.process))[:2]
        gap = lesson.process[pair[1]] - lesson.process[pair[0]] if len(pair) == 2 else math.nan
        if math.isfinite(gap):
            earlier.append(start + int(pair[0]))
            later.append(start + int(pair[1]))
            gaps.append(float(gap))
        start += len(lesson.process)
    if not gaps:
        return own.sum() * 0.0
    order = torch.tanh(head.contrast(own[earlier], own[later]))
    return (order - torch.tanh(torch.tensor(gaps) * ORDER_SCALE)).square().mean()
