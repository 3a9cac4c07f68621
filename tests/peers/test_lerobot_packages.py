"""From a LeRobot checkpoint to a moving arm: what is missing is refused in one sentence; packages act on
the bench, take releases and see the observations that LeRobot would have shown them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from lerobot_checkpoints import SO101, STATE, observation
from typer.testing import CliRunner

from contracts.errors import ConfigError, EntracteError, PackageError
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from contracts.files.packages import Package, load_package, safetensors_bytes
from contracts.messages import ReleaseOutcome
from contracts.release import ReleaseManifest
from contracts.specs import SO101_JOINTS
from export.app import app
from export.check import check_package
from export.lerobot.checkpoint import load_checkpoint
from export.lerobot.observations import recorded
from export.lerobot.package import build, reference, trunk_inputs
from export.lerobot.processors import Processors
from export.lerobot.robot import RobotOptions, describe
from export.onnx import GraphSource
from export.package import torch_outputs
from runtime.config import PolicySection
from runtime.control.history import History
from runtime.engines import EngineOptions, open_engine
from runtime.models.policy import PolicyRunner, Seen
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper

torch.set_num_threads(1)
Made = Callable[[str], Path]


# -- what a checkpoint does not say


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("act", "", "joints are called, .*rate.*units.*give --robot-type.*--rate-hz.*--units deg"),
        ("act", "--robot-type so101", "say at which rate .* give --rate-hz.*--units deg"),
        (
            "act",
            "--robot-type so101 --rate-hz 10",
            "say in which units .*--units deg or normalised",
        ),
        ("act", "--robot-type so101 --rate-hz 10 --units rad", "found rad; give --units deg"),
        ("act", "--joints a,b --rate-hz 10 --units deg", "expected 6, as 'action' has"),
        (
            "act",
            "--robot-type so101 --rate-hz 10 --units deg --camera side=front",
            r"no such camera: expected \['front', 'wrist'\]",
        ),
        ("act", "--robot-type so101 --steps 5", "ACT has no denoising"),
        ("diffusion-ddim", "--scheduler ddpm --steps 100", "1 to 50, found 100; .*--steps 10"),
        ("diffusion-ddim", "--scheduler euler", "ddpm or ddim, found euler"),
    ],
)
def test_what_is_missing_is_asked_for_by_its_option(
    name: str, options: str, words: str, checkpoint_folder: Made, tmp_path: Path
) -> None:
    source = str(checkpoint_folder(name))
    done = CliRunner().invoke(app, ["policy", source, str(tmp_path / "p"), *options.split()])
    assert isinstance(done.exception, EntracteError)
    with pytest.raises(EntracteError, match=words):
        raise done.exception
    assert not (tmp_path / "p").exists()


def _change_json(folder: Path, file: str, change: Callable[[dict], None]) -> None:
    held = json.loads((folder / file).read_text())
    change(held)
    (folder / file).write_text(json.dumps(held))


def _delta_actions(held: dict) -> None:
    held["steps"].insert(1, {"registry_name": "delta_action_processor", "config": {}})


def _simulated(held: dict) -> None:
    held["input_features"]["observation.environment_state"] = {"type": "ENV", "shape": [2]}


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", lambda h: h.update(type="pi0"), r"one of \['act', 'diffusion'\].*'pi0'"),
        ("config.json", lambda h: h.update(dim_model=128), "do not fit config.json"),
        ("config.json", lambda h: h.update(n_encoder_layers=1), "no place in this architecture"),
        ("config.json", lambda h: h.update(n_encoder_layers=3), "missing .*encoder.layers.2"),
        ("config.json", _simulated, "more than cameras and joints"),
        ("policy_preprocessor.json", _delta_actions, "steps that are not known here"),
        (
            "policy_postprocessor.json",
            lambda h: h["steps"].pop(0),
            "processors without normalisation",
        ),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(
    file: str, change: Callable[[dict], None], words: str, checkpoint_folder: Made, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in checkpoint_folder("act").iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
        else:
            (folder / path.name).symlink_to(path)
    _change_json(folder, file, change)
    with pytest.raises(PackageError, match=words):
        checkpoint = load_checkpoint(folder)
        build(checkpoint, describe(checkpoint, SO101), None)


def test_a_truncated_checkpoint_is_to_be_fetched_again(
    checkpoint_folder: Made, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_folder("act"), folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PackageError, match=r"model\.safetensors is not a whole.*download"):
        load_checkpoint(folder)


def test_degrees_are_not_taken_for_normalised_units(checkpoint_folder: Made) -> None:
    checkpoint = load_checkpoint(checkpoint_folder("act"))
    held = checkpoint.processors.statistics
    wide = {name: 3 * value for name, value in held["action"].items()}
    statistics = {**held, "action": wide}
    changed = dataclasses.replace(
        checkpoint, processors=Processors(checkpoint.processors.modes, statistics)
    )
    options = dataclasses.replace(SO101, units="normalised")
    with pytest.raises(ConfigError, match=r"-100 to 100, found .*--units deg"):
        describe(changed, options)
    assert describe(checkpoint, options).action.units == ("percent",) * 6


def test_the_gripper_of_a_left_arm_is_no_angle(checkpoint_folder: Made) -> None:
    joints = tuple(f"left_{joint}" for joint in SO101_JOINTS)
    robot = describe(
        load_checkpoint(checkpoint_folder("act")),
        RobotOptions(joints=joints, units="deg", rate_hz=10.0),
    )
    assert robot.action.units == ("deg",) * 5 + ("percent",)
    assert robot.action.low[5] >= 0.0 and robot.action.high[5] <= 100.0


def test_the_command_says_that_golden_observations_were_not_recorded(
    checkpoint_folder: Made, tmp_path: Path
) -> None:
    words = ["policy", str(checkpoint_folder("act")), str(tmp_path / "package")]
    words += ["--robot-type", "so101", "--units", "deg", "--rate-hz", "10"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "drawn at random, not recorded" in done.output and "--dataset" in done.output


def _answer(networks, robot, checkpoint, state: np.ndarray) -> np.ndarray:
    inputs = trunk_inputs(checkpoint, robot, {**observation(checkpoint, 0), STATE: state})
    with torch.inference_mode():
        features = networks.trunk(*map(torch.from_numpy, inputs.values()))
        return networks.head(features)[0].numpy()


def test_a_calibration_turns_normalised_units_into_degrees(
    checkpoint_folder: Made, tmp_path: Path
) -> None:
    """4095 encoder steps are 360 degrees; a range of 2275 of them is 200 units and 200 degrees."""
    ranges = dict.fromkeys(SO101_JOINTS, 2275) | {"elbow_flex.pos": 1365}
    held = {
        joint.removesuffix(".pos"): {"range_min": 700, "range_max": 700 + steps, "drive_mode": 0}
        for joint, steps in ranges.items()
    }
    (tmp_path / "arm.json").write_text(json.dumps(held))
    checkpoint = load_checkpoint(checkpoint_folder("act"))
    plain = describe(checkpoint, dataclasses.replace(SO101, units="normalised"))
    options = dataclasses.replace(SO101, units="normalised", calibration=tmp_path / "arm.json")
    turned = describe(checkpoint, options)
    assert turned.action.units == ("deg",) * 5 + ("percent",)
    np.testing.assert_allclose(turned.degrees, [1, 1, 0.6, 1, 1, 1])
    assert turned.action.high[2] == pytest.approx(0.6 * plain.action.high[2])
    state = observation(checkpoint, 3)[STATE]
    answers = [
        _answer(build(checkpoint, robot, None), robot, checkpoint, state)
        for robot in (plain, turned)
    ]
    np.testing.assert_allclose(answers[0] * turned.degrees, answers[1], atol=1e-3)


@pytest.mark.parametrize("most", [700, 300, 90000, float("nan")])
def test_a_calibration_that_would_turn_a_joint_round_is_refused(
    most: float, checkpoint_folder: Made, tmp_path: Path
) -> None:
    held = {
        joint.removesuffix(".pos"): {"range_min": 700, "range_max": 2700} for joint in SO101_JOINTS
    }
    held["wrist_flex"]["range_max"] = most
    (tmp_path / "arm.json").write_text(json.dumps(held))
    options = dataclasses.replace(SO101, units="normalised", calibration=tmp_path / "arm.json")
    with pytest.raises(ConfigError, match=r"wrist_flex.pos ranges over .* of 4095 steps"):
        describe(load_checkpoint(checkpoint_folder("act")), options)


def test_a_checkpoint_from_before_the_processors_is_read_alike(
    checkpoint_folder: Made, tmp_path: Path
) -> None:
    source = checkpoint_folder("act")
    new = load_checkpoint(source)
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    for feature, values in new.processors.statistics.items():
        owner = "unnormalize_outputs" if feature == "action" else "normalize_inputs"
        for name in ("mean", "std"):
            key = f"{owner}.buffer_{feature.replace('.', '_')}.{name}"
            tensors[key] = values[name].numpy()
    tensors["normalize_targets.buffer_action.mean"] = np.zeros(6, np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    old = load_checkpoint(tmp_path)
    state = observation(new, 3)[STATE]
    answers = []
    for checkpoint in (new, old):
        robot = describe(checkpoint, SO101)
        answers.append(_answer(build(checkpoint, robot, None), robot, checkpoint, state))
    np.testing.assert_array_equal(*answers)


def test_a_data_set_tells_joints_rate_and_golden_observations(
    checkpoint_folder: Made, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(checkpoint_folder("diffusion-ddim"))
    names = tuple(f"joint_{index}.pos" for index in range(6))
    features = {
        STATE: Feature("float32", (6,), names),
        "action": Feature("float32", (6,), names),
        **{name: Feature("video", (96, 128, 3)) for name in checkpoint.config.images},
    }
    writer = DatasetWriter.create(tmp_path / "data", 20, features, "other", {})
    states = np.arange(60, dtype=np.float32).reshape(10, 6)
    frames = {
        name: (np.full((96, 128, 3), 20 * step, np.uint8) for step in range(10))
        for name in checkpoint.config.images
    }
    writer.add_episode(
        columns={STATE: states, "action": states}, frames=frames, depth={}, task="push"
    )
    robot = describe(checkpoint, RobotOptions(units="deg", dataset=tmp_path / "data"))
    assert robot.action.names == names and robot.action.rate_hz == 20.0
    cases = recorded(checkpoint, tmp_path / "data")
    assert [len(case) for case in cases] == [2] * 4
    for earlier, now in cases:
        np.testing.assert_array_equal(now[STATE] - earlier[STATE], np.full(6, 6.0))
        front = "observation.images.front"
        assert np.abs(now[front].mean() - 20 * now[STATE][0] / 6) < 3


# -- on the robot


@dataclasses.dataclass
class OnRobot:
    """A package's runner as control has it."""

    runner: PolicyRunner
    slots: SlotStore


@pytest.fixture
def on_robot(package_folder: Made, tmp_path: Path) -> Callable[[str], OnRobot]:
    def make(name: str) -> OnRobot:
        package = load_package(package_folder(name))
        slots = SlotStore(tmp_path / "slots", package.package_id)
        head = open_engine(package, "head", EngineOptions())
        swapper = Swapper("policy", slots, package, head, robot_id="bench-0")
        trunk = open_engine(package, "trunk", EngineOptions())
        return OnRobot(PolicyRunner(package, trunk, swapper, PolicySection(seed=3)), slots)

    return make


def test_the_runner_shows_a_policy_the_observations_it_was_trained_on(
    on_robot: Callable[[str], OnRobot], checkpoint_folder: Made, package_folder: Made
) -> None:
    """Two observations one period of the chunk apart (here two ticks), the first one twice at the start."""
    runner = on_robot("diffusion-ddim").runner
    checkpoint = load_checkpoint(checkpoint_folder("diffusion-ddim"))
    package = load_package(package_folder("diffusion-ddim"))
    robot = describe(checkpoint, SO101)
    seen = [trunk_inputs(checkpoint, robot, observation(checkpoint, step)) for step in range(6)]
    pictures = [{c: one[f"images.{c}"][0] for c in ("front", "wrist")} for one in seen]
    states = [one["state"][0] for one in seen]
    trunk, head = (open_engine(package, graph, EngineOptions()) for graph in ("trunk", "head"))
    history: History[Seen] = History(runner.observations, apart=2)
    assert runner.observations == 2 and runner.begin_episode("what you like", 7) == []
    for tick, before in ((0, 0), (1, 0), (2, 0), (3, 1), (4, 2), (5, 3)):
        history.add(tick, (pictures[tick], states[tick]))
        *earlier, newest = history.chosen()
        answer = runner.infer(*newest, tick, earlier)
        features = [trunk.run(seen[step])["features"].copy() for step in (before, tick)]
        noise = np.random.default_rng([3, 7, tick]).standard_normal((1, 16, 6)).astype(np.float32)
        chunk = head.run({"features": np.concatenate(features), "noise": noise})["chunks"][0]
        np.testing.assert_array_equal(np.array(answer.actions, np.float32), chunk)
        assert (answer.choice, answer.values) == (0, ())


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        ("act", "head/model.action_head.bias"),
        ("diffusion-ddim", "head/diffusion.unet.final_conv.1.bias"),
    ],
)
def test_a_release_of_the_head_is_replayed_and_swapped_in(
    name: str, bias: str, on_robot: Callable[[str], OnRobot], package_folder: Made
) -> None:
    package = load_package(package_folder(name))
    robot = on_robot(name)
    moved = dict.fromkeys(package.refinable_weights(), np.float32(1.01)) | {bias: np.float32(3.0)}
    tensors = {key: value * moved[key] for key, value in package.refinable_weights().items()}
    (outcome,) = _swap(robot, package, 1, tensors)
    assert outcome.outcome == "swapped", outcome
    far = {**tensors, bias: tensors[bias] + np.float32(1e4)}
    (outcome,) = _swap(robot, package, 2, far)
    assert outcome.outcome == "rejected" and "moved too far" in outcome.reason
    released = dataclasses.replace(package, weights={**package.weights, **tensors})
    inputs = package.golden["head"][0].inputs
    wanted = torch_outputs(*_head(released), inputs)["chunks"]
    assert np.abs(wanted - package.golden["head"][0].outputs["chunks"]).max() > 1.0
    after = robot.runner.swapper.engine.run(inputs)["chunks"]
    np.testing.assert_allclose(after, wanted, atol=1e-2)


def _head(package: Package) -> tuple[GraphSource, torch.nn.Module]:
    source = next(one for one in reference(package) if one.name == "head")
    return source, source.module


@pytest.mark.parametrize("name", ["act", "diffusion-ddim"])
def test_no_release_reaches_what_turns_actions_into_degrees(
    name: str, on_robot: Callable[[str], OnRobot], package_folder: Made
) -> None:
    """Beside a network's weights 40 degrees are a small number: no norm of all tensors would see them."""
    package = load_package(package_folder(name))
    units = {f"head/action.{part}" for part in ("offset", "gain", "shift")}
    assert units <= package.weights.keys() and not units & package.refinable_weights().keys()
    turned = package.weights["head/action.shift"] + np.float32(40.0)
    tensors = {**package.refinable_weights(), "head/action.shift": turned}
    (outcome,) = _swap(on_robot(name), package, 1, tensors)
    assert outcome.outcome == "rejected"
    assert "'head/action.shift' is not refinable" in outcome.reason


def _swap(
    robot: OnRobot, package: Package, seq: int, tensors: Mapping[str, np.ndarray]
) -> list[ReleaseOutcome]:
    data = safetensors_bytes(tensors)
    manifest = ReleaseManifest(
        "policy", package.package_id, seq, 0, 1, "", hashlib.sha256(data).hexdigest(),
        len(data), package.manifest.refinable, 1, (), "", 0.0, 1e12, "t",
    )  # fmt: skip
    slot, _ = robot.slots.begin_fetch(manifest, 0.0)
    robot.slots.partial_path(slot).write_bytes(data)
    robot.slots.mark_verified(slot, 0.0, len(data))
    robot.slots.mark_staged(slot, 0.0)
    return robot.runner.swapper.swap(episode_seq=seq)


@pytest.mark.parametrize("name", ["act", "diffusion-ddpm"])
def test_a_package_acts_on_the_bench(name: str, package_folder: Made, tmp_path: Path) -> None:
    """Random weights, so no success: the loop runs, chunks are executed through the gate, nothing faults."""
    command = [sys.executable, "-m", "runtime.app", "eval", "--package", str(package_folder(name))]
    command += ["--task", "open-drawer", "--episodes", "1", "--run-dir", str(tmp_path / "run")]
    command += ["--set", "episode.max_s=1.5", "--set", "policy.execute_steps=4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "run_report.json").read_text())
    assert (report["state"], report["episodes"]) == ("done", 1)
    assert report["held_ticks"] <= 1 and report["start_to_first_action_s"] is not None


def test_candidates_that_a_policy_does_not_draw_are_refused(
    package_folder: Made, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "runtime.app", "eval", "--package", str(package_folder("act"))]
    command += ["--task", "open-drawer", "--episodes", "1", "--run-dir", str(tmp_path / "run")]
    command += ["--set", "policy.samples=4", "--set", "policy.execute_steps=4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "expected 1 or 0, found 4" in done.stderr


@pytest.mark.parametrize("name", ["act", "diffusion-ddim"])
def test_torch_is_made_again_from_the_package_alone(name: str, package_folder: Made) -> None:
    report = check_package(package_folder(name), ["onnxruntime"])
    assert report.holds and {one.left for one in report.comparisons} >= {"torch", "onnx"}
