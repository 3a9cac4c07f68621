"""A Gymnasium environment as a robot: the real `robot-run` on tests/runtime/sliders.py, and on Meta-World
where it is installed. Same gate, same lockstep, same data sets and the same truth file as the bench."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny_package import golden_of, make_package

from contracts.errors import MissingDependency
from contracts.files.dataset_reader import DatasetReader
from contracts.files.packages import write_package
from contracts.specs import CameraSpec, ObservationSpec
from runtime.bench import protocol as p
from runtime.config import load_config
from runtime.gym import environment
from runtime.run import Run, RunPlan

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "hw_configs"
SLIDERS = HERE / "sliders.yaml"
EPISODES = 4
_PATHS = (str(HERE), os.environ.get("PYTHONPATH", ""))
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, _PATHS))}
TARGETS = np.array([60.0, 30.0, 70.0, 20.0, 80.0, 45.0], np.float32)

needs_gymnasium = pytest.mark.skipif(
    importlib.util.find_spec("gymnasium") is None,
    reason="gymnasium isn't installed: pip install 'entracte[gym]'",
)


def installed(module: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} isn't installed: {package}"
    )


def policy_for(folder: Path, config: Path, targets: np.ndarray, *camera: str) -> Path:
    """The tiny package for that configuration's arm: whatever it sees it goes to `targets`, a bit shaky."""
    loaded = load_config(config)
    assert loaded.bench.gymnasium is not None
    action = loaded.bench.gymnasium.spec(loaded.loop.rate_hz)
    package = make_package(folder, length=8, action=action)
    seen = tuple(
        CameraSpec(name, loaded.cameras[name].width, loaded.cameras[name].height, 10.0)
        for name in camera
    )
    manifest = msgspec.structs.replace(
        package.manifest,
        observation=ObservationSpec(seen, action.names, action.units),
        cameras=camera,
    )
    weights = dict(package.weights)
    weights["head/bias"] = targets
    weights["head/mix"] = weights["head/mix"] * 0
    golden = golden_of(package, weights)
    write_package(folder, manifest, package.graphs, weights, golden)
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "policy"
    return policy_for(folder, SLIDERS, TARGETS, "front", "side")


def evaluate(
    package: Path, folder: Path, *more: str, config: Path = SLIDERS
) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "runtime.app", "eval", "--config", str(config)),
        *("--package", str(package), "--episodes", str(EPISODES), "--seed-base", "5"),
        *("--run-dir", str(folder / "run"), "--output", str(folder / "truth.jsonl"), *more),
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=ENVIRONMENT,
    )


def rows(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "truth.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "session_id"} for row in found]


@needs_gymnasium
def test_it_is_evaluated_and_recorded_like_the_bench(tmp_path: Path, package: Path) -> None:
    done = evaluate(package, tmp_path, "--record", str(tmp_path / "set"))
    assert done.returncode == 0, done.stderr
    assert [row["seed"] for row in rows(tmp_path)] == [5, 6, 7, 8]
    for row in rows(tmp_path):
        assert (row["task"], row["instruction"]) == ("raise-third", "raise the blue slider")
        assert row["success"] is True and row["reason"] == "completed"
    reader = DatasetReader(tmp_path / "set")
    assert reader.num_episodes == EPISODES and reader.tasks == ["raise the blue slider"]
    spec = reader.extra_info["action"]
    assert spec["names"][2] == "c.pos" and spec["units"] == ["mm"] * 5 + ["percent"]
    for episode in range(EPISODES):
        columns = reader.episode(episode)
        states, actions = columns["observation.state"], columns["action"]
        assert (states >= 0).all() and (states <= 100).all()
        # The gate: never faster than 100 mm/s between two ticks, whatever the policy wanted.
        assert np.abs(np.diff(actions[:, :5], axis=0)).max() <= 10.0 + 1e-4
        assert np.abs(states[0, :5] - actions[0, :5]).max() <= 10.0 + 1e-4
        # Every way of commanding gets there.
        assert np.abs(states[-1] - actions[-3]).max() < 12.0
        # The picture of a step shows the state of that step: the bars' heights, in rows.
        front = reader.frames(episode, "observation.images.front")
        assert front.shape[1:] == (48, 64, 3)
        bars = np.stack([front[:, :, 4 + 10 * bar].max(axis=2) > 20 for bar in range(6)], axis=1)
        assert np.abs(bars.sum(axis=2) / 48 * 100 - states).max() < 5.0
        side = reader.frames(episode, "observation.images.side")
        assert side.shape[1:] == (64, 48, 3)
    starts = {reader.episode(e)["observation.state"][0].tobytes() for e in range(EPISODES)}
    assert len(starts) == EPISODES


@needs_gymnasium
def test_workers_change_nothing_and_a_task_has_its_own_options(
    tmp_path: Path, package: Path
) -> None:
    found = []
    for workers in ("1", "2"):
        (tmp_path / workers).mkdir()
        done = evaluate(
            package,
            tmp_path / workers,
            *("--workers", workers, "--task", "raise-fifth", "--set", "episode.max_s=2"),
            *("--record", str(tmp_path / workers / "set")),
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("gate.workspace_* limits nothing") == 1  # its joints are sliders
        reader = DatasetReader(tmp_path / workers / "set")
        columns = [reader.episode(episode) for episode in range(EPISODES)]
        found.append(
            (
                rows(tmp_path / workers),
                [{k: v.tobytes() for k, v in episode.items()} for episode in columns],
                [reader.frames(e, "observation.images.side").tobytes() for e in range(EPISODES)],
            )
        )
    assert found[0] == found[1]
    assert {row["instruction"] for row in found[0][0]} == {"raise slider 4"}  # info said so


@needs_gymnasium
def test_one_that_is_over_stands_still_until_the_next_scene(tmp_path: Path, package: Path) -> None:
    done = evaluate(
        package,
        tmp_path,
        *("--set", "bench.gymnasium.options={terminates: true}"),
        *("--set", "episode.success_hold_s=1.5"),
        *("--record", str(tmp_path / "set")),
    )
    assert done.returncode == 0, done.stderr
    assert all(row["success"] and row["events"] == ["terminated"] for row in rows(tmp_path))
    states = DatasetReader(tmp_path / "set").episode(1)["observation.state"]
    assert np.array_equal(states[-1], states[-10]) and not np.array_equal(states[-1], states[0])


WRONG = [
    ("bench.gymnasium.id=Slyders-v0", ("gymnasium.make", "Slyders")),
    ("bench.gymnasium.options={colour: red}", ("gymnasium.make", "colour")),
    ("bench.gymnasium.options={fails: step}", ("step()", "the sliders are stuck")),
    ("bench.gymnasium.joints.a.pos.observation.key=agent.arms", ()),
    ("bench.gymnasium.success=success", ("info has no 'success'", "is_success, height")),
    ("bench.gymnasium.instruction=text", ("no text 'text'", "one of words")),
    ("cameras.front.options={observation: pixels.left}", ("no 'pixels.left'", "pixels.top uint8")),
    ("cameras.front.width=32", ("expected 32x48", "found 64x48")),
    ("bench.gymnasium.options={render_mode: null}", ("render()", "NoneType")),
    ("episode.max_s=30", ("at most 20 s (400 steps)", "episode.max_s=20")),
    ("bench.gymnasium.modules=[slyders]", ("no module 'slyders'", "pip install sliders-of")),
    ("pace=realtime", ("pace: asap",)),
    ("arm.kind=sim", ("arm.kind: sim", "hw_configs/metaworld.yaml")),
    ("cameras.front.depth=true", ("cameras.front.depth",)),
    ("episode.task=raise-tenth", ("raise-tenth", "raise-fifth")),
]


@needs_gymnasium
@pytest.mark.parametrize(("setting", "words"), WRONG, ids=[setting for setting, _ in WRONG])
def test_a_wrong_mapping_is_one_sentence_before_anything_moves(
    tmp_path: Path, package: Path, setting: str, words: tuple[str, ...]
) -> None:
    more = ["--set", setting]
    if ".joints." in setting:  # a joint's own name has a dot: the whole joint is given
        joint = load_config(SLIDERS).bench.gymnasium.joints["a.pos"]  # type: ignore[union-attr]
        tree = msgspec.to_builtins(joint)
        tree["observation"]["key"] = "agent.arms"
        more = ["--set", f"bench.gymnasium.joints={json.dumps({'a.pos': tree})}"]
        words = ("observes no 'agent.arms'", "agent.bars float32[4]")
    if "instruction" in setting:
        more += ["--task", "raise-fifth"]
    done = evaluate(package, tmp_path, *more)
    assert done.returncode == 2, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("robot-run: ")]
    assert len(told) == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in told[0]
    assert not (tmp_path / "truth.jsonl").exists()
    report = tmp_path / "run/run_report.json"
    if report.exists():
        assert json.loads(report.read_text())["start_to_first_action_s"] is None


def record(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "runtime.app", "record", "--expert", "--config", str(SLIDERS)),
        *(
            "--output",
            str(folder / "set"),
            "--run-dir",
            str(folder / "run"),
            "--episodes",
            "3",
            *more,
        ),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, env=ENVIRONMENT
    )


@needs_gymnasium
def test_its_expert_shows_the_task_through_the_gate(tmp_path: Path) -> None:
    done = record(tmp_path, "--keep", "success", "--labels")
    assert done.returncode == 0, done.stderr
    reader = DatasetReader(tmp_path / "set")
    assert reader.num_episodes == 3
    for episode in range(3):
        columns = reader.episode(episode)
        states, actions = columns["observation.state"], columns["action"]
        assert states[-1][2] >= 55.0 and states[0][2] <= 40.0
        # Nothing moves but the slider that is wanted, and that not before its fourth word.
        others = [0, 1, 3, 4, 5]
        assert np.abs(states[:, others] - states[0, others]).max() < 0.5
        assert np.abs(actions[:3, 2] - states[0, 2]).max() < 1e-3
        assert 0 < np.abs(np.diff(actions[:, 2])).max() <= 10.0 + 1e-4  # the gate's 100 mm/s


SHOWS_NOTHING = [
    (("--task", "raise-fifth"), "no expert of the task 'raise-fifth'"),
    (("--style", "failures"), "--style: expected expert"),
    (("sliders:Riser",), "the expert 'sliders:Riser' is not there"),
    (("sliders",), "expected module:name"),
    (("sliders:STEP",), "can't be called"),
    (("sliders:lost",), "LookupError: the way is lost"),
    (("sliders:mute",), "expected a row of 7 finite numbers"),
]


@needs_gymnasium
@pytest.mark.parametrize(("more", "words"), SHOWS_NOTHING, ids=[m[-1] for m, _ in SHOWS_NOTHING])
def test_an_expert_that_can_not_show_it_is_one_sentence_before_anything_moves(
    tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    if len(more) == 1:
        task = {"instruction": "raise it", "expert": more[0]}
        more = ("--set", f"bench.gymnasium.tasks.raise-third={json.dumps(task)}")
    done = record(tmp_path, *more)
    assert done.returncode == 2, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("robot-run: ")]
    assert len(told) == 1 and words in told[0], done.stderr
    assert not (tmp_path / "set/data").exists()


@needs_gymnasium
def test_what_info_says_reaches_the_truth_file_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    from runtime.gym.server import GymBench

    def raised(purpose: str, label: str) -> tuple[bool, bool | None, dict[str, object]]:
        folder = tmp_path / f"{purpose}-{label}"
        folder.mkdir()
        config = load_config(SLIDERS, [f"episode.label={label}"])
        plan = RunPlan(purpose=purpose)  # type: ignore[arg-type]
        bench = GymBench(Run(config, plan, str(folder), str(folder), "test"))
        bench.handle(p.Reset("raise-third", 3, "eval", 0, purpose))
        bench.handle(p.Write(1, (50.0, 50.0, 100.0, 50.0, 50.0, 50.0)))
        told = False
        for tick in range(1, 40):
            done = bench.handle(p.Advance(0.1 * tick))
            assert isinstance(done, p.Done) and np.isnan(done.progress)
            told = told or done.finished
        end = bench.handle(p.Finish(0, "time_limit", 39, 0))
        assert isinstance(end, p.Finished)
        return told, end.success, json.loads((folder / "truth.jsonl").read_text())

    for purpose, label, told, said in (
        ("refine", "none", False, None),
        ("evaluate", "none", True, None),
        ("refine", "truth", True, True),
        ("record", "none", True, True),
    ):
        found = raised(purpose, label)
        assert found[:2] == (told, said), purpose
        assert found[2]["success"] is True and found[2]["ever_success"] is True


@needs_gymnasium
@pytest.mark.parametrize("seed", [5, 2**32 + 5])
def test_one_that_draws_globally_is_the_same_again_whatever_ran_before(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    section = load_config(SLIDERS, ["bench.gymnasium.options={globally: true}"]).bench.gymnasium
    assert section is not None
    task = section.tasks["raise-third"]

    def made(first: int) -> environment.Environment:
        random.seed(), np.random.seed()  # noqa: NPY002
        found = environment.Environment(section, task, renders=False)
        found.reset(first)  # as a bench does before its first episode, whatever that is
        return found

    def run(found: environment.Environment, seed: int) -> bytes:
        found.reset(seed)
        seen = []
        for _ in range(5):
            found.step(np.zeros(7, np.float32))
            seen += [*found.observation["agent"].values()]
        return np.concatenate(seen).tobytes()

    alone = run(made(1), seed)
    later = made(1)
    others = {run(later, other) for other in (6, 7)}
    assert alone == run(later, seed) and alone not in others and len(others) == 2


@needs_gymnasium
def test_writers_are_fenced_and_hold_is_never_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    from runtime.gym.server import GymBench

    run = Run(load_config(SLIDERS), RunPlan(purpose="evaluate"), str(tmp_path), str(tmp_path), "t")
    bench = GymBench(run)
    bench.handle(p.Write(3, (90.0,) * 6))
    bench.handle(p.Advance(0.2))
    assert bench.handle(p.Write(2, (10.0,) * 6)).accepted is False  # type: ignore[union-attr]
    assert bench.handle(p.Hold(0)).accepted is True  # type: ignore[union-attr]
    before = bench.handle(p.Read())
    bench.handle(p.Advance(2.2))
    after = bench.handle(p.Read())
    assert isinstance(before, p.Joints) and isinstance(after, p.Joints)
    assert after.positions == pytest.approx(before.positions, abs=1e-6) and after.at_s == 2.2
    assert before.targets == before.positions


@pytest.mark.parametrize("name", ["metaworld.yaml", "lerobot_env_so101.yaml"])
def test_the_shipped_configurations_are_valid_wherever_their_packages_are(name: str) -> None:
    config = load_config(CONFIGS / name)
    section = config.bench.gymnasium
    assert section is not None and section.install
    missing = [m for m in ("gymnasium", *section.modules) if not importlib.util.find_spec(m)]
    if not missing:
        environment.require(section)
        return
    with pytest.raises(MissingDependency) as told:
        environment.require(section)
    assert section.install in str(told.value) and missing[0] in str(told.value)


@installed("metaworld", "pip install metaworld==3.1.1 packaging")
def test_meta_world(tmp_path: Path) -> None:
    _external(tmp_path, "metaworld.yaml", np.array([0.0, 600.0, 200.0, 100.0]), "corner")


@installed("lerobot_env_so101", "pip install lerobot-env-so101==0.4.0")
def test_lerobot_env_so101(tmp_path: Path) -> None:
    _external(tmp_path, "lerobot_env_so101.yaml", np.array([220.0, 0.0, 150.0, 100.0]), "front")


def _external(folder: Path, name: str, targets: np.ndarray, camera: str) -> None:
    """An arm of four joints goes to one place, by one worker and by two; scenes differ and come again."""
    found = []
    package = policy_for(folder / "policy", CONFIGS / name, targets.astype(np.float32), camera)
    for workers in ("1", "2"):
        place = folder / workers
        place.mkdir()
        done = evaluate(
            package,
            place,
            *("--workers", workers, "--set", "episode.max_s=2", "--set", "link.enabled=false"),
            *("--record", str(place / "set")),
            config=CONFIGS / name,
        )
        assert done.returncode == 0, done.stderr
        reader = DatasetReader(place / "set")
        columns = [reader.episode(episode) for episode in range(EPISODES)]
        for episode in columns:
            assert np.abs(episode["observation.state"][-1] - targets).max() < 40.0
        pictures = [reader.frames(e, f"observation.images.{camera}") for e in range(EPISODES)]
        assert np.ptp(pictures[0][0]) > 50
        assert len({picture[0].tobytes() for picture in pictures}) == EPISODES
        found.append((rows(place), [c["observation.state"].tobytes() for c in columns]))
    assert found[0] == found[1]
