"""The report's charts: rows in, SVG markup out. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.report.statistics import Estimate, wilson
from trainer.report.svg import Drawing, Scale, decades, ticks
from trainer.report.words import decade, number, percent, percent_range, seconds

WINDOW_ITERATIONS = 5
WIDTH = 900.0


@dataclass(frozen=True)
class Tally:
    """Successes among the episodes of one iteration that got a verdict."""

    iteration: int
    successes: int
    count: int


def success_over_iterations(
    *,
    judged: Sequence[Tally],
    truth: Sequence[Tally],
    base: Estimate,
    final: Estimate,
    planned: int,
) -> str:
    """Training success per iteration (dots), pooled over `WINDOW_ITERATIONS` (line, Wilson band), with
    the evaluations of base and refined policy as interval bars at the two ends."""
    drawing = Drawing(WIDTH, 330, "Success over iterations, with the base and the final evaluation")
    last = max([planned, 1, *(tally.iteration for tally in (*judged, *truth))])
    y = Scale(0, 1, 286, 16)
    x = Scale(1, max(last, 2), 124, 776)
    drawing.y_axis(y, [0, 0.25, 0.5, 0.75, 1], percent, 52, 886)
    drawing.x_axis(
        x, [t for t in ticks(1, last, 6) if t == int(t)] or [1], lambda v: f"{v:.0f}", 286
    )
    drawing.text(450, 322, "iteration", "label")
    if not math.isnan(base.value):
        drawing.rule(88, y(base.value), 832, y(base.value), "baseline")
    for tallies, kind in ((truth, "truth"), (judged, "judged")):
        _training_line(drawing, tallies, kind, x, y)
    for estimate, at, name in ((base, 88.0, "base"), (final, 832.0, "refined")):
        drawing.text(at, 302, name, "tick strong")
        if math.isnan(estimate.value):
            drawing.text(at, 160, "no verdict", "note")
            continue
        drawing.error_bar(at, y(estimate.low), y(estimate.high), "truth")
        drawing.dot(at, y(estimate.value), "truth big", 5.5, f"{percent(estimate.value)}")
        side, anchor = (-9.0, "end") if at < WIDTH / 2 else (9.0, "start")
        drawing.text(at + side, y(estimate.value) - 6, percent(estimate.value), "value", anchor)
    return drawing.markup()


def _training_line(
    drawing: Drawing, tallies: Sequence[Tally], kind: str, x: Scale, y: Scale
) -> None:
    pooled = [pooled_window(tallies, index) for index in range(len(tallies))]
    places = [x(tally.iteration) for tally in tallies]
    drawing.band(
        [(place, y(p.low)) for place, p in zip(places, pooled, strict=True)],
        [(place, y(p.high)) for place, p in zip(places, pooled, strict=True)],
        kind,
    )
    for place, tally in zip(places, tallies, strict=True):
        if tally.count:
            title = f"iteration {tally.iteration}: {tally.successes} of {tally.count}"
            drawing.dot(place, y(tally.successes / tally.count), f"{kind} small", 2.4, title)
    drawing.line([(place, y(p.value)) for place, p in zip(places, pooled, strict=True)], kind)


def pooled_window(tallies: Sequence[Tally], index: int) -> Estimate:
    """The rate over a tally and up to `WINDOW_ITERATIONS - 1` before it."""
    window = tallies[max(0, index + 1 - WINDOW_ITERATIONS) : index + 1]
    return wilson(sum(t.successes for t in window), sum(t.count for t in window))


@dataclass(frozen=True)
class Trace:
    """The three signals of one episode over its time in seconds, NaN where not scored; frames are
    (time, data URI)."""

    time_s: Sequence[float]
    process: Sequence[float]
    completion: Sequence[float]
    contrastive: Sequence[float]
    frames: Sequence[tuple[float, str]] = ()
    frame_aspect: float = 4 / 3


PANELS = (("process", 0.0, 1.0), ("completion", 0.0, 1.0), ("contrastive", -1.0, 1.0))


def signals(trace: Trace, threshold: float, until_s: float, label: str) -> str:
    """Three panels over one time axis, and under it the frames at their times."""
    left, right, panel, gap, top = 40.0, 424.0, 74.0, 20.0, 20.0
    shots = len(trace.frames)
    shot_width = (right - left) / shots if shots else 0.0
    shot_height = max(0.0, shot_width - 3) / trace.frame_aspect
    bottom = top + 3 * panel + 2 * gap
    drawing = Drawing(440, bottom + 30 + (shot_height + 12 if shots else 0), label)
    x = Scale(0, max(until_s, 0.1), left, right)
    for place, (name, low, high) in enumerate(PANELS):
        ceiling = top + place * (panel + gap)
        y = Scale(low, high, ceiling + panel, ceiling)
        drawing.y_axis(y, [low, (low + high) / 2, high], lambda v: number(v, 1), left, right)
        drawing.text(left, ceiling - 6, name, "panel", "start")
        if name == "completion" and not math.isnan(threshold):
            drawing.rule(left, y(threshold), right, y(threshold), "threshold")
            drawing.text(right, y(threshold) - 4, f"done at {number(threshold)}", "note", "end")
        values = getattr(trace, name)
        scored = [
            (x(t), y(v)) for t, v in zip(trace.time_s, values, strict=True) if not math.isnan(v)
        ]
        drawing.line(scored, "judged")
        if scored:
            drawing.dot(*scored[-1], "judged", 3)
        else:
            drawing.text((left + right) / 2, y((low + high) / 2) - 4, "no value", "note")
    drawing.x_axis(x, ticks(0, max(until_s, 0.1), 6), lambda v: f"{v:g} s", bottom + 4)
    if shots:
        for place, (time_s, uri) in enumerate(trace.frames):
            at = left + place * shot_width
            drawing.image(
                at + 1.5,
                bottom + 34,
                shot_width - 3,
                shot_height,
                uri=uri,
                title=f"{time_s:.1f} s",
            )
            drawing.rule(x(time_s), bottom + 4, x(time_s), bottom + 9, "shot")
            drawing.rule(x(time_s), bottom + 22, at + shot_width / 2, bottom + 33, "shot")
    return drawing.markup()


def score_histogram(scores: Sequence[float], truth: Sequence[bool], threshold: float) -> str:
    """Last completion of each episode (NaN: abstained): true successes upwards, true failures downwards."""
    bins = 20
    up, down, silent = [0] * bins, [0] * bins, [0, 0]
    for score, success in zip(scores, truth, strict=True):
        if math.isnan(score):
            silent[success] += 1
        else:
            (up if success else down)[min(bins - 1, int(score * bins))] += 1
    drawing = Drawing(440, 236, "Last completion of each episode, by what was true")
    x = Scale(0, 1, 34, 432)
    above, below = max([1, *up]), max([1, *down])
    tall = Scale(-below, above, 178, 30)  # an episode is as high on either side
    if not math.isnan(threshold):
        drawing.rule(x(threshold), 16, x(threshold), 196, "threshold")
        side, anchor = (-5.0, "end") if threshold > 0.5 else (5.0, "start")
        drawing.text(x(threshold) + side, 25, f"done at {number(threshold)}", "note", anchor)
    width = (x.stop - x.start) / bins
    for place in range(bins):
        for amount, low, high, kind in (
            (up[place], 0, up[place], "yes"),
            (down[place], -down[place], 0, "no"),
        ):
            drawing.box(
                x.start + place * width + 0.75,
                tall(high),
                width - 1.5,
                tall(low) - tall(high),
                kind,
                title=str(amount),
            )
    drawing.rule(x.start, tall(0), x.stop, tall(0), "axis")
    drawing.x_axis(x, [0, 0.25, 0.5, 0.75, 1], lambda v: f"{v:g}", 200)
    drawing.text((x.start + x.stop) / 2, 232, "completion at the last scored step", "label")
    for kept, y, words in ((silent[1], 11, "truly succeeded"), (silent[0], 192, "truly failed")):
        more = f", {kept} abstained" if kept else ""
        drawing.text(x.start + 4, y, words + more, "note", "start")
    drawing.text(x.start - 6, tall(above) + 4, str(above), "tick", "end")
    drawing.text(x.start - 6, tall(-below) + 4, str(below), "tick", "end")
    return drawing.markup()


def timing_ranges(rows: Sequence[tuple[str, float, float, float]], budget_s: float) -> str:
    """One line per section of the tick: p50, p99 and max on a logarithmic axis of seconds."""
    known = [
        value for _, *values in rows for value in values if not math.isnan(value) and value > 0
    ]
    if not known:
        return ""
    low = 10 ** math.floor(math.log10(max(min(known), 1e-6)))
    high = 10 ** math.ceil(math.log10(max([*known, budget_s if not math.isnan(budget_s) else 0])))
    height = 24.0 * len(rows)
    drawing = Drawing(440, height + 44, "Loop timing: median, 99th percentile and maximum")
    x = Scale(low, max(high, low * 10), 130, 412, log=True)
    for value in decades(x.low, x.high):
        drawing.rule(x(value), 6, x(value), height + 6, "grid")
    if not math.isnan(budget_s):
        drawing.rule(x(budget_s), 6, x(budget_s), height + 6, "threshold")
        side, anchor = (-4.0, "end") if x(budget_s) > 360 else (4.0, "start")
        drawing.text(x(budget_s) + side, 12, "one tick", "note", anchor)
    for place, (name, p50, p99, worst) in enumerate(rows):
        y = 20 + 24.0 * place
        drawing.text(122, y + 3.5, name, "tick", "end")
        seen = [v for v in (p50, p99, worst) if not math.isnan(v)]
        if len(seen) > 1:
            drawing.rule(x(max(min(seen), low)), y, x(max(seen)), y, "bar judged")
        for value, kind, radius in (
            (p50, "judged", 4),
            (p99, "judged open", 3.5),
            (worst, "max", 3),
        ):
            if not math.isnan(value):
                drawing.dot(x(max(value, low)), y, kind, radius, seconds(value))
    drawing.x_axis(x, decades(x.low, x.high), decade, height + 8)
    return drawing.markup()


def push_times(pushes: Sequence[tuple[int, float, float, float]]) -> str:
    """Per release: seconds until verified, staged and swapped, as dots on a logarithmic axis."""
    known = [v for _, *times in pushes for v in times if not math.isnan(v) and v > 0]
    if not known:
        return ""
    low = 10 ** math.floor(math.log10(max(min(known), 1e-4)))
    high = 10 ** math.ceil(math.log10(max(known)) + 1e-9)
    drawing = Drawing(440, 236, "Seconds from the offer of a release to each of its stages")
    y = Scale(low, max(high, low * 10), 190, 14, log=True)
    first, last = pushes[0][0], pushes[-1][0]
    x = Scale(first, last if last > first else first + 1, 64, 424)
    drawing.y_axis(y, decades(y.low, y.high), decade, 54, 434)
    drawing.x_axis(x, [t for t in ticks(first, last, 6) if t == int(t)], lambda v: f"{v:.0f}", 192)
    drawing.text(244, 226, "release", "label")
    for seq, *times in pushes:
        for value, kind in zip(times, ("first", "judged", "truth"), strict=True):
            if not math.isnan(value):
                drawing.dot(
                    x(seq), y(max(value, low)), kind, 2.8, f"release {seq}: {seconds(value)}"
                )
    return drawing.markup()


def interval_line(estimate: Estimate) -> str:
    """A rate and its interval on a 0 to 100 % line, for table cells and the head of the page."""
    drawing = Drawing(200, 18, f"{percent(estimate.value)}, {percent_range(estimate)}")
    x = Scale(0, 1, 6, 194)
    drawing.rule(6, 9, 194, 9, "grid")
    if not math.isnan(estimate.value):
        drawing.rule(x(estimate.low), 9, x(estimate.high), 9, "bar truth wide")
        drawing.dot(x(estimate.value), 9, "truth big", 4.5)
    return drawing.markup()
