"""`robot-run` as a person starts it: wrong inputs end in one sentence with nothing moved, right ones run."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from robots import policy_package
from tiny_package import make_package

from contracts.files.dataset_reader import DatasetReader
from contracts.files.packages import load_package, safetensors_bytes


def robot_run(*arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.app", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def _evaluate(package: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return robot_run(
        "eval",
        "--package",
        str(package),
        "--task",
        "open-drawer",
        "--episodes",
        "2",
        "--run-dir",
        str(folder),
        "--set",
        "episode.max_s=2",
        *more,
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_package(tmp_path_factory.mktemp("package") / "policy").folder


def _refused(done: subprocess.CompletedProcess[str], folder: Path, words: str) -> None:
    """One clear sentence, exit code 2, and an arm that was never told anything."""
    assert done.returncode == 2, done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("robot-run: ")]
    assert len(sentences) == 1, done.stderr
    assert words in sentences[0]
    assert "Traceback" not in done.stderr
    report = folder / "run_report.json"
    if report.exists():  # it got as far as starting processes
        found = json.loads(report.read_text())
        assert found["episodes"] == 0
        assert found["start_to_first_action_s"] is None
        assert not Path(json.loads((folder / "config.json").read_text())["shm_dir"]).exists()
    assert not (folder / "truth.jsonl").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loop.ratehz=10", "did you mean 'rate_hz'"),
        ("cameras.side={kind: sim}", "no camera 'side'"),
        ("episode.task=fly", "no task is named"),
        ("arm.kind=panda", "no arm named 'panda'"),
        ("loop.rate_hz=25", "integer multiple"),
    ],
)
def test_a_wrong_key_or_value_is_refused(
    tmp_path: Path, package: Path, override: str, words: str
) -> None:
    _refused(_evaluate(package, tmp_path, "--set", override), tmp_path, words)


def test_a_policy_whose_camera_is_missing_is_refused(tmp_path: Path) -> None:
    folder = policy_package(tmp_path / "two", ("front", "wrist")).folder
    config = tmp_path / "one_camera.yaml"
    config.write_text("cameras: {front: {kind: sim}}\nlink: {enabled: false}\n")
    done = _evaluate(folder, tmp_path / "run", "--config", str(config))
    _refused(done, tmp_path / "run", "camera 'wrist'")


def test_a_policy_for_another_action_space_is_refused(tmp_path: Path) -> None:
    done = _evaluate(make_package(tmp_path / "other", length=8).folder, tmp_path / "run")
    _refused(done, tmp_path / "run", "made for another robot: range of")
    assert "ticks" not in done.stdout, "figures of a run that never began"


def test_one_camera_of_another_size_is_told_to_set_the_others_too(
    tmp_path: Path, package: Path
) -> None:
    done = _evaluate(package, tmp_path / "run", "--set", "cameras.front.width=160")
    _refused(done, tmp_path / "run", "same width and height for cameras.front and cameras.wrist")


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    folder = policy_package(tmp_path / "cut").folder
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    _refused(_evaluate(folder, tmp_path / "run"), tmp_path / "run", "truncated or corrupt")


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    """Our own writer refuses to write them: made with other tools, hash and all."""
    package = policy_package(tmp_path / "nan")
    weights = {name: np.array(tensor) for name, tensor in package.weights.items()}
    weights["head/bias"][0] = np.nan
    data = safetensors_bytes(weights)
    (package.folder / "weights.safetensors").write_bytes(data)
    manifest = json.loads((package.folder / "manifest.json").read_text())
    manifest["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (package.folder / "manifest.json").write_text(json.dumps(manifest))
    done = _evaluate(package.folder, tmp_path / "run")
    _refused(done, tmp_path / "run", "'head/bias' holds NaN")


@pytest.mark.parametrize(
    ("damage", "words"), [("cut", "not a safetensors file"), ("nan", "holds NaN"), ("gone", "read")]
)
def test_refined_weights_that_are_damaged_are_refused(
    tmp_path: Path, package: Path, damage: str, words: str
) -> None:
    tensors = {name: np.array(t) for name, t in load_package(package).refinable_weights().items()}
    tensors["head/bias"][0] = np.nan if damage == "nan" else 1.0
    data = safetensors_bytes(tensors)
    path = tmp_path / "head.safetensors"
    if damage != "gone":
        path.write_bytes(data[:-5] if damage == "cut" else data)
    done = _evaluate(package, tmp_path / "run", "--weights", str(path))
    _refused(done, tmp_path / "run", words)


def test_no_policy_is_refused(tmp_path: Path) -> None:
    done = robot_run("eval", "--task", "open-drawer", "--run-dir", str(tmp_path))
    _refused(done, tmp_path, "no policy package")


def test_evaluation_pairs_by_seed_and_only_the_bench_writes_the_truth(
    tmp_path: Path, package: Path
) -> None:
    rows = []
    for name in ("a", "b"):
        output = tmp_path / f"{name}.jsonl"
        done = _evaluate(package, tmp_path / name, "--output", str(output), "--seed-base", "77")
        assert done.returncode == 0, done.stderr
        rows.append([json.loads(line) for line in output.read_text().splitlines()])
        log = (tmp_path / name / "episodes.jsonl").read_text()
        assert '"operator_success": null' in log
    assert [row["seed"] for row in rows[0]] == [77, 78]
    same = ("task", "seed", "success", "progress", "steps", "reason")
    assert [[r[k] for k in same] for r in rows[0]] == [[r[k] for k in same] for r in rows[1]]


def test_a_row_says_when_the_inference_of_its_own_action_began(
    tmp_path: Path, package: Path
) -> None:
    done = _evaluate(package, tmp_path / "run", "--record", str(tmp_path / "set"))
    assert done.returncode == 0, done.stderr
    columns = DatasetReader(tmp_path / "set").episode(0)
    chunk, began_s = columns["chunk"], columns["time.inference"]
    tick_s, index = columns["time.tick"], columns["chunk_index"]
    assert chunk.max() > 1 and np.isnan(began_s[chunk < 0]).all()
    for number in range(chunk.max() + 1):
        rows = np.flatnonzero(chunk == number)
        # Entry 0 is of the tick from whose observation it was inferred.
        assert began_s[rows] == pytest.approx(tick_s[rows] - 0.1 * index[rows], abs=1e-6)


def test_a_recording_is_a_data_set_with_labels_and_grows(tmp_path: Path) -> None:
    dataset = tmp_path / "demos"
    for _ in range(2):
        done = robot_run(
            "record",
            "--task",
            "open-drawer",
            "--episodes",
            "2",
            "--expert",
            "--labels",
            "--output",
            str(dataset),
            "--run-dir",
            str(tmp_path / "run"),
        )
        assert done.returncode == 0, done.stderr
    assert f"recorded 2 episodes to {dataset}, 4 in all (2 were there)" in done.stdout
    reader = DatasetReader(dataset)
    assert reader.num_episodes == 4
    columns = reader.episode(0)
    progress = np.asarray(columns["reward.process"])
    assert np.isfinite(progress).all()
    assert progress[-1] > 0.9 > progress[0]
    action = np.asarray(columns["action"])
    assert action.shape == (len(progress), 6)
    assert (np.asarray(columns["gate.verdict"]) == 0).all()


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, package: Path) -> None:
    command = [
        *(sys.executable, "-m", "runtime.app", "eval", "--package", str(package)),
        *("--task", "open-drawer", "--episodes", "500", "--run-dir", str(tmp_path)),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    log = tmp_path / "episodes.jsonl"
    give_up_s = time.monotonic() + 30
    while not log.exists() and time.monotonic() < give_up_s:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    run = json.loads((tmp_path / "config.json").read_text())
    assert not Path(run["shm_dir"]).exists()
    report = json.loads((tmp_path / "run_report.json").read_text())
    assert report["exit_codes"] == {"bench": 0, "control": 0, "watchdog": 0}


def test_a_start_is_quick_and_small(tmp_path: Path, package: Path) -> None:
    done = _evaluate(package, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["start_to_first_action_s"] < 5.0
    assert sum(mb for name, mb in report["rss_mb"].items() if name != "bench") < 700
