"""What a reward head learns from a few labelled episodes: its verdicts on others before and after.

`python -m benchmarks.reward_adaptation --clips CLIPS --output FILE` with clips of the evaluation split
(`robot-reward record-clips --split eval`). A clip plays an episode that a person labelled at its end; half of
each task's clips are shown to nobody and measured on. Beside the adapted head: the package's own, a constant
and a clock on the same episodes, and the other tasks, which must not suffer.
"""

from __future__ import annotations

import platform
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from contracts.files import atomic, outputs
from contracts.files.packages import Package, load_package
from contracts.language import encode
from trainer.rewards.adaptation import (
    AdaptationOptions,
    HeadAdaptation,
    Lesson,
    frame_rows,
    held_back,
    targets,
)
from trainer.rewards.data import CAMERAS, Clip, load_clips
from trainer.rewards.edge import EdgeReward
from trainer.rewards.edge_model import HEAD_OUTPUTS, EdgeHead
from trainer.rewards.edge_twin import head_of_package, take_tensors
from trainer.rewards.evaluate import (
    LAG,
    Report,
    Scorer,
    Signals,
    clock_scorer,
    constant_scorer,
    evaluate,
)
from trainer.rewards.evaluation.metrics import roc_auc


class Seen:
    """Clips, and what the package's trunk makes of their pictures, computed once."""

    def __init__(self, folder: Path, package: Package, clips: list[Clip]) -> None:
        self.package = package
        eye = EdgeReward(package=folder)
        self._embeddings = {
            id(clip): torch.from_numpy(eye.embed({c: clip.pictures(c) for c in CAMERAS}))
            for clip in clips
        }

    def lesson(self, adaptation: HeadAdaptation, clip: Clip, number: int) -> Lesson:
        """The clip as a robot's episode of that number, with a person's label at its end and nothing else."""
        options, total = adaptation.options, clip.record.frames
        rows = frame_rows(total, options.frames)
        label = bool(clip.success[0, -1])
        process, completion = targets(rows, total, label)
        said = clip.record.goals[0].instructions[0]
        embeddings = self._embeddings[id(clip)][rows]
        held = held_back("", number, options.hold_back)
        return adaptation.lesson(said, embeddings, process, completion, label, held)

    def scorer(self, tensors: dict[str, np.ndarray] | None) -> Scorer:
        """Of the package's head, or of one with these weights."""
        head: EdgeHead = head_of_package(self.package)
        if tensors:
            take_tensors(head, tensors)
        manifest = self.package.manifest

        @torch.no_grad()
        def score(clip: Clip, said: str) -> Signals:
            embeddings = self._embeddings[id(clip)]
            count = len(embeddings)
            tokens = encode(said, manifest.vocabulary, manifest.instruction_length)
            outputs = head(
                embeddings[:1].expand(count, -1),
                embeddings[torch.clamp(torch.arange(count) - LAG, min=0)],
                embeddings,
                torch.from_numpy(tokens).expand(count, -1),
            )
            return {k: v.numpy() for k, v in zip(HEAD_OUTPUTS, outputs, strict=True)}

        return score


def measure(
    seen: Seen, clips: list[Clip], shown: list[int], options: AdaptationOptions, seed: int
) -> list[dict[str, Any]]:
    """One row a task, number of labelled episodes and head."""
    rows: list[dict[str, Any]] = []
    tasks = sorted({clip.record.task for clip in clips})
    rng = np.random.default_rng(seed)
    halves = {}
    for task in tasks:
        mine = [clip for clip in clips if clip.record.task == task]
        order = [mine[i] for i in rng.permutation(len(mine))]
        halves[task] = (order[: len(mine) // 2], order[len(mine) // 2 :])

    def note(head: str, task: str, episodes: int, report: Report, **more: Any) -> None:
        rows.append({"seed": seed, "head": head, "labelled": episodes, **report.as_dict(), **more})
        typer.echo(f"{seed} {task:<16} {head:<8} {episodes:3d}  {report.line()}", err=True)

    own = seen.scorer(None)
    for task in tasks:
        teach, test = halves[task]
        others = [clip for name in tasks if name != task for clip in halves[name][1]]
        for name, scorer in (("own", own), ("constant", constant_scorer), ("clock", clock_scorer)):
            note(name, task, 0, evaluate(scorer, test, name, task))
        before = _elsewhere(own, others)
        for count in shown:
            if count > len(teach):
                continue
            started = time.monotonic()
            adaptation = HeadAdaptation(seen.package, options, seed)
            lessons = [seen.lesson(adaptation, clip, i) for i, clip in enumerate(teach[:count])]
            adapted = adaptation.adapt(lessons, None, count)
            took_s = time.monotonic() - started
            scorer = seen.scorer(adapted.tensors) if adapted.tensors else own
            more = {
                "refused": adapted.refused,
                "adapt_s": round(took_s, 1),
                "others_before": before,
                "others_after": _elsewhere(scorer, others) if adapted.tensors else before,
                "inside": {k: round(v, 4) for k, v in adapted.figures.items()},
            }
            note("adapted", task, count, evaluate(scorer, test, "adapted", task), **more)
    return rows


def _elsewhere(scorer: Scorer, clips: list[Clip]) -> float:
    """Mean completion AUC over the other tasks: frames of success against last frames of failures."""
    found = []
    for task in sorted({clip.record.task for clip in clips}):
        mine = [clip for clip in clips if clip.record.task == task]
        done = [scorer(c, c.record.goals[0].instructions[0])["completion"] for c in mine]
        good = [d[c.success[0]] for c, d in zip(mine, done, strict=True) if c.success[0, -1]]
        bad = [d[-1] for c, d in zip(mine, done, strict=True) if not c.success[0, -1]]
        found.append(roc_auc(np.concatenate(good), np.array(bad)))
    return round(float(np.nanmean(found)), 4)


def main(
    clips: Annotated[list[Path], typer.Option(help="Folders of clips of the evaluation split.")],
    package: Annotated[Path, typer.Option()] = Path("pretrained/reward-zero-shot"),
    shown: Annotated[list[int] | None, typer.Option(help="Labelled episodes.")] = None,
    seeds: Annotated[int, typer.Option()] = 3,
    steps: Annotated[int, typer.Option()] = AdaptationOptions().steps,
    anchor: Annotated[float, typer.Option()] = AdaptationOptions().anchor,
    rate: Annotated[float, typer.Option()] = AdaptationOptions().learning_rate,
    threads: Annotated[int, typer.Option()] = 1,
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """One row a seed, task and number of labelled episodes; JSON with the command and versions."""
    torch.set_num_threads(threads)
    if output:
        outputs.require_file(output, "the rows", outputs.json_with("command", "versions", "rows"))
    options = AdaptationOptions(steps=steps, anchor=anchor, learning_rate=rate)
    played = [clip for clip in load_clips(clips) if clip.record.rate_hz]
    seen = Seen(package, load_package(package), played)
    rows = [
        row
        for seed in range(seeds)
        for row in measure(seen, played, shown or [12, 24, 48], options, seed)
    ]
    command = ["python", "-m", "benchmarks.reward_adaptation", *sys.argv[1:]]
    whole = {
        "command": shlex.join(Path(a).name if a.startswith("/") else a for a in command),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "numpy", "onnxruntime")},
        "rows": rows,
    }
    if output:
        atomic.write_json(output, whole)


if __name__ == "__main__":
    typer.run(main)
