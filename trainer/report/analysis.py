"""What the rows say: tallies, reward against truth, pushes, timing, gate. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from contracts.messages import GateBit
from trainer.report.charts import Tally
from trainer.report.evaluation import verdict
from trainer.report.rows import Episode, Release, RunData
from trainer.report.statistics import (
    Confusion,
    auc,
    best_threshold,
    confusion,
    spearman,
)


def learned_tallies(run: RunData) -> list[Tally]:
    """What refinement took its episodes for: as it says itself, else (not yet refined) by the episodes."""
    found = {tally.iteration: tally for tally in _tallies(run, lambda e: e.learned)}
    for it in run.iterations:
        found[it.number] = Tally(it.number, it.successes, it.successes + it.failures)
    return [found[number] for number in sorted(found) if found[number].count]


def truth_tallies(run: RunData) -> list[Tally]:
    return _tallies(run, lambda e: None if e.truth is None else e.truth.success)


def _tallies(run: RunData, verdict: Callable[[Episode], bool | None]) -> list[Tally]:
    found: dict[int, list[bool]] = {}
    for episode in run.of("refine"):
        said = verdict(episode)
        if said is not None and episode.iteration > 0:
            found.setdefault(episode.iteration, []).append(said)
    return [Tally(number, sum(said), len(said)) for number, said in sorted(found.items())]


@dataclass(frozen=True)
class Judge:
    """One way of judging episodes, measured against the truth."""

    name: str
    note: str
    confusion: Confusion
    auc: float
    rank_correlation: float


def judges(episodes: Sequence[Episode], note: str = "as used") -> list[Judge]:
    """The reward and two blind baselines over the episodes that have a judgement and a truth. `note`
    says which reward it was.

    The clock knows only how long an episode took; its threshold is the best one in hindsight.
    """
    both = [e for e in episodes if e.truth is not None and e.judgement.success is not None]
    if not both:
        return []
    truth = [e.truth.success for e in both if e.truth is not None]
    progress = [e.truth.progress for e in both if e.truth is not None]
    clock = [_time_used(e) for e in both]
    said = [e.judgement.success is True for e in both]
    return [
        Judge(
            "the reward",
            note,
            confusion(said, truth),
            _where_known(auc, [e.judgement.completion for e in both], truth),
            _where_known(spearman, [e.judgement.process for e in both], progress),
        ),
        Judge("constant", "always done", confusion([True] * len(both), truth), 0.5, math.nan),
        Judge(
            "clock",
            "best threshold in hindsight",
            best_threshold(clock, truth),
            auc(clock, truth),
            _where_known(spearman, clock, progress),
        ),
    ]


def _time_used(episode: Episode) -> float:
    share = episode.duration_s / episode.max_s
    return float(episode.steps) if math.isnan(share) else min(share, 1.0)


def _where_known(measure: Callable[..., float], a: Sequence[float], b: Sequence[float]) -> float:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if not (math.isnan(x) or math.isnan(y))]
    return measure([x for x, _ in pairs], [y for _, y in pairs]) if pairs else math.nan


@dataclass(frozen=True)
class Pushes:
    """All releases of a run. `effective`: on any robot. `robots`: how many answered. Bytes are of all robots;
    seconds are medians and maxima over the pushes that got there."""

    offered: int
    effective: int
    robots: int
    refused: tuple[Release, ...]
    bytes_total: float
    bytes_median: float
    stages: tuple[tuple[str, float, float], ...]
    tensors: tuple[str, ...]
    graphs: tuple[str, ...]
    head_share: float


EFFECTIVE = ("swapped", "committed", "superseded")


def pushes(run: RunData) -> Pushes | None:
    releases = run.releases
    if not releases:
        return None
    sizes = [float(r.pushed_bytes) for r in releases if r.pushed_bytes]
    tensors = tuple(sorted({name for r in releases for name in r.tensors}))
    stages = []
    for name, values in (
        ("verified", [r.verified_s for r in releases]),
        ("staged", [r.staged_s for r in releases]),
        ("swapped", [r.swapped_s for r in releases]),
    ):
        known = [v for v in values if not math.isnan(v)]
        if known:
            stages.append((name, float(np.median(known)), max(known)))
    median = float(np.median(sizes)) if sizes else math.nan
    return Pushes(
        offered=len({r.publish_seq for r in releases}),
        effective=len({r.publish_seq for r in releases if r.outcome in EFFECTIVE}),
        robots=len({r.robot_id for r in releases if r.outcome}),
        refused=tuple(r for r in releases if r.outcome in ("rejected", "rolled_back")),
        bytes_total=sum(sizes),
        bytes_median=median,
        stages=tuple(stages),
        tensors=tensors,
        graphs=tuple(sorted({name.partition("/")[0] for name in tensors})),
        head_share=median / run.package_bytes if run.package_bytes else math.nan,
    )


@dataclass(frozen=True)
class Timing:
    """`sections`: (name, p50, p99, max) in seconds of what the loop measured, over all episodes: the
    median of the episodes' p50, the largest of their p99 and max, in the order of the tick. `lateness`
    is pooled over steps."""

    sections: tuple[tuple[str, float, float, float], ...]
    lateness: tuple[tuple[str, float], ...]
    steps: int
    missed: float
    rate_hz: float


def timing(run: RunData) -> Timing:
    """From `EpisodeEnd.timings` ("<section>_p50_s", "_p99_s", "_max_s", "missed") and the steps."""
    by_section: dict[str, dict[str, list[float]]] = {}
    missed, lateness, rates = 0.0, [], []
    for episode in run.episodes:
        rates.append(episode.rate_hz)
        for key, value in episode.timings.items():
            name, _, which = key.removesuffix("_s").rpartition("_")
            if which in ("p50", "p99", "max") and name:
                by_section.setdefault(name, {}).setdefault(which, []).append(value)
        missed += episode.timings.get("missed", episode.timings.get("missed_ticks", 0.0))
        if episode.recording is not None:
            lateness.append(episode.recording.columns().get("time.lateness", np.zeros(0)))
    pooled = np.concatenate(lateness) if lateness else np.zeros(0)
    pooled = pooled[np.isfinite(pooled)]
    sections = tuple(
        (
            name.replace("_", " "),
            float(np.median(found["p50"])) if "p50" in found else math.nan,
            max(found.get("p99", [math.nan])),
            max(found.get("max", [math.nan])),
        )
        for name, found in by_section.items()
        if any(found.get("max", [1.0]))  # lateness of a simulated clock is 0 throughout
    )
    levels = (("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0))
    rates = [rate for rate in rates if not math.isnan(rate)]
    return Timing(
        sections=sections,
        lateness=tuple((n, float(np.percentile(pooled, q))) for n, q in levels)
        if len(pooled)
        else (),
        steps=sum(episode.steps for episode in run.episodes),
        missed=missed,
        rate_hz=float(np.median(rates)) if rates else math.nan,
    )


@dataclass(frozen=True)
class Idle:
    """What the robot stood after an iteration, in hold for its release; `share` of that iteration's episodes'
    time."""

    iteration: int
    idle_s: float
    share: float


def idle(run: RunData) -> tuple[list[Idle], float]:
    """For every iteration that another one followed, and the seconds that lie between any two episodes
    (reset, new scene): the median within iterations, NaN where nothing is known. By the robot's clock, from
    an episode's last tick to the next one's first; what it is longer between two iterations it waited. A
    simulated clock stands while it waits: then there is nothing to say."""
    if run.config.get("robot", {}).get("pace") != "realtime":
        return [], math.nan
    between: dict[int, float] = {}
    within = []
    trained = sorted(run.of("refine"), key=lambda e: (e.session_id, e.seq))
    for episode, following in pairwise(trained):
        if (episode.session_id, episode.seq + 1) != (following.session_id, following.seq):
            continue  # another start of the robot, or an episode that was thrown away
        gap_s = _ticks(following)[0] - _ticks(episode)[1] - 1.0 / episode.rate_hz
        if episode.iteration != following.iteration:
            between[episode.iteration] = gap_s
        else:
            within.append(gap_s)
    within = [gap_s for gap_s in within if math.isfinite(gap_s)]
    if not within:
        return [], math.nan
    reset_s = float(np.median(within))
    acted_s: dict[int, float] = defaultdict(float)
    for episode in trained:
        acted_s[episode.iteration] += episode.duration_s
    found = [
        Idle(number, idle_s, idle_s / acted_s[number])
        for number, gap_s in sorted(between.items())
        if math.isfinite(idle_s := max(0.0, gap_s - reset_s))
    ]
    return found, reset_s


def _ticks(episode: Episode) -> tuple[float, float]:
    """Moments of its first and last tick, NaN where no recording tells them."""
    tick_s = np.zeros(0)
    if episode.recording is not None:
        tick_s = episode.recording.columns().get("time.tick", tick_s)
    return (float(tick_s[0]), float(tick_s[-1])) if len(tick_s) else (math.nan, math.nan)


GATE_WORDS: tuple[tuple[int, str, str], ...] = (
    (GateBit.POSITION, "position", "clipped to a joint's range"),
    (GateBit.VELOCITY, "velocity", "slowed to a joint's speed limit"),
    (GateBit.ACCELERATION, "acceleration", "smoothed to a joint's acceleration limit"),
    (GateBit.WORKSPACE, "workspace", "kept inside the workspace"),
    (GateBit.STALE, "stale", "held: the observation was too old"),
    (GateBit.NON_FINITE, "non-finite", "fault: NaN or infinity asked for"),
    (GateBit.ARITY, "arity", "fault: wrong number of joints"),
    (GateBit.HELD, "held", "held the last pose"),
)


@dataclass(frozen=True)
class GateCounts:
    """Steps by verdict; one step can have several. `passed`: unchanged."""

    steps: int
    passed: int
    verdicts: tuple[tuple[str, str, int], ...]


def gate_counts(run: RunData) -> GateCounts:
    counts: Counter[int] = Counter()
    steps = passed = 0
    for episode in run.episodes:
        if episode.recording is None:
            continue
        bits = episode.recording.columns().get("gate.verdict", np.zeros(0, np.int64))
        bits = bits[bits >= 0]
        steps += len(bits)
        passed += int((bits == 0).sum())
        for bit, _, _ in GATE_WORDS:
            counts[bit] += int(((bits & bit) != 0).sum())
    return GateCounts(steps, passed, tuple((n, w, counts[bit]) for bit, n, w in GATE_WORDS))


def good_and_bad(run: RunData) -> tuple[Episode | None, Episode | None]:
    """Two recorded episodes worth looking at: a success and a failure, by the best word on each.

    Of each kind the one of median length among the latest training episodes: neither the quickest
    success nor the oddest failure.
    """
    found = []
    for wanted in (True, False):
        groups = (run.of(phase) for phase in ("refine", "final", "base"))
        fitting = ([e for e in group if verdict(e)[0] is wanted] for group in groups)
        recorded = ([e for e in group[-60:] if _scored(e)][-15:] for group in fitting)
        found.append(_typical(next((group for group in recorded if group), [])))
    return found[0], found[1]


def _scored(episode: Episode) -> bool:
    if episode.recording is None or episode.steps < 5:
        return False
    completion = episode.recording.columns().get("reward.completion", np.zeros(0))
    return bool(np.isfinite(completion).any())


def _typical(episodes: Sequence[Episode]) -> Episode | None:
    latest = sorted(episodes, key=lambda e: (e.steps, e.seq))
    return latest[len(latest) // 2] if latest else None


def before_and_after(run: RunData, limit: int = 3) -> list[tuple[Episode, Episode]]:
    """Recorded pairs on one scene (of equal seeds: a real robot has none), those first where the base failed
    and the refined policy succeeded."""
    after = {
        (e.task, e.seed): e for e in run.of("final") if e.recording is not None and e.seed >= 0
    }
    pairs = [
        (e, after[e.task, e.seed])
        for e in run.of("base")
        if e.recording is not None and (e.task, e.seed) in after
    ]
    return sorted(pairs, key=lambda pair: not turned(*pair))[:limit]


def turned(before: Episode, after: Episode) -> bool:
    """Whether a failure became a success."""
    return verdict(before)[0] is False and verdict(after)[0] is True
