"""Parity of a finished package: its engine against the golden vectors and against torch run again."""

from __future__ import annotations

from pathlib import Path

from contracts.files.packages import GoldenCase, Package
from export.package import Parity, check, compare, require_parity, torch_outputs
from export.policy import graph_sources
from runtime.engines import EngineOptions, open_engine
from trainer.policies.flow import ARCHITECTURE, FlowPolicy


def check_package(folder: Path, kind: str = "onnxruntime") -> tuple[Package, list[Parity]]:
    """Load with every check, replay the golden vectors, and for a flow policy compare with torch made
    from the package's own weights. Raises `PackageError` on the first disagreement."""
    package, found = check(folder, kind)
    if package.manifest.architecture == ARCHITECTURE:
        require_parity(_against_torch(package, kind), f"package {folder} against torch")
    return package, found


def _against_torch(package: Package, kind: str) -> list[Parity]:
    policy = FlowPolicy.from_package(package)
    examples = dict(package.golden["trunk"][0].inputs)
    found: list[Parity] = []
    for source in graph_sources(policy, examples):
        cases = [
            GoldenCase(case.inputs, torch_outputs(source, source.module, case.inputs))
            for case in package.golden[source.name]
        ]
        engine = open_engine(package, source.name, EngineOptions(kind=kind))
        try:
            found += compare(engine, source.name, cases)
        finally:
            engine.close()
    return found
