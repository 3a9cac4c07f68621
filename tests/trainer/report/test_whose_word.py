"""By whose word an evaluation and a training episode succeeded, and that every place says the same of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_run import MadeRun

from trainer.report.analysis import before_and_after, learned_tallies
from trainer.report.build import build
from trainer.report.evaluation import JUDGED, LABEL, TRUTH, evaluation
from trainer.report.load import load_run
from trainer.report.rows import Episode, Iteration, Judgement, RunData, Truth
from trainer.report.sections import stats, success
from trainer.report.sections_machine import iterations_section
from trainer.report.sections_several import markdown
from trainer.report.several import ways


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person labels every episode of a real robot, and is who refinement hears."""
    made = MadeRun(tmp_path_factory.mktemp("run") / "real", seed=3, per_iteration=2, real=True)
    made.evaluate("base", 4, 0.35)
    made.metrics.add("start", labels=["operator"])
    made.iterate(1, 0.5)
    made.evaluate("final", 3, 0.95)
    return made.root


def test_a_persons_labels_are_an_evaluation(real: Path, tmp_path: Path) -> None:
    run = load_run(real)
    found = evaluation(run)
    assert (found.base_by, found.final_by) == (LABEL, LABEL)
    assert (found.base.count, found.final.count) == (4, 3), "every episode, not one a scene"
    assert found.base.value * 4 == sum(e.label is True for e in run.of("base"))
    assert found.pairs == 0 and not before_and_after(run)
    assert all(e.labels == ("operator",) and e.learned is e.label for e in run.of("refine"))
    text = build(real, tmp_path / "report").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "success of the base policy in 4 episodes, by the operator’s label" in text
    assert "The evaluations at the two ends are by the operator’s label." in text
    assert "scenes that have no number can’t be paired" in text
    assert "Refinement knew only the operator’s label." in text
    assert "what refinement took for a success: the operator’s label" in text
    for untrue in (
        "was not evaluated",
        "simulator’s truth",
        "reward’s judgement",
        "fresh scene",
        "scene -1",
    ):
        assert untrue not in text
    short = (tmp_path / "report/report.md").read_text()
    assert "Success by the operator’s label. " in short and "not run" not in short
    assert "succeeded, by the operator’s label, iteration by iteration" in short


def run_of(*episodes: Episode, labels: tuple[str, ...] = ("model",), **given: object) -> RunData:
    taught = [replace(e, labels=labels) if e.phase == "refine" else e for e in episodes]
    return RunData(Path("run"), episodes=tuple(taught), **given)  # type: ignore[arg-type]


def tried(phase: str, seed: int, **given: object) -> Episode:
    return Episode("s1", len(phase) * 100 + seed, phase, "t", seed=seed, **given)  # type: ignore[arg-type]


def test_both_ends_are_by_the_best_word_that_is_on_both() -> None:
    yes = Judgement(success=True)
    every = [
        tried("base", 1, truth=Truth(False), label=True, judgement=yes),
        tried("base", 2, truth=Truth(True), label=True),
        tried("final", 1, truth=Truth(True)),
        tried("final", 2, truth=Truth(True)),
    ]
    found = evaluation(run_of(*every))
    assert (found.base_by, found.pairs, found.difference.value) == (TRUTH, 2, 0.5)
    judged = [every[0], every[1], tried("final", 1, judgement=yes), tried("final", 2)]
    run = run_of(*judged)
    found = evaluation(run)
    assert (found.base_by, found.final_by, found.pairs) == (JUDGED, JUDGED, 1)
    assert (found.base_silent, found.final_silent) == (1, 1)
    assert "by the reward’s judgement" in stats(run, found)[0]["note"]
    apart = run_of(every[1], tried("final", 2, judgement=yes))
    found = evaluation(apart)
    assert (found.base_by, found.final_by, found.pairs) == (TRUTH, JUDGED, 0)
    assert "nobody’s word is on both" in stats(apart, found)[2]["note"]
    assert "Not all runs" not in markdown(ways([("a", apart)]), "")
    assert "Not all runs" in markdown(ways([("a", apart), ("b", run)]), "")
    mute = run_of(tried("base", 1))
    assert "nobody said how they ended" in stats(mute, evaluation(mute))[0]["note"]


@pytest.mark.parametrize(
    ("labels", "successes", "said"),
    [
        (("model",), 4, "knew only the reward’s judgement."),
        (("operator",), 1, "knew only the operator’s label."),
        (
            ("operator", "model"),
            2,
            "knew only the operator’s label where there was one, else the reward’s judgement.",
        ),
    ],
)
def test_chart_table_and_words_say_what_refinement_took_for_a_success(
    labels: tuple[str, ...], successes: int, said: str
) -> None:
    """A reward that calls everything a success; a person saw three of the four, and two failures."""
    seen = (True, False, False, None)
    episodes = [
        tried("refine", n, iteration=1, label=label, judgement=Judgement(success=True))
        for n, label in enumerate(seen)
    ]
    counts = {"successes": successes, "failures": 2 if "operator" in labels else 0}
    done = Iteration(1, episodes=4, labels=labels, **counts)
    run = run_of(*episodes, labels=labels, iterations=(done,))
    (tally,) = learned_tallies(run)
    assert learned_tallies(replace(run, iterations=())) == [tally], "the episodes say the same"
    assert tally.successes == successes == iterations_section(run)["rows"][0][2]
    shown = success(run, evaluation(run))
    assert shown["lead"].endswith(said)
    (words,) = (words for style, words in shown["legend"] if style == "judged")
    assert words.endswith(said.removeprefix("knew only ")[:-1])
    caption = iterations_section(run)["caption"]
    assert ("nobody labelled the episode" in caption) == (labels == ("operator",))
