"""`robot-calibrate intrinsics`: a capture -> a lens, how sure it is, and how far the factory's is from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WARN_PX, FAIL_PX = 0.5, 2.0


def command(
    capture: Annotated[Path, typer.Argument(help="Folder of `robot-calibrate capture`.")],
    camera: Annotated[str, typer.Option(help="Which camera of the capture.")],
    output: Annotated[Path | None, typer.Option(help="Write the lens there, as JSON.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The robot's hardware config: put the lens into its calibration.json."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with charts there, as HTML.")
    ] = None,
) -> None:
    """Calibrate a camera's intrinsics, or see whether those of its factory still hold.

    Exit code 0: pass or warn; 1: the pictures leave the lens too unsure."""
    import msgspec
    import numpy as np

    from calibration import intrinsics, measured, shots
    from calibration.pages import report_file
    from calibration.record import Record
    from contracts.files import atomic, outputs

    if output is not None:
        outputs.require_file(output, "the lens", outputs.json_with("fx", "fy", "distortion"))
    page = report_file(report)
    taken = shots.read(capture)
    record = None if config is None else Record(config)
    if record is not None:
        record.require_camera(camera)
    views = intrinsics.views_of(capture, taken, camera)
    declared = taken.cameras[camera]
    found = intrinsics.fit(views, declared)
    sure = intrinsics.uncertainty(found)
    twice = intrinsics.halves(found, declared)
    factory = intrinsics.difference(declared.lens, found.lens)
    worst = 2.0 * float(sure.max())
    level = "PASS" if worst <= WARN_PX else "WARN" if worst <= FAIL_PX else "FAIL"

    def said(cells: np.ndarray) -> str:
        return f"{np.median(cells):.2f} px median, {cells.max():.2f} px where it is most"

    lens = found.lens
    deviations = np.sqrt(np.diag(found.covariance))
    lines = [
        f"{level}: {len(found.views.names)} pictures, corners {found.noise:.2f} px, "
        f"{100 * found.covered:.0f} % of the picture's cells seen",
        f"fx {lens.fx:.2f} ± {2 * deviations[0]:.2f}, fy {lens.fy:.2f} ± {2 * deviations[1]:.2f}, "
        f"cx {lens.cx:.2f} ± {2 * deviations[2]:.2f}, cy {lens.cy:.2f} ± {2 * deviations[3]:.2f} px (95 %)",
        "k1 k2 p1 p2 k3 " + " ".join(f"{value:.5f}" for value in lens.distortion),
        f"unsure (two deviations): {said(2 * sure)} (warn above {WARN_PX:g}, fail above {FAIL_PX:g})",
        f"two halves of the pictures differ by {said(twice)}",
        f"the lens in the capture differs by {said(factory)}: "
        + (
            "within what is unsure, it holds"
            if np.median(factory) <= 2 * np.median(sure) + 0.1
            else "more than what is unsure, take the new one"
        ),
        *(f"not used: {one}" for one in found.views.left_out),
    ]
    if level != "PASS":
        lines.insert(
            1,
            "  add pictures with the board in every part of the picture, near and tilted: a capture for "
            "hand-eye seldom covers it, robot-calibrate capture --lens does",
        )
    if output is not None:
        atomic.write_bytes(output, msgspec.json.format(msgspec.json.encode(lens), indent=1))
    if page is not None:
        from calibration.pages.intrinsics import page_of

        maps = {"unsure": 2 * sure, "halves": twice, "factory": factory}
        page.write(page_of(camera, found, maps, level.lower(), tuple(lines[3:6])))
    typer.echo("\n".join(lines))
    if level == "FAIL":
        raise typer.Exit(1)
    if record is not None:
        now = measured.intrinsics(record.now, taken, camera, lens, worst)
        section = record.cameras[camera]
        keys, again = measured.dropped(record.now, now, camera, section)
        typer.echo("\n".join([record.said(record.put(lambda _: now, keys)), *again]))
