"""Rows into what the template shows: success, signals, reward against truth; and the whole page's context.

No I/O but reading recorded episodes.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from contracts.messages import ABORTED
from trainer.report import charts, pictures
from trainer.report.analysis import (
    Judge,
    good_and_bad,
    judges,
    learned_tallies,
    truth_tallies,
)
from trainer.report.evaluation import (
    TRUTH,
    Evaluation,
    evaluation,
    judged_by,
    labels_are_truth,
    learned_from,
    legend,
    verdict,
    words,
)
from trainer.report.monitoring import monitors_section
from trainer.report.rows import STOPPED, Episode, RunData
from trainer.report.sections_machine import (
    facts,
    gate_section,
    iterations_section,
    processes,
    pushes_section,
    timing_section,
)
from trainer.report.statistics import Estimate
from trainer.report.words import (
    ABSENT,
    count,
    date,
    number,
    percent,
    percent_range,
    plural,
    points,
    points_range,
    seconds,
)

Section = dict[str, Any]
COMPLETE = "complete"


def head(run: RunData) -> Section:
    title = run.instruction or run.task.replace("_", " ").replace("-", " ") or "A run"
    parts = [
        f"task {run.task}" if run.task else "",
        f"reward: {run.reward}" if run.reward else "",
        "" if run.seed is None else f"seed {run.seed}",
        "" if math.isnan(run.started_unix_s) else date(run.started_unix_s),
        ""
        if math.isnan(run.ended_unix_s - run.started_unix_s)
        else f"{seconds(run.ended_unix_s - run.started_unix_s)} of running",
    ]
    notices = list(run.missing)
    if run.ended and run.ended != COMPLETE:
        done = len(run.iterations)
        planned = f" of {run.planned_iterations}" if run.planned_iterations else ""
        notices.insert(0, f"It ended early, after {done}{planned} iterations: {run.ended}.")
    return {
        "title": title[:1].upper() + title[1:],
        "meta": " · ".join(part for part in parts if part),
        "notices": notices,
        "notice_head": "This page shows what there is. Of a whole run it lacks:",
    }


def stats(run: RunData, found: Evaluation) -> list[Section]:
    """The three figures at the head of the page."""
    shown = []
    for phase, name, estimate, by, silent in (
        ("base", "base policy", found.base, found.base_by, found.base_silent),
        ("final", "refined policy", found.final, found.final_by, found.final_silent),
    ):
        note = f"the {name} was not evaluated"
        if tried := len(run.of(phase)):
            note = f"the {name} was tried in {plural(tried, 'episode')}: nobody said how they ended"
        if by:
            note = (
                f"success of the {name} in {plural(estimate.count, 'episode')}, by {words(run, by)}; "
                f"95\N{NO-BREAK SPACE}% interval {percent_range(estimate)}"
            )
            note += f"; of {plural(silent, 'more episode')} it is not known" if silent else ""
        picture = charts.interval_line(estimate) if by else ""
        shown.append({"value": percent(estimate.value), "picture": picture, "note": note})
    note = _difference(run, found)
    shown.append({"value": points(found.difference.value), "picture": "", "note": note})
    return shown


def _difference(run: RunData, found: Evaluation) -> str:
    """What the difference is over, or why there is none."""
    if found.pairs:
        return (
            f"points gained, paired on {plural(found.pairs, 'scene')}; "
            f"95\N{NO-BREAK SPACE}% interval {points_range(found.difference)}"
        )
    why = "no scene was tried by both"
    if found.base_by and found.final_by and found.base_by != found.final_by:
        why = "nobody’s word is on both"
    elif found.base_by and found.final_by and any(e.seed < 0 for e in run.of("final")):
        why = "scenes that have no number can’t be paired"
    return f"{why}, so there is no difference to give"


def _success_lead(run: RunData, found: Evaluation) -> str:
    trained = run.of("refine")
    if not trained:
        return "There is no training episode yet."
    lead = (
        f"{plural(len(trained), 'training episode')} in "
        f"{plural(len({e.iteration for e in trained}), 'iteration')}"
        f"{', each on a fresh scene' if all(e.seed >= 0 for e in trained) else ''}. "
        "Training may explore (policy.explore_deg), an evaluation does not. "
    )
    if by := judged_by(run, found):
        same = "are on scenes of their own, the same for both, and " if found.pairs else "are "
        lead += f"The evaluations at the two ends {same}by {by}. "
    if labels_are_truth(run) and any("operator" in it.labels for it in run.iterations):
        lead += f"Refinement learned from {learned_from(run)}."
    elif run.reward != "truth":
        told = any(episode.truth is not None for episode in run.episodes)
        lead += "The truth never reached the trainer: refinement" if told else "Refinement"
        lead += f" knew only {learned_from(run)}."
    return lead


def success(run: RunData, found: Evaluation) -> Section:
    learned, truth = learned_tallies(run), truth_tallies(run)
    outcomes = found.outcomes
    pairs = ""
    if found.pairs:
        pairs = (
            f"Of {plural(found.pairs, 'scene')} tried by both, solved by both: {outcomes.both}; "
            f"only after refinement: {outcomes.after_only}; only before: {outcomes.before_only}; "
            f"by neither: {outcomes.neither}. Difference: {points(found.difference.value)} points "
            f"({points_range(found.difference)}, paired bootstrap)."
        )
    rows = [
        _rate_row("base policy", found.base, words(run, found.base_by) if found.base_by else ""),
        _rate_row(
            "refined policy", found.final, words(run, found.final_by) if found.final_by else ""
        ),
    ]
    return {
        "lead": _success_lead(run, found),
        "legend": legend([(run, found)], truth=bool(truth), learned=bool(learned)),
        "chart": charts.success_over_iterations(
            judged=learned,
            truth=truth,
            base=found.base,
            final=found.final,
            planned=run.planned_iterations,
        ),
        "caption": (
            f"Dots: one iteration’s episodes. Lines and bands: pooled over the last "
            f"{charts.WINDOW_ITERATIONS} iterations, with Wilson’s 95 % interval. "
            "Bars: evaluations with the same interval; dotted: the base policy’s level."
        ),
        "pairs": pairs,
        "rows": rows if found.base_by or found.final_by else [],
    }


def _rate_row(name: str, estimate: Estimate, by: str) -> Section:
    known = estimate.count > 0
    return {
        "name": name,
        "by": by or ABSENT,
        "count": count(estimate.count),
        "successes": count(round(estimate.value * estimate.count)) if known else ABSENT,
        "rate": percent(estimate.value, 1),
        "range": percent_range(estimate),
    }


def signals(run: RunData) -> list[Section]:
    """The three signals over a good and a bad episode, on one time scale."""
    good, bad = good_and_bad(run)
    chosen = [
        (e, f"{what}{_by(run, e)}")
        for e, what in ((good, "A success"), (bad, "A failure"))
        if e is not None
    ]
    until_s = max((episode.duration_s for episode, _ in chosen), default=0.0)
    return [
        {
            "head": head,
            "chart": charts.signals(
                pictures.trace(episode),
                run.completion_threshold,
                until_s,
                f"{head}: process, completion and contrastive signal",
            ),
            "caption": _describe(episode),
        }
        for episode, head in chosen
    ]


def _by(run: RunData, episode: Episode) -> str:
    """Whose word it is, unless it is the truth."""
    _, whose = verdict(episode)
    return f", by {words(run, whose)}" if whose and whose != TRUTH else ""


PHASE_WORDS = {"base": "base evaluation", "refine": "training", "final": "final evaluation"}
REASON_WORDS = {
    "completed": "ended by the reward, which was sure",
    "time_limit": "ran to its time limit",
    "operator": "ended by the operator",
    "rerecord": "thrown away by the operator",
    "fault": "ended by a fault",
    ABORTED: "stopped before it was done",
}


def _describe(episode: Episode) -> str:
    where = PHASE_WORDS.get(episode.phase, episode.phase)
    if episode.iteration:
        where += f", iteration {episode.iteration}"
    scene = f", scene {episode.seed}" if episode.seed >= 0 else ""
    parts = [f"Episode {episode.seq} ({where}){scene}"]
    parts.append(REASON_WORDS.get(episode.reason, episode.reason))
    if episode.judgement.success is not None:
        parts.append(f"judged a {'success' if episode.judgement.success else 'failure'}")
    if episode.label is not None:
        parts.append(f"labelled a {'success' if episode.label else 'failure'}")
    if episode.truth is not None:
        parts.append(f"in truth a {'success' if episode.truth.success else 'failure'}")
    return "; ".join(part for part in parts if part) + "."


def judges_section(run: RunData) -> Section:
    """The reward's verdicts against the truth, blind baselines beside it."""
    engine = "the robot’s engine: its last score, at the shipped threshold"
    tables, evaluated = [], False
    for name, phase, note in (
        ("Training", "refine", "as used"),
        ("Base evaluation", "base", engine),
        ("Final evaluation", "final", engine),
    ):
        found = judges(run.of(phase), note)
        if found:
            evaluated |= phase != "refine"
            total = plural(found[0].confusion.count, "episode")
            tables.append({"head": f"{name}: {total}", "rows": [_judge_row(j) for j in found]})
    if not tables:
        return {}
    both = [
        e
        for e in run.episodes
        if e.truth is not None and not math.isnan(e.judgement.completion) and e.phase == "refine"
    ]
    chart = ""
    if both:
        chart = charts.score_histogram(
            [e.judgement.completion for e in both],
            [e.truth is not None and e.truth.success for e in both],
            run.completion_threshold,
        )
    silent = [e for e in run.of("refine") if e.truth is not None and e.judgement.success is None]
    stopped = sum(e.judgement.silence == STOPPED for e in silent)
    abstained = len(silent) - stopped
    return {
        "lead": (
            "Counts of episodes by what the judge said and what was true. AUC: the chance that a true "
            "success scores above a true failure (0.5 is blind). Rank correlation: the last process "
            "value against the true progress at the end. The two baselines never look: they show "
            "what can be had for nothing."
            + (
                " An evaluation is over soon after it has succeeded: there the short ones are successes, "
                "and the clock, which takes long for done, has them the wrong way round."
                if evaluated
                else ""
            )
        ),
        "tables": tables,
        "chart": chart,
        "caption": (
            "Training episodes by the completion at their end: true successes upwards, true failures "
            "downwards. A good judge has all of the upper bars right of its "
            "threshold, all of the lower ones left of it. The clock knows only how long an episode ran; "
            "where the reward ends episodes early, short ones are those that it liked, so the clock "
            "can fall below chance. "
            + (
                f"Of {plural(abstained, 'more episode')} the reward abstained. "
                if abstained
                else ""
            )
            + (
                f"{plural(stopped, 'episode')} stopped before the end: no verdict."
                if stopped
                else ""
            )
        ),
    }


def _judge_row(judge: Judge) -> Section:
    c = judge.confusion
    return {
        "name": judge.name,
        "note": judge.note,
        "cells": [
            c.true_positive,
            c.true_negative,
            c.false_positive,
            c.false_negative,
            percent(c.balanced_accuracy),
            number(judge.auc),
            number(judge.rank_correlation),
        ],
    }


def context(run: RunData) -> Section:
    """All that the template shows, but films, style and footer."""
    found = evaluation(run)
    shown = signals(run)
    robot = run.config.get("robot", {})
    return {
        **head(run),
        "stats": stats(run, found),
        "success": success(run, found),
        "signals": shown,
        "signals_lead": (
            "Process estimates progress, completion is the probability that the task is done, "
            "contrastive says whether the scene is closer to the goal than a moment before. "
            "Lines lead from the frames to their moments."
        ),
        "judges": judges_section(run),
        "monitors": monitors_section(run),
        "pushes": pushes_section(run),
        "timing": timing_section(run),
        "gate": gate_section(run),
        "iterations": iterations_section(run),
        "facts": facts(run),
        "processes": processes(run),
        "config": yaml.safe_dump(robot, sort_keys=False, default_flow_style=None) if robot else "",
    }
