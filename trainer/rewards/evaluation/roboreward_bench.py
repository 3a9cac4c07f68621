"""RoboRewardBench on a folder in the published format: metadata.jsonl and MP4 files. Owns the protocol.

Mean absolute error of 1-5 scores, averaged over the subsets (arXiv 2601.00675, section 4); an answer that
can't be read costs 4. Which subset a row counts in: `RoboRewardRow.counted_in`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from contracts.errors import EntracteError
from contracts.reward import RewardSignal
from trainer.interfaces import VideoRewardModel
from trainer.rewards.evaluation.bootstrap import DRAWS, Figure, resamples, with_interval
from trainer.rewards.evaluation.metrics import kendall_tau_b, spearman
from trainer.rewards.evaluation.videos import read_video
from trainer.rewards.roboreward_rows import HIGHEST, LOWEST, METADATA, RoboRewardRow, read_rows

UNPARSABLE_COSTS = 4.0
PUBLISHED_SUBSETS = 23
TEST_HISTOGRAM = (689, 641, 556, 418, 527)
"""Labels 1..5 of the published test split: always "3" has a micro MAE of 1.233 there."""
_SAID = re.compile(r"ANSWER\s*:\s*([-+]?\d.*)", re.IGNORECASE)
_SCORE = re.compile(r"""([-+]?\d+(?:\.\d+)?)[\s.*_"'`)\]}]*""")
"""A number, and behind it at most what closes a sentence or a quotation."""


@dataclass(frozen=True)
class NoAnswer:
    """A model raised or abstained. Its reason may quote an answer ("unparsable: ANSWER: 7") and is never
    read for one."""

    reason: str


Answer = str | float | NoAnswer | None
"""What a model said of a row: text, a number, that it says nothing, or None (a row was left out)."""


def read_bench(folder: Path) -> list[RoboRewardRow]:
    """Rows in the file's order. Raises `EntracteError` naming the line that is wrong."""
    return read_rows(folder / METADATA)


def parse_answer(said: Answer) -> float | None:
    """The score in an answer: a number, or text of the form "ANSWER: 3", nothing behind it on its line (or
    the number alone). None where there is no one score: nothing, NaN, several that differ, or one that goes
    on ("4 or 5", "2-4", "3/5", "50%"): a number fished out of that is a guess."""
    if said is None or isinstance(said, bool | NoAnswer):
        return None
    if not isinstance(said, str):
        return float(said) if math.isfinite(said) else None
    found = [_SCORE.fullmatch(tail) for tail in _SAID.findall(said) or [said.strip()]]
    scores = {float(match[1]) if match else None for match in found}
    return scores.pop() if len(scores) == 1 else None


def read_answers(path: Path, rows: Sequence[RoboRewardRow]) -> list[Answer]:
    """Given answers, one JSON object a line: `file_name`, `answer` (text or number), and `task` where a video
    is asked about under several. A row without an answer gets None and `grade` names it."""
    by_key: dict[tuple[str, str], Answer] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = msgspec.json.decode(line, type=dict[str, Any])
            key, said = (item["file_name"], item.get("task", "")), item["answer"]
        except (msgspec.MsgspecError, KeyError) as error:
            raise EntracteError(
                f"{path} line {number}", expected="file_name and answer", found=repr(error)
            ) from error
        if key in by_key:
            raise EntracteError(f"{path} line {number}: a second answer", found=key)
        by_key[key] = said if isinstance(said, str | int | float) else None
    tasks = np.unique([row.file_name for row in rows], return_counts=True)
    often = {name for name, count in zip(*tasks, strict=True) if count > 1}
    vague = sorted(name for name, task in by_key if not task and name in often)
    if vague:
        raise EntracteError(
            f"{path}: videos that are asked about under several tasks",
            expected="a field 'task' in each answer",
            found=vague[:3],
        )
    unknown = {key[0] for key in by_key} - {row.file_name for row in rows}
    if unknown:
        raise EntracteError(f"{path}: videos that the set lacks", found=sorted(unknown)[:3])
    return [by_key.get((r.file_name, r.task), by_key.get((r.file_name, ""))) for r in rows]


Reading = Literal["discrete", "expected"]


def score_of(signal: RewardSignal, reading: Reading) -> float | None:
    """The 1-5 score of a signal: its most likely score or its expectation, else from progress by n = 1 + 4p
    (the paper's normalisation, inverted). None where the model abstained."""
    if signal.abstained:
        return None
    scores = np.array(signal.score_distribution)
    if len(scores) == HIGHEST:
        most_likely = float(scores.argmax()) + 1.0
        return most_likely if reading == "discrete" else float(scores @ np.arange(1.0, 6.0))
    if math.isnan(signal.process):
        return None
    value = LOWEST + (HIGHEST - LOWEST) * signal.process
    return float(math.floor(value + 0.5)) if reading == "discrete" else value


def ask(
    model: VideoRewardModel,
    rows: Sequence[RoboRewardRow],
    folder: Path,
    *,
    reading: Reading = "discrete",
    report: Callable[[int, int], None] | None = None,
) -> tuple[list[Answer], list[RewardSignal | None]]:
    """Answers and signals of a model, reading each video at its frame contract. What raises abstains."""
    answers: list[Answer] = []
    signals: list[RewardSignal | None] = []
    for number, row in enumerate(rows, start=1):
        try:
            signal = model.score(read_video(folder / row.file_name, model.contract), row.task)
        except Exception as error:  # a model may raise whatever it likes; the row then costs 4
            answers.append(NoAnswer(f"failed: {type(error).__name__}: {error}"))
            signals.append(None)
        else:
            score = score_of(signal, reading)
            answers.append(NoAnswer(f"abstained: {signal.abstained}") if score is None else score)
            signals.append(signal)
        if report:
            report(number, len(rows))
    return answers, signals


@dataclass(frozen=True)
class BenchReport:
    """What a model got. `figures`: micro_mae, macro_mae, exact, within_1, and of what could be read rank and
    kendall, with intervals (recordings resampled within subsets); `errors` float64[N] of each row;
    `missing`, `unparsable` name rows."""

    model: str
    rows: int
    figures: dict[str, Figure]
    subsets: dict[str, tuple[int, float]]
    errors: np.ndarray
    out_of_range: int
    unparsable: tuple[str, ...]
    missing: tuple[str, ...]

    def notes(self) -> list[str]:
        """What a reader must know beside the figures, in words."""
        out = [f"{self.out_of_range} answers out of 1..5 were clamped"] if self.out_of_range else []
        if self.unparsable:
            out.append(f"{len(self.unparsable)} answers could not be read and cost 4 each")
        if self.missing:
            shown = ", ".join(self.missing[:5]) + (" ..." if len(self.missing) > 5 else "")
            out.append(f"{len(self.missing)} answers are missing and cost 4 each: {shown}")
        if len(self.subsets) != PUBLISHED_SUBSETS:
            out.append(
                f"{len(self.subsets)} subsets, the published test split has {PUBLISHED_SUBSETS}: "
                "not comparable with the leaderboard"
            )
        return out

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "rows": self.rows,
            "figures": {name: figure.as_list() for name, figure in self.figures.items()},
            "subsets": {k: {"rows": n, "mae": round(m, 5)} for k, (n, m) in self.subsets.items()},
            "out_of_range": self.out_of_range,
            "unparsable": list(self.unparsable),
            "missing": list(self.missing),
        }


def grade(
    rows: Sequence[RoboRewardRow],
    answers: Sequence[Answer],
    model: str,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> BenchReport:
    """The protocol on answers, one a row (None: missing)."""
    if len(rows) != len(answers):
        raise EntracteError("answers", expected=f"{len(rows)}, one a row", found=len(answers))
    said = [parse_answer(answer) for answer in answers]
    truth = np.array([row.reward for row in rows], np.float64)
    raw = np.array([math.nan if value is None else value for value in said])
    value = np.clip(raw, LOWEST, HIGHEST)
    errors = np.where(np.isnan(value), UNPARSABLE_COSTS, np.abs(value - truth))
    _, of_row = np.unique([row.counted_in for row in rows], return_inverse=True)
    # Half-way values round up, as in `score_of`; what could not be read is nowhere near.
    whole = np.where(np.isnan(value), -99.0, np.floor(value + 0.5))
    # An order is of answers: what could not be read is neither the lowest nor the highest.
    read = ~np.isnan(value)

    def macro(index: np.ndarray) -> float:
        sums, counts = np.bincount(of_row[index], errors[index]), np.bincount(of_row[index])
        there = counts > 0
        return float((sums[there] / counts[there]).mean())

    statistics: Mapping[str, Callable[[np.ndarray], float]] = {
        "macro_mae": macro,
        "micro_mae": lambda i: float(errors[i].mean()),
        "exact": lambda i: float((whole[i] == truth[i]).mean()),
        "within_1": lambda i: float((np.abs(whole[i] - truth[i]) <= 1).mean()),
        "rank": lambda i: spearman(value[i][read[i]], truth[i][read[i]]),
    }
    drawn = resamples(
        [row.recording for row in rows], draws, seed, strata=[row.counted_in for row in rows]
    )
    figures = {k: with_interval(f, len(rows), drawn) for k, f in statistics.items()}
    # An expectation gives as many values as rows: slow enough to go without an interval.
    figures["kendall"] = Figure(kendall_tau_b(value[read], truth[read]))
    subsets = {}
    for group in sorted({row.counted_in for row in rows}):
        mine = errors[[row.counted_in == group for row in rows]]
        subsets[group] = (len(mine), float(mine.mean()))
    gone = [answer is None or answer == "" for answer in answers]
    missing = [row.name for row, no in zip(rows, gone, strict=True) if no]
    unread = [r.name for r, no, v in zip(rows, gone, said, strict=True) if not no and v is None]
    return BenchReport(
        model,
        len(rows),
        figures,
        subsets,
        errors,
        int((raw != value)[~np.isnan(raw)].sum()),
        tuple(unread),
        tuple(missing),
    )
