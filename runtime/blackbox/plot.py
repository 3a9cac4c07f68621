"""A picture of a black box, drawn with OpenCV, which every robot has: joints over time, the stop marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.errors import EntracteError
from runtime.blackbox.box import Dump

WIDTH, HEIGHT, LEFT, GAP = 1200, 170, 150, 26
KINDS = (("requested", (150, 150, 150)), ("command", (200, 90, 0)), ("state", (0, 120, 240)))
AFTER, STOP, INK = (60, 60, 60), (0, 0, 220), (40, 40, 40)


def plot(dump: Dump, output: Path) -> None:
    """PNG of requests, commands and states of every joint. Raises `EntracteError`."""
    import cv2

    joints, units = dump.about["joints"], dump.about["units"]
    time_s = dump.column("tick_s")
    times_s = np.concatenate([time_s, dump.after[:, 0]])
    times_s = times_s[np.isfinite(times_s)]  # before the first tick there was none
    if not len(times_s):
        raise EntracteError("this black box holds no tick")
    span = (float(times_s.min()), float(times_s.max()))
    sheet = np.full((GAP + len(joints) * (HEIGHT + GAP), WIDTH, 3), 255, np.uint8)
    for index, (kind, colour) in enumerate([*KINDS, ("after", AFTER), ("stop", STOP)]):
        _write(sheet, kind, LEFT + 120 * index, 18, colour)
    for index, (joint, unit) in enumerate(zip(joints, units, strict=True)):
        top = GAP + index * (HEIGHT + GAP)
        lines = [(time_s, dump.joint_columns(kind)[:, index], colour) for kind, colour in KINDS]
        if len(dump.after):
            lines.append((dump.after[:, 0], dump.after[:, 1 + index], AFTER))
        _panel(sheet[top : top + HEIGHT], lines, span, _stops(dump))
        _write(sheet, f"{joint.split('.')[0]}", 6, top + HEIGHT // 2, INK)
        _write(sheet, unit, 6, top + HEIGHT // 2 + 18, INK)
    _write(sheet, f"{span[0]:.2f} s to {span[1]:.2f} s (monotonic)", LEFT, len(sheet) - 8, INK)
    if not cv2.imwrite(str(output), sheet):
        raise EntracteError(f"can't write {output}", remedy="give a name that ends in .png")


def _stops(dump: Dump) -> list[float]:
    return [
        dump.about[name]
        for name in ("stopped_at_s", "watchdog_tripped_at_s")
        if dump.about.get(name)
    ]


def _panel(
    panel: np.ndarray,
    lines: list[tuple[np.ndarray, np.ndarray, tuple[int, int, int]]],
    span: tuple[float, float],
    stops: list[float],
) -> None:
    import cv2

    known = np.concatenate([values[np.isfinite(values)] for _, values, _ in lines])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    high = max(high, low + 1.0)
    across = (WIDTH - LEFT - 10) / max(span[1] - span[0], 1e-6)
    cv2.rectangle(panel, (LEFT, 0), (WIDTH - 10, HEIGHT - 1), (210, 210, 210))
    for stop_s in stops:
        x = round(LEFT + (stop_s - span[0]) * across)
        cv2.line(panel, (x, 0), (x, HEIGHT), STOP)
    for time_s, values, colour in lines:
        good = np.isfinite(values) & np.isfinite(time_s)
        x = LEFT + (time_s[good] - span[0]) * across
        y = 8 + (high - values[good]) / (high - low) * (HEIGHT - 16)
        points = np.round(np.stack([x, y], 1)).astype(np.int32)
        cv2.polylines(panel, [points], False, colour, 1, cv2.LINE_AA)
    _write(panel, f"{high:.0f}", LEFT - 40, 14, INK)
    _write(panel, f"{low:.0f}", LEFT - 40, HEIGHT - 4, INK)


def _write(sheet: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    import cv2

    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
