"""What one TensorRT makes of one graph, in a process of its own: `python -m export.support_probe`.

The libraries end the process where they meet a driver that isn't there or a bug of their own, so nothing
else may live in it. Each finding is written as it is made: what was found before a death is kept.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import EntracteError, PackageError
from contracts.files.packages import Package, load_package
from runtime.engines import building, cuda, refinable_names


class Refused(msgspec.Struct, frozen=True):
    """A node that TensorRT won't take, in its parser's words."""

    node: str
    operator: str
    why: str


class GraphSupport(msgspec.Struct):
    """Findings on one graph. `at`: what was being tried when the findings end; "" when all was. `not_run`:
    what was left out, and why. Sizes in bytes, times in seconds."""

    graph: str
    library: str = ""
    at: str = "loading TensorRT"
    parsed: bool = False
    layers: dict[str, int] = {}
    unsupported: tuple[Refused, ...] = ()
    refinable: int = 0
    refittable: int = 0
    not_refittable: tuple[str, ...] = ()
    built: bool = False
    build_s: float = 0.0
    plan_bytes: int = 0
    refit_built: bool = False
    refit_build_s: float = 0.0
    not_run: str = ""
    failed: str = ""

    @property
    def holds(self) -> bool:
        """Whether all that was tried went well."""
        whole = self.refittable == self.refinable and (self.refit_built or bool(self.not_run))
        return self.parsed and self.built and whole and not self.failed


def probe(folder: Path, graph: str, result: Path) -> None:
    """Try one graph of the package in `folder`; the findings so far are always in the file `result`."""
    from runtime.engines.tensorrt import require_tensorrt

    found = GraphSupport(graph)

    def at(what: str) -> None:
        found.at = what
        result.write_bytes(msgspec.json.encode(found))

    at(found.at)
    try:
        trt = require_tensorrt()
        found.library = f"{trt.__name__} {trt.__version__}"
        _probe(trt, folder, graph, found, at)
        at("")
    except EntracteError as error:
        found.failed = str(error)
        at("")


def _probe(trt: Any, folder: Path, graph: str, found: GraphSupport, at: Any) -> None:
    package = load_package(folder)
    names = refinable_names(package, graph)
    logger = _quiet_logger(trt)
    at("parsing")
    builder = trt.Builder(logger)
    network, parser, found.parsed = building.try_parse(trt, logger, builder, package, graph)
    found.unsupported = tuple(_refused(parser.get_error(i)) for i in range(parser.num_errors))
    kinds = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
    found.layers = dict(kinds.most_common())
    if not found.parsed:
        return
    at("marking weights")
    found.not_refittable = tuple(n for n in names if not network.mark_weights_refittable(n))
    found.refinable, found.refittable = len(names), len(names) - len(found.not_refittable)
    del network, parser, builder
    at("the plain build")
    manifest = msgspec.structs.replace(package.manifest, refinable=())
    plain = dataclasses.replace(package, manifest=manifest)
    built = _built(trt, logger, plain, graph, found)
    if built is None:
        return
    found.built, (found.plan_bytes, found.build_s) = True, built
    _refit_build(trt, logger, package, graph, found, at)


def _refit_build(
    trt: Any, logger: Any, package: Package, graph: str, found: GraphSupport, at: Any
) -> None:
    device = cuda.look()
    if isinstance(device, str):
        found.not_run = f"refit build and inference: {device}"
        return
    if not found.refinable:
        found.not_run = "refit build: nothing is refinable"
        return
    at("the refit build")
    device.use_here()
    built = _built(trt, logger, package, graph, found)
    if built is not None:
        found.refit_built, found.refit_build_s = True, built[1]


def _built(
    trt: Any, logger: Any, package: Package, graph: str, found: GraphSupport
) -> tuple[int, float] | None:
    """Bytes of the plan that `robot-export build` would make, and the seconds it took; None, with the reason
    in `found`, where TensorRT gives none."""
    started = time.monotonic()
    try:
        plan = building.build_plan(trt, logger, package, graph)
    except PackageError as error:
        found.failed = "; ".join(logger.said[-3:]) or str(error)
        return None
    return len(plan), round(time.monotonic() - started, 2)


def _refused(error: Any) -> Refused:
    def said(name: str) -> str:
        return str(getattr(error, name)()) if hasattr(error, name) else ""

    # The first line says what is wrong; what follows is where in TensorRT's own code.
    lines = [line for line in said("desc").splitlines() if line.strip()]
    why = next((line for line in lines if "Error" in line), lines[0] if lines else "")
    return Refused(said("node_name"), said("node_operator"), why)


def _quiet_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors instead of printing them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.said.append(message)

    return Logger()


if __name__ == "__main__":
    probe(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
