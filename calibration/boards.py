"""Boards: what is printed, and where its corners are in a picture.

A board's frame has x to the right and y down as it is printed, and z into the paper; its origin is the upper
left corner of the print (of a single marker: its middle). Lengths in metres.
"""

from __future__ import annotations

from typing import Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from calibration.rigid import Array
from contracts.errors import ConfigError

MIN_SHARPNESS = 20.0
"""Variance of the Laplacian over the board's corners (grey levels²); a picture below it counts as blurred."""
_WINDOW_PX = (5, 5)
_SETTLED = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 50, 1e-3)


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`kind` "charuco": `columns` × `rows` squares of `square_m`, markers of `marker_m` in the white ones;
    `legacy`: as OpenCV before 4.6 printed it, with a marker in the first square if the rows are even.
    `kind` "marker": one ArUco marker `marker_id` of `marker_m`. `dictionary` by OpenCV's name."""

    kind: Literal["charuco", "marker"] = "charuco"
    dictionary: str = "DICT_4X4_50"
    columns: int = 7
    rows: int = 5
    square_m: float = 0.03
    marker_m: float = 0.022
    legacy: bool = False
    marker_id: int = 0

    def __post_init__(self) -> None:
        if not hasattr(cv2.aruco, self.dictionary) or not self.dictionary.startswith("DICT_"):
            raise ConfigError(
                "board.dictionary", expected="an ArUco one, as DICT_4X4_50", found=self.dictionary
            )
        if not (0 < self.marker_m <= 2 and np.isfinite(self.marker_m)):
            raise ConfigError("board.marker_m", expected="metres, above 0", found=self.marker_m)
        if self.kind == "charuco":
            if not (3 <= self.columns <= 40 and 3 <= self.rows <= 40):
                raise ConfigError(
                    "board.columns and rows",
                    expected="3 to 40 squares",
                    found=f"{self.columns} x {self.rows}",
                )
            if not self.marker_m < self.square_m <= 2:
                raise ConfigError(
                    "board.square_m",
                    expected="larger than the marker in it",
                    found=f"{self.square_m} m, marker {self.marker_m} m",
                )

    @property
    def size_m(self) -> tuple[float, float]:
        """Width and height of what is printed."""
        if self.kind == "marker":
            return self.marker_m, self.marker_m
        return self.columns * self.square_m, self.rows * self.square_m

    def points(self) -> Array:
        """Corners [K,3]; what `find` numbers."""
        if self.kind == "marker":
            half = self.marker_m / 2
            return np.array(
                [[-half, -half, 0], [half, -half, 0], [half, half, 0], [-half, half, 0]]
            )
        return np.asarray(self.opencv().getChessboardCorners(), np.float64)

    def opencv(self) -> cv2.aruco.CharucoBoard:
        board = cv2.aruco.CharucoBoard(
            (self.columns, self.rows), self.square_m, self.marker_m, dictionary(self.dictionary)
        )
        board.setLegacyPattern(self.legacy)
        return board


class Corners(msgspec.Struct, frozen=True):
    """`numbers` int[K] of the board's points, `pixels` float64[K,2], `sharpness` as `MIN_SHARPNESS`."""

    numbers: npt.NDArray[np.int64]
    pixels: Array
    sharpness: float


def dictionary(name: str) -> cv2.aruco.Dictionary:
    return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, name))


class Finder:
    """Finds one board in pictures; made once, since OpenCV prepares for it."""

    def __init__(self, board: Board) -> None:
        self.board = board
        if board.kind == "marker":
            options = cv2.aruco.DetectorParameters()
            options.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
            self._markers = cv2.aruco.ArucoDetector(dictionary(board.dictionary), options)
        else:
            self._charuco = cv2.aruco.CharucoDetector(board.opencv())

    def find(self, picture: npt.NDArray[np.uint8]) -> Corners | None:
        """Corners in uint8[H,W] or uint8[H,W,3] RGB; None where the board is not seen."""
        grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        grey = np.asarray(grey, np.uint8)
        return self._marker(grey) if self.board.kind == "marker" else self._squares(grey)

    def _marker(self, grey: npt.NDArray[np.uint8]) -> Corners | None:
        found, numbers, _ = self._markers.detectMarkers(grey)
        wanted = [
            c for c, n in zip(found, _flat(numbers), strict=True) if n == self.board.marker_id
        ]
        if len(wanted) != 1:  # two of the same number: nobody can say which
            return None
        pixels = np.asarray(wanted[0], np.float64).reshape(4, 2)
        return Corners(np.arange(4), pixels, sharpness(grey, pixels))

    def _squares(self, grey: npt.NDArray[np.uint8]) -> Corners | None:
        pixels, numbers, _, _ = self._charuco.detectBoard(grey)
        if numbers is None or len(numbers) < 4:
            return None
        corners = cv2.cornerSubPix(
            grey, np.array(pixels, np.float32), _WINDOW_PX, (-1, -1), _SETTLED
        )
        found = np.asarray(corners, np.float64).reshape(-1, 2)
        return Corners(_flat(numbers), found, sharpness(grey, found))


def is_mirrored(finder: Finder, picture: npt.NDArray[np.uint8]) -> bool:
    """Whether a picture in which the board is not found shows it mirrored, as some webcams' drivers do: such
    markers are none of the dictionary's."""
    return finder.find(np.ascontiguousarray(picture[:, ::-1])) is not None


def legacy_of(board: Board, picture: npt.NDArray[np.uint8]) -> bool | None:
    """Which of the two ChArUco patterns a picture shows: the one of which more corners are found. None if
    neither is, or they are alike (an odd number of rows)."""
    found = []
    for legacy in (False, True):
        corners = Finder(msgspec.structs.replace(board, legacy=legacy)).find(picture)
        found.append(0 if corners is None else len(corners.numbers))
    return None if found[0] == found[1] else found[1] > found[0]


def sharpness(grey: npt.NDArray[np.uint8], pixels: Array) -> float:
    """Variance of the Laplacian inside the corners' box: falls with blur, whatever the picture's brightness
    (as far as it is exposed)."""
    height, width = grey.shape
    low = np.clip(np.floor(pixels.min(axis=0)).astype(int), 0, [width - 2, height - 2])
    high = np.clip(np.ceil(pixels.max(axis=0)).astype(int) + 1, low + 2, [width, height])
    cut = grey[low[1] : high[1], low[0] : high[0]]
    return float(cv2.Laplacian(cut, cv2.CV_64F).var())


def _flat(numbers: npt.ArrayLike | None) -> npt.NDArray[np.int64]:
    return np.array([], np.int64) if numbers is None else np.asarray(numbers, np.int64).reshape(-1)
