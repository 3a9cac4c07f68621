"""Rows into what the template shows of the machinery: pushes, loop, gate, iterations, provenance. Pure but
for reading columns of recorded episodes."""

from __future__ import annotations

import math
from collections import Counter
from statistics import median
from typing import Any

from trainer.report import charts
from trainer.report.analysis import Idle, gate_counts, idle, pushes, timing, truth_tallies
from trainer.report.rows import STOPPED, Episode, Release, RunData
from trainer.report.words import ABSENT, count, number, percent, plural, seconds, size

Section = dict[str, Any]


def pushes_section(run: RunData) -> Section:
    found = pushes(run)
    if found is None:
        return {}
    lead = (
        f"{plural(found.offered, 'release')} published, {found.effective} took effect. "
        "A release is signed, checked on the robot, staged in a slot of its own and swapped in "
        "between two episodes, with the arm in hold."
    )
    facts = [
        ("a push, median", size(found.bytes_median)),
        ("all pushes together", size(found.bytes_total)),
    ]
    if not math.isnan(found.head_share):
        facts.append(("the whole package", size(run.package_bytes)))
        facts.append(("share of the package that travels", percent(found.head_share, 1)))
    if found.tensors:
        facts.append(("tensors", f"{len(found.tensors)}, all of {', '.join(found.graphs)}"))
    return {
        "lead": lead,
        "chart": charts.push_times(
            [(r.publish_seq, r.verified_s, r.staged_s, r.swapped_s) for r in run.releases]
        ),
        "caption": "Time from publishing to each stage, per release. A swap waits for the episode’s end.",
        "stages": [(n, seconds(median), seconds(longest)) for n, median, longest in found.stages],
        "facts": facts,
        "refused": "; ".join(
            f"release {r.publish_seq} was {r.outcome.replace('_', ' ')}"
            f"{f' by {r.robot_id}' if found.robots > 1 else ''} ({r.reason or 'no reason given'})"
            for r in found.refused
        ),
        "tensors_head": f"The {len(found.tensors)} tensors that travelled",
        "tensors": found.tensors,
    }


def timing_section(run: RunData) -> Section:
    found = timing(run)
    if not found.sections and not found.lateness:
        return {}
    budget_s = 1 / found.rate_hz if found.rate_hz else math.nan
    rows = list(found.sections)
    caption = (
        f"{count(found.steps)} ticks at {found.rate_hz:g} Hz, {count(found.missed)} missed. "
        "Median over the episodes; p99 and maximum of the worst episode. "
    )
    if found.lateness:
        caption += (
            "Lateness: " + ", ".join(f"{name} {seconds(v)}" for name, v in found.lateness) + ". "
        )
    pace = run.config.get("robot", {}).get("pace", "")
    if pace == "asap":
        caption += "Pace asap: the clock is simulated and never late; sections are wall time."
    return {
        "chart": charts.timing_ranges(rows, budget_s),
        "caption": caption,
        "sections": [(name, *(seconds(v) for v in values)) for name, *values in rows],
    }


def gate_section(run: RunData) -> Section:
    found = gate_counts(run)
    if not found.steps:
        return {}
    rows = [("passed", "unchanged", found.passed), *found.verdicts]
    return {
        "rows": [
            {
                "name": name,
                "words": words,
                "count": count(number_of),
                "share": percent(number_of / found.steps, 1),
            }
            for name, words, number_of in rows
        ],
        "caption": f"{count(found.steps)} recorded steps; one step can have several verdicts.",
    }


def iterations_section(run: RunData) -> Section:
    if not run.iterations:
        return {}
    truth = {tally.iteration: tally for tally in truth_tallies(run)}
    released: dict[int, list[Release]] = {}
    for release in run.releases:
        released.setdefault(release.iteration, []).append(release)
    waits, reset_s = idle(run)
    waited = {one.iteration: one for one in waits}
    rows: list[tuple[object, ...]] = []
    for it in run.iterations:
        true = truth.get(it.number)
        rows.append(
            (
                it.number,
                it.episodes,
                it.successes,
                it.abstained,
                it.stopped,
                f"{true.successes} of {true.count}" if true else ABSENT,
                seconds(it.update_s),
                *_release_words(released.get(it.number, [])),
                *((_idle_words(waited.get(it.number)),) if waits else ()),
            )
        )
    names = "iteration,episodes,taken for a success,abstained,stopped,true successes,update,release,pushed"
    return {
        "head": (
            *names.split(","),
            "publish → swap",
            "outcome",
            *(("robot idle",) if waits else ()),
        ),
        "rows": rows,
        "caption": " ".join(words for words in (_idle(waits, reset_s), _silences(run)) if words),
    }


def _release_words(pushes: list[Release]) -> tuple[object, str, str, str]:
    """Of the newest: number, bytes of all robots, time until the last of them had it in effect, outcomes."""
    if not pushes:
        return (ABSENT, ABSENT, ABSENT, ABSENT)
    newest = max(r.publish_seq for r in pushes)
    pushes = [r for r in pushes if r.publish_seq == newest]
    outcomes = Counter(r.outcome.replace("_", " ") for r in pushes)
    said = ", ".join(f"{n} {what}" for what, n in outcomes.items())
    swapped_s = [r.swapped_s for r in pushes if not math.isnan(r.swapped_s)]
    return (
        newest,
        size(sum(r.pushed_bytes for r in pushes)),
        seconds(max(swapped_s, default=math.nan)),
        said if len(pushes) > 1 else next(iter(outcomes)),
    )


def _idle_words(one: Idle | None) -> str:
    return f"{seconds(one.idle_s)} ({percent(one.share)})" if one else ABSENT


def _idle(waits: list[Idle], reset_s: float) -> str:
    """How long the robot stood for its releases, of the time of its episodes."""
    if not waits:
        return ""
    shares = [one.share for one in waits]
    longest = max(waits, key=lambda one: one.share)
    return (
        f"Robot idle after an iteration until its release acted, by the robot’s clock: median "
        f"{seconds(median(one.idle_s for one in waits))}, {percent(median(shares), 1)} of the time of the "
        f"iteration’s episodes; at most {percent(longest.share, 1)} (iteration {longest.iteration}). "
        f"Beyond the {seconds(reset_s)} that lie between any two episodes: reset and new scene."
    )


UNLABELLED = "unlabelled"
SILENCES = {
    "timeout": "no answer in time",
    "exception": "the reward model raised",
    "nan": "an answer that is not a number",
    "unparsable": "an answer that can’t be read",
    "abstained": "the reward model abstained by itself",
    STOPPED: "the episode was stopped before it was done, by a person or a fault",
    UNLABELLED: "nobody labelled the episode, and the reward’s word does not count (reward.labels)",
}


def _silences(run: RunData) -> str:
    """How many training episodes have no verdict, and why."""
    found = Counter(_silence(e) for e in run.of("refine") if e.learned is None and _silence(e))
    if not found:
        return ""
    order = [*SILENCES, *sorted(found.keys() - SILENCES.keys())]
    words = [f"{found[kind]} × {SILENCES.get(kind, kind)}" for kind in order if found[kind]]
    total = plural(found.total(), "training episode")
    return (
        f"{total} without a verdict, counted neither as success nor as failure: {', '.join(words)}."
    )


def _silence(episode: Episode) -> str:
    return episode.judgement.silence if "model" in episode.labels else UNLABELLED


def facts(run: RunData) -> list[tuple[str, str]]:
    robot = run.config.get("robot", {})
    cameras = robot.get("cameras", {})
    found = [
        ("run folder", str(run.folder)),
        ("task and instruction", f"{run.task}: {run.instruction}" if run.instruction else run.task),
        ("reward", run.reward),
        ("seed", ABSENT if run.seed is None else str(run.seed)),
        ("pace", str(robot.get("pace", ""))),
        (
            "cameras",
            ", ".join(f"{name} {c.get('width')}×{c.get('height')}" for name, c in cameras.items()),
        ),
        ("policy package", str(robot.get("policy", {}).get("package", ""))),
        ("reward package", str(robot.get("reward", {}).get("package", ""))),
        (
            "done means",
            f"completion ≥ {number(run.completion_threshold)}"
            if not math.isnan(run.completion_threshold)
            else "",
        ),
        ("versions", ", ".join(f"{k} {v}" for k, v in sorted(run.versions.items()))),
    ]
    scenes = sorted({e.seed for e in (*run.of("base"), *run.of("final")) if e.seed >= 0})
    if scenes:
        found.append(("evaluation scenes", f"{len(scenes)}, seeds {scenes[0]} to {scenes[-1]}"))
    return [(name, value) for name, value in found if value]


def processes(run: RunData) -> list[Section]:
    return [
        {
            "command": p.command,
            "note": ""
            if p.exit_code in (0, None)
            else f"{p.name} ended with exit code {p.exit_code}",
            "tail": "\n".join(p.log_tail) if p.exit_code not in (0, None) else "",
        }
        for p in run.processes
    ]
