"""`python -m benchmarks.reward_peers`: our edge model beside SOLE-R1-8B's and Robometer-4B's outputs.

Reads ../shared/data (sole_r1_lift with true progress, robometer_clips without) and writes
docs/results/reward/peers.md and .json. The blind baselines are fitted on the other eight lift episodes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from contracts.errors import EntracteError
from contracts.files import atomic, outputs
from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal
from trainer.interfaces import VideoRewardModel
from trainer.rewards.edge import EdgeReward
from trainer.rewards.evaluation import metrics
from trainer.rewards.evaluation.blind import Clock, Constant, LastFrame
from trainer.rewards.evaluation.cases import Case, labelled
from trainer.rewards.evaluation.comparison import markdown, rows_of, values_and_words
from trainer.rewards.evaluation.measure import (
    HIGHER_IS_BETTER,
    Measured,
    Outcome,
    observe,
    signals_of,
    summary,
)
from trainer.rewards.evaluation.provenance import provenance, sentence
from trainer.rewards.evaluation.videos import read_video

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "reward"
IN_OUR_WORDS = "pick up the red cube"
MOMENTS = 25
CLIPS = {
    # video, outputs, what is done, the same in words that our model knows
    "berkeley_rpt_stack_cup": ("berkeley_rpt_stack_cup", "stack the cup", "stack the red cube"),
    "jaco_play_pick_up_green_cup": (
        "pick_up_green_cup",
        "pick up the green cup",
        "pick up the green cube",
    ),
    "soar_put_green_stick_in_brown_bowl": (
        "soar_put_green_stick_in_brown_bowl",
        "put the green stick in the brown bowl",
        "put the green block in the brown bowl",
    ),
}


class Recorded:
    """A peer's recorded progress [frames of the file] as a reward model: it says what it said then.
    Completion is its progress; contrastive, the sign of the difference from the frame before."""

    completion_threshold = 0.5
    completion_consecutive = 1
    contract = FrameContract("append", 2.0, 1, 1000)

    def __init__(self, name: str, progress: np.ndarray) -> None:
        self.model_id, self._progress = name, np.asarray(progress, np.float64).clip(0.0, 1.0)

    def score(self, video: Video, instruction: str) -> RewardSignal:
        del instruction
        now = float(self._progress[video.steps[-1]])
        before = float(self._progress[video.steps[-2]]) if len(video) > 1 else now
        return RewardSignal(
            int(video.steps[-1]),
            process=now,
            completion=now,
            contrastive=now - before,
            model_id=self.model_id,
        )


def lift_cases(folder: Path) -> list[tuple[Case, np.ndarray]]:
    """Each lift episode with SOLE-R1-8B's progress float64[25] of it in [0, 1]. Done where the true progress
    is 100; the file shows the front and the wrist camera side by side."""
    out = []
    for episode in sorted(folder.glob("episode_*")):
        truth = json.loads((episode / "ground_truth.json").read_text())
        (peer,) = json.loads((episode / "sole_r1_output.json").read_text())
        progress = np.array(truth["ground-truth rewards"], np.float64) / 100.0
        load = partial(read_video, episode / "video.mp4", cameras=("front", "wrist"))
        said = truth["task description"]
        case = Case(episode.name, episode.name, "lift", said, progress, progress >= 1.0, load)
        out.append((case, np.array(peer["rewards"]) / 100.0))
    if not out:
        raise EntracteError(f"{folder} holds no lift episode", remedy="run where ../shared is")
    return out


def measure_lift(
    package: Path, folder: Path, draws: int = 1000
) -> tuple[list[Measured], list[Measured]]:
    """(models, baselines) on the lift episodes."""
    episodes = lift_cases(folder)
    cases = [case for case, _ in episodes]
    worded = [replace(case, instruction=IN_OUR_WORDS) for case in cases]
    edge = EdgeReward(package=package)
    bold = EdgeReward(package=package, options={"ground_threshold": 0.0})

    def over(model: VideoRewardModel, mine: Sequence[Case], name: str) -> Measured:
        found = [observe(model, case, MOMENTS, seed=i) for i, case in enumerate(mine)]
        return summary(name, model.completion_threshold, found, draws)

    peer = [
        observe(Recorded("SOLE-R1-8B", said), case, MOMENTS, seed=i)
        for i, (case, said) in enumerate(episodes)
    ]
    models = [
        over(edge, cases, "edge"),
        over(edge, worded, "edge, in its words"),
        over(bold, worded, "edge, in its words, made to answer"),
        summary("SOLE-R1-8B", Recorded.completion_threshold, peer, draws),
    ]
    outcomes: dict[str, list[Outcome]] = {}
    for i, case in enumerate(cases):
        others = labelled([other for other in cases if other is not case], 6)
        for model in (Constant(), Clock(12.0), LastFrame(others)):
            outcomes.setdefault(model.model_id, []).append(observe(model, case, MOMENTS, seed=i))
    return models, [summary(name, 0.5, found, draws) for name, found in outcomes.items()]


def robometer_table(package: Path, folder: Path) -> list[list[str]]:
    """One row a clip: what Robometer-4B said of it and what the edge model does. No truth is given."""
    table = [
        [
            "clip",
            "Robometer-4B: progress, first and last",
            "its rank with time",
            "its last success probability",
            "edge, as given",
            "edge, in its words",
            "edge, made to answer: progress, first and last",
        ]
    ]
    for video_name, (peer, said, worded) in CLIPS.items():
        progress = np.load(folder / f"{peer}_rewards.npy", allow_pickle=False)
        success = np.load(folder / f"{peer}_rewards_success_probs.npy", allow_pickle=False)
        video = read_video(folder / f"{video_name}.mp4", cameras=("front",))
        # These clips have one camera and the model wants two: the front picture stands for both.
        both = Video({**video.views, "wrist": video.views["front"]}, video.times_s, video.steps)
        cells = []
        for shown, text in ((video, said), (both, worded)):
            (signal,) = signals_of(EdgeReward(package=package), shown, text, [len(shown) - 1])
            cells.append(_words(signal))
        bold = EdgeReward(package=package, options={"ground_threshold": 0.0})
        rows = np.linspace(0, len(both) - 1, len(progress)).round().astype(int).tolist()
        process = [s.process for s in signals_of(bold, both, worded, rows)]
        rank = metrics.spearman(progress, np.arange(len(progress)))
        answer = f"{process[0]:.2f} -> {process[-1]:.2f}"
        cells.append(answer if math.isfinite(process[-1]) else "no value")
        ends = f"{progress[0]:.2f} -> {progress[-1]:.2f}"
        table.append(
            [
                f"{video_name} ({len(video)} frames)",
                ends,
                f"{rank:.2f}",
                f"{success[-1]:.2f}",
                *cells,
            ]
        )
    return table


def _words(signal: RewardSignal) -> str:
    if signal.abstained:
        return f"abstains: {signal.abstained}"
    return f"process {signal.process:.2f}, completion {signal.completion:.2f}"


HEAD = """# The edge model beside large reward models, on recordings that are not ours

{short}

`python -m benchmarks.reward_peers` ({package}). {made}. Intervals are 95 %, bootstrapped over episodes;
with {episodes} episodes ({successes} of which succeed at their end) they are wide. "Beats" means
intervals apart.

## sole_r1_lift: true progress known

"edge" is asked in the recording's words ("{said}"), then in words that it knows
("{worded}"), then with its ground check switched off, to show what its abstaining hides.
Abstentions count as misses. SOLE-R1-8B: its recorded outputs (completion = progress, done at 0.5; it
gives no completion of its own). The last-frame baseline is fitted on the other eight episodes: it has
seen this robot, scene and task, the models have not. There is one instruction only, so "text only" is
the constant.

"""
TAIL = """
Nothing here says who is right: rank with time is what a clock gets 1.00 for. As given, these clips have words
that the edge model doesn't know and lack its wrist camera; in its words the front picture stands for both.
"""
SHORT = """In short: the shipped edge model learned from the simulated bench alone and is of no use on these
recordings; mostly it says so. As given it judges {given:.0%} of the lift episodes, in words that it knows
{worded:.0%}. Made to answer, its progress ranks the truth at {bold} where SOLE-R1-8B reaches
{peer} and a clock {clock}, and its completion at {bold_auc} (area under ROC,
time-matched; SOLE-R1-8B {peer_auc})."""


def _short(models: Sequence[Measured], baselines: Sequence[Measured]) -> str:
    given, worded, bold, peer = (one.figures for one in models)
    (clock,) = [one.figures for one in baselines if one.model == Clock.model_id]
    return SHORT.format(
        given=given["coverage"].value,
        worded=worded["coverage"].value,
        bold=bold["rank"],
        peer=peer["rank"],
        clock=clock["rank"],
        bold_auc=bold["auc"],
        peer_auc=peer["auc"],
    )


def main(
    package: Annotated[Path, typer.Option()] = Path("pretrained/reward-zero-shot"),
    data: Annotated[Path, typer.Option(help="The handed-over data.")] = DATA,
    output: Annotated[Path, typer.Option()] = RESULTS,
) -> None:
    result = outputs.json_with("sole_r1_lift", "robometer_clips")
    outputs.require_file(output / "peers.json", "the figures", result)
    outputs.require_file(output / "peers.md", "the page", outputs.beginning(HEAD[:40].encode()))
    models, baselines = measure_lift(package, data / "sole_r1_lift")
    for one in (*models, *baselines):
        # One instruction only, and no model here tells how unsure it is: nothing to show.
        for key in ("language", "aurc"):
            one.figures.pop(key)
    higher = {k: v for k, v in HIGHER_IS_BETTER.items() if k in models[0].figures}
    table = rows_of(
        {m.model: m.figures for m in models}, {b.model: b.figures for b in baselines}, higher
    )
    first = models[0]
    edge = EdgeReward(package=package)
    made = provenance("python -m benchmarks.reward_peers", 0, {package.name: edge.model_id})
    text = HEAD.format(
        package=package.name,
        made=sentence(made),
        short=_short(models, baselines),
        episodes=first.episodes,
        successes=first.successes,
        said=first.outcomes[0].case.instruction,
        worded=IN_OUR_WORDS,
    )
    reasons = sorted({o.end.abstained for o in first.outcomes if o.end.abstained})
    worded = [o.end.abstained.split(" (")[0] for o in models[1].outcomes]
    text += "\n".join(markdown(part) for part in values_and_words(table, len(models)))
    text += f"\nWhy it abstained at the ends: as given, {'; '.join(reasons) or 'it did not'}; in its words, "
    text += ", ".join(f"{worded.count(w)} × {w or 'judged'}" for w in sorted({*worded})) + ".\n"
    robometer = robometer_table(package, data / "robometer_clips")
    text += "\n## robometer_clips: no truth given\n\n" + markdown(robometer)
    text += TAIL
    atomic.make_directory(output)
    atomic.write_bytes(output / "peers.md", text.encode())
    found = {"models": [m.as_dict() for m in models], "baselines": [b.as_dict() for b in baselines]}
    whole = {**made, "sole_r1_lift": found, "robometer_clips": robometer}
    atomic.write_json(output / "peers.json", whole)
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
