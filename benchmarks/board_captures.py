"""Captures with a known answer: rendered pictures, the poses that an inexact arm says, and the truth.

    python -m benchmarks.board_captures --output captures --setups 3 --mount hand --spread narrow --stands 15
    robot-calibrate handeye captures/000

Each is a folder as `robot-calibrate capture` writes it, of the same random set-ups as `benchmarks.handeye`
solves, with truth.json: `carrier_T_camera`, `far_T_board` and each stand's true `base_T_hand`, in metres.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from benchmarks.board_scene import BoardScene
from benchmarks.handeye import (
    BOARD,
    LENS,
    MOUNTS,
    SPREADS,
    Options,
    add_options,
    looks,
    options_of,
    seeds_of,
    truth_of,
)
from calibration import rigid, shots
from calibration.shots import Shot, ShotCamera, Shots
from contracts.calibration import Mount
from contracts.errors import EntracteError
from contracts.files import atomic, outputs

TRUTH = "truth.json"


def write(
    folder: Path,
    scene: BoardScene,
    number: int,
    mount: Mount,
    spread: str,
    stands: int,
    options: Options,
) -> None:
    """Set-up `number` as a capture in `folder`. Raises `ConfigError` for a folder with something in it."""
    outputs.require_folder(folder, "a capture")
    atomic.make_directory(folder)
    seed, seed_of_stands = seeds_of(number, mount, spread)
    truth = truth_of(np.random.default_rng(seed))
    taken, true = list[Shot](), dict[str, list[list[float]]]()
    seen = looks(scene, truth, mount, SPREADS[spread], options, seed_of_stands)
    for look in islice(seen, stands):
        name = f"{len(taken):03d}"
        done, picture = cv2.imencode(".png", look.picture)
        assert done
        atomic.write_bytes(folder / f"{name}-camera.png", picture.tobytes())
        x, y, z = look.said[:3, 3].tolist()
        turn = rigid.to_quaternion(look.said[:3, :3])
        files = {"camera": f"{name}-camera.png"}
        taken.append(Shot(name=name, position_m=(x, y, z), quaternion_xyzw=turn, pictures=files))
        true[name] = look.base_T_hand.tolist()
    answer = {
        "carrier_T_camera": truth.camera.tolist(),
        "far_T_board": truth.board.tolist(),
        "base_T_hand": true,
        "options": asdict(options),
    }
    atomic.write_bytes(folder / TRUTH, json.dumps(answer, indent=1).encode())
    camera = ShotCamera(mount=mount, lens=LENS, board=BOARD)
    shots.write(
        folder,
        Shots(
            version=shots.VERSION, cameras={"camera": camera}, shots=tuple(taken), arm="rendered"
        ),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="a folder for each set-up there")
    parser.add_argument("--setups", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first set-up")
    parser.add_argument("--mount", choices=MOUNTS, default=MOUNTS[0])
    parser.add_argument("--spread", choices=[*SPREADS], default="wide")
    parser.add_argument("--stands", type=int, default=15)
    add_options(parser)
    asked = parser.parse_args(arguments)
    try:
        options = options_of(asked)
        scene = BoardScene(BOARD, LENS, options.spoils)
        try:
            for number in range(asked.first, asked.first + asked.setups):
                folder = asked.output / f"{number:03d}"
                write(folder, scene, number, asked.mount, asked.spread, asked.stands, options)
                print(f"{folder}: {asked.stands} stands, the truth in {TRUTH}", flush=True)
        finally:
            scene.close()
    except EntracteError as error:
        print(f"board_captures: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
