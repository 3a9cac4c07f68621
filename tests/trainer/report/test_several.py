"""Several runs compared: seeds pooled, intervals over them, the same figures on the page and as Markdown."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_run import MadeRun
from typer.testing import CliRunner

from trainer.app import app
from trainer.report.load import load_run
from trainer.report.several import over_seeds, ways
from trainer.report.statistics import student_t


def made(root: Path, seed: int, after: float) -> Path:
    run = MadeRun(root, seed=seed)
    run.evaluate("base", 8, 0.3)
    for number in (1, 2):
        run.iterate(number, 0.5)
    run.evaluate("final", 8, after)
    run.demo(2)
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    root = tmp_path_factory.mktemp("runs")
    return {
        "good": [made(root / f"good-{seed}", seed, 0.95) for seed in (0, 1, 2)],
        "constant": [made(root / "constant", 0, 0.2)],
    }


def test_seeds_of_one_name_are_one_way(runs: dict[str, list[Path]]) -> None:
    named = [(name, load_run(folder)) for name, folders in runs.items() for folder in folders]
    good, constant = ways(named)
    assert (good.name, len(good.runs), constant.name) == ("good", 3, "constant")
    assert good.final.count == 24 and good.base.count == 24 and good.paired.count == 24
    gains = [one.difference.value for one in good.each]
    assert good.gain.value == pytest.approx(sum(gains) / 3) == pytest.approx(good.paired.value)
    assert good.gain.low <= good.gain.value <= good.gain.high
    assert good.paired.low <= good.paired.value <= good.paired.high
    assert [t.count for t in good.truth] == [12, 12], "four episodes an iteration, three runs"
    assert good.judge is not None and good.judge.confusion.count == 24
    assert math.isnan(constant.gain.low), "one seed says nothing of another"
    assert constant.paired.low < constant.paired.high
    assert good.wall_s == 612.0 and good.robot_s > 0


def test_the_page_and_the_markdown_say_the_same(
    runs: dict[str, list[Path]], tmp_path: Path
) -> None:
    given = [f"--run={name}={folder}" for name, folders in runs.items() for folder in folders]
    said = CliRunner().invoke(app, ["report", *given, "--output", str(tmp_path / "report")])
    assert said.exit_code == 0, said.output
    page = (tmp_path / "report/index.html").read_text()
    text = (tmp_path / "report/report.md").read_text()
    named = [(name, load_run(folder)) for name, folders in runs.items() for folder in folders]
    rate = f"{100 * ways(named)[0].final.value:.1f}"
    for shown in (page, text):
        assert rate in shown and "constant" in shown and "good-2" in shown
    assert "<svg" in page and "4 runs of open-drawer" in page.replace("\N{NO-BREAK SPACE}", " ")
    again = CliRunner().invoke(app, ["report", *given, "--output", str(tmp_path / "report")])
    assert again.exit_code == 0, "its own files are written over"


def test_a_single_run_has_markdown_too(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    folder = runs["constant"][0]
    said = CliRunner().invoke(
        app, ["report", "--run", str(folder), "--output", str(tmp_path / "r")]
    )
    assert said.exit_code == 0, said.output
    assert "| demo | 1 |" in (tmp_path / "r/report.md").read_text()
    assert "before-after-1.mp4" in {path.name for path in (tmp_path / "r").iterdir()}


def test_hostile_names_are_text(runs: dict[str, list[Path]], tmp_path: Path) -> None:
    name = "a|b<script>*"
    given = [f"--run={name}={folder}" for folder in runs["good"]]
    said = CliRunner().invoke(app, ["report", *given, "--output", str(tmp_path / "report")])
    assert said.exit_code == 0, said.output
    assert "<script>" not in (tmp_path / "report/index.html").read_text()
    assert "a\\|b\\<script\\>\\*" in (tmp_path / "report/report.md").read_text()


def test_a_run_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    given = ["--run", f"a={tmp_path / 'none'}", "--run", f"b={tmp_path / 'none'}"]
    said = CliRunner().invoke(app, ["report", *given, "--output", str(tmp_path / "report")])
    assert said.exit_code != 0
    assert not (tmp_path / "report").exists()


def test_students_quantiles() -> None:
    """Of any table: 9, 10, 20 and 100 degrees of freedom."""
    for freedom, wanted in ((1, 12.706), (9, 2.262), (10, 2.228), (20, 2.086), (100, 1.984)):
        assert student_t(freedom) == pytest.approx(wanted, abs=1e-3)
    with pytest.raises(ValueError, match="0 degrees"):
        student_t(0)
    one = over_seeds([0.2, 0.4, 0.6])
    assert (one.value, one.count) == (pytest.approx(0.4), 3)
    assert one.high - one.value == pytest.approx(4.303 * 0.2 / math.sqrt(3), rel=1e-3)
