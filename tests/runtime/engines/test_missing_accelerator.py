"""Without TensorRT or a GPU every command says one sentence: no stack trace, no crash of a library.

In processes of their own: TensorRT's runtime without a driver takes the whole process down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.engines import cuda, survey

ROOT = Path(__file__).resolve().parents[3]
POLICY = ROOT / "pretrained" / "policy-open_drawer"
ABSENT = "raise ModuleNotFoundError('not here')"
MACHINES = {
    # As found on `sys.path`: (tensorrt.py, tensorrt_rtx.py or None for the real one), what must be said.
    "nothing": ((ABSENT, ABSENT), "TensorRT is not installed"),
    "a stub": (("__version__ = '10.3.0'", ABSENT), "tensorrt is a stub"),
    "libraries that do not load": (
        ("raise OSError('libnvinfer.so.10: cannot open shared object file')", ABSENT),
        "libnvinfer.so.10",
    ),
    # Whole but without a driver: its Runtime would end the process with a segmentation fault.
    "a trap": (("from tensorrt_rtx import *; __version__ = '10.3.0'", None), "no NVIDIA driver"),
}
COMMANDS = {
    "start": (
        *("runtime.app", "start", "--package", str(POLICY)),
        *("--set", "policy.engine=tensorrt", "--set", "link.enabled=false"),
    ),
    "build": ("export.app", "build", str(POLICY)),
    "engine": ("benchmarks.app", "engine", str(POLICY), "--engine", "tensorrt"),
}

FORBID = """
import sys


class _Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "optimum", "onnx"}:
            raise ModuleNotFoundError(f"{name} is not on a robot", name=name)
        return None


sys.meta_path.insert(0, _Absent())
"""

pytestmark = pytest.mark.skipif(cuda.find() is not None, reason="there is a GPU")


def _run(folder: Path, machine: str, *command: str) -> subprocess.CompletedProcess[str]:
    (folder / "path").mkdir()
    for name, text in zip(("tensorrt", "tensorrt_rtx"), MACHINES[machine][0], strict=True):
        if text is not None:
            (folder / "path" / f"{name}.py").write_text(text)
    # A Jetson has neither torch nor ONNX: these commands must not ask for them.
    (folder / "path" / "sitecustomize.py").write_text(FORBID)
    path = f"{folder / 'path'}{os.pathsep}{ROOT}"
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("machine", "verb"),
    [
        *((machine, verb) for machine in MACHINES for verb in ("start", "build")),
        *(("nothing", "engine"), ("a trap", "engine")),
    ],
)
def test_one_sentence_that_offers_what_works(tmp_path: Path, machine: str, verb: str) -> None:
    if machine == "a trap":
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    found = _run(tmp_path, machine, *COMMANDS[verb])
    assert found.returncode == 2, found.stderr
    (line,) = found.stderr.strip().splitlines()
    assert MACHINES[machine][1] in line and "choose engine onnxruntime" in line
    assert found.stdout == ""
    assert not (tmp_path / "run").exists(), "a run folder was made before the check"


def test_the_doctor_names_everything_and_exits_with_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "head-0.plan").touch()
    settings = ("--set", f"policy.package={POLICY}", "--json")
    settings += ("--set", f"policy.cache={tmp_path / 'plans'}", "--set", "reward.cache=/nothere")
    found = _run(tmp_path, "a stub", "runtime.app", "doctor", *settings)
    assert found.returncode == 0, found.stderr
    lines = {line["what"]: line for line in json.loads(found.stdout)}
    assert "stub" in lines["tensorrt"]["found"] and lines["tensorrt"]["status"] == "ok"
    assert "no NVIDIA driver" in lines["cuda"]["found"]
    assert "CPUExecutionProvider" in lines["onnxruntime"]["found"]
    assert lines["jetpack"]["found"] == survey.jetpack()
    assert {"numpy", "opencv"} <= lines.keys()
    assert lines["plans"]["found"] == f"1 in {tmp_path / 'plans'}; 0 in /nothere"
    assert "1 thread, spinning off: provider cpu is configured" in lines["policy engine"]["found"]
    (tmp_path / "path" / "tensorrt.py").unlink()
    found = subprocess.run(
        [
            *(sys.executable, "-m", "runtime.app", "doctor", *settings),
            *("--set", "policy.engine=tensorrt", "--set", "reward.provider=cuda"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 1 and found.stderr == ""
    lines = {line["what"]: line for line in json.loads(found.stdout)}
    assert lines["policy engine"]["status"] == lines["reward engine"]["status"] == "fail"
    assert "choose engine onnxruntime" in lines["policy engine"]["found"]
    assert "choose provider cpu" in lines["reward engine"]["found"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
            "L4T 36.4.3 (JetPack 6)",
        ),
        ("# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic\n", "L4T 38.2.0 (JetPack 7)"),
        ("garbage", "can't be read"),
        (None, "no Jetson"),
    ],
)
def test_the_boards_release_is_read(tmp_path: Path, text: str | None, found: str) -> None:
    path = tmp_path / "nv_tegra_release"
    if text is not None:
        path.write_text(text)
    assert found in survey.jetpack(path)
