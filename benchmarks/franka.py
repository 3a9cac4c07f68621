"""Hand-eye calibration of a recorded Franka arm with RealSense cameras, beside OpenCV's solvers.

    python -m benchmarks.franka ../shared/data/handeye_franka_realsense --output run/franka

The recording (facebookresearch/fairo, perception/sandbox/eyehandcal/tests, MIT) holds poses of the arm and
pictures of one 5 cm marker: of a camera on the wrist (`wrist`), and of three in the world that see it on the
hand (`world`). It becomes a capture as `robot-calibrate capture` writes one, for `robot-calibrate handeye`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from calibration import shots
from calibration.app import app
from calibration.boards import Board
from calibration.handeye.closed_form import METHODS
from calibration.lenses import Lens
from calibration.shots import Shot, ShotCamera, Shots
from contracts.calibration import Mount

RIGS: dict[str, tuple[int, Mount]] = {"wrist": (1, "hand"), "world": (0, "world")}
"""Folder of the recording -> number of the marker, where the cameras are."""

WHAT = {
    "px": "median px, the arm's error estimated",
    "stated": "median px, the arm at its word",
    "held_out": "held out, median px (mm, deg)",
    "interval": "95 % interval, largest axis, mm (deg)",
}


def capture_of(source: Path, folder: Path, marker: int, mount: Mount) -> None:
    """Write `folder`, which is not there yet: the recording's pictures and `shots.json`."""
    shutil.copytree(source, folder)
    folder.chmod(0o755)
    found = json.loads((folder / "samples.json").read_text())
    cameras = {
        f"cam{index}": ShotCamera(
            mount=mount,
            lens=Lens(
                width=one["width"],
                height=one["height"],
                fx=one["fx"],
                fy=one["fy"],
                cx=one["ppx"],
                cy=one["ppy"],
                model=one["model"],
                distortion=tuple(one["coeffs"]),
            ),
            board=Board(kind="marker", marker_id=marker, marker_m=0.05),
        )
        for index, one in enumerate(found["intrinsics"])
    }
    taken = [
        Shot(
            name=f"{number:02d}",
            position_m=tuple(one["position_m"]),
            quaternion_xyzw=tuple(one["quaternion_xyzw"]),
            pictures={f"cam{index}": file for index, file in enumerate(one["images"])},
        )
        for number, one in enumerate(found["samples"])
    ]
    shots.write(folder, Shots(version=1, cameras=cameras, shots=tuple(taken)))


def solved(folder: Path, report: Path | None = None) -> dict[str, Any]:
    """What `robot-calibrate handeye --json` says of that capture. Raises `RuntimeError` where it fails."""
    page = ["--report", str(report)] if report else []
    said = CliRunner().invoke(app, ["handeye", str(folder), "--bootstrap", "0", "--json", *page])
    if said.exit_code:
        raise RuntimeError(
            f"robot-calibrate handeye {folder} ended with {said.exit_code}: {said.output}"
        )
    result: dict[str, Any] = json.loads(said.stdout)
    return result


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: a line for each camera; a solver's px are those of its answer with the arm at its word."""
    heads = ["camera", *WHAT.values(), *METHODS]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for rig, result in results.items():
        for name, camera in result["cameras"].items():
            q = camera["quality"]
            held = {of: missed["median"] for of, missed in q["held_out"].items()}
            cells = [
                f"{rig} {name}",
                f"{q['corner_px']['median']:.2f}",
                f"{q['reprojection_px']['median']:.2f}",
                f"{held['pixels']:.2f} ({held['mm']:.1f}, {held['degrees']:.1f})",
                f"{max(q['interval_mm']):.1f} ({max(q['interval_deg']):.2f})",
                *(_solver(q["solvers"][method]) for method in METHODS),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _solver(found: dict[str, Any]) -> str:
    return found["refused"] or f"{found['pixels']:.1f} px"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recording", type=Path, help="folder with wrist/ and world/")
    parser.add_argument("--output", type=Path, default=Path("run/franka"), help="a new folder")
    asked = parser.parse_args()
    missing = [rig for rig in RIGS if not (asked.recording / rig / "samples.json").is_file()]
    if missing or asked.output.exists():
        what = (
            f"no {missing[0]}/samples.json in {asked.recording}"
            if missing
            else f"{asked.output} is there already"
        )
        print(f"franka: {what}; name the recording's folder and a new --output", file=sys.stderr)
        return 2
    results = {}
    for rig, (marker, mount) in RIGS.items():
        capture_of(asked.recording / rig, asked.output / rig, marker, mount)
        results[rig] = solved(asked.output / rig, asked.output / f"{rig}.html")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
