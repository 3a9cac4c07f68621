"""Imitation from a recorded data set, through the command line, to a package that runs."""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny_flow import HEIGHT, OBSERVATION, WIDTH, make_examples, make_policy
from tiny_package import ACTION
from typer.testing import CliRunner

from contracts.errors import ConfigError, PackageError, SpecMismatch
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from contracts.keyframes import next_keyframes
from contracts.messages import SessionStart
from contracts.package import Provenance, no_prefix
from contracts.specs import SO101_JOINTS
from export.policy import export_policy
from runtime.engines import EngineOptions, open_engine
from trainer import demonstrations
from trainer.app import app
from trainer.imitate import ImitateOptions, augment, imitate
from trainer.imitation_set import first_config
from trainer.policies.flow import FlowPolicy
from trainer.training import multiplies_bfloat16

torch.set_num_threads(1)
CAMERAS = ("front", "wrist")
FEATURES = {
    "observation.state": Feature("float32", (6,), SO101_JOINTS),
    "action": Feature("float32", (6,), SO101_JOINTS),
    **{f"observation.images.{name}": Feature("video", (HEIGHT, WIDTH, 3)) for name in CAMERAS},
}


def record(
    root: Path, episodes: int = 4, fps: int = 10, length: int = 20, failed: tuple[int, ...] = ()
) -> Path:
    """Episodes in which the pan follows a bright bar: where it is says where the arm should go."""
    session = SessionStart(
        robot_id="r",
        session_id="s",
        observation=OBSERVATION,
        action=ACTION,
        colour_codec="jpeg",
        depth_codec="",
        config_hash="",
        software_version="",
        pace="asap",
    )
    with DatasetWriter.create(root, fps, FEATURES, "so101") as writer:
        for index in range(episodes):
            column = 4 + 6 * (index % 4)
            picture = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
            picture[:, column : column + 4] = (230, 200, 40)
            goal = (column - 13) * 4.0
            share = np.minimum(np.arange(length) / (length * 0.7), 1.0)[:, None]
            actions = np.zeros((length, 6), np.float32)
            actions[:, :1] = share * goal
            actions[:, 5] = np.where(np.arange(length) < length // 2, 80.0, 10.0)
            states = np.concatenate([actions[:1], actions[:-1]])
            writer.add_episode(
                columns={"observation.state": states, "action": actions},
                frames={f"observation.images.{name}": [picture] * length for name in CAMERAS},
                depth=None,
                task=("open the drawer", "close the drawer")[index // 4 % 2],
                extra={
                    "session": msgspec.to_builtins(session),
                    "start": {"task": "open_drawer"},
                    "end": {"operator_success": index not in failed},
                },
            )
    return root


def _read(root: Path, **changes: object) -> list[demonstrations.Demonstration]:
    arguments: dict[str, object] = {
        "cameras": CAMERAS,
        "width": WIDTH,
        "height": HEIGHT,
        "rate_hz": 10.0,
    }
    return demonstrations.read([root], **{**arguments, **changes})  # type: ignore[arg-type]


def test_a_faster_recording_is_thinned_out_to_the_chunk_rate(tmp_path: Path) -> None:
    found = _read(record(tmp_path / "data", episodes=1, fps=30, length=60))
    assert found[0].actions.shape == (20, 6) and found[0].images["front"].shape[0] == 20
    assert found[0].actions[1, 0] == pytest.approx(3 / 42 * (4 - 13) * 4.0, rel=1e-4)


def test_another_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 10"):
        _read(record(tmp_path / "data", episodes=1, fps=15))


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no episode to learn from"):
        _read(record(tmp_path / "data", episodes=1), keep=lambda meta: False)


def test_chunks_end_with_the_last_action_repeated(tmp_path: Path) -> None:
    found = _read(record(tmp_path / "data", episodes=2), width=16, height=12)
    samples = demonstrations.samples(
        found,
        cameras=CAMERAS,
        vocabulary=("drawer", "open"),
        instruction_length=4,
        chunk_length=4,
    )
    assert len(samples) == 40 and samples.images["front"].shape == (40, 12, 16, 3)
    np.testing.assert_array_equal(samples.chunks[19], np.repeat(found[0].actions[-1:], 4, 0))
    np.testing.assert_array_equal(samples.chunks[20], found[1].actions[:4])
    assert samples.tokens[0].tolist() == [3, 1, 2, 0]
    assert samples.episode.tolist() == [0] * 20 + [1] * 20


def test_the_keyframe_is_where_the_gripper_moves_next() -> None:
    actions = np.zeros((10, 6), np.float32)
    actions[4:, 5] = 40.0
    assert next_keyframes(actions).tolist() == [3, 3, 3, 3, 9, 9, 9, 9, 9, 9]


def test_augmentation_keeps_sizes_and_differs_between_pictures() -> None:
    picture = make_examples(1)["images.front"].repeat(3, 0)
    changed = augment(picture, 2, 0.2, np.random.default_rng(0))
    assert changed.shape == picture.shape and changed.dtype == torch.float32
    assert float(changed.min()) >= 0.0 and float(changed.max()) <= 255.0
    assert not torch.equal(changed[0], changed[1])
    assert torch.equal(
        augment(picture, 0, 0.0, np.random.default_rng(0)).byte(), torch.tensor(picture)
    )


def _train(data: Path, output: Path, *more: str) -> None:
    arguments = ["imitate", "--data", str(data), "--output", str(output), "--batch", "16"]
    result = CliRunner().invoke(app, [*arguments, *more])
    assert result.exit_code == 0, (result.output, result.exception)


def test_from_data_set_to_running_package(tmp_path: Path) -> None:
    data = record(tmp_path / "data", episodes=5, failed=(4,))
    size = ("--width", str(WIDTH), "--height", str(HEIGHT))
    _train(data, tmp_path / "base", "--steps", "12", *size)
    policy = FlowPolicy.load(tmp_path / "base")
    assert policy.config.vocabulary == ("close", "drawer", "open", "the")
    assert policy.config.provenance is not None
    assert "4 demonstrations, 80 steps" in policy.config.provenance.data
    package = export_policy(tmp_path / "base", tmp_path / "package")
    trunk = open_engine(package, "trunk", EngineOptions())
    head = open_engine(package, "head", EngineOptions())
    case = package.golden["trunk"][0].inputs
    noise = np.zeros((1, 16, 6), np.float32)
    features = trunk.run(case)["features"]
    answer = head.run({"features": features, "noise": noise, **no_prefix(head.inputs)})
    assert answer["chunks"].shape == (1, 16, 6) and np.isfinite(answer["chunks"]).all()


def test_training_is_deterministic_by_seed(tmp_path: Path) -> None:
    data = record(tmp_path / "data")
    size = ("--width", str(WIDTH), "--height", str(HEIGHT), "--steps", "4")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        _train(data, tmp_path / name, "--seed", seed, *size)
    first, second, third = (
        FlowPolicy.load(tmp_path / name).state_dict()["head.flow.chunk_out.weight"]
        for name in ("a", "b", "c")
    )
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_a_frozen_trunk_stays_as_it_was(tmp_path: Path) -> None:
    data = record(tmp_path / "data")
    base = make_policy()
    base.save(tmp_path / "base", make_examples(), Provenance("t", 0, "", "", 0.0, {}))
    more = ("--start", str(tmp_path / "base"), "--trunk-rate", "0", "--steps", "5")
    _train(data, tmp_path / "tuned", *more)
    before, after = base.state_dict(), FlowPolicy.load(tmp_path / "tuned").state_dict()
    for name, tensor in before.items():
        same = torch.equal(tensor, after[name])
        assert same == (not name.startswith("head.flow.")), name


def _samples(data: Path, policy: FlowPolicy) -> demonstrations.Samples:
    return demonstrations.samples(
        _read(data),
        cameras=CAMERAS,
        vocabulary=policy.config.vocabulary,
        instruction_length=policy.config.instruction_length,
        chunk_length=policy.config.chunk_length,
    )


def test_imitation_learns_to_go_where_the_bar_is(tmp_path: Path) -> None:
    data = record(tmp_path / "data")
    policy = make_policy(hidden=64, chunk_length=8, features=64)
    samples = _samples(data, policy)
    policy.set_statistics(samples.states, samples.chunks)
    options = ImitateOptions(steps=200, batch=32, rate=3e-3, shift_px=1, colour=0.05, average=0.97)
    trained = imitate(policy, samples, options)
    starts = [20 * k + 3 for k in range(4)]
    with torch.no_grad():
        features = trained.trunk(
            *(torch.from_numpy(samples.images[name][starts]) for name in CAMERAS),
            torch.from_numpy(samples.states[starts]),
            torch.from_numpy(samples.tokens[starts]),
        )
        goes = [
            float(trained.head(features[k : k + 1], torch.zeros(1, 8, 6))[0][0, -1, 0])
            for k in range(4)
        ]
    wanted = samples.chunks[starts, -1, 0]
    assert np.corrcoef(goes, wanted)[0, 1] > 0.95
    assert np.abs(np.array(goes) - wanted).max() < 10.0


def test_data_of_two_robots_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = record(tmp_path / "a", episodes=1)
    other = msgspec.structs.replace(ACTION, names=tuple(reversed(ACTION.names)))
    monkeypatch.setattr("test_imitate.ACTION", other)
    second = record(tmp_path / "b", episodes=1)
    with pytest.raises(SpecMismatch, match="action names"):
        first_config([first, second], WIDTH, HEIGHT)


def test_a_policy_is_bound_to_the_calibration_of_all_its_data_or_to_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def under(calibration_id: str, name: str) -> Path:
        observation = msgspec.structs.replace(OBSERVATION, calibration_id=calibration_id)
        monkeypatch.setattr("test_imitate.OBSERVATION", observation)
        return record(tmp_path / name, episodes=1)

    roots = [under("5c1f", "a"), under("5c1f", "b"), under("90ab", "c")]
    assert first_config(roots[:2], WIDTH, HEIGHT).observation.calibration_id == "5c1f"
    assert first_config(roots, WIDTH, HEIGHT).observation.calibration_id == ""


def test_a_start_may_be_a_package_that_was_made_of_one(tmp_path: Path) -> None:
    base = make_policy()
    base.save(tmp_path / "base", make_examples(), Provenance("t", 0, "", "", 0.0, {}))
    export_policy(tmp_path / "base", tmp_path / "package")
    found, saved = FlowPolicy.load(tmp_path / "package"), FlowPolicy.load(tmp_path / "base")
    for name, value in saved.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    assert found.config.vocabulary == saved.config.vocabulary


def test_starting_from_nothing_that_exists_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="holds no trained policy"):
        FlowPolicy.load(tmp_path / "nowhere")


@pytest.mark.parametrize("fast", [False, True])
def test_bfloat16_is_left_alone_where_the_processor_must_make_it_up(
    fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it takes eight times as long as float32."""
    monkeypatch.setattr("trainer.imitate.multiplies_bfloat16", lambda: fast)
    policy = make_policy()
    samples = _samples(record(tmp_path / "data", episodes=1), policy)
    computed = []
    policy.trunk.register_forward_hook(lambda *_: computed.append(torch.is_autocast_enabled("cpu")))
    imitate(policy, samples, ImitateOptions(steps=1, batch=2))
    assert computed
    assert set(computed) == {fast}


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo here")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor's flags")
def test_what_the_processor_is_asked_for_is_what_it_says() -> None:
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    assert multiplies_bfloat16() == {"avx512bw", "avx512vl", "avx512dq"}.issubset(flags)
