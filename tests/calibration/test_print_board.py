"""The printed board: rendered by a PDF library and found again by OpenCV, at the right size."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from calibration import print_board
from calibration.app import app
from calibration.boards import Board, Finder
from contracts.errors import ConfigError

pdfium = pytest.importorskip("pypdfium2")
DOTS_PER_MM = 12


def rendered(data: bytes) -> np.ndarray:
    """uint8[H,W] of the first page."""
    page = pdfium.PdfDocument(data)[0]
    found = np.asarray(page.render(scale=DOTS_PER_MM * 25.4 / 72, grayscale=True).to_numpy())
    return found.reshape(found.shape[:2])


@pytest.mark.parametrize(
    "board",
    [
        Board(),
        Board(
            columns=6, rows=8, square_m=0.02, marker_m=0.015, dictionary="DICT_5X5_100", legacy=True
        ),
        Board(kind="marker", marker_id=7, marker_m=0.08),
    ],
)
def test_the_print_is_found_again_at_its_exact_size(board: Board) -> None:
    page = rendered(print_board.pdf(board, "a4"))
    assert page.shape == pytest.approx((210 * DOTS_PER_MM, 297 * DOTS_PER_MM), abs=1)
    found = Finder(board).find(np.ascontiguousarray(page))
    assert found is not None
    points = board.points()[found.numbers, :2]
    assert len(points) == (4 if board.kind == "marker" else (board.columns - 1) * (board.rows - 1))
    # Similarity from metres on the board to dots: its scale is the print's.
    matrix, _ = cv2.estimateAffinePartial2D(points, found.pixels)
    scale = float(np.linalg.norm(matrix[:, 0])) / 1e3
    # A marker's outer edge is found between two pixels: half a dot at either end.
    assert scale == pytest.approx(DOTS_PER_MM, rel=2e-3)
    apart = found.pixels - (points @ matrix[:, :2].T + matrix[:, 2])
    assert np.abs(apart).max() < 1.0


def test_the_ruler_is_a_hundred_millimetres_long() -> None:
    page = rendered(print_board.pdf(Board(), "a4"))
    foot = page[int(-24 * DOTS_PER_MM) :]
    # Its line: by far the longest dark row below the board.
    rows = (foot < 100).sum(axis=1)
    line = np.nonzero(foot[int(rows.argmax())] < 100)[0]
    assert (line.max() - line.min()) / DOTS_PER_MM == pytest.approx(100.0, abs=0.3)


def test_what_was_measured_is_entered_back_from_the_command_line(tmp_path: Path) -> None:
    run = CliRunner()
    first = run.invoke(app, ["board", "--output", str(tmp_path), "--paper", "letter"])
    assert first.exit_code == 0, first.output
    printed = (tmp_path / "board.pdf").read_bytes()
    assert printed.startswith(b"%PDF-1.4")
    again = run.invoke(app, ["board", "--output", str(tmp_path), "--measured-mm", "29.7"])
    assert again.exit_code == 0, again.output
    board = msgspec.json.decode((tmp_path / "board.json").read_bytes(), type=Board)
    assert board.square_m == pytest.approx(0.0297)
    assert board.marker_m == pytest.approx(0.022 * 0.99)
    assert (tmp_path / "board.pdf").read_bytes() == printed
    if folder := os.environ.get("ENTRACTE_SCREENSHOTS"):
        cv2.imwrite(str(Path(folder) / "board.png"), rendered(printed)[::3, ::3])


def test_boards_that_can_not_be_printed_so_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not fit on a4"):
        print_board.pdf(Board(columns=12, rows=9))
    with pytest.raises(ConfigError, match="paper"):
        print_board.pdf(Board(), "a0")
    with pytest.raises(ConfigError, match="near 30 mm"):
        print_board.measured(Board(), 3.0)
