"""Drawing: numbers land where they should, NaN breaks lines, words are escaped."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from trainer.report import charts
from trainer.report.charts import Tally, Trace
from trainer.report.statistics import wilson
from trainer.report.svg import Drawing, Scale, decades, ticks

NAN = math.nan
BAR = re.compile(r'height="([0-9.]+)"><title>(\d+)</title>')


def test_scales() -> None:
    assert Scale(0, 10, 100, 200)(5) == 150
    assert Scale(1, 100, 0, 10, log=True)(10) == pytest.approx(5)
    assert Scale(1, 100, 0, 10, log=True)(0) == 0  # below the axis: at its start
    assert Scale(3, 3, 0, 10)(3) == 5


@pytest.mark.parametrize(
    ("low", "high", "about", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 30, 6, [5, 10, 15, 20, 25, 30]),
        (0, 7, 6, [0, 2, 4, 6]),
        (2, 2, 5, [2]),
    ],
)
def test_ticks(low: float, high: float, about: int, expected: list[float]) -> None:
    assert ticks(low, high, about) == expected


def test_decades() -> None:
    assert decades(0.001, 0.1) == pytest.approx([0.001, 0.01, 0.1])


def test_nan_breaks_a_line_and_a_band() -> None:
    drawing = Drawing(10, 10, "x")
    drawing.line([(0, 0), (1, 1), (2, NAN), (3, 3), (4, 4)], "k")
    assert drawing.parts == ['<path class="line k" d="M0 0L1 1M3 3L4 4"/>']
    low = [(0.0, 1.0), (1.0, 1.0), (2.0, NAN), (3.0, 1.0), (4.0, 1.0)]
    high = [(x, y + 1) for x, y in low]
    drawing.band(low, high, "k")
    assert len(drawing.parts) == 3


def test_words_are_escaped() -> None:
    drawing = Drawing(10, 10, '<b>"')
    drawing.text(0, 0, "<script>")
    assert "<script>" not in drawing.markup()
    ElementTree.fromstring(drawing.markup())


def test_every_chart_is_well_formed_with_and_without_values() -> None:
    tallies = [Tally(i, i % 5, 5) for i in range(1, 9)]
    wave = [abs(math.sin(i / 3)) for i in range(20)]
    made = [
        charts.success_over_iterations(
            judged=tallies, truth=tallies[:3], base=wilson(4, 9), final=wilson(0, 0), planned=30
        ),
        charts.success_over_iterations(
            judged=[], truth=[], base=wilson(0, 0), final=wilson(0, 0), planned=0
        ),
        charts.signals(
            Trace([i / 10 for i in range(20)], wave, [NAN] * 20, wave, [(0.5, "data:,")]),
            0.8,
            2.0,
            "",
        ),
        charts.score_histogram([0.0, 1.0, 0.5], [True, False, True], NAN),
        charts.timing_ranges([("infer", 1e-3, 2e-3, NAN), ("lateness", 0.0, 0.0, 0.0)], 0.1),
        charts.push_times([(1, 0.1, 0.2, NAN)]),
        charts.interval_line(wilson(3, 4)),
    ]
    for markup in made:
        ElementTree.fromstring(markup)
        assert "nan" not in markup.lower()
    assert charts.push_times([(1, NAN, NAN, NAN)]) == ""
    assert charts.timing_ranges([], 0.1) == ""


def test_an_episode_is_as_high_on_either_side_of_the_histogram_and_the_abstained_are_said() -> None:
    scores = [0.9] * 10 + [0.1] * 2 + [NAN]
    drawn = charts.score_histogram(scores, [True] * 10 + [False] * 3, 0.5)
    high = {m[2]: float(m[1]) / int(m[2]) for m in BAR.finditer(drawn) if m[2] != "0"}
    assert high["10"] == pytest.approx(high["2"], rel=0.02)
    assert "truly failed, 1 abstained" in drawn and "truly succeeded<" in drawn


def test_training_success_is_pooled_over_a_window() -> None:
    tallies = [Tally(1, 0, 10), Tally(2, 10, 10)]
    assert charts.pooled_window(tallies, 0).value == 0
    assert charts.pooled_window(tallies, 1).value == 0.5
