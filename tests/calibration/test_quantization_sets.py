"""Calibration sets: steps of every kind of moment, drawn evenly and repeatably, and a card that tells."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_package import make_package
from typer.testing import CliRunner

from calibration.app import app
from calibration.quantization.card import CalibrationSet, describe, judge, read_set, write_set
from calibration.quantization.draw import draw
from calibration.quantization.strata import PHASES, light_of
from contracts.errors import PackageError, SpecMismatch
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from contracts.files.packages import Package
from contracts.language import encode
from contracts.specs import SO101_JOINTS

LENGTH, HEIGHT, WIDTH = 20, 24, 32
LEVELS = {"dark": 50, "middle": 118, "bright": 200}
TASKS = ("open the drawer", "open")


def travel() -> np.ndarray:
    """Closed for 8 steps, opening for 4 (20 % a step at 10 Hz), open for 8."""
    return np.concatenate([np.full(8, 10.0), [30.0, 50.0, 70.0, 90.0], np.full(8, 90.0)])


GRIPPER = ["closed"] * 7 + ["moving"] * 5 + ["open"] * 8


def record(folder: Path, lights: list[str], episodes_of_each: int = 2) -> Path:
    """Episodes of both tasks in every light; what a step holds says where it was."""
    features = {
        "observation.state": Feature("float32", (6,), SO101_JOINTS),
        "action": Feature("float32", (6,), SO101_JOINTS),
        "observation.images.front": Feature("video", (HEIGHT, WIDTH, 3)),
    }
    kinds = [(t, light) for light in lights for t in TASKS for _ in range(episodes_of_each)]
    with DatasetWriter.create(folder, fps=10, robot_type="tests", features=features) as writer:
        for number, (task, light) in enumerate(kinds):
            state = np.zeros((LENGTH, 6), np.float32)
            state[:, 0], state[:, 1], state[:, 5] = number, np.arange(LENGTH), travel()
            shading = np.linspace(-30, 30, WIDTH)[None, :, None] * np.ones((HEIGHT, 1, 3))
            picture = (LEVELS[light] + shading).astype(np.uint8)
            writer.add_episode(
                columns={"observation.state": state, "action": state},
                frames={"observation.images.front": [picture] * LENGTH},
                depth=None,
                task=task,
            )
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("calibration") / "package")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("calibration") / "data", list(LEVELS))


@pytest.fixture(scope="module")
def drawn(package: Package, data: Path) -> CalibrationSet:
    return draw(package, [data], samples=96, held_out=24, seed=3)


def test_every_sample_is_of_the_stratum_that_its_step_was_recorded_as(
    package: Package, drawn: CalibrationSet
) -> None:
    lights, tasks = list(LEVELS), TASKS
    for part in (drawn.calibration, drawn.held_out):
        for index, row in enumerate(part.rows):
            step, found = row.step, row.stratum
            sample = part.sample(index)
            assert sample["state"][0, :2].tolist() == [step.episode, step.row]
            assert found.task == tasks[step.episode // 2 % 2]
            assert found.phase == PHASES[step.row // 5]
            assert found.light == lights[step.episode // 4]
            assert found.gripper == GRIPPER[step.row]
            assert light_of(sample["images.front"][0]) == found.light
            tokens = encode(found.task, package.manifest.vocabulary, 4)
            assert sample["tokens"][0].tolist() == tokens.tolist()


def test_strata_take_turns_and_episodes_are_spread(drawn: CalibrationSet) -> None:
    """A stratum holds 2 to 5 steps of its one episode; a random draw would mirror that, turns level it."""
    counts = Counter(row.stratum for row in drawn.calibration.rows)
    assert sum(counts.values()) == 96 and len(counts) == 36
    most = max(counts.values())
    one_episode_holds = Counter((PHASES[row // 5], GRIPPER[row]) for row in range(LENGTH))
    for stratum, count in counts.items():
        assert count >= min(most - 1, one_episode_holds[(stratum.phase, stratum.gripper)])
    # Where two episodes show the same task in the same light, each gives its half.
    given: dict[tuple[str, str], Counter[int]] = {}
    for row in drawn.calibration.rows:
        given.setdefault((row.stratum.task, row.stratum.light), Counter())[row.step.episode] += 1
    shares = [counter.values() for counter in given.values()]
    assert any(len(share) == 2 for share in shares)
    assert all(max(share) - min(share) <= 1 for share in shares)


def test_what_is_held_out_is_of_other_episodes(drawn: CalibrationSet) -> None:
    assert len(drawn.held_out) == 24 and len(drawn.held_out.episodes) >= 2
    assert not drawn.held_out.episodes & drawn.calibration.episodes


def test_the_same_seed_gives_the_same_bytes(package: Package, data: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        write_set(tmp_path / name, draw(package, [data], samples=30, held_out=10, seed=seed))
    files = {
        name: {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())}
        for name in ("one", "two", "other")
    }
    assert files["one"] == files["two"]
    assert files["one"]["calibration.safetensors"] != files["other"]["calibration.safetensors"]


def test_a_set_comes_back_as_written_and_not_when_changed(
    drawn: CalibrationSet, tmp_path: Path
) -> None:
    write_set(tmp_path / "set", drawn)
    again = read_set(tmp_path / "set")
    assert again.card == drawn.card and again.calibration.rows == drawn.calibration.rows
    for name, array in drawn.calibration.inputs.items():
        assert np.array_equal(again.calibration.inputs[name], array)
    path = tmp_path / "set/calibration.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(PackageError, match="not what its card describes"):
        read_set(tmp_path / "set")


def test_a_set_of_one_stratum_is_bad_and_one_without_the_dark_is_thin(
    package: Package, drawn: CalibrationSet, tmp_path: Path
) -> None:
    assert drawn.card.fitness == "good", drawn.card.findings
    part = drawn.calibration
    first = part.rows[0].stratum
    alike = [i for i, row in enumerate(part.rows) if row.stratum == first] * 20
    inputs = {name: array[alike] for name, array in part.inputs.items()}
    single = dataclasses.replace(part, inputs=inputs, rows=tuple(part.rows[i] for i in alike))
    fitness, findings = judge(single, drawn.held_out)
    assert fitness == "bad" and any("one stratum" in finding for finding in findings)
    lit = draw(package, [record(tmp_path / "lit", ["middle", "bright"])], samples=70, seed=0)
    assert lit.card.fitness == "thin" and "light: no sample of dark" in lit.card.findings
    assert lit.card.calibration.by["light"]["dark"] == 0


def test_blank_pictures_and_nothing_held_out_are_bad(drawn: CalibrationSet) -> None:
    part = drawn.calibration
    black = {**part.inputs, "images.front": np.zeros_like(part.inputs["images.front"])}
    blank = dataclasses.replace(part, inputs=black)
    empty = dataclasses.replace(
        drawn.held_out, inputs={n: a[:0] for n, a in drawn.held_out.inputs.items()}, rows=()
    )
    made = describe(
        *(blank, empty), package_id="", wanted=(1, 1), sources=(), seed=0, command="tests"
    )
    assert made.card.fitness == "bad"
    told = " ".join(made.card.findings)
    assert "96 of 96 pictures are blank" in told and "nothing is held out" in told


def test_data_of_another_arm_is_refused_by_name(package: Package, tmp_path: Path) -> None:
    features = {"observation.state": Feature("float32", (2,), ("pan.pos", "gripper.pos"))}
    with DatasetWriter.create(
        tmp_path / "other", fps=10, robot_type="other", features=features
    ) as writer:
        writer.add_episode({"observation.state": np.zeros((5, 2), np.float32)}, {}, None, "x")
    with pytest.raises(SpecMismatch, match="lacks joints of the package"):
        draw(package, [tmp_path / "other"])


def test_the_command_says_bad_by_its_exit_code(
    package: Package, data: Path, tmp_path: Path
) -> None:
    run = CliRunner().invoke
    words = ["quantization", str(data), "--package", str(package.folder), "--output"]
    good = run(app, [*words, str(tmp_path / "good"), "--samples", "96", "--json"])
    assert good.exit_code == 0, good.output
    card = json.loads(good.output)
    assert card["sources"][0]["name"] == "data" and str(tmp_path) not in good.output
    assert "| light: dark |" in (tmp_path / "good/card.md").read_text()
    few = run(app, [*words, str(tmp_path / "few"), "--samples", "3"])
    assert few.exit_code == 1 and "3 samples of at least 16" in few.output


def test_a_set_that_takes_another_ones_place_says_which(
    package: Package, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its card's command can be typed again where it was typed."""
    monkeypatch.chdir(data.parent)
    words = ["quantization", "data", "--package", str(package.folder), "--output", "sets/one"]
    words += ["--samples", "24", "--held-out", "8"]
    first = CliRunner().invoke(app, [*words, "--seed", "1"])
    again = CliRunner().invoke(app, [*words, "--seed", "1"])
    assert "replaces" not in first.stderr + again.stderr and not again.exit_code
    card = Path("sets/one/card.md").read_text()
    (command,) = (line for line in card.splitlines() if line.startswith("`robot-calibrate"))
    name = package.folder.name
    assert command.startswith(f"`robot-calibrate quantization data --package .../{name} --output ")
    other = CliRunner().invoke(app, [*words, "--seed", "2"])
    assert other.stderr.startswith("sets/one: replaces the earlier set of data, seed 1 (`robot-cal")
