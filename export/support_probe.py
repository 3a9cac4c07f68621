"""What one TensorRT makes of one graph, in a process of its own: `python -m export.support_probe`.

The libraries end the process where they meet a driver that isn't there or a bug of their own, so nothing
else may live in it. Each finding is written as it is made: what was found before a death is kept.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import EntracteError
from contracts.files.packages import read_manifest
from contracts.package import GraphSpec


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
    manifest = read_manifest(folder)
    spec = manifest.graph(graph)
    prefix = f"{graph}/"
    names = [
        tensor.name.removeprefix(prefix)
        for tensor in manifest.refinable
        if tensor.name.startswith(prefix)
    ]
    logger = _quiet_logger(trt)
    at("parsing")
    network = _parsed(trt, logger, folder / spec.file, found)
    if network is None:
        return
    builder, network, parser = network
    at("marking weights")
    taken = {name for name in names if network.mark_weights_refittable(name)}
    found.refinable, found.refittable = len(names), len(taken)
    found.not_refittable = tuple(name for name in names if name not in taken)
    del builder, network, parser
    at("the plain build")
    started = time.monotonic()
    plan = _plan(trt, logger, folder / spec.file, spec, ())
    found.build_s = round(time.monotonic() - started, 2)
    if plan is None:
        found.failed = "; ".join(logger.said[-3:]) or "the plain build gave no plan"
        return
    found.built, found.plan_bytes = True, plan
    _refit_build(trt, logger, folder / spec.file, spec, tuple(taken), found, at)


def _refit_build(
    trt: Any,
    logger: Any,
    path: Path,
    spec: GraphSpec,
    names: tuple[str, ...],
    found: GraphSupport,
    at: Any,
) -> None:
    from runtime.engines import cuda

    device = cuda.look()
    if isinstance(device, str):
        found.not_run = f"refit build and inference: {device}"
        return
    if not names:
        found.not_run = "refit build: nothing is refinable"
        return
    at("the refit build")
    device.use_here()
    started = time.monotonic()
    found.refit_built = _plan(trt, logger, path, spec, names) is not None
    found.refit_build_s = round(time.monotonic() - started, 2)
    if not found.refit_built:
        found.failed = "; ".join(logger.said[-3:]) or "the refit build gave no plan"


def _parsed(trt: Any, logger: Any, path: Path, found: GraphSupport | None) -> Any:
    """(builder, network, parser), which must live as long as any of them is used; None, with the reasons in
    `found`, where the parser refuses."""
    flags = 0
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if strongly_typed is not None:  # 11 knows no other kind
        flags = 1 << int(strongly_typed)
    builder = trt.Builder(logger)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    if found is not None:
        found.parsed = bool(parsed)
        found.unsupported = tuple(
            _refused(parser.get_error(index)) for index in range(parser.num_errors)
        )
        kinds = Counter(network.get_layer(i).type.name for i in range(network.num_layers))
        found.layers = dict(kinds.most_common())
    return (builder, network, parser) if parsed else None


def _plan(
    trt: Any, logger: Any, path: Path, spec: GraphSpec, refittable: tuple[str, ...]
) -> int | None:
    """Bytes of the plan, None where TensorRT gives none."""
    from runtime.engines.building import profile_shapes

    parsed = _parsed(trt, logger, path, None)
    if parsed is None:
        return None
    builder, network, _parser = parsed
    config = builder.create_builder_config()
    for name in refittable:
        network.mark_weights_refittable(name)
    if refittable:
        config.set_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
    dynamic = [tensor for tensor in spec.inputs if -1 in tensor.shape]
    if dynamic:
        profile = builder.create_optimization_profile()
        for tensor in dynamic:
            profile.set_shape(tensor.name, *profile_shapes(tensor, 1))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else int(plan.nbytes)


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
