"""Whatever a user has is never replaced by, nor mixed with, what a command writes: refused before any work,
in one sentence, by every command that writes where it is told to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.app import app as bench
from calibration.app import app as calibrate
from contracts.errors import ConfigError
from export.app import app as export
from runtime.app import app as run
from trainer.app import app as trainer
from trainer.reward_app import app as reward

ROOT = Path(__file__).resolve().parent.parent
POLICY = str(ROOT / "pretrained" / "policy-open_drawer")
PROGRAMS = {
    "robot-export": export,
    "robot-calibrate": calibrate,
    "robot-run": run,
    "robot-trainer": trainer,
    "robot-reward": reward,
    "robot-bench": bench,
}
# Sources that are not there: who looks at them first has done work before it asked for room.
FOLDERS = (
    "robot-export policy nothere OUT",
    f"robot-export policy {POLICY} OUT --noise-actor 1",
    "robot-export reward nothere OUT",
    "robot-export encoder nothere OUT --text a --pictures nothere",
    "robot-export vlm nothere OUT --instruction a --pictures nothere",
    "robot-export quantize nothere OUT --precision fp16 --calibration nothere",
    "robot-export quantize nothere new --precision fp16 --calibration nothere --report OUT",
    "robot-calibrate quantization nothere --package nothere --output OUT",
    "robot-calibrate board --output OUT",
    "robot-calibrate capture --output OUT",
    "robot-run record --expert --output OUT",
    f"robot-run eval --package {POLICY} --record OUT",
    f"robot-run demo --run-dir OUT --pretrained {ROOT / 'pretrained'}",
    f"robot-run demo --run-dir new --output OUT --pretrained {ROOT / 'pretrained'}",
    "robot-trainer imitate --data nothere --output OUT",
    "robot-trainer pretrain --glances nothere --robot nothere --output OUT",
    f"robot-trainer collect --package {POLICY} --output OUT",
    "robot-trainer report --run nothere --output OUT",
    "robot-reward train --data nothere --output OUT",
    "robot-reward adapt --base nothere --demonstrations nothere --data nothere --output OUT",
    "robot-reward distill --data nothere --output OUT",
    "robot-reward eval --data nothere --output OUT",
    "robot-reward record-clips --output OUT",
    "robot-reward score --data nothere --output OUT",
)
FILES = (
    "robot-export support nothere --markdown OUT",
    f"robot-run eval --package {POLICY} --output OUT",
    "robot-run blackbox nothere --plot OUT",
    "robot-bench reward --package nothere --output OUT",
    "robot-bench engine nothere --output OUT",
    "robot-bench gate --output OUT",
    "robot-bench loop --package nothere --output OUT",
    "robot-bench viewers --package nothere --output OUT",
    "robot-bench fleet --package nothere --output OUT",
    "robot-bench faults --times 0 --output OUT",
    "robot-bench link --seconds 0 --output OUT",
    "robot-bench probation --simulated 0 --output OUT",
    "robot-calibrate handeye nothere --output OUT",
    "robot-calibrate depth nothere --camera a --output OUT",
    "robot-calibrate handeye nothere --report OUT",
    "robot-calibrate handeye nothere --joint-zeros 1 --chain-output OUT",
    "robot-calibrate intrinsics nothere --camera wrist --report OUT",
    "robot-calibrate intrinsics nothere --camera wrist --output OUT",
    "robot-calibrate verify nothere --config nothere --touch 0 --tip-mm 1 1 1 --touches OUT",
)
# Any folder will do as a run's; it must be one, and take files.
ROOMS = (
    "robot-run start --set link.enabled=false --package " + POLICY + " --run-dir OUT",
    f"robot-run eval --package {POLICY} --run-dir OUT",
    "robot-run record --expert --output new --run-dir OUT",
    "robot-trainer serve --run-dir OUT",
    "robot-bench loop --package nothere --folder OUT",
    "robot-bench faults --times 0 --folder OUT",
)


def refusal(line: str, output: Path) -> str:
    """What the command says, which must be a `ConfigError` of one line."""
    program, *words = [str(output) if word == "OUT" else word for word in line.split()]
    found = CliRunner().invoke(PROGRAMS[program], words)
    assert isinstance(found.exception, ConfigError), (found.exception, found.output)
    said = str(found.exception)
    assert str(output) in said and "\n" not in said and "Errno" not in said
    return said


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def held(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("line", FOLDERS)
def test_a_folder_of_the_users_is_left_alone(line: str, here: Path) -> None:
    (here / "mine" / "deep").mkdir(parents=True)
    (here / "mine" / "thesis.txt").write_text("years")
    (here / "mine" / "deep" / "data.csv").write_text("1,2")
    (here / "notes.md").write_text("mine")
    before = held(here)
    assert "thesis.txt" in refusal(line, here / "mine")
    assert "found a file" in refusal(line, here / "notes.md")
    refusal(line, here / "notes.md" / "below")
    refusal(line, Path("/proc/nothere/x"))
    assert held(here) == before


@pytest.mark.parametrize("line", FILES)
def test_a_file_of_the_users_is_left_alone(line: str, here: Path) -> None:
    (here / "notes.md").write_text("mine")
    (here / "settings.json").write_text('{"mine": 1}')
    before = held(here)
    for name in ("notes.md", "settings.json"):
        assert "other content" in refusal(line, here / name) or "new file for" in refusal(
            line, here / name
        )
    assert "found a folder" in refusal(line, here)
    refusal(line, Path("/proc/nothere/x.md"))
    assert held(here) == before


@pytest.mark.parametrize("line", ROOMS)
def test_a_run_folder_that_can_not_be_made_is_one_sentence(line: str, here: Path) -> None:
    (here / "notes.md").write_text("mine")
    refusal(line, here / "notes.md")
    refusal(line, here / "notes.md" / "below")
    refusal(line, Path("/proc/nothere"))
    assert held(here) == {"notes.md": b"mine"}


def test_what_goes_on_in_a_folder_looks_at_it_first_too(here: Path) -> None:
    """`build-data` and `train --config` go on where they stopped; the bench's recorders begin anew."""
    from runtime.bench import clips, glances
    from trainer.reward_data.build import build
    from trainer.reward_data.recipe import Recipe

    (here / "notes.md").write_text("mine")
    for wrong in (here / "notes.md", Path("/proc/nothere/x")):
        for recorder in (clips, glances):
            assert recorder.main(["--output", str(wrong)]) == 2
        with pytest.raises(ConfigError, match=r"can't be written"):
            build(Recipe(sources=()), wrong)
    assert held(here) == {"notes.md": b"mine"}


def test_a_simulated_arm_keeps_the_calibration_of_a_real_one(here: Path) -> None:
    from runtime.arms.so101_calibration import Calibration, write_calibration
    from runtime.bench import servo_bus

    real = {n: Calibration(i + 1, 0, 7, 9, 3000) for i, n in enumerate(servo_bus.JOINTS)}
    write_calibration(here / "arm.json", real)
    (here / "notes.md").write_text("mine")
    before = held(here)
    for words in (("arm.json",), ("notes.md",), ("new.json", "--link", "notes.md")):
        command = [sys.executable, "-m", "runtime.bench.servo_bus", "--calibration", *words]
        path = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=path, check=False)
        assert done.returncode == 2 and "choose another name" in done.stderr, done.stderr
    assert held(here) == before


def test_a_demo_keeps_what_is_not_an_earlier_demos(here: Path) -> None:
    """An earlier demo is moved to NAME.previous; what is there may be anybody's."""
    (here / "demo").mkdir()
    (here / "demo" / "demo.json").write_text("{}")
    (here / "demo.previous").mkdir()
    (here / "demo.previous" / "thesis.txt").write_text("years")
    words = f"robot-run demo --run-dir {here / 'demo'} --pretrained {ROOT / 'pretrained'}"
    assert "thesis.txt" in refusal(words, here / "demo.previous")
    assert "thesis.txt" in held(here / "demo.previous")
