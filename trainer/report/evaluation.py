"""Who says that an episode succeeded, and by that the base against the refined policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.report.rows import Episode, RunData
from trainer.report.statistics import (
    Estimate,
    Outcomes,
    paired_difference,
    paired_outcomes,
    wilson,
)

TRUTH, LABEL, JUDGED = "truth", "label", "judged"
WHOSE = (TRUTH, LABEL, JUDGED)
"""Whose word counts, the best first: the simulator's, a person's, the reward's."""
Scene = tuple[str, str, int]


@dataclass(frozen=True)
class Evaluation:
    """Base against refined policy. `base_by`, `final_by`: whose word their rates are by (of `WHOSE`), ""
    where nobody said anything; `base_silent`, `final_silent`: episodes of which that one said nothing.
    `outcomes`, `difference` and `differences` (one a pair) are over the pairs that both have."""

    base: Estimate
    final: Estimate
    base_by: str
    final_by: str
    base_silent: int
    final_silent: int
    difference: Estimate
    outcomes: Outcomes
    differences: tuple[float, ...]

    @property
    def pairs(self) -> int:
        return len(self.differences)


def evaluation(run: RunData) -> Evaluation:
    """Both by the same word where there is one that speaks of both, pairs by task and seed. A scene without
    a seed (a real robot's) has no pair."""
    base_by, final_by = _yardsticks(run.of("base"), run.of("final"))
    base, final = _by_scene(run.of("base"), base_by), _by_scene(run.of("final"), final_by)
    scenes = [scene for scene in base if scene in final and base_by == final_by]
    before, after = [base[s] for s in scenes], [final[s] for s in scenes]
    return Evaluation(
        base=wilson(sum(base.values()), len(base)),
        final=wilson(sum(final.values()), len(final)),
        base_by=base_by,
        final_by=final_by,
        base_silent=sum(said(e, base_by) is None for e in run.of("base")),
        final_silent=sum(said(e, final_by) is None for e in run.of("final")),
        difference=paired_difference(before, after),
        outcomes=paired_outcomes(before, after),
        differences=tuple(float(a) - float(b) for a, b in zip(after, before, strict=True)),
    )


def said(episode: Episode, whose: str) -> bool | None:
    """Whether it succeeded by that one's word."""
    if whose == TRUTH:
        return episode.truth.success if episode.truth else None
    return {LABEL: episode.label, JUDGED: episode.judgement.success}.get(whose)


def verdict(episode: Episode) -> tuple[bool | None, str]:
    """The best word on it and whose that is; (None, "") where nobody knows."""
    known = ((said(episode, whose), whose) for whose in WHOSE)
    return next((found for found in known if found[0] is not None), (None, ""))


def _yardsticks(base: Iterable[Episode], final: Iterable[Episode]) -> tuple[str, str]:
    speak = [
        [whose for whose in WHOSE if any(said(e, whose) is not None for e in episodes)]
        for episodes in (list(base), list(final))
    ]
    for whose in speak[0]:
        if whose in speak[1]:
            return whose, whose
    return next(iter(speak[0]), ""), next(iter(speak[1]), "")


def _by_scene(episodes: Iterable[Episode], whose: str) -> dict[Scene, bool]:
    known = ((_scene(episode), said(episode, whose)) for episode in episodes)
    return {scene: success for scene, success in known if success is not None}


def _scene(episode: Episode) -> Scene:
    if episode.seed >= 0:
        return ("", episode.task, episode.seed)
    return (episode.session_id, episode.task, episode.seq)


def words(run: RunData, whose: str) -> str:
    """As in "success by ..."."""
    if whose == LABEL and labels_are_truth(run):
        return "the simulator’s truth, sent as a label"
    return {
        TRUTH: "the simulator’s truth",
        LABEL: "the operator’s label",
        JUDGED: "the reward’s judgement",
    }[whose]


def labels_are_truth(run: RunData) -> bool:
    """Whether the bench, and no person, labelled the episodes."""
    return bool(run.config.get("robot", {}).get("episode", {}).get("label") == "truth")


def judged_by(run: RunData, found: Evaluation) -> str:
    """Whose word the two rates are by, "" where there is none."""
    base, final = (words(run, by) if by else "" for by in (found.base_by, found.final_by))
    if base and final and base != final:
        return f"{base} (base) and {final} (refined)"
    return base or final


def learned_from(run: RunData) -> str:
    """Whose word said what its training episodes taught."""
    kinds = dict.fromkeys(iteration.labels for iteration in run.iterations)
    return ", later ".join(_learned(run, labels) for labels in kinds or [("model",)])


def _learned(run: RunData, labels: Sequence[str]) -> str:
    label, judged = words(run, LABEL), words(run, JUDGED)
    if "operator" not in labels:
        return judged
    return f"{label} where there was one, else {judged}" if "model" in labels else label


def legend(
    runs: Sequence[tuple[RunData, Evaluation]], *, truth: bool, learned: bool
) -> list[tuple[str, str]]:
    """(style, words) of what the chart of success shows. `truth`, `learned`: whether it has that line."""
    found = {"the simulator’s truth (only this page reads it)": "truth"} if truth else {}
    for run, one in runs:
        for whose in (one.base_by, one.final_by):
            if whose == TRUTH:
                found["the simulator’s truth (only this page reads it)"] = "truth"
            elif whose:
                found[f"the evaluations: {words(run, whose)}"] = "truth"
        if learned:
            found[f"what refinement took for a success: {learned_from(run)}"] = "judged"
    return sorted(((style, text) for text, style in found.items()), reverse=True)
