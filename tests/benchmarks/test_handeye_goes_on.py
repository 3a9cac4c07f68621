"""The hand-eye benchmark goes on where it was killed, and takes no corners of other options for its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import handeye
from benchmarks.board_scene import Spoils
from contracts.errors import ConfigError


def test_a_second_call_goes_on_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handeye, "COUNTS", (4, 6))
    folder, options = tmp_path / "run", handeye.Options()
    killed = handeye.measure(folder, 2, options)
    first = next(killed)
    killed.close()
    corners = sorted(path.name for path in folder.glob("*.npz"))
    assert corners == ["0000-hand-wide.npz"] and first["count"] == 4
    made_s = (folder / corners[0]).stat().st_mtime_ns

    rows = list(handeye.measure(folder, 2, options))
    assert rows[0] == first
    assert (folder / corners[0]).stat().st_mtime_ns == made_s
    assert [(r["setup"], r["mount"], r["spread"], r["count"]) for r in rows] == [
        (number, mount, spread, count)
        for number, mount in enumerate(("hand", "world"))
        for spread in ("wide", "narrow")
        for count in (4, 6)
    ]

    # What is there is not found again, unless by other code than found it.
    monkeypatch.setattr(handeye, "one", lambda *_: {"ours": (0.0, 0.0)})
    assert list(handeye.measure(folder, 2, options)) == rows
    monkeypatch.setattr(handeye, "ESTIMATORS", "others")
    assert all(row["ours"] == [0.0, 0.0] for row in handeye.measure(folder, 1, options))

    for other in (handeye.Options(arm_mm=2.0), handeye.Options(spoils=Spoils(noise=5.0))):
        with pytest.raises(ConfigError, match="rendered with other options"):
            next(handeye.measure(folder, 2, other))
    (folder / handeye.OPTIONS_FILE).unlink()
    with pytest.raises(ConfigError, match="found not known"):
        next(handeye.measure(folder, 2, options))


def test_what_found_the_errors_is_what_this_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kept in ("calibration/handeye", "calibration/rigid.py", "benchmarks/handeye.py"):
        source, copy = handeye.ROOT / kept, tmp_path / kept
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    assert handeye.estimators(tmp_path) == handeye.estimators()
    with (tmp_path / "calibration/rigid.py").open("a") as file:
        file.write("# mended\n")
    assert handeye.estimators(tmp_path) != handeye.estimators()
    # Of the libraries too; and files that change under a process change nothing of what it runs.
    for library in (handeye.cv2, handeye.np, handeye.scipy):
        with monkeypatch.context() as other:
            other.setattr(library, "__version__", "0.0")
            assert handeye.estimators() != handeye.ESTIMATORS
    monkeypatch.setattr(handeye, "estimators", lambda: pytest.fail("asked again"))
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / f"0000-hand-wide-{handeye.ESTIMATORS}.json").write_text('[{"kept": 1}]')
    scene: Any = None  # nothing is rendered
    assert handeye.errors_of(tmp_path / "kept", 0, "wide", scene, handeye.Options()) == [
        {"kept": 1}
    ]
