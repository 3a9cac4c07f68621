"""`robot-export build`: TensorRT plans of a package, built and cached on the device that will run them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    package: Annotated[Path, typer.Argument(help="Folder of the package.")],
    cache: Annotated[
        str, typer.Option(help="Folder of plans (default: where robot-run looks).")
    ] = "",
    workspace_mib: Annotated[
        int, typer.Option(help="Most memory a kernel may use, in MiB (0: the device's).", min=0)
    ] = 0,
    anew: Annotated[bool, typer.Option("--anew", help="Build even what is cached.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build the TensorRT plans of a package on this device (minutes on a Jetson) and cache them."""
    import msgspec

    from contracts.files import outputs
    from contracts.files.packages import load_package
    from runtime.engines import EngineOptions
    from runtime.engines.tensorrt import cached_plan, require_cuda, require_tensorrt

    # What is wrong here first: it is wrong on every machine.
    loaded = load_package(package)
    if cache:
        outputs.require_room(Path(cache))
    trt, device = require_tensorrt(), require_cuda()
    options = EngineOptions(kind="tensorrt", cache=cache, workspace_mib=workspace_mib)
    if not json:
        typer.echo(
            f"{trt.__name__} {trt.__version__} for {device.device_name} "
            f"(compute capability {device.capability})"
        )
    rows: list[dict[str, Any]] = []
    for graph in loaded.manifest.graphs:
        bar = Bar(graph.name)
        found = cached_plan(loaded, graph.name, options, report=bar, anew=anew)
        bar.end()
        rows.append(
            {
                "graph": graph.name,
                "file": str(found.path),
                "bytes": found.card.nbytes,
                "precision": found.card.identity.precision,
                "build_s": found.card.build_s,
                "built": bool(found.rebuilt),
                "why": found.rebuilt,
            }
        )
        if not json:
            how = f"built in {found.card.build_s:.1f} s ({found.rebuilt})"
            typer.echo(
                f"  {graph.name}: {how if found.rebuilt else 'cached'}, "
                f"{found.card.nbytes / 1e6:.1f} MB, {found.card.identity.precision}, {found.path}"
            )
    if json:
        report = {"package_id": loaded.package_id, "graphs": rows}
        typer.echo(msgspec.json.encode(report).decode())


class Bar:
    """Progress of one build on standard error: a line rewritten on a terminal, one a tenth elsewhere.
    Called from TensorRT's threads."""

    WIDTH = 30

    def __init__(self, what: str) -> None:
        self._what, self._terminal = what, sys.stderr.isatty()
        self._begin_s, self._told = time.monotonic(), -1

    def __call__(self, phase: str, share: float) -> None:
        told = int(share * (1000 if self._terminal else 10))
        if told == self._told:
            return
        self._told = told
        spent_s = time.monotonic() - self._begin_s
        filled = int(share * self.WIDTH)
        line = (
            f"{self._what} [{'#' * filled}{'.' * (self.WIDTH - filled)}] {100 * share:3.0f} %  "
            f"{spent_s:.0f} s  {phase}"
        )
        sys.stderr.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._terminal and self._told >= 0:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
