"""Evaluations with a reward engine on the robot: its verdicts stand against the truth in the report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from made_run import THRESHOLD, MadeRun

from trainer.report.analysis import judges
from trainer.report.build import build
from trainer.report.engine import judgement
from trainer.report.load import load_run
from trainer.report.rows import Judgement


def columns(*completion: float) -> dict[str, np.ndarray]:
    values = np.array(completion, np.float32)
    return {"reward.completion": values, "reward.process": values / 2}


NAN = math.nan


def test_the_last_score_decides() -> None:
    assert judgement(columns(0.9, NAN, NAN, 0.2, NAN), 0.5).success is False
    assert judgement(columns(0.1, NAN, NAN, 0.75, NAN), 0.5) == Judgement(True, 0.75, 0.375)


def test_an_engine_that_fell_silent_or_never_spoke_said_nothing() -> None:
    assert judgement(columns(0.9, NAN, 0.9, NAN, NAN, NAN, NAN), 0.5).success is None
    assert judgement(columns(NAN, NAN), 0.5).success is None
    assert judgement({}, 0.5).success is None


def test_a_score_that_came_late_silences_nobody() -> None:
    """One every six ticks and one of them late, so that the next came soon after it."""
    completion = np.full(60, NAN, np.float32)
    completion[[1, 7, 16, 19, 25, 31, 37, 43, 49]] = 0.9
    assert judgement({"reward.completion": completion, "reward.process": completion}, 0.5).success
    silent = {"reward.completion": completion[:30], "reward.process": completion[:30]}
    silent = {name: np.append(values, np.full(8, NAN)) for name, values in silent.items()}
    assert judgement(silent, 0.5).success is None


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """The base was evaluated with an engine, the refined policy without."""
    root = tmp_path / "run"
    run = MadeRun(root, seed=3)
    run.evaluate("base", 8, 0.5)
    run.evaluate("final", 4, 0.9)
    manifest = msgspec.to_builtins(run.package.manifest)
    manifest["settings"] = {"completion_threshold": THRESHOLD}
    (root / "reward").mkdir()
    (root / "reward/manifest.json").write_bytes(msgspec.json.encode(manifest))
    for which, package in (("base", str(root / "reward")), ("final", "")):
        folder = root / "eval" / which / "run"
        folder.mkdir()
        config = {"config": {"reward": {"package": package}}}
        (folder / "config.json").write_text(json.dumps(config))
    # Recordings of evaluations lie beside their truth, not in the trainer's store.
    (root / "trainer/store/dataset/bench-0").rename(root / "eval/base/dataset")
    return root


def test_evaluations_show_how_right_the_engine_was(evaluated: Path) -> None:
    run = load_run(evaluated)
    base = run.of("base")
    assert all(episode.judgement.success is not None for episode in base)
    truth = [episode.truth.success for episode in base if episode.truth is not None]
    assert any(truth) and not all(truth)
    reward = judges(base)[0]
    said = [episode.judgement.success for episode in base]
    assert reward.confusion.false_positive == sum(
        s and not t for s, t in zip(said, truth, strict=True)
    )
    assert reward.confusion.count == 8 and reward.auc > 0.8
    assert all(episode.judgement.success is None for episode in run.of("final"))
    page = build(evaluated, evaluated / "report").read_text()
    assert "Base evaluation: 8" in page.replace("\u00a0", " ")
    assert "its last score, at the shipped threshold" in page
    assert "Final evaluation: " not in page
