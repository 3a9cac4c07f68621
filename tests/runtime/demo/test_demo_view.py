"""The demo's options, commands, state, time left, lines and panel, without starting anything."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from contracts.errors import ConfigError
from runtime.demo import plan as demo_plan
from runtime.demo import view as demo_view
from runtime.demo.plan import Options
from runtime.demo.view import Lines, State
from runtime.demo.watch import Follower


def options(root: Path, **changes: object) -> Options:
    given = Options(
        "open_drawer", 2, 30, 10, 50, "demo", root / "run", root / "report", root / "pre"
    )
    return replace(given, **changes)  # type: ignore[arg-type]


def state(**changes: object) -> State:
    made = State("open_drawer", "demo", 0, 30, 10, 50, started_s=0.0)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def iteration(number: int, successes: int = 6) -> dict[str, object]:
    return {"kind": "iteration", "iteration": number, "episodes": 10, "successes": successes,
            "update_s": 2.5, "nbytes": 84_000}  # fmt: skip


def value_after(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_wrong_options_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--reward"):
        demo_plan.check(options(tmp_path, reward="guess"))
    with pytest.raises(ConfigError, match="--iterations"):
        demo_plan.check(options(tmp_path, iterations=0))
    with pytest.raises(ConfigError, match="make pretrained"):
        demo_plan.check(options(tmp_path))
    (tmp_path / "pre/policy-open_drawer").mkdir(parents=True)
    (tmp_path / "pre/policy-open_drawer/manifest.json").touch()
    (tmp_path / "pre/demonstrations-open_drawer").mkdir()
    demo_plan.check(options(tmp_path, reward="clock"))
    with pytest.raises(ConfigError, match="reward-demo-open_drawer"):
        demo_plan.check(options(tmp_path))


def test_both_evaluations_differ_in_their_weights_only(tmp_path: Path) -> None:
    base = demo_plan.evaluation_command(options(tmp_path), "base")
    final = demo_plan.evaluation_command(options(tmp_path), "final")
    assert [word.replace("final", "base") for word in final[: len(base)]] == base
    assert final[len(base) :] == ["--slots", str(tmp_path / "run/robot")]
    assert value_after(base, "--reward-package").endswith("reward-demo-open_drawer")
    assert "--reward-package" not in demo_plan.evaluation_command(
        options(tmp_path, reward="clock"), "base"
    )


def test_only_the_truth_reward_sees_the_truth(tmp_path: Path) -> None:
    endpoints = dict.fromkeys(demo_plan.SOCKETS, "tcp://127.0.0.1:9")
    for reward in demo_plan.REWARDS:
        given = options(tmp_path, reward=reward)
        robot = " ".join(demo_plan.robot_command(given, endpoints))
        trainer = " ".join(demo_plan.trainer_command(given))
        label = "truth" if reward == "truth" else "none"
        assert f'episode.label="{label}"' in robot
        assert ('reward.model="success"' in trainer) == (reward == "truth")
        assert ("--reward-package" in robot) == (reward in ("demo", "zero-shot"))


def test_the_users_overrides_come_last(tmp_path: Path) -> None:
    given = options(tmp_path, trainer_set=("seed=9",))
    assert demo_plan.trainer_command(given)[-2:] == ["--set", "seed=9"]


def test_training_and_evaluation_scenes_never_meet(tmp_path: Path) -> None:
    endpoints = dict.fromkeys(demo_plan.SOCKETS, "")
    for seed in range(20):
        given = options(tmp_path, seed=seed)
        robot = demo_plan.robot_command(given, endpoints)
        first = next(int(w.split("=")[1]) for w in robot if w.startswith("episode.seed_base"))
        evaluation = int(value_after(demo_plan.evaluation_command(given, "base"), "--seed-base"))
        assert first + 30 * 10 < 10_000 * (seed + 2) < evaluation


def test_no_time_left_is_guessed_before_there_is_a_measure() -> None:
    fresh = state()
    assert math.isnan(demo_view.left_s(fresh, 1.0))
    fresh.enter("base", 1.0)
    assert math.isnan(demo_view.left_s(fresh, 3.0))


def test_time_left_shrinks_as_work_is_done() -> None:
    """Simulated run: 1 s an evaluation episode, 14 s an iteration."""
    told = []
    run, now_s = state(), 0.0
    run.enter("base", now_s)
    for run.done in range(3, 51):
        now_s = float(run.done)
        told.append((now_s, demo_view.left_s(run, now_s)))
    run.enter("refine", now_s)
    began_s = now_s
    for run.done in range(0, 301, 10):
        now_s = began_s + 1.4 * run.done
        told.append((now_s, demo_view.left_s(run, now_s)))
    run.enter("final", now_s)
    for run.done in range(3, 51):
        told.append((now_s + run.done, demo_view.left_s(run, now_s + run.done)))
    total_s = 50 + 420 + 50 + demo_view.REPORT_S
    for at_s, left_s in told:
        assert at_s + left_s == pytest.approx(total_s, rel=0.1)
    assert told[-1][1] == pytest.approx(demo_view.REPORT_S)


def test_metrics_become_state() -> None:
    seen = state()
    for success in (True, False, None):
        demo_view.take_metrics(seen, {"kind": "episode", "purpose": "refine", "success": success})
    assert (seen.judged, seen.judged_successes) == (2, 1)
    demo_view.take_metrics(seen, iteration(1))
    demo_view.take_metrics(
        seen,
        {
            "kind": "release",
            "outcome": "swapped",
            "publish_to_swapped_s": 0.2,
            "bytes_on_wire": 84_000,
        },
    )
    demo_view.take_metrics(seen, {"kind": "something new"})
    assert seen.finished[0].successes == 6
    assert "84 kB, swapped in 0.20 s" in dict(demo_view.rows(seen, 1.0))["last push"]


def test_lines_tell_each_thing_once() -> None:
    lines, run = Lines(), state()
    run.enter("base", 0.0)
    assert lines.news(run, 0.0) == ["base evaluation begins"]
    assert lines.news(run, 1.0) == []
    run.done = 20
    assert lines.news(run, 20.0)[0].startswith("base evaluation: 20 of 50, ")
    run.results["base"] = (23, 50)
    run.enter("refine", 50.0)
    assert lines.news(run, 50.0) == ["base evaluation: 46 % (23 of 50)", "refinement begins"]
    demo_view.take_metrics(run, iteration(1))
    (line,) = lines.news(run, 60.0)
    assert line.startswith("iteration 1 of 30: 6 of 10 judged a success, updated in 2.5 s")
    assert lines.news(run, 61.0) == []


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_panel_draws_in_every_phase(width: int) -> None:
    run = state()
    for phase in ("", *demo_view.PHASES):
        if phase:
            run.enter(phase, 10.0)
        demo_view.take_metrics(run, iteration(len(run.finished) + 1))
        console = Console(file=io.StringIO(), width=width)
        console.print(demo_view.panel(run, 20.0))
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert "open_drawer" in text and "Ctrl-C" in text
        assert all(len(line) <= width for line in text.splitlines())


def test_sparkline_is_one_block_an_iteration() -> None:
    run = state()
    for successes in (0, 5, 10):
        demo_view.take_metrics(run, iteration(1, successes))
    assert demo_view.sparkline(run.finished) == "▁▅█"
    assert demo_view.recent(run) == "50 % of the last 30"


def test_a_follower_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert list(follower.rows()) == []
    path.write_text('{"a": 1}\n{"a"')
    assert list(follower.rows()) == [{"a": 1}]
    with path.open("a") as file:
        file.write(": 2}\nnonsense\n[3]\n")
    assert list(follower.rows()) == [{"a": 2}]


def test_commands_can_be_pasted(tmp_path: Path) -> None:
    text = demo_plan.readable(["/x/bin/robot-run", "eval", "--set", 'a="b c"'])
    assert text == "robot-run eval --set 'a=\"b c\"'"
