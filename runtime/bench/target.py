"""A printed ChArUco board on the bench, to calibrate its cameras with: on a cleared table, or at the hand.

Owns what `bench.options.board` means, and the board as MJCF. Its frame is OpenCV's: origin at the print's
upper left corner, x to the right, y down, z into the paper. It is seen and touches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import cv2
import msgspec
import numpy as np

from runtime.bench.goals import Reading
from runtime.bench.scene import Draft, Goal
from runtime.bench.skills import Skills
from runtime.bench.tasks import TaskSpec

_MIDDLE_M = {"table": (0.190, 0.0, 0.004), "hand": (0.030, -0.065, 0.0)}
_AXES = {"table": ((0, -1, 0), (-1, 0, 0)), "hand": ((1, 0, 0), (0, 0, -1))}
"""The board's x and y. On the table it lies face up, its upper edge away from the arm; at the hand (in the
gripper's frame) it faces to the arm's right, where the front camera stands."""
_QUIET_M = 0.012
"""White paper around the print."""
_BEHIND_MM, _THICK_MM = 0.2, 3.0
"""The paper behind the print, so that a depth buffer tells them apart, and the back of the plate."""
_MOST_SQUARES = 12


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`at`: "table" for cameras on the hand, "hand" for those beside the arm. The rest as board.json of
    `robot-calibrate board` names it."""

    at: Literal["table", "hand"] = "table"
    columns: int = 7
    rows: int = 5
    square_m: float = 0.024
    marker_m: float = 0.018
    dictionary: str = "DICT_4X4_50"
    legacy: bool = False

    @property
    def parent_T_board(self) -> np.ndarray:
        """float64[4, 4]: in the world (`at` table), or in the gripper's frame."""
        x, y = (np.array(axis, float) for axis in _AXES[self.at])
        pose = np.eye(4)
        pose[:3, :3] = np.stack([x, y, np.cross(x, y)], axis=1)
        middle = np.array([self.columns, self.rows]) * self.square_m / 2
        pose[:3, 3] = np.array(_MIDDLE_M[self.at]) - pose[:3, :2] @ middle
        return pose

    def assets_xml(self) -> str:
        """What is black, and the paper, as meshes in millimetres."""
        wide, high = 1e3 * self.columns * self.square_m, 1e3 * self.rows * self.square_m
        edge = 1e3 * _QUIET_M
        paper = (-edge, -edge, wide + edge, high + edge)
        return (
            f"{_mesh('board_print', _black_mm(self))}"
            f"{_mesh('board_paper', [paper], _BEHIND_MM, _THICK_MM)}"
        )

    def geoms_xml(self) -> str:
        """For the body that carries it."""
        pose = self.parent_T_board
        axes = " ".join(f"{v:g}" for v in (*pose[:3, 0], *pose[:3, 1]))
        place = f'pos="{" ".join(f"{v:.6f}" for v in pose[:3, 3])}" xyaxes="{axes}"'
        ghost = 'type="mesh" contype="0" conaffinity="0" mass="0"'
        return (
            f'<geom name="board_paper" mesh="board_paper" {place} {ghost} rgba="0.95 0.95 0.95 1"/>'
            f'<geom name="board_print" mesh="board_print" {place} {ghost} rgba="0.04 0.04 0.04 1"/>'
        )


def parse(options: Mapping[str, Any] | None) -> Target | None:
    """Of `bench.options.board`. Raises ValueError for what is no board."""
    if options is None:
        return None
    try:
        found = msgspec.convert(dict(options), Target)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise ValueError(f"bench.options.board: {error}") from error
    known = found.dictionary.startswith("DICT_") and hasattr(cv2.aruco, found.dictionary)
    sensible = 3 <= found.columns <= _MOST_SQUARES and 3 <= found.rows <= _MOST_SQUARES
    if not (known and sensible and 0 < found.marker_m < found.square_m <= 0.1):
        raise ValueError(
            "bench.options.board: expected 3 to 12 columns and rows, a square_m of 0.1 at most with the "
            f"smaller marker_m in it, and an ArUco dictionary, found {options}"
        )
    return found


def _black_mm(target: Target) -> list[tuple[float, float, float, float]]:
    """Rectangles (left, top, right, bottom) of the print, millimetres: as OpenCV itself draws the board."""
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, target.dictionary))
    size = (target.columns, target.rows)
    board = cv2.aruco.CharucoBoard(size, target.square_m, target.marker_m, dictionary)
    board.setLegacyPattern(target.legacy)
    side, marker = 1e3 * target.square_m, 1e3 * target.marker_m
    # Asked of the picture, near each square's corner, where no marker is: legacy patterns differ.
    cell = 60
    picture = board.generateImage((target.columns * cell, target.rows * cell))
    near = max(1, round(cell * (1 - marker / side) / 4))
    found = []
    for row in range(target.rows):
        for column in range(target.columns):
            if picture[row * cell + near, column * cell + near] < 128:
                left, top = column * side, row * side
                found.append((left, top, left + side, top + side))
    cells = dictionary.markerSize + 2
    step = marker / cells
    for corners, number in zip(board.getObjPoints(), np.ravel(board.getIds()), strict=True):
        left, top = (1e3 * float(v) for v in np.reshape(corners, (-1, 3))[:, :2].min(axis=0))
        bits = cv2.aruco.generateImageMarker(dictionary, int(number), cells)
        for row, line in enumerate(np.asarray(bits) < 128):
            for begin, end in _runs(line):
                y = top + row * step
                found.append((left + begin * step, y, left + end * step, y + step))
    return found


def _runs(line: np.ndarray) -> Iterator[tuple[int, int]]:
    """(begin, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.r_[False, line, False].astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _mesh(
    name: str,
    rectangles: list[tuple[float, float, float, float]],
    front_mm: float = 0.0,
    back_mm: float | None = None,
) -> str:
    """Rectangles that face the viewer at z = `front_mm`, and with `back_mm` others that face away there."""
    corners: list[str] = []
    faces: list[str] = []
    for z, turned in ((front_mm, False), (back_mm, True)):
        if z is None:
            continue
        for left, top, right, bottom in rectangles:
            at = len(corners)
            square = ((left, top), (right, top), (right, bottom), (left, bottom))
            corners += [f"{round(x, 3):g} {round(y, 3):g} {z:g}" for x, y in square]
            # Towards whoever looks along z, from z below.
            order = (0, 1, 2, 0, 2, 3) if turned else (0, 2, 1, 0, 3, 2)
            faces.append(" ".join(str(at + index) for index in order))
    return (
        f'<mesh name="{name}" inertia="shell" scale="0.001 0.001 0.001" vertex="{" ".join(corners)}" '
        f'face="{" ".join(faces)}"/>'
    )


def _stand_still(_: Skills, goal: Goal) -> Iterator[np.ndarray]:
    """An expert of this has nothing to do."""
    yield from ()


TASK = TaskSpec(
    "board",
    lambda rng, split: Draft(Goal("board", "board")),
    _stand_still,
    (),
    phrases=lambda goal: ("look at the board",),
    evaluate=lambda goal, now, start, scene: Reading(met=False, progress=0.0, stage=0),
)
"""What the bench does where it has a board, whatever it is asked for: nothing, at an empty table."""
