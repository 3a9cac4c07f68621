"""`robot-export` and what a user must mend: one sentence before any work, and exit code 2, not that of a
check that failed."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec
import pytest

from contracts.errors import EntracteError
from contracts.files.packages import load_package, write_package
from export.app import main
from export.parity.bench import Contender, closed_loop
from export.parity.torch_side import reference

PRETRAINED = Path(__file__).parents[2] / "pretrained"
POLICY, REWARD = PRETRAINED / "policy-open_drawer", PRETRAINED / "reward-zero-shot"


def ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str]:
    """Exit code and last line of standard error of `robot-export WORDS`."""
    monkeypatch.setattr("sys.argv", ["robot-export", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    lines = capsys.readouterr().err.strip().splitlines()
    return int(left.value.code or 0), lines[-1] if lines else ""


def test_two_is_for_what_a_user_must_mend_and_one_for_a_check_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = load_package(REWARD)
    golden = {
        name: [
            type(case)(case.inputs, {key: value + 1.0 for key, value in case.outputs.items()})
            for case in cases
        ]
        for name, cases in package.golden.items()
    }
    write_package(tmp_path / "odd", package.manifest, package.graphs, package.weights, golden)
    code, said = ended(monkeypatch, capsys, "check", tmp_path / "odd")
    assert code == 1 and "differs from golden vectors" in said
    code, said = ended(monkeypatch, capsys, "check", tmp_path / "nothere")
    assert code == 2 and "no model package at" in said
    assert ended(monkeypatch, capsys, "check", REWARD, "--engine", "nothere")[0] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--against", str(POLICY)), "--against: expected --bench TASK beside it, found none"),
        (("--bench", "no_such_task", "--against", str(POLICY)), "no task is named 'no_such_task'"),
        (("--bench", "open_drawer", "--against", "nothere"), "no model package at nothere"),
        (
            ("--bench", "open_drawer", "--against", str(POLICY), "--episodes", "6"),
            "so few episodes say nothing of success",
        ),
    ],
)
def test_what_a_check_on_the_bench_lacks_is_said_before_anything_is_compared(
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Its graphs are missing: whoever compares first finds that.
    (tmp_path / "package").mkdir()
    shutil.copy(POLICY / "manifest.json", tmp_path / "package")
    code, line = ended(monkeypatch, capsys, "check", tmp_path / "package", *words)
    assert code == 2 and said in line and "robot-run" not in line


def test_quantising_finds_a_wrong_task_before_its_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("quantize", POLICY, tmp_path / "x", "--precision", "fp16", "--calibration", "nothere")
    code, said = ended(monkeypatch, capsys, *words, "--bench", "no_such_task")
    assert code == 2 and "no task is named 'no_such_task'; there are " in said
    code, said = ended(monkeypatch, capsys, *words)
    assert code == 2
    assert "nothere is no calibration set: expected a folder with card.json" in said
    (tmp_path / "README.md").write_text("x")
    words = (*words[:-1], tmp_path / "README.md")
    assert "found a file; draw it again" in ended(monkeypatch, capsys, *words)[1]


def test_a_build_names_the_package_before_the_gpu_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ended(monkeypatch, capsys, "build", "nothere")
    assert code == 2 and "no model package at nothere" in said
    code, said = ended(monkeypatch, capsys, "build", POLICY, "--cache", "/proc/nothere")
    assert code == 2 and "/proc/nothere can't be written" in said


@pytest.mark.parametrize(
    ("verb", "source", "said"),
    [
        ("reward", "nothere", "expected a folder with edge.json, edge.safetensors"),
        ("reward", str(REWARD), "found a model package, which was exported already; use it as it"),
        ("encoder", "nothere", "expected a folder with config.json, of one of clip, siglip"),
    ],
)
def test_a_source_that_is_none_says_what_one_is(
    verb: str,
    source: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--text", "a", "--pictures", "nothere") if verb == "encoder" else ()
    code, line = ended(monkeypatch, capsys, verb, source, tmp_path / "new", *words)
    assert code == 2 and said in line and "Errno" not in line


def test_a_bench_that_fails_is_named_once() -> None:
    nowhere = Contender(POLICY, "onnxruntime", overrides=("nothing.there=1",))
    with pytest.raises(EntracteError, match=r"the bench with .* failed: found") as said:
        closed_loop(nowhere, nowhere, "open_drawer", 20)
    assert "robot-run" not in str(said.value)


def test_what_has_no_torch_reference_is_not_told_that_torch_is_missing() -> None:
    package = load_package(REWARD)
    encoder = msgspec.structs.replace(package.manifest, architecture="clip")
    sources, why = reference(dataclasses.replace(package, manifest=encoder))
    assert not sources and "no torch reference for the architecture 'clip'" in why
    assert "installed" not in why
