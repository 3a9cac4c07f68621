"""The GPU suite: a step that dies costs itself alone, and what was never run is called so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu


def test_a_step_that_crashes_is_a_verdict_and_not_the_end() -> None:
    code = "import os, sys; print('about to die', flush=True); os.kill(os.getpid(), 11)"
    died = gpu.run(gpu.Step("crash", "nothing", ("python", "-c", code)))
    assert died.code == -11 and "about to die" in died.output
    assert gpu.run(gpu.Step("absent", "nothing", ("no-such-program",))).code == 127
    page = gpu.page("here", "a machine", [died])
    assert "| crash |" in page and "FAILED (exit code -11)" in page


def test_what_passed_on_a_machine_is_linked_and_the_rest_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "gpu_tests", list)
    first, second, *_ = gpu.steps()
    assert gpu.listing().count("**NOT RUN**") == len(gpu.steps()) + 1  # and once in the explanation
    done = [gpu.Done(first, 0, 1.0, "fine"), gpu.Done(second, 1, 1.0, "broken")]
    (tmp_path / "gpu-orin.md").write_text(gpu.page("orin", "an Orin", done))
    listed = gpu.listing().splitlines()
    row = {
        step.name: next(x for x in listed if x.startswith(f"| {step.name} |"))
        for step in (first, second)
    }
    assert "[orin](gpu-orin.md)" in row[first.name]
    assert "NOT RUN" in row[second.name]


def test_every_command_of_the_suite_is_one_that_exists() -> None:
    used: dict[tuple[str, str], set[str]] = {}
    for step in gpu.steps():
        program, verb, *words = step.command
        options = {word for word in words if word.startswith("--")}
        used.setdefault((program, verb), set()).update(options)
    for (program, verb), options in used.items():
        if program == "python":
            continue
        shown = subprocess.run(
            [str(gpu.BIN / program), verb, "--help"],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        )
        missing = [option for option in options if option not in shown.stdout]
        assert not missing, (program, verb, missing)


def test_without_a_device_it_says_so() -> None:
    if gpu.device():
        pytest.skip("this machine has an NVIDIA device")
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=gpu.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2 and ended.stderr.startswith("no NVIDIA device was found")
