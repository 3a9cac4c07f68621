"""A robot runs only what was made under its own calibration, with the devices that were calibrated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from robots import policy_package
from test_robot_run import _evaluate, _refused
from tiny_package import OBSERVATION

from contracts.calibration import Calibration, CameraCalibration, Intrinsics
from contracts.errors import SpecMismatch
from contracts.files import calibration_file
from contracts.files.packages import Package, write_package
from contracts.key_rotation import hex_of
from runtime.calibration import bind, own_id, require_bound
from runtime.config import CalibrationSection

LENS = Intrinsics(width=64, height=48, fx=60.0, fy=61.0, cx=31.5, cy=23.5)


def calibration(robot_id: str = "bench-0", serial: str = "", fx: float = 60.0) -> Calibration:
    lens = msgspec.structs.replace(LENS, fx=fx)
    camera = CameraCalibration(serial=serial, lens=lens)
    return Calibration(version=1, robot_id=robot_id, arm="sim", date="", cameras={"front": camera})


class Calibrated:
    """A folder with one calibration after another, all signed by the same key."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "calibration.json"
        self._key = Ed25519PrivateKey.generate()
        self.section = CalibrationSection(file=str(self.path), key=hex_of(self._key.public_key()))

    def put(self, what: Calibration) -> str:
        return calibration_file.write(self.path, what, self._key)

    def options(self) -> list[str]:
        tree = json.dumps(msgspec.to_builtins(self.section))
        return ["--set", f"calibration={tree}"]


def bound(folder: Path, calibration_id: str) -> Package:
    package = policy_package(folder)
    observation = msgspec.structs.replace(
        package.manifest.observation, calibration_id=calibration_id
    )
    manifest = msgspec.structs.replace(package.manifest, observation=observation)
    golden = {name: list(cases) for name, cases in package.golden.items()}
    return write_package(folder, manifest, package.graphs, package.weights, golden)


def test_a_policy_of_another_calibration_is_refused_before_motion_and_told_the_difference(
    tmp_path: Path,
) -> None:
    robot = Calibrated(tmp_path / "calibration")
    first = robot.put(calibration())
    policy = bound(tmp_path / "policy", first)
    ran = _evaluate(policy.folder, tmp_path / "same", *robot.options())
    assert ran.returncode == 0, ran.stderr
    robot.put(calibration(fx=66.0))
    for number, more in enumerate(([], ["--set", "pace=realtime", "--set", "loop.lease_s=0.07"])):
        folder = tmp_path / f"other{number}"
        refused = _evaluate(policy.folder, folder, *robot.options(), *more)
        _refused(refused, folder, "camera 'front' fx 60.00 -> 66.00 px")
        assert first in refused.stderr
    folder = tmp_path / "none"
    _refused(_evaluate(policy.folder, folder), folder, "none is configured")
    free = bound(tmp_path / "free", "")
    assert _evaluate(free.folder, tmp_path / "free-run", *robot.options()).returncode == 0


def test_control_itself_refuses_what_changed_after_the_command_looked(tmp_path: Path) -> None:
    """The command's own look is only an answer sooner: the process that has the arm asks again."""
    from robots import config

    from runtime import preflight
    from runtime.processes.supervisor import supervise
    from runtime.run import RunPlan

    robot = Calibrated(tmp_path / "calibration")
    policy = bound(tmp_path / "policy", robot.put(calibration()))
    robot.put(calibration(fx=66.0))
    wanted = config(f"policy.package={policy.folder}", *robot.options()[1:])
    with pytest.raises(SpecMismatch, match="another calibration"):
        preflight.check(wanted, RunPlan())
    folder = tmp_path / "run"
    plan = RunPlan(purpose="evaluate", episodes=1, sink="none")
    outcome = supervise(wanted, plan, folder, lambda board: None)
    assert outcome.code == 2 and "fx 60.00 -> 66.00 px" in outcome.what
    report = json.loads((folder / "run_report.json").read_text())
    assert report["episodes"] == 0 and report["start_to_first_action_s"] is None


def test_the_calibration_must_be_of_this_robot_and_its_devices(tmp_path: Path) -> None:
    robot = Calibrated(tmp_path)
    robot.put(calibration(robot_id="arm-7"))
    with pytest.raises(SpecMismatch, match="another robot"):
        own_id(robot.section, "bench-0")
    camera = msgspec.structs.replace(OBSERVATION.cameras[0], serial="9")
    seen = msgspec.structs.replace(OBSERVATION, cameras=(camera,))
    with pytest.raises(SpecMismatch, match="serial number 8"):
        bind(seen, calibration(serial="8"))
    wide = msgspec.structs.replace(camera, width=64, height=36)
    with pytest.raises(SpecMismatch, match="aspect ratio"):
        bind(msgspec.structs.replace(OBSERVATION, cameras=(wide,)), calibration())
    # A device that names no intrinsics (any webcam) has those that were measured, at its own size.
    now = bind(seen, calibration(serial="9"))
    assert now.calibration_id and (now.cameras[0].fx, now.cameras[0].fy) == (30.0, 30.5)
    assert (now.cameras[0].cx, now.cameras[0].cy) == (15.5, 11.5)
    assert bind(seen, None) == seen


def test_what_differs_is_only_told_of_a_calibration_that_is_kept(tmp_path: Path) -> None:
    robot = Calibrated(tmp_path)
    first = robot.put(calibration())
    refuse: Callable[[str], None] = lambda which: require_bound(  # noqa: E731
        which, robot.section, "bench-0", "the policy"
    )
    with pytest.raises(SpecMismatch, match="without calibration-00ff"):
        refuse("00ff")
    refuse("")
    surer = msgspec.structs.replace(calibration().cameras["front"], lens_px=0.2)
    robot.put(msgspec.structs.replace(calibration(), cameras={"front": surer}))
    with pytest.raises(SpecMismatch, match="only the numbers' last digits, how sure they are, or"):
        refuse(first)
