"""`robot-reward eval` as a user runs it: real clips, a real package, a bench folder; page, JSON, table."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from contracts.errors import ConfigError, EntracteError
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from trainer.reward_app import app
from trainer.rewards.data import load_clips
from trainer.rewards.evaluation.measure import MEANING
from trainer.rewards.evaluation.models import named, video_models

PRETRAINED = Path(__file__).parents[4] / "pretrained"
SHARED = Path(__file__).parents[4] / ".." / "shared" / "data"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture()
def bench(tmp_path: Path, clip_folder: Path) -> Path:
    """Two bench clips as RoboReward has them: front and nothing else, one video under two tasks."""
    rows = []
    for number, clip in enumerate(load_clips([clip_folder])[1:4:2]):
        name = f"sim/{number}.mp4"
        (tmp_path / "bench/sim").mkdir(parents=True, exist_ok=True)
        with av.open(str(tmp_path / "bench" / name), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            for frame in clip.pictures("front"):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        for goal in clip.record.goals[:2]:
            rows.append({"file_name": name, "task": goal.instructions[0], "reward": 3})
    (tmp_path / "bench/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "bench"


def test_the_whole_evaluation_of_a_shipped_package(
    tmp_path: Path, clip_folder: Path, bench: Path
) -> None:
    out = tmp_path / "out"
    said = run(
        *("--data", clip_folder, "--tasks", "open_tray", "--bench", bench, "--output", out),
        *("--package", PRETRAINED / "reward-zero-shot", "--draws", 20),
    )
    report = json.loads((out / "report.json").read_text())
    (task,) = report["tasks"]
    assert [m["model"] for m in task["models"]] == ["reward-zero-shot"]
    assert [b["model"] for b in task["baselines"]] == ["constant", "clock"]
    assert task["models"][0]["episodes"] == 2
    swap = task["robustness"]["reward-zero-shot"][2]
    assert swap["perturbation"] == "A/B swap"
    assert swap["figure"][0] <= 1e-6
    # The package wants a wrist camera that these videos lack: it abstains, which costs 4, and is said.
    (model,) = report["bench"]["models"]
    assert model["figures"]["micro_mae"][0] == 4.0
    assert len(model["unparsable"]) == 4
    constant = report["bench"]["baselines"][0]
    assert constant["figures"]["micro_mae"][0] == 0.0
    assert "could not be read and cost 4 each" in said
    assert "open_tray: 2 episodes" in said
    assert "of the train split" in said, "these clips are, and a reader must know"
    assert report["seed"] == 0 and report["versions"]["numpy"] and report["date"]
    assert report["data"] == {str(clip_folder): "test"}, "how the clips were recorded"
    assert (out / "report.txt").read_text().strip() == said.strip()
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 2 * 3 + 2 * 2
    assert "Worst cases of reward-zero-shot" in page
    assert page.count("What the figures mean") == 1 and "contrastive -0.00" not in page
    text = (out / "report.md").read_text()
    assert [words for words in MEANING.values() if words not in text] == []
    assert [words for words in MEANING.values() if words not in unescape(page)] == []
    assert "A/B swap" in text and "## RoboRewardBench: 4 rows" in text


def test_given_answers_are_graded_without_a_model(bench: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (bench / "metadata.jsonl").read_text().splitlines()]
    lines = [
        json.dumps({"file_name": r["file_name"], "task": r["task"], "answer": f"ANSWER: {a}"})
        for r, a in zip(rows, (3, 4, 1, 9), strict=True)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    found = json.loads(run("--bench", bench, "--answers", tmp_path / "mine.jsonl", "--json"))
    (model,) = found["bench"]["models"]
    assert model["figures"]["micro_mae"][0] == pytest.approx((0 + 1 + 2 + 2) / 4)
    assert model["out_of_range"] == 1
    assert model["model"] == "mine"


def test_two_of_one_name_are_told_apart_and_the_same_one_twice_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "reward", tmp_path / "b" / "reward", tmp_path / "other"]
    for path in paths:
        path.mkdir(parents=True)
    assert list(named(paths, "packages")) == ["a/reward", "b/reward", "other"]
    with pytest.raises(ConfigError, match="each once"):
        named([paths[0], tmp_path / "a" / "." / "reward"], "packages")
    with pytest.raises(ConfigError, match="different names"):
        video_models([], ["edge", "edge"], {}, 0)


def test_a_task_that_nobody_played_is_one_sentence(clip_folder: Path, tmp_path: Path) -> None:
    for more in ([], ["--output", str(tmp_path)]):
        given = ["eval", "--data", str(clip_folder), "--tasks", "juggle", *more]
        result = CliRunner().invoke(app, given)
        assert isinstance(result.exception, EntracteError)
        assert "no played clips of ['juggle']" in str(result.exception)
        assert "open_drawer, open_tray, put_in, put_on" in str(result.exception)


def test_a_task_that_the_bench_lacks_is_refused_before_a_folder_is_begun(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["record-clips", "--tasks", "put-on", "--output", str(tmp_path / "clips")]
    assert CliRunner().invoke(app, given).exit_code == 2
    said = capfd.readouterr().err
    assert "'put-on'; there are close_drawer" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "clips").exists()


def test_a_registered_model_is_not_left_out_without_output(clip_folder: Path) -> None:
    given = ["eval", "--data", str(clip_folder), "--tasks", "open_tray", "--reward", "nobody"]
    result = CliRunner().invoke(app, given)
    assert "nobody" in str(result.exception)


def test_without_output_every_frame_is_measured_as_before(clip_folder: Path) -> None:
    lines = run("--data", clip_folder, "--tasks", "open_tray").splitlines()
    assert [line.split()[0] for line in lines] == ["constant", "clock"]


@pytest.mark.parametrize("more", [[], ["--limit", "1", "--no-robustness", "--draws", "5"]])
def test_demonstrations_without_their_baseline_are_said(
    more: list[str], clip_folder: Path, tmp_path: Path
) -> None:
    pictures = [np.zeros((96, 128, 3), np.uint8)] * 4
    cameras = [f"observation.images.{camera}" for camera in ("front", "wrist")]
    features = {camera: Feature("video", (96, 128, 3)) for camera in cameras}
    features["action"] = Feature("float32", (2,))
    with DatasetWriter.create(tmp_path / "set", 10, features, "so101") as writer:
        columns = {"action": np.zeros((4, 2), np.float32)}
        frames = dict.fromkeys(cameras, pictures)
        writer.add_episode(columns, frames, depth=None, task="juggle three eggs")
    given = ["--data", clip_folder, "--tasks", "open_tray", "--demonstrations", tmp_path / "set"]
    arguments = ["eval", *map(str, given), *more]
    with pytest.raises(ConfigError, match=r"an edge package.*--package"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    arguments += ["--package", str(PRETRAINED / "reward-zero-shot")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "no demonstration says its instruction" in result.output


def test_sole_r1s_own_outputs_are_read_as_they_were_given() -> None:
    folder = SHARED / "sole_r1_lift"
    if not folder.exists():
        pytest.skip(f"{folder.name}: ../shared/data is not on this machine")
    from benchmarks.reward_peers import Recorded, lift_cases
    from trainer.rewards.evaluation.measure import observe

    episodes = lift_cases(folder)
    assert len(episodes) == 9
    assert sum(case.succeeded for case, _ in episodes) == 2
    case, said = next(e for e in episodes if e[0].name == "episode_13")
    assert case.success.any()
    assert not case.succeeded
    outcome = observe(Recorded("peer", said), case, moments=4, pairs=1)
    assert outcome.rows == (0, 8, 16, 24)
    assert np.allclose([s.process for s in outcome.signals], said[[0, 8, 16, 24]])
    assert case.load().views["wrist"].shape == (25, 768, 768, 3)
