"""TensorRT where there is none: one clear sentence. Where `tensorrt_rtx` is: our graphs parse."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from tiny_package import make_package

from contracts.errors import MissingDependency
from contracts.package import TensorSpec
from runtime.engines import EngineOptions, cuda, open_engine, tensorrt


def test_absent_tensorrt_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    package = make_package(tmp_path / "package")
    with pytest.raises(MissingDependency, match=r"needs TensorRT; on a Jetson install JetPack"):
        open_engine(package, "head", EngineOptions(kind="tensorrt"))


def test_the_stub_of_pypi_is_not_taken_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    with pytest.raises(MissingDependency, match="stub"):
        tensorrt.require_tensorrt()


def test_without_a_driver_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "find", lambda: None)
    with pytest.raises(MissingDependency, match="NVIDIA driver"):
        tensorrt.require_cuda()


def test_profiles_cover_one_to_many() -> None:
    shapes = tensorrt.profile_shapes(TensorSpec("noise", "float32", (-1, 16, 6)), 8)
    assert shapes == ((1, 16, 6), (8, 16, 6), (tensorrt.MAX_BATCH, 16, 6))


def test_graphs_parse_and_their_refinable_weights_are_refittable(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    package = make_package(tmp_path / "package")
    logger = trt.Logger(trt.Logger.ERROR)
    for graph in package.manifest.graphs:
        builder = trt.Builder(logger)
        network, _parser = tensorrt.parse(trt, logger, builder, package.folder / graph.file)
        tensorrt.mark_refittable(network, package, graph.name)
        assert network.num_layers > 0
