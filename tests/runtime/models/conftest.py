"""Every engine that a test opened."""

from __future__ import annotations

import pytest

from contracts.files.packages import Package
from runtime.engines import Engine, EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.models import opening


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[OnnxRuntimeEngine]:
    """In order, as `runtime.models.opening` opens them."""
    found: list[OnnxRuntimeEngine] = []
    open_engine = opening.open_engine

    def watched(package: Package, graph: str, options: EngineOptions) -> Engine:
        engine = open_engine(package, graph, options)
        assert isinstance(engine, OnnxRuntimeEngine)
        found.append(engine)
        return engine

    monkeypatch.setattr(opening, "open_engine", watched)
    return found
