"""Hand-eye calibration against exact truth: rendered boards, random set-ups, an arm that misreports its pose.

    python -m benchmarks.handeye --folder run/handeye --setups 200 --output docs/results/handeye

Every set-up is rendered once (40 stands for each spread; fewer stands are the first of them). Its corners and
errors are kept in the folder, so that a second call goes on where one was killed, and another estimator is
tried on the same corners. Ours is compared with each of OpenCV's solvers on the same corners.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import scipy

from benchmarks import machine
from benchmarks.board_scene import BoardScene, Spoils, render_lens
from calibration import rigid
from calibration.boards import Board, Corners, Finder
from calibration.handeye.closed_form import METHODS, guesses
from calibration.handeye.estimate import estimate
from calibration.handeye.samples import HandEyeError, Sample, View, make_setup
from calibration.rigid import Array
from contracts.calibration import Mount
from contracts.errors import ConfigError
from contracts.files.atomic import write_bytes

COUNTS = (6, 10, 15, 40)
MOUNTS: tuple[Mount, Mount] = ("hand", "world")
FAILED = (1000.0, 180.0)
"""mm and degrees, for a solver without an answer."""
BOARD = Board()
LENS = render_lens()
OPTIONS_FILE = "options.json"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Spread:
    """How the stands differ: tilt and roll of the board (degrees), distance (metres), where in the picture
    (share of the way to its edge)."""

    tilt_deg: float
    roll_deg: float
    near_m: float
    far_m: float
    aside: float


SPREADS = {
    "wide": Spread(40.0, 60.0, 0.30, 0.55, 0.8),
    "narrow": Spread(10.0, 15.0, 0.38, 0.46, 0.4),
}


@dataclass(frozen=True)
class Truth:
    """carrier_T_camera and far_T_board."""

    camera: Array
    board: Array


def truth_of(random: np.random.Generator) -> Truth:
    turns, shifts = random.normal(size=(2, 3)), random.normal(size=(2, 3))
    return Truth(
        rigid.transform(rigid.rotation_of(0.5 * turns[0]), 0.05 * shifts[0]),
        rigid.transform(rigid.rotation_of(turns[1]), [0.5, 0, 0] + 0.1 * shifts[1]),
    )


def view_of(random: np.random.Generator, spread: Spread) -> Array:
    """camera_T_board: its middle somewhere in the picture, tilted about a random axis, rolled."""
    tilt = np.radians(spread.tilt_deg) * np.sqrt(random.uniform())
    angle = random.uniform(0, 2 * np.pi)
    tilted = rigid.rotation_of([tilt * np.cos(angle), tilt * np.sin(angle), 0.0])
    rolled = rigid.rotation_of(
        [0, 0, np.radians(random.uniform(-spread.roll_deg, spread.roll_deg))]
    )
    depth = random.uniform(spread.near_m, spread.far_m)
    half = np.array([LENS.width / LENS.fx, LENS.height / LENS.fy]) / 2 * depth
    room = np.maximum(half - np.array(BOARD.size_m) / 2, 0.0)
    place = [*(random.uniform(-1, 1, 2) * room * spread.aside), depth]
    middle = np.array([*BOARD.size_m, 0.0]) / 2
    return rigid.transform(tilted @ rolled, place) @ rigid.transform(np.eye(3), -middle)


@dataclass(frozen=True)
class Look:
    """One stand: the picture uint8[H,W] and its corners, base_T_hand as it is and as the arm says."""

    picture: npt.NDArray[np.uint8]
    corners: Corners
    base_T_hand: Array
    said: Array


def looks(
    scene: BoardScene, truth: Truth, mount: Mount, spread: Spread, options: Options, seed: list[int]
) -> Iterator[Look]:
    """One random stand after the other, each with at least half of the corners seen; without end."""
    random, finder = np.random.default_rng(seed), Finder(BOARD)
    fewest = len(BOARD.points()) // 2
    while True:
        seen = view_of(random, spread)
        picture = scene.picture(seen, random)
        corners = finder.find(picture)
        if corners is None or len(corners.numbers) < fewest:
            continue
        link = truth.camera @ seen @ rigid.invert(truth.board)
        pose = rigid.invert(link) if mount == "hand" else link
        deviations = np.repeat([np.radians(options.arm_deg), options.arm_mm / 1e3], 3)
        said = rigid.moved(pose, -random.normal(size=6) * deviations)
        yield Look(picture, corners, pose, said)


def stands(
    scene: BoardScene, truth: Truth, mount: Mount, spread: Spread, options: Options, seed: list[int]
) -> list[Sample]:
    """`COUNTS[-1]` of them."""
    points, found = BOARD.points(), list[Sample]()
    for look in islice(looks(scene, truth, mount, spread, options, seed), COUNTS[-1]):
        corners = look.corners
        view = View(points[corners.numbers], LENS.straighten(corners.pixels))
        found.append(Sample(f"{len(found):02d}", look.said, {"camera": view}))
    return found


@dataclass(frozen=True)
class Options:
    """The arm's error per axis, and what spoils the pictures."""

    arm_mm: float = 1.0
    arm_deg: float = 0.2
    spoils: Spoils = field(default_factory=Spoils)


def seeds_of(number: int, mount: Mount, spread: str) -> tuple[list[int], list[int]]:
    """Of one set-up: its truth's, and its stands'."""
    seed = [number, MOUNTS.index(mount), sorted(SPREADS).index(spread)]
    return seed, [*seed, 1]


def corners_of(
    folder: Path, number: int, mount: Mount, spread: str, scene: BoardScene, options: Options
) -> tuple[Truth, list[Sample]]:
    """From the folder, or rendered and put there."""
    seed, seed_of_stands = seeds_of(number, mount, spread)
    truth = truth_of(np.random.default_rng(seed))
    path = folder / f"{number:04d}-{mount}-{spread}.npz"
    if not path.exists():
        samples = stands(scene, truth, mount, SPREADS[spread], options, seed_of_stands)
        arrays: dict[str, Any] = {}
        for sample in samples:
            view = sample.views["camera"]
            arrays |= {
                f"{sample.name}.pose": sample.base_T_hand,
                f"{sample.name}.points": view.points_m,
                f"{sample.name}.pixels": view.pixels,
            }
        draft = path.with_suffix(".draft.npz")
        np.savez_compressed(draft, **arrays)
        draft.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        names = sorted(name.split(".")[0] for name in arrays if name.endswith(".pose"))
        return truth, [
            Sample(
                n,
                arrays[f"{n}.pose"],
                {"camera": View(arrays[f"{n}.points"], arrays[f"{n}.pixels"])},
            )
            for n in names
        ]


def one(truth: Truth, mount: Mount, samples: list[Sample]) -> dict[str, Any]:
    """Errors (mm, degrees) of ours and of each solver, and which of our six intervals hold the truth; ours
    also per axis of the camera (`off`: radians, then metres) beside its standard `deviations`."""
    camera = LENS.pinhole("camera", mount)
    setup = make_setup([camera], samples)
    row: dict[str, Any] = {"solvers": {}}
    for guess in guesses(setup, camera):
        row["solvers"][guess.method] = (
            FAILED if guess.refused else _errors(guess.carrier_T_camera, truth.camera)
        )
    try:
        found = estimate(setup)
    except (HandEyeError, np.linalg.LinAlgError) as error:
        return row | {"ours": FAILED, "inside": [False] * 6, "failed": str(error)}
    pose = found.poses.cameras["camera"]
    off = np.r_[
        rigid.turn_of(pose[:3, :3].T @ truth.camera[:3, :3]),
        pose[:3, :3].T @ (truth.camera[:3, 3] - pose[:3, 3]),
    ]
    row["ours"] = _errors(pose, truth.camera)
    row["inside"] = (np.abs(off) <= found.interval("camera", "camera")).tolist()
    row["off"], row["deviations"] = off.tolist(), found.deviations("camera", "camera").tolist()
    row["freedom"] = found.freedom
    row["left_out"] = len(found.left_out)
    row["noise"] = [found.noise.pixels, np.degrees(found.noise.turn_rad), 1e3 * found.noise.shift_m]
    return row


def _errors(pose: Array, truth: Array) -> tuple[float, float]:
    return rigid.distance_mm(pose, truth), rigid.angle_deg(pose, truth)


def estimators(root: Path = ROOT) -> str:
    """Of the code that finds errors from corners, and the libraries that it computes with: what it found
    before is not what another would find."""
    files = sorted((root / "calibration" / "handeye").glob("*.py"))
    files += [root / "calibration" / "rigid.py", root / "benchmarks" / "handeye.py"]
    versions = [f"{one.__name__} {one.__version__}\n".encode() for one in (cv2, np, scipy)]
    return hashlib.sha256(b"".join([*versions, *(f.read_bytes() for f in files)])).hexdigest()[:12]


ESTIMATORS = estimators()
"""Of the modules that this process runs: files that change while it runs are not what finds its errors."""


def require_options(folder: Path, options: Options) -> None:
    """Raise `ConfigError` for a folder whose corners were rendered with others."""
    path, wanted = folder / OPTIONS_FILE, asdict(options)
    if not path.exists() and not any(folder.glob("*.npz")):
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(wanted).encode())
    found = json.loads(path.read_text()) if path.exists() else "not known"
    if found != wanted:
        raise ConfigError(
            f"the corners in {folder} were rendered with other options",
            expected=wanted,
            found=found,
            remedy="give the options that they were rendered with, or another --folder",
        )


def errors_of(
    folder: Path, number: int, spread: str, scene: BoardScene, options: Options
) -> list[dict[str, Any]]:
    """A row for each number of stands, from the folder or found and put there; mounts take turns."""
    mount = MOUNTS[number % 2]
    path = folder / f"{number:04d}-{mount}-{spread}-{ESTIMATORS}.json"
    if not path.exists():
        truth, samples = corners_of(folder, number, mount, spread, scene, options)
        rows = [
            {"setup": number, "mount": mount, "spread": spread, "count": count}
            | one(truth, mount, samples[:count])
            for count in COUNTS
        ]
        write_bytes(path, json.dumps(rows).encode())
    kept: list[dict[str, Any]] = json.loads(path.read_bytes())
    return kept


def measure(folder: Path, setups: int, options: Options) -> Generator[dict[str, Any], None, None]:
    """A row for each set-up, spread and number of stands. Raises `ConfigError` for another's folder."""
    require_options(folder, options)
    scene = BoardScene(BOARD, LENS, options.spoils)
    try:
        for number in range(setups):
            for spread in SPREADS:
                yield from errors_of(folder, number, spread, scene, options)
    finally:
        scene.close()


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: per cell ours, the best solver, and the share of intervals that hold the truth."""
    lines = [
        "| spread | stands | ours mm (median / p95) | best OpenCV mm | ratio | ours deg | best OpenCV deg "
        "| ratio | 95 % intervals that hold the truth |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for spread in SPREADS:
        for count in COUNTS:
            cell = [r for r in rows if r["spread"] == spread and r["count"] == count]
            if cell:
                lines.append(_line(spread, count, cell))
    lines += ["", "Every solver, median mm and degrees (p95):", ""]
    lines += [
        "| spread | stands | " + " | ".join(METHODS) + " |",
        "|---" * (2 + len(METHODS)) + "|",
    ]
    for spread in SPREADS:
        for count in COUNTS:
            cell = [r for r in rows if r["spread"] == spread and r["count"] == count]
            if cell:
                said = [_words([r["solvers"][method] for r in cell]) for method in METHODS]
                lines.append(f"| {spread} | {count} | " + " | ".join(said) + " |")
    return "\n".join(lines)


def _line(spread: str, count: int, cell: list[dict[str, Any]]) -> str:
    ours = np.array([r["ours"] for r in cell])
    solvers = {m: np.median([r["solvers"][m] for r in cell], axis=0) for m in METHODS}
    said = [f"| {spread} | {count}"]
    for axis in (0, 1):
        best = min(solvers, key=lambda method: solvers[method][axis])
        theirs = np.array([r["solvers"][best][axis] for r in cell])
        mine, least = float(np.median(ours[:, axis])), float(np.median(theirs))
        said += [
            f"{mine:.2f} / {np.quantile(ours[:, axis], 0.95):.2f}",
            f"{least:.2f} / {np.quantile(theirs, 0.95):.2f} ({best})",
            f"{mine / least:.2f}",
        ]
    said.append(f"{100 * float(np.mean([r['inside'] for r in cell])):.1f} %")
    return " | ".join(said) + " |"


def _words(errors: list[tuple[float, float]]) -> str:
    mm, degrees = np.median(errors, axis=0)
    wide_mm, wide_deg = np.quantile(errors, 0.95, axis=0)
    return f"{mm:.1f}, {degrees:.2f} ({wide_mm:.0f}, {wide_deg:.1f})"


def _told(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of them; of each set-up and spread one line meanwhile."""
    found = []
    for row in rows:
        found.append(row)
        if row["count"] == COUNTS[-1]:
            said = f"{row['setup']} {row['spread']}: {row['ours'][0]:.2f} mm"
            print(said, file=sys.stderr, flush=True)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """What spoils the arm's poses and the pictures."""
    for name, usual, words in (
        ("--arm-mm", 1.0, "how inexact the arm is, per axis"),
        ("--arm-deg", 0.2, "how inexact the arm is, per axis"),
        ("--noise", 2.0, "grey levels"),
        ("--bow-mm", 0.0, "how far the board's middle stands out"),
        ("--shutter-ms", 0.0, "from the first row to the last"),
        ("--speed-mm-s", 0.0, "of the hand meanwhile"),
        ("--speed-deg-s", 0.0, "of the hand meanwhile"),
    ):
        parser.add_argument(name, type=float, default=usual, help=words)


def options_of(asked: argparse.Namespace) -> Options:
    """Raises `ConfigError`."""
    if bool(asked.shutter_ms) != bool(asked.speed_mm_s or asked.speed_deg_s):
        raise ConfigError(
            "a rolling shutter shows only in a camera that moves",
            expected="--shutter-ms with --speed-mm-s or --speed-deg-s",
            found="one without the other",
        )
    spoils = Spoils(
        asked.noise,
        asked.bow_mm / 1e3,
        asked.shutter_ms / 1e3,
        asked.speed_mm_s / 1e3,
        float(np.radians(asked.speed_deg_s)),
    )
    return Options(asked.arm_mm, asked.arm_deg, spoils)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("run/handeye"))
    parser.add_argument("--setups", type=int, default=200)
    add_options(parser)
    parser.add_argument("--output", type=Path, help="folder for table.md and rows.json")
    asked = parser.parse_args()
    try:
        options = options_of(asked)
        rows = _told(measure(asked.folder, asked.setups, options))
    except ConfigError as error:
        print(f"handeye: {error}", file=sys.stderr)
        return 2
    said = table(rows)
    print(said)
    if asked.output:
        asked.output.mkdir(parents=True, exist_ok=True)
        write_bytes(asked.output / "table.md", said.encode() + b"\n")
        found = {"machine": machine.machine(), "options": asdict(options), "rows": rows}
        write_bytes(asked.output / "rows.json", json.dumps(found).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
