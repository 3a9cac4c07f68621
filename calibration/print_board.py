"""A board as a PDF of exact size, with its parameters and a ruler on it.

One page of PDF 1.4 (ISO 32000-1): rectangles and text in the font that every viewer has. A printer that "fits
to page" changes the size: the ruler shows it, and what was measured is entered back.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import msgspec
import numpy as np

from calibration.boards import Board, dictionary
from contracts.errors import ConfigError

PAPERS_MM = {
    "a4": (297.0, 210.0),
    "a3": (420.0, 297.0),
    "letter": (279.4, 215.9),
    "a4-upright": (210.0, 297.0),
}
MARGIN_MM = 8.0
FOOT_MM = 22.0
RULER_MM = 100
_PT = 72.0 / 25.4
_TEXT_PT = 8


def measured(board: Board, square_m: float) -> Board:
    """The board as it came out of the printer: everything scaled to the square that was measured. Raises
    `ConfigError` for what can be no print of it."""
    stated = board.square_m if board.kind == "charuco" else board.marker_m
    share = square_m / stated if square_m > 0 else 0.0
    if not 0.8 < share < 1.25:
        raise ConfigError(
            "the measured side",
            expected=f"near {1e3 * stated:g} mm",
            found=f"{1e3 * square_m:g} mm",
            remedy="enter millimetres; print again at 100 % if the ruler is not 100 mm long",
        )
    return msgspec.structs.replace(
        board, square_m=board.square_m * share, marker_m=board.marker_m * share
    )


def pdf(board: Board, paper: str = "a4") -> bytes:
    """One page. Raises `ConfigError` for a board that the paper can't take."""
    if paper not in PAPERS_MM:
        raise ConfigError("paper", expected=f"one of {sorted(PAPERS_MM)}", found=paper)
    width, height = PAPERS_MM[paper]
    wide, high = (1e3 * side for side in board.size_m)
    room = (width - 2 * MARGIN_MM, height - 2 * MARGIN_MM - FOOT_MM)
    if wide > room[0] or high > room[1]:
        raise ConfigError(
            f"the board does not fit on {paper}",
            expected=f"at most {room[0]:.0f} x {room[1]:.0f} mm",
            found=f"{wide:.0f} x {high:.0f} mm",
            remedy="choose smaller squares, fewer of them, or larger paper",
        )
    left, top = (width - wide) / 2, MARGIN_MM + (room[1] - high) / 2
    page = _Page(width, height)
    for x, y, side, black in _squares(board):
        page.rectangle(left + 1e3 * x, top + 1e3 * y, 1e3 * side, 1e3 * side, 0 if black else 1)
    _foot(page, board, height - MARGIN_MM - FOOT_MM + 6)
    return page.document()


def said(board: Board) -> str:
    """The parameters in one line, as they are printed."""
    if board.kind == "marker":
        return f"ArUco marker {board.marker_id}, {1e3 * board.marker_m:.2f} mm, {board.dictionary}"
    pattern = ", legacy pattern" if board.legacy else ""
    return (
        f"ChArUco {board.columns} x {board.rows}, squares {1e3 * board.square_m:.2f} mm, "
        f"markers {1e3 * board.marker_m:.2f} mm, {board.dictionary}{pattern}"
    )


def _squares(board: Board) -> Iterator[tuple[float, float, float, bool]]:
    """(x, y, side, black) in metres from the upper left corner, in the order of painting."""
    if board.kind == "marker":
        yield from _marker(board, board.marker_id, 0.0, 0.0)
        return
    printed = board.opencv()
    corners = [
        (int(n), np.asarray(c)[0, :2])
        for n, c in zip(printed.getIds(), printed.getObjPoints(), strict=True)
    ]
    white = {
        tuple(np.floor((c + board.marker_m / 2) / board.square_m).astype(int)) for _, c in corners
    }
    for column in range(board.columns):
        for row in range(board.rows):
            if (column, row) not in white:
                yield column * board.square_m, row * board.square_m, board.square_m, True
    for number, corner in corners:
        yield from _marker(board, number, float(corner[0]), float(corner[1]))


def _marker(
    board: Board, number: int, x: float, y: float
) -> Iterator[tuple[float, float, float, bool]]:
    """Black, and white cells on it: black cells side by side would show hairlines."""
    found = dictionary(board.dictionary)
    cells = found.markerSize + 2
    bits = cv2.aruco.generateImageMarker(found, number, cells)
    side = board.marker_m / cells
    yield x, y, board.marker_m, True
    for row, column in zip(*np.nonzero(bits), strict=True):
        yield x + column * side, y + row * side, side, False


def _foot(page: _Page, board: Board, y: float) -> None:
    x = (page.width - RULER_MM) / 2
    page.rectangle(x, y, RULER_MM, 0.2, 0)
    for tick in range(RULER_MM + 1):
        length = 4.0 if tick % 10 == 0 else 2.5 if tick % 5 == 0 else 1.5
        page.rectangle(x + tick - 0.05, y, 0.1, length, 0)
        if tick % 10 == 0:
            page.text(x + tick - 1.5, y + 7.2, str(tick))
    page.text(x, y + 11.5, said(board))
    page.text(
        x,
        y + 15.5,
        "Print at 100 %: this ruler is 100 mm long. Glue it to something flat and measure.",
    )


class _Page:
    """Millimetres from the upper left corner in, a PDF out."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._drawn: list[str] = []

    def rectangle(self, x: float, y: float, width: float, height: float, grey: int) -> None:
        place = (x * _PT, (self.height - y - height) * _PT, width * _PT, height * _PT)
        self._drawn.append(f"{grey} g {' '.join(f'{n:.4f}' for n in place)} re f")

    def text(self, x: float, y: float, words: str) -> None:
        plain = words.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        at = f"{x * _PT:.3f} {(self.height - y) * _PT:.3f}"
        self._drawn.append(f"0 g BT /F {_TEXT_PT} Tf {at} Td ({plain}) Tj ET")

    def document(self) -> bytes:
        content = "\n".join(self._drawn).encode("latin-1")
        size = f"{self.width * _PT:.4f} {self.height * _PT:.4f}"
        # PrintScaling None: viewers that ask for nothing must not shrink it.
        objects = [
            b"<< /Type /Catalog /Pages 2 0 R /ViewerPreferences << /PrintScaling /None >> >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size}] /Contents 4 0 R "
            f"/Resources << /Font << /F 5 0 R >> >> >>".encode(),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
        out, places = b"%PDF-1.4\n", []
        for number, one in enumerate(objects, 1):
            places.append(len(out))
            out += b"%d 0 obj\n%s\nendobj\n" % (number, one)
        table = b"".join(b"%010d 00000 n \n" % place for place in places)
        count = len(objects) + 1
        end = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (count, len(out))
        return out + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (count, table, end)
