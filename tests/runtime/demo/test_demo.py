"""`robot-run demo` with its real processes on tiny packages: to the end, interrupted, and with a death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from robots import policy_package, until

pytest.importorskip("jinja2", reason="the demo's report is the trainer's: it needs jinja2")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    policy_package(folder / "policy-open_drawer")
    # Not recorded yet: the demo does it.
    listed = {"open_drawer": {"episodes": 1, "seed_base": 500_000, "unsteady_deg": 2.0}}
    (folder / "demonstrations.json").write_text(json.dumps(listed))
    return folder


class Started:
    """A demo as a shell would start it, not on a terminal."""

    def __init__(self, tmp_path: Path, pretrained: Path, iterations: int) -> None:
        self.run_dir, self.report = tmp_path / "run", tmp_path / "report"
        command = [
            str(Path(sys.executable).parent / "robot-run"), "demo", "--task", "open-drawer",
            "--iterations", str(iterations), "--episodes", "2", "--evaluation-episodes", "2",
            "--reward", "clock", "--pretrained", str(pretrained), "--run-dir", str(self.run_dir),
            "--output", str(self.report), "--trainer-set", "refiner.kind=tiny",
            "--robot-set", "episode.max_s=1.5",
        ]  # fmt: skip
        plugin = str(ROOT / "tests/plugin")
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": plugin},
        )

    def training(self) -> bool:
        """Whether an iteration has been published."""
        assert self.process.poll() is None, self.process.communicate()[0]
        path = self.run_dir / "trainer/metrics.jsonl"
        return path.exists() and '"kind": "iteration"' in path.read_text()

    def finish(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=90)
        return self.process.returncode, said

    @property
    def page(self) -> str:
        return (self.report / "index.html").read_text()

    @property
    def ended(self) -> str:
        return str(json.loads((self.run_dir / "demo.json").read_text())["ended"])

    def leftovers(self) -> list[str]:
        """Processes that still have this run's folder on their command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.run_dir) in words:
                found.append(words.replace("\0", " "))
        return found


def test_a_whole_demo(tmp_path: Path, pretrained: Path) -> None:
    demo = Started(tmp_path, pretrained, iterations=2)
    code, said = demo.finish()
    assert code == 0, said
    assert demo.ended == "complete"
    assert (pretrained / "demonstrations-open_drawer/meta/info.json").exists()
    assert said.splitlines()[-1] == f"report: {demo.report / 'index.html'}"
    for words in ("base evaluation begins", "iteration 2 of 2", "final evaluation: "):
        assert words in said
    assert "Of a whole run it lacks" not in demo.page
    assert "2 releases published, 2 took effect" in demo.page.replace("\u00a0", " ")
    final = [json.loads(line) for line in (demo.run_dir / "eval/final.jsonl").open()]
    base = [json.loads(line) for line in (demo.run_dir / "eval/base.jsonl").open()]
    assert [row["seed"] for row in final] == [row["seed"] for row in base]
    assert demo.leftovers() == []


def test_ctrl_c_leaves_a_report(tmp_path: Path, pretrained: Path) -> None:
    demo = Started(tmp_path, pretrained, iterations=50)
    until(demo.training, 60.0)
    demo.process.send_signal(signal.SIGINT)
    code, said = demo.finish()
    assert code == 130, said
    assert "interrupted with Ctrl-C" in demo.page
    assert "The refined policy was not evaluated." in demo.page
    assert demo.leftovers() == []


@pytest.mark.slow
def test_a_dead_trainer_is_named_and_the_report_written(tmp_path: Path, pretrained: Path) -> None:
    demo = Started(tmp_path, pretrained, iterations=50)
    until(demo.training, 60.0)
    pid = json.loads((demo.run_dir / "trainer/endpoints.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    code, said = demo.finish()
    assert code == 4, said
    assert "'trainer' ended with signal SIGKILL" in said
    assert "SIGKILL" in demo.page
    assert demo.leftovers() == []


def test_another_folder_is_not_overwritten(tmp_path: Path, pretrained: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("mine")
    code, said = Started(tmp_path, pretrained, iterations=1).finish()
    assert code == 2
    assert "for a demo, found a folder with thesis.tex; choose another name" in said
    assert (tmp_path / "run/thesis.tex").read_text() == "mine"
