"""The tick touches nothing slow: looked at from inside the real control process, with everything running."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from robots import REALTIME, config, policy_package

from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import RunPlan

SIZE = (320, 240)
PICTURE = SIZE[0] * SIZE[1] * 5


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> dict:  # type: ignore[type-arg]
    """What a probe in control saw: two cameras, inference, recording and streaming at 30 Hz."""
    folder = tmp_path_factory.mktemp("tick")
    policy_package(folder / "package", ("front", "wrist"))
    sizes = [
        f"cameras.{name}.{key}={value}"
        for name in ("front", "wrist")
        for key, value in zip(("width", "height"), SIZE, strict=True)
    ]
    run = make_run(
        config(
            *(REALTIME + sizes),
            *(
                "link.enabled=true",
                "episode.max_s=2",
                "loop.watchdog_timeout_s=2",
                "loop.lease_s=2",
            ),
            *(f"link.{name}=tcp://127.0.0.1:9" for name in ("frames", "episodes", "weights")),
            *("link.health=tcp://127.0.0.1:0", f"policy.package={folder / 'package'}"),
            "iteration.wait_for_release=false",
        ),
        RunPlan(purpose="refine", episodes=2, sink="link"),
        folder / "run",
    )
    seen: list[tuple[float, float]] = []
    robot = Supervisor(run)
    robot.child("control").module = "tick_probe"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
        with robot:
            outcome = robot.wait(
                lambda board: seen.append((board.loop_success_rate, board.execution_p99_s))
            )
    assert outcome.code == 0, outcome.what
    found = json.loads((folder / "run" / "probe.json").read_text())
    assert len(found["kept"]) > 60
    return {**found, "report": outcome.report, "board": seen}


def test_a_tick_opens_nothing_connects_nothing_and_says_nothing(probed: dict) -> None:  # type: ignore[type-arg]
    """The arm's one socket stays open between ticks; whatever else appears here is somebody's new habit."""
    assert probed["events"] == {}
    assert probed["written"] == []
    assert probed["collections"] == 0


def test_a_tick_allocates_its_pictures_and_little_else(probed: dict) -> None:  # type: ignore[type-arg]
    """A burst would be another copy of the pictures, or something that is kept from tick to tick."""
    peaks, kept = sorted(probed["peaks"]), sorted(probed["kept"])
    assert peaks[-1] < 2 * PICTURE + (256 << 10), "more than one copy of a camera's picture"
    assert kept[len(kept) // 2] < 2 * PICTURE + (16 << 10)
    without = [peak for peak in peaks if peak < PICTURE // 2]
    if without:  # ticks between two pictures
        assert without[-1] < 128 << 10


def test_the_report_says_how_regular_the_loop_was_and_what_was_granted(probed: dict) -> None:  # type: ignore[type-arg]
    loop = probed["report"]["loop"]
    assert loop["health"] in ("ok", "warn", "unsuitable")
    assert (
        set(loop["periodicity"]) == set(loop["execution"]) == {"mean_s", "std_s", "p99_s", "max_s"}
    )
    assert loop["periodicity"]["mean_s"] == pytest.approx(1 / 30, rel=0.1)
    success_rate, execution_s = probed["board"][-1]
    assert 0.5 < success_rate <= 1.0 and 0.0 < execution_s < 1.0
    assert loop["granted"]["freeze_gc"] == "granted"
    assert loop["granted"]["lock_memory"] == "not asked for"
